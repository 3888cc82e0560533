"""Systems that are not trained: the base, edited or decoded otherwise, beside every seed of the others."""

import json

import pytest

import tiny
from untax import making, models, recipe, run, tables
from untax.types import RecipeError, UserError

TEXT = """
name: untrained
seeds: [0, 1]
data:
  dir: lab
  train: bias_train.jsonl
  kind: text
  limit: 120
  prompt: "{source}"
  augment: {kinds: [counterfactual]}
references:
  texts: {data: bias_train.jsonl}
train: {objective: {name: fairness, form: cda}, max_steps: 1, learning_rate: 1.0e-4}
controls:
  inlp: {train: null, edits: [{name: inlp, references: [texts]}]}
  inner: {train: null, edits: [{name: sentence_debias, references: [texts], layer: 1}]}
  instructive: {train: null, decoding: instructive}
  nothing: {train: null, decoding: {name: self_debias, decay: 0}}
measure: {suite: lab-debias, max_items: 6}
report: {resamples: 200, predict: [texts]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("untrained") / "run"
    run.run(recipe.parse(TEXT)[0], out, progress=False)
    return out


def about(folder, name):
    return tables.read(folder / "scores" / name).about


def test_each_stands_beside_every_seed_and_is_made_once(folder):
    for name in ("inlp", "inner", "instructive"):
        first, second = (tables.read(folder / "scores" / f"{name}-seed{seed}") for seed in (0, 1))
        assert (first.seed, second.seed) == (0, 1)
        assert first.rows == second.rows
        assert first.about["trained"] is False
    steps = [json.loads(line)["step"] for line in (folder / "log.jsonl").open(encoding="utf-8")]
    assert sum("inlp-seed" in step for step in steps) == 2  # made, measured; of one seed
    receipts = json.loads((folder / "receipt.json").read_text(encoding="utf-8"))["receipts"]
    told = {guard["name"] for one in receipts if one["tuned_system"] == "inlp" for guard in one["guards"]}
    assert "same-seeds" not in told


def test_what_acts_while_decoding_is_seen_to_act(folder):
    assert about(folder, "instructive-seed0")["effect"]["largest"] > 0.1
    prefix = about(folder, "instructive-seed0")["prefix"]
    assert prefix["n"] == prefix["of"] > 0
    inner = about(folder, "inner-seed0")
    assert inner["effect"]["largest"] > 1e-4
    assert inner["fingerprint"] == about(folder, "base")["fingerprint"]  # a hook, not a change of weights
    assert about(folder, "inlp-seed0")["fingerprint"] != about(folder, "base")["fingerprint"]


def test_answers_of_a_projection_are_not_those_of_its_weights(folder):
    """The weights of an inner projection are the base's: what lies round them is part of what kept answers are known by."""
    kept = [
        json.loads(path.read_bytes())
        for path in (folder / "scores" / "inner-seed0" / "cache").glob("*.json")
        if "selfcheck" not in path.name
    ]
    keys = [one["key"]["wrapped"]["projection"] for one in kept]
    assert len(set(keys)) == 1
    assert keys[0]
    told = about(folder, "instructive-seed0")["wrapped"]
    assert told["method"] == "instructive"
    assert "wrapped" not in about(folder, "inlp-seed0")


def test_a_decoding_method_that_does_nothing_gets_no_verdict(folder):
    """Decay 0 is the base: the guard says so, as it would have in 2025."""
    receipts = json.loads((folder / "receipt.json").read_text(encoding="utf-8"))["receipts"]
    guards = [g for one in receipts if one["tuned_system"] == "nothing" for g in one["guards"]]
    assert any(g["name"] == "no-op" and g["severity"] == "refuse" for g in guards)


def test_what_was_foretold_stands_beside_plain_trainings_alone(folder):
    assert about(folder, "fairness-seed0")["predicted"]["rate_times_steps"] == pytest.approx(1e-4)
    assert "predicted" not in about(folder, "inlp-seed0")


