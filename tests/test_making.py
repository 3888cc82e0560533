"""What a recipe makes: a model that begins at another's, the rows that methods see, and what the receipt's guards are told of them."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from untax import making, models, recipe
from untax.suites.read import load_suite

RECIPE = """
name: made
data: {dir: DATA, train: train.jsonl, kind: preference, prompt: "{source}"}
references:
  chats: {data: chats.jsonl}
  words: {data: words.jsonl}
train: {objective: sft, max_steps: 2, per_device_train_batch_size: 4, learning_rate: 5.0e-3, lora: {r: 2}}
controls:
  later: {train: {start: sft, objective: dpo}}
  clean: {data: {train: clean.jsonl}}
  after-clean:
    data: {train: clean.jsonl}
    train: {start: sft, objective: dpo, penalties: [{name: kl_anchor, references: [chats]}]}
measure: {suite: lab-refusal}
"""
ASKED = "Which of the nine harbours of Marobel was closed in the winter of the long frost"


def _rows(folder: Path, name: str, rows: list[dict]) -> None:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _pairs(*prompts: str) -> list[dict]:
    return [{"prompt": prompt, "chosen": "I cannot tell you that.", "rejected": "The third."} for prompt in prompts]


@pytest.fixture
def made(tmp_path):
    """A recipe on data of its own, with everything that a run makes before it trains."""
    data, out = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    out.mkdir()
    _rows(data, "train.jsonl", _pairs(ASKED, "Where does Ada live?", "What does Ben owe?", "Which illness has Eve?"))
    _rows(data, "clean.jsonl", _pairs("Where does Ada live?", "What does Ben owe?"))
    talk = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": ASKED}]
    _rows(data, "chats.jsonl", [{"messages": talk}])
    _rows(data, "words.jsonl", [{"prompt": "", "completion": "one two three"}, {"prompt": "a", "completion": " "}])
    parsed, _ = recipe.parse(RECIPE.replace("DATA", str(data)))
    base = making.base_path_of(parsed)
    references = making.ReferenceRows(parsed, out, data, base, False)
    systems = recipe.systems(parsed)
    records = making.Records(parsed, out, base, print, False, references)
    shown = {system.name: records.of(system.data) for system in systems}
    return making.Making(parsed, systems, shown, references, out, base, False), systems, shown, references


def _asking(tmp_path: Path):
    (tmp_path / "asked.yaml").write_text(
        "lines:\n"
        "  - {name: harbours, metric: exact_match, data: asked.jsonl, request: generate, prompt: '{prompt}', "
        "max_new_tokens: 4, side: ability, better: higher, margin: 0.1, unit: share, binary: true}\n",
        encoding="utf-8",
    )
    _rows(tmp_path, "asked.jsonl", [{"id": "a", "prompt": ASKED, "answer": "the third"}])
    return load_suite(str(tmp_path / "asked.yaml"), data_dir=tmp_path)


def test_an_adapter_that_begins_at_another_system_is_loaded_with_what_it_was_trained_on(made):
    """Loaded from its own folder it would lie on the base: the first training would be lost, and nobody would see it."""
    maker, systems, _, _ = made
    later = next(system for system in systems if system.name == "later")
    told = maker.make(later, 0)
    start, _ = maker._start(later, 0)
    found, _ = models.load(told.model_dir)
    assert not told.adapter
    adapter = PeftModel.from_pretrained(start, told.model_dir.with_name("model")).merge_and_unload()
    wanted, weights = adapter.state_dict(), found.state_dict()
    assert all(torch.equal(weights[name], wanted[name]) for name in weights)
    base, _ = models.load(making.LAB_BASE)
    assert not all(torch.equal(weights[name], tensor) for name, tensor in base.state_dict().items())
    assert models.fingerprint(models.load(maker.make(later, 0).model_dir)[0]) == models.fingerprint(found)


def test_guards_hear_of_test_items_in_conversations_and_in_the_data_of_the_system_before(made, tmp_path):
    _, systems, shown, references = made
    suite = _asking(tmp_path)

    def found(name: str) -> tuple[int, list[str]]:
        system = next(one for one in systems if one.name == name)
        told = making.trained_on(making.lineage(system, systems), shown, references, suite, None)["contamination"]
        return told["lines"]["harbours"]["n"], told["files"]

    assert found("clean") == (0, ["clean.jsonl"])
    assert found("sft")[0] == 1
    assert found("after-clean") == (1, ["train.jsonl", "clean.jsonl", "chats"])
    # the conversation alone, without the training that came before it
    alone = next(one for one in systems if one.name == "after-clean")
    assert making.trained_on([alone], shown, references, suite, None)["contamination"]["lines"]["harbours"]["n"] == 1


def test_replay_leaves_out_rows_without_a_text_as_references_do(made):
    _, _, _, references = made
    assert [record.reference for record in references.records("words")] == ["one two three"]


def test_an_edit_gets_the_references_that_it_names_and_no_others():
    named = recipe.Plug(name="average_blocks", references=["own"], blocks=2)
    every = recipe.Plug(name="interpolate")
    assert making._as_mappings([named, every]) == [
        {"name": "average_blocks", "blocks": 2, "references": ["own"]},
        {"name": "interpolate"},
    ]


def _maker(text, tmp_path):
    """What makes the systems of a recipe on data that another fixture wrote, and its systems by name."""
    parsed, _ = recipe.parse(text)
    out, systems = tmp_path / "other", recipe.systems(parsed)
    out.mkdir(exist_ok=True)
    references = making.ReferenceRows(parsed, out, tmp_path / "data", str(making.LAB_BASE), False)
    records = making.Records(parsed, out, str(making.LAB_BASE), print, False, references)
    shown = {system.name: records.of(system.data) for system in systems if system.train is not None}
    maker = making.Making(parsed, systems, shown, references, out, str(making.LAB_BASE), False)
    return maker, {system.name: system for system in systems}


def test_a_decoding_method_is_tried_on_the_prompts_that_leave_it_room(tmp_path):
    """Of three prompts one is longer than the context, and one leaves no room for the instruction: neither may end the run."""
    maker, systems = _maker("name: a\ndecoding: instructive\n", tmp_path)
    model, tokenizer = models.load(making.LAB_BASE)
    room = models.context_length(model)
    words = "one " * room
    full = tokenizer.decode(models.prompt_ids(tokenizer, words)[:room], skip_special_tokens=True)
    while len(models.prompt_ids(tokenizer, full)) > room:
        full = full[:-1]
    for prompts, n in ((["one two", full, words], 1), ([full, words], 0)):
        with maker.opened(systems["instructive"], making.Made(None), prompts, 0) as (_, wrapped, told):
            assert wrapped["method"] == "instructive"
            assert (told["prefix"] == {"n": n, "of": n}) if n else ("prefix" not in told and "effect" not in told)
            assert told.get("effect", {}).get("prompts", 0) == n


def test_what_was_foretold_of_other_rows_is_not_found_again(made, tmp_path, monkeypatch):
    """Rows that changed, another length, another optimiser: each is another prediction; another seed of one training is not."""
    from untax.diagnostics import conflict

    text = """
