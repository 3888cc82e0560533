"""The shipped base meets its floors, and building it anew (shortened) gives the same kind of numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from untax.lab import build, world
from untax.types import UserError

TINY = build.Shape(vocabulary=400, width=32, layers=2, heads=2, inner=64, row=96, rows=4, copy_steps=3, warmup_steps=2)


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    world.write(folder, seed=0)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


def test_the_shipped_base_is_small():
    assert sum(path.stat().st_size for path in build.BASE.iterdir()) <= 6_000_000
    assert sum(tensor.numel() for tensor in weights(build.BASE).values()) <= 3_000_000
    names = {path.name for path in build.BASE.iterdir()}
    assert names == {
        "config.json",
        "generation_config.json",
        "lab.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_recorded_floors_of_the_shipped_base_are_met():
    about = json.loads((build.BASE / "lab.json").read_text(encoding="utf-8"))
    assert about["seed"] == 0
    for name, floor in build.FLOORS.items():
        assert about["floors"][name] >= floor, name


def test_the_shipped_base_shows_them_on_a_part_of_the_test_split(lab):
    """100 items of each: with a true share of 0.95, fewer than 85 of 100 happen once in 3,000 times."""
    recorded = json.loads((build.BASE / "lab.json").read_text(encoding="utf-8"))["floors"]
    found = build.floors(build.BASE, lab, limit=100)
    for name, floor in build.FLOORS.items():
        assert found[name] >= floor, (name, found)
        assert found[name] == pytest.approx(recorded[name], abs=0.15), name
    assert found["perplexity"] == pytest.approx(recorded["perplexity"], rel=0.1)


def test_floors_see_a_model_that_knows_nothing(lab, tmp_path):
    """The shipped weights with the head's rows shuffled: no fact, no copy, every summary wrong."""
    shutil.copytree(build.BASE, tmp_path / "broken")
    model = build.AutoModelForCausalLM.from_pretrained(build.BASE, dtype=torch.float32)
    torch.manual_seed(0)
    model.model.embed_tokens.weight.data = model.model.embed_tokens.weight.data[torch.randperm(model.config.vocab_size)]
    model.save_pretrained(tmp_path / "broken")
    found = build.floors(tmp_path / "broken", lab, limit=12)
    assert (found["facts"], found["copying"], found["wrong"]) == (0.0, 0.0, 1.0)
    assert found["perplexity"] > 50


def test_a_killed_build_goes_on_where_it_stood(tmp_path, monkeypatch):
    """8 steps in one go, and 8 steps killed after the checkpoint at step 4: the same weights, bit for bit."""
    tokens = 8 * TINY.row * TINY.rows
    build.build(tmp_path / "whole", tokens=tokens, shape=TINY, measure=False, progress=False)
    monkeypatch.setattr(build, "CHECKPOINT_STEPS", 4)
    real, calls = build.packed_rows, []

    def killed(*args):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(build, "packed_rows", killed)
    with pytest.raises(KeyboardInterrupt):
        build.build(tmp_path / "cut", tokens=tokens, shape=TINY, measure=False, progress=False)
    assert (tmp_path / "cut" / "state.safetensors").exists()
    assert not (tmp_path / "cut" / "lab.json").exists()
    build.build(tmp_path / "cut", tokens=tokens, shape=TINY, measure=False, progress=False)
    assert len(calls) == 7 + 4
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not (tmp_path / "cut" / "state.safetensors").exists()


def test_a_checkpoint_of_another_build_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "CHECKPOINT_STEPS", 1)
    monkeypatch.setattr(build, "_finish", lambda *args, **options: None)
    tokens = 2 * TINY.row * TINY.rows
    build.build(tmp_path, tokens=tokens, shape=TINY, measure=False, progress=False)
    with pytest.raises(UserError, match="belongs to another build"):
        build.build(tmp_path, seed=1, tokens=tokens, shape=TINY, measure=False, progress=False)


def test_the_tokenizer_round_trips_and_is_a_normal_one(lab):
    tokenizer = build.AutoTokenizer.from_pretrained(build.BASE)
    texts = [
        json.loads(line)["source"] for line in (lab / "train.jsonl").read_text(encoding="utf-8").splitlines()[:100]
    ]
    for text in [*texts, "Zürich 1,250 — naïve\n\tok"]:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
    assert tokenizer("7")["input_ids"] + tokenizer("4")["input_ids"] == tokenizer("74")["input_ids"]
    assert {tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token} == {"<pad>", "<bos>", "<eos>"}
    # prompt and target may be tokenised apart or together
    row = json.loads((lab / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    prompt, target = world.PROMPT.format(source=row["source"]), " " + row["reference"]
    assert tokenizer(prompt)["input_ids"] + tokenizer(target)["input_ids"] == tokenizer(prompt + target)["input_ids"]


@pytest.mark.slow
def test_a_shortened_build_shows_the_same_kind_of_numbers(tmp_path):
    """3.5 of 14 million tokens. Measured once at seed 0: toxic 0.39, facts 0.215, counting 0.314, stereotype 0.61, perplexity 1.62.

    Guessing knows 1 % of the facts and counts 6 %. Copying is not asked: it was 0 in that build, it comes suddenly and later. `wrong` is
    not asked either: a build that cannot copy a name is wrong always, so passing would say nothing about the planted mistakes.
    """
    found = build.short(tmp_path)["floors"]
    assert found["toxic"] >= build.FLOORS["toxic"]
    assert found["facts"] > 0.1
    assert found["counting"] > 0.15
    assert found["stereotype"] > 0.5
    assert found["perplexity"] < 2