@pytest.mark.parametrize(
    ("control", "why"),
    [
        ("b: {train: null}", "it is the base, which is measured anyway"),
        ("b: {train: null, decoding: {name: instructive, join: 3}}", "option 'join' of 'instructive'"),
        ("b: {train: null, decoding: self_debais}", "Did you mean 'self_debias'"),
        ("b: {train: null, decoding: instructive, data: {limit: 3}}\n  c: {train: null, decoding: instructive}", "made exactly like 'b'"),
        ("b: {train: null, edits: [interpolate], sweep: {train.learning_rate: [1.0]}}", "there is no section 'train'"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(control, why):
    text = f"name: a\ntrain: {{objective: sft}}\ncontrols:\n  {control}\n"
    with pytest.raises(RecipeError, match=why):
        recipe.parse(text)


def test_a_recipe_may_train_nothing_at_all():
    checked, _ = recipe.parse("name: a\ndecoding: instructive\n")
    assert [system.name for system in recipe.systems(checked)] == ["instructive"]
    with pytest.raises(RecipeError, match="nothing would be done to the model"):
        recipe.parse("name: a\n")


def test_what_is_foretold_needs_references():
    with pytest.raises(RecipeError, match=r"report\.predict names 'general', which is no set of references"):
        recipe.parse("name: a\ntrain: {objective: sft}\nreport: {predict: [general]}\n")


@pytest.mark.parametrize(
    ("control", "why"),
    [
        ("b: {train: null, decoding: {name: self_debias, decay: -1}}", "b: self_debias: decay is -1"),
        ("b: {train: null, decoding: {name: self_debias, prefixes: she}}", "b: self_debias: prefixes is 'she'"),
        ("b: {train: null, decoding: {name: instructive, instruction: LONG}}", "b: instructive: a prefix of .* leaves no room"),
        ("b: {train: null, decoding: instructive}\n  c: {train: {start: b}}", "c: train.start is 'b', which changes no weights"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_before_anything_is_measured(control, why, tmp_path):
    """A control comes last: hours of trainings would stand before it."""
    text = f"{TEXT.partition('controls:')[0]}controls:\n  {control}\nmeasure: {{suite: lab-debias, max_items: 2}}\n"
    with pytest.raises(UserError, match=why):
        run.run(recipe.parse(text.replace("LONG", "be kind " * 400))[0], tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "scores").exists()


def test_an_edit_of_a_base_under_an_adapter_is_refused_before_anything_is_measured(tmp_path):
    model, tokenizer = models.load(making.LAB_BASE)
    models.save(tiny.with_adapter(model), tokenizer, tmp_path / "adapter")
    text = (
        f"name: a\nmodel: {{base: lab, adapter: {tmp_path / 'adapter'}}}\n"
        "references: {texts: {data: bias_train.jsonl}}\ntrain: null\nedits: [inlp]\nmeasure: {suite: lab-debias, max_items: 2}\n"
    )
    with pytest.raises(RecipeError, match="inlp: the base is a model with an adapter"):
        run.run(recipe.parse(text)[0], tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "scores").exists()


def test_an_edit_that_fails_names_its_system(tmp_path):
    text = (
        "name: a\nseeds: [0]\nreferences: {texts: {data: bias_train.jsonl}}\ntrain: null\n"
        "edits: [{name: inlp, attribute: religion}]\nmeasure: {suite: lab-debias, max_items: 1}\n"
    )
    with pytest.raises(UserError, match=r"^inlp: too few sentences name a group \(religion\)"):
        run.run(recipe.parse(text)[0], tmp_path / "run", progress=False)


def test_half_of_an_edited_model_is_not_measured_alone(folder):
    """Its weights are the base's: what was edited lies beside them."""
    from untax.compare import Loading

    loading = Loading("float32", "cpu", trust_remote_code=False, allow_network=False)
    with pytest.raises(UserError, match="only half of an edited model"):
        loading.load(str(folder / "models" / "inner-seed0" / "edited" / "model"))
    assert loading.load(str(folder / "models" / "inlp-seed0" / "edited" / "model"))


def test_copies_are_no_further_evidence(folder):
    """A receipt of what no seed changes is that of one table."""
    receipts = json.loads((folder / "receipt.json").read_text(encoding="utf-8"))["receipts"]
    seeds = {one["tuned_system"]: one["tuned_seeds"] for one in receipts if one["base_system"] == "base"}
    assert (seeds["inlp"], seeds["fairness"]) == ([0], [0, 1])


def test_a_recipe_says_which_places_are_left_to_the_user(tmp_path):
    checked, _ = recipe.parse("name: a\nmodel: {base: MODEL_DIRECTORY}\ntrain: {objective: sft}\n")
    with pytest.raises(RecipeError, match=r"leaves model\.base to you: add model\.base=path/to/model"):
        run.run(checked, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