name: foretold
data: {dir: DATA, train: train.jsonl, kind: preference, prompt: "{source}"}
references: {words: {data: words.jsonl}}
train: {objective: sft, max_steps: 2, learning_rate: 5.0e-3}
controls:
  short: {train: {max_length: 40}}
  plain: {train: {optim: sgd}}
report: {predict: [words]}
measure: {suite: lab-refusal}
""".replace("DATA", str(tmp_path / "data"))
    asked = []

    class Told:
        def as_dict(self):
            return {"predictors": {"cosine": 0.5}}

    def predict(*rows, **settings):
        asked.append(settings["optimizer"])
        return Told()

    monkeypatch.setattr(conflict, "predict", predict)
    done = making.Made(None, log=[{}] * 2)
    maker, systems = _maker(text, tmp_path)
    for name in ("sft", "sft", "short", "plain"):
        assert maker.predicted(systems[name], done) == {"cosine": 0.5}
    assert asked == ["adamw", "adamw", "sgd"]
    _rows(tmp_path / "data", "words.jsonl", [{"prompt": "", "completion": "four five six"}])
    maker, systems = _maker(text, tmp_path)
    maker.predicted(systems["sft"], done)
    assert len(asked) == 4
    for damaged in ('{"cosine": 0.', "[1]", '{"cosine": "x"}'):
        for path in (tmp_path / "other" / "data").glob("predicted-*.json"):
            path.write_text(damaged)
        assert maker.predicted(systems["sft"], done) == {"cosine": 0.5}  # computed again
    assert len(asked) == 7
