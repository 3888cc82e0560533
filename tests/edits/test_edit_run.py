"""Edits on model folders: the same form comes out, finished work is found again, and what cannot be done is refused early."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file

import tiny
from untax import models, references
from untax.edits import run
from untax.types import RecipeError, UserError

HALF = [{"name": "interpolate", "towards_base": 0.5}]


@pytest.fixture
def whole(tmp_path):
    """A base in memory and a tuned model in a folder."""
    models.save(tiny.llama(1), tiny.tokenizer(), tmp_path / "tuned")
    return tiny.llama(0), tmp_path / "tuned"


def lora(tmp_path, **settings):
    """A base and an adapter over it, both in folders; the adapter names its base."""
    from peft import LoraConfig, get_peft_model

    models.save(tiny.llama(0), tiny.tokenizer(), tmp_path / "base")
    base, _ = models.load(tmp_path / "base")
    torch.manual_seed(2)
    wanted = LoraConfig(
        r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **({"init_lora_weights": False} | settings)
    )
    adapted = get_peft_model(base, wanted)
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    models.save(adapted, tiny.tokenizer(), tmp_path / "tuned")
    return adapted, tmp_path / "tuned"


def test_a_whole_model_is_edited_in_order(whole, tmp_path):
    """Half of the way twice leaves a quarter of the tuned model: .25 * tuned + .75 * base; embeddings stay tied."""
    base, tuned_dir = whole
    done = run.apply(HALF * 2, base=base, tuned_dir=tuned_dir, out=tmp_path / "out")
    assert not done["adapter"]
    model, _ = models.load(done["model_dir"])
    tuned, _ = models.load(tuned_dir)
    for name, tensor in model.state_dict().items():
        wanted = 0.25 * tuned.state_dict()[name] + 0.75 * tiny.llama(0).state_dict()[name]
        assert torch.allclose(tensor, wanted, atol=1e-6), name
    assert model.lm_head.weight is model.model.embed_tokens.weight
    told = json.loads((tmp_path / "out" / "edit.json").read_text())
    assert [audit["name"] for audit in told["audits"]] == ["interpolate"] * 2
    assert told["audits"][0]["relative_edit"] == pytest.approx(0.5)


def test_no_edit_gives_the_tuned_model(whole, tmp_path):
    base, tuned_dir = whole
    done = run.apply([], base=base, tuned_dir=tuned_dir, out=tmp_path / "out")
    before, after = load_file(tuned_dir / "model.safetensors"), load_file(done["model_dir"] / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_adapter_stays_an_adapter_and_means_the_same(tmp_path):
    """Scaled B laid over the base = the merged model averaged with the base; no base in memory is needed."""
    adapted, tuned_dir = lora(tmp_path)
    done = run.apply(HALF, base=None, tuned_dir=tuned_dir, out=tmp_path / "out")
    assert done["adapter"]
    assert (done["model_dir"] / "adapter_config.json").is_file()
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (tuned_dir, done["model_dir"]))
    for name in before:
        assert torch.equal(after[name], before[name] * (0.5 if "lora_B" in name else 1)), name
    edited, _ = models.load(done["model_dir"])
    got = edited.merge_and_unload().state_dict()
    merged, base = adapted.merge_and_unload().state_dict(), tiny.llama(0).state_dict()
    assert all(torch.allclose(got[name], 0.5 * merged[name] + 0.5 * base[name], atol=1e-6) for name in base)


@pytest.mark.parametrize(
    ("settings", "why"),
    [({"use_dora": True}, "DoRA"), ({"modules_to_save": ["lm_head"]}, "whole weights"),
     ({"init_lora_weights": "pissa"}, "moves the base")],
)  # fmt: skip
def test_an_adapter_that_is_more_is_merged(settings, why, tmp_path):
    """Half of the way between the base and what the adapter's model computes, as a whole model; without the base it is refused."""
    adapted, tuned_dir = lora(tmp_path, **settings)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                weight += 0.3
    models.save(adapted, tiny.tokenizer(), tuned_dir)
    with pytest.raises(UserError, match=why):
        run.apply(HALF, base=None, tuned_dir=tuned_dir, out=tmp_path / "out")
    wanted = models.load(tuned_dir)[0].merge_and_unload().state_dict()
    done = run.apply(HALF, base=tiny.llama(0), tuned_dir=tuned_dir, out=tmp_path / "out")
    assert not done["adapter"]
    got = models.load(done["model_dir"])[0].state_dict()
    for name, tensor in tiny.llama(0).state_dict().items():
        assert torch.allclose(got[name], 0.5 * tensor + 0.5 * wanted[name], atol=1e-6), name


def test_a_search_gets_the_model_and_the_texts(whole, tmp_path):
    base, tuned_dir = whole
    texts = {"proxy": references.read("proxy", ["some text", "another"], tiny.tokenizer())}
    edits = [{"name": "average_blocks", "blocks": 2, "steps": 3}]
    with pytest.raises(UserError, match="needs reference texts"):
        run.apply(edits, base=base, tuned_dir=tuned_dir, out=tmp_path / "out")
    done = run.apply(edits, base=base, tuned_dir=tuned_dir, out=tmp_path / "out", references=texts)
    assert sum(done["audits"][0]["per_block"]) / 2 == pytest.approx(0.2)
    texts["other"] = references.read("other", ["something else"], tiny.tokenizer())
    found = [
        run.apply(
            [{**edits[0], **names}], base=base, tuned_dir=tuned_dir, out=tmp_path / f"out{number}", references=texts
        )["audits"][0]["loss_equal"]
        for number, names in enumerate(({}, {"references": ["proxy"]}, {"references": ["other", "proxy"]}))
    ]
    assert found[1] == done["audits"][0]["loss_equal"]
    assert found[0] == pytest.approx(found[2])
    assert found[0] != found[1]
    with pytest.raises(RecipeError, match="Did you mean 'proxy'"):
        run.apply([{**edits[0], "references": ["prox"]}], base=base, tuned_dir=tuned_dir, out=tmp_path / "x", references=texts)  # fmt: skip


def test_finished_work_is_found_and_other_work_is_made_again(whole, tmp_path):
    base, tuned_dir = whole
    out = tmp_path / "out"
    weights, note = out / "model" / "model.safetensors", out / "edit.json"

    def made(edits=HALF, base=base):
        """Whether a model was written."""
        before = os.stat(weights).st_ino if weights.is_file() else None
        run.apply(edits, base=base, tuned_dir=tuned_dir, out=out)
        return os.stat(weights).st_ino != before

    other = [{"name": "interpolate", "towards_base": 0.4}]
    assert [made(), made(), made(other), made(other)] == [True, False, True, False]
    assert [made(base=one) for one in (base, tiny.llama(3), base)] == [True, True, True], "another base is other work"
    models.save(tiny.llama(5), tiny.tokenizer(), tuned_dir)
    assert [made(), made()] == [True, False], "another tuned model is other work"
    note.write_text(note.read_text()[:40])
    assert made(), "a damaged note is no finished work"
    weights.write_bytes(weights.read_bytes()[:-8] + b"\0" * 8)
    assert [made(), made()] == [True, False], "a damaged model is no finished work"


def test_a_note_never_stands_beside_a_model_that_it_does_not_describe(whole, tmp_path, monkeypatch):
    base, tuned_dir = whole
    run.apply(HALF, base=base, tuned_dir=tuned_dir, out=tmp_path / "out")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        run.apply(HALF * 2, base=base, tuned_dir=tuned_dir, out=tmp_path / "out")
    assert not (tmp_path / "out" / "edit.json").exists()


@pytest.mark.parametrize(
    ("edit", "said"),
    [({"name": "interpolte"}, "Did you mean 'interpolate'"), ({"towards_base": 0.2}, "has no name"),
     ({"name": "interpolate", "towards_bas": 0.2}, "Did you mean 'towards_base'"),
     ({"name": "interpolate", "towards_base": "half"}, "of type float"),
     ({"name": "interpolate", "towards_base": 1.5}, "from 0"),
     ({"name": "interpolate", "per_block": [0.1, 2]}, "per_block is 2"),
     ({"name": "interpolate", "adapter": True}, "no option 'adapter'"), ("interpolate", "has no name")],
)  # fmt: skip
def test_what_is_misspelt_is_refused_before_work(edit, said):
    with pytest.raises(RecipeError, match=said):
        run.check([HALF[0], edit])


def test_a_whole_model_needs_its_base(whole, tmp_path):
    with pytest.raises(UserError, match="needs the base model"):
        run.apply(HALF, base=None, tuned_dir=whole[1], out=tmp_path / "out")
    with pytest.raises(UserError, match="not of one architecture"):
        run.apply(HALF, base=tiny.llama(0, layers=3), tuned_dir=whole[1], out=tmp_path / "out")
