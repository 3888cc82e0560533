"""`untax diagnose`: one model before a training, two after it; and what was foretold beside what was paid."""

import json
import math
import sys
from dataclasses import replace

import pytest
import yaml

import tiny
from untax import cli, diagnose, models, tables
from untax.suites.read import load_suite
from untax.types import MetricSpec, RecipeError, ScoreRow, Scores, UserError

SUITE = {
    "note": "Texts of two kinds, pairs with controls, and questions.",
    "lines": [
        {
            "name": "facts", "metric": "exact_match", "data": "facts.jsonl", "request": "generate", "prompt": "{prompt}", "max_new_tokens": 4,
            "stop": ["\n"], "side": "ability", "better": "higher", "margin": 0.02, "binary": True,
        },
        {
            "name": "choice", "metric": "choice_accuracy", "data": "pairs.jsonl", "request": "choices", "choices": ["{first}", "{second}"],
            "side": "ability", "better": "higher", "margin": 0.02, "binary": True, "chance": 0.5,
        },
        {
            "name": "gap", "metric": "pair_gap", "data": "pairs.jsonl", "request": "choices", "choices": ["{first}", "{second}"],
            "side": "safety", "better": "lower", "margin": 0.1, "unit": "nats",
        },
        {
            "name": "controls", "metric": "pair_gap", "data": "controls.jsonl", "request": "choices", "choices": ["{first}", "{second}"],
            "side": "watch", "better": "lower", "unit": "nats", "options": {"control": True, "score": "signed"},
        },
        {
            "name": "drift", "metric": "drift", "data": "prose.jsonl", "request": "drift", "text": "{text}", "side": "watch",
            "better": "lower", "unit": "nats per token",
        },
    ],
}  # fmt: skip


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def place(tmp_path):
    """A suite and its data, a base, another model and an adapter of the base, safety rows and references."""
    prose = [
        {"id": f"t{i}", "text": f"the {w} is {i} miles away", "domain": "sea" if i % 2 else "land"}
        for i, w in enumerate("abcdefgh")
    ]
    _write(tmp_path / "prose.jsonl", prose)
    _write(tmp_path / "facts.jsonl", [{"id": f"f{i}", "prompt": f"say {i}:", "answer": str(i)} for i in range(6)])
    pairs = [{"id": f"p{i}", "first": f"she is {i} years old", "second": f"he is {i} years old"} for i in range(8)]
    _write(tmp_path / "pairs.jsonl", pairs)
    controls = [
        {"id": f"c{i}", "first": f"a red car {i} drove by", "second": f"a blue car {i} drove by"} for i in range(8)
    ]
    _write(tmp_path / "controls.jsonl", controls)
    _write(tmp_path / "safety.jsonl", [{"prompt": f"ask {i}", "completion": "I will not say."} for i in range(10)])
    _write(tmp_path / "general.jsonl", [{"text": row["text"]} for row in prose])
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(SUITE))
    tok = tiny.tokenizer()
    models.save(tiny.llama(0), tok, tmp_path / "base")
    models.save(tiny.llama(1), tok, tmp_path / "other")
    models.save(tiny.with_adapter(models.load(tmp_path / "base")[0]), tok, tmp_path / "adapter")
    return tmp_path


def test_pairs_are_those_that_the_tables_pool(place):
    """Gaps that only count beside those of other groups are no preference by themselves; control pairs stand apart."""
    groups = SUITE["lines"][2] | {"name": "groups", "data": "groups.jsonl", "options": {"centre": "sentence"}}
    _write(
        place / "groups.jsonl",
        [{"id": f"g{i}", "sentence": f"s{i % 2}", "first": f"a {i}", "second": f"b {i}"} for i in range(4)],
    )
    (place / "suite.yaml").write_text(yaml.safe_dump({**SUITE, "lines": [*SUITE["lines"], groups]}))
    suite = load_suite(str(place / "suite.yaml"), data_dir=place)
    loaded = diagnose._Models(None, tiny.llama(0), tiny.tokenizer(), None)
    pairs, controls = diagnose._pairs(suite, loaded)
    assert [pair.first for pair in pairs] == [f"she is {i} years old" for i in range(8)]
    assert len(controls) == 8
    (place / "suite.yaml").write_text(yaml.safe_dump({**SUITE, "lines": [groups]}))
    assert diagnose._pairs(load_suite(str(place / "suite.yaml"), data_dir=place), loaded) == ([], [])


def diagnosed(place, base, tuned, **settings):
    given = {"suite": str(place / "suite.yaml"), "data": str(place), "out": place / "out"}
    return diagnose.after(str(place / base), str(place / tuned), progress=False, **{**given, **settings})


def foretold(place, name="base", **settings):
    given = {"safety": place / "safety.jsonl", "references": [place / "general.jsonl"], "out": place / "out"}
    return diagnose.before(str(place / name), **{**given, **settings})


def run(monkeypatch, capsys, *arguments):
    """The exit code, and what was printed on both streams."""
    monkeypatch.setattr(sys, "argv", ["untax", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    told = capsys.readouterr()
    return stopped.value.code, told.out, told.err


# --------------------------------------------------------------------------- after


def test_two_directories(place):
    found = diagnosed(place, "base", "other")
    made = found.diagnosis
    assert made.scored.overall is not None
    assert set(made.scored.overall.by_domain) == {"land", "sea"}
    assert made.scored.overall.kl.value > 0.1
    assert made.scored.selective is not None
    assert made.scored.selective.control is not None
    assert made.per == "shared token"
    assert set(made.scored.transitions) == {"facts", "choice"}
    assert [line.metric for line in made.flips] == ["facts", "choice"]
    assert made.shift is not None
    assert made.shift.answers == 6
    assert {one.kind for one in made.moved} >= {"q", "mlp", "embedding", "norm"}
    assert found.page == place / "out" / "diagnosis.html"
    assert {table.system for table in map(tables.read, (place / "out" / "scores").glob("[bt]*"))} == {"base", "tuned"}
    told = json.loads((place / "out" / "diagnosis.json").read_text())
    assert told["scored"]["overall"]["kl"]["value"] == pytest.approx(made.scored.overall.kl.value)
    assert "moved on land" in found.text


def test_a_model_beside_itself_has_lost_nothing(place):
    made = diagnosed(place, "base", "base").diagnosis
    assert made.scored.overall.kl.value == 0
    assert made.scored.selective.attribute.shrink.value == 0
    assert all(one.lost == one.won == 0 for one in made.scored.transitions.values())
    assert made.shift.unshifted.value == 1
    assert all(one.moved == 0 for one in made.moved)
    assert "moved by 0 (0 to 0) nats" in diagnose.diagnosis.verdict(made)
    assert "weights moved most" not in diagnose.diagnosis.verdict(made)


def test_an_adapter_is_switched_off_for_its_base(place):
    whole = diagnosed(place, "base", "adapter").diagnosis
    assert {one.kind for one in whole.moved} == {"q", "v"}
    merged, tok = models.load(place / "adapter")
    models.save(merged.merge_and_unload(), tok, place / "merged")
    other = diagnosed(place, "base", "merged", out=place / "out2").diagnosis
    assert whole.scored.overall.kl.value == pytest.approx(other.scored.overall.kl.value, rel=1e-4)
    assert whole.scored.selective.attribute.shrink.value == pytest.approx(
        other.scored.selective.attribute.shrink.value, rel=1e-3
    )


def test_a_suite_without_text_or_pairs_says_so(place):
    lines = [line for line in SUITE["lines"] if line["name"] == "choice"]
    (place / "small.yaml").write_text(yaml.safe_dump({"note": "n", "lines": lines}))
    made = diagnosed(place, "base", "other", suite=str(place / "small.yaml")).diagnosis
    assert (made.scored.overall, made.scored.selective, made.shift) == (None, None, None)
    assert "reads no ordinary text" in made.notes[0]


def test_a_folder_that_holds_a_run_is_left_alone(place):
    (place / "out").mkdir()
    (place / "out" / "recipe.resolved.yaml").write_text("name: x")
    with pytest.raises(RecipeError, match="holds a run"):
        diagnosed(place, "base", "other")
    with pytest.raises(RecipeError, match="is an address"):
        diagnose.after("http://localhost:1/v1#m", "b", out=place / "elsewhere")


# --------------------------------------------------------------------------- before


def test_files_of_rows(place):
    found = foretold(place, learning_rate=1e-3, steps=25)
    made = found.prediction
    assert (made.learning_rate, made.steps, made.data.targets, made.data.distinct) == (1e-3, 25, 10, 1)
    assert [one.name for one in made.sets] == ["general"]
    assert math.isfinite(made.cosine)
    assert found.page.is_file()
    assert "not measured yet" in found.text or "Spearman" in found.text
    told = json.loads((place / "out" / "before-training.json").read_text())
    assert told["predictors"]["cosine"] == pytest.approx(made.cosine, rel=1e-9)


def test_several_sets_and_columns(place):
    _write(place / "mine.jsonl", [{"source": f"post {i}", "kind_words": "Be kind."} for i in range(4)])
    sets = [place / "general.jsonl", place / "facts.jsonl"]
    found = foretold(
        place,
        safety=place / "mine.jsonl",
        references=sets,
        columns={"completion": "kind_words"},
        prompt="{source}\nSummary:",
    )
    assert [one.name for one in found.prediction.sets] == ["general", "facts"]
    assert "A learning rate of 2e-05 is assumed" in found.text
    plain = foretold(place, safety=place / "mine.jsonl", references=sets, columns={"completion": "kind_words"})
    assert plain.prediction.safety_loss != found.prediction.safety_loss  # the prompt is read


def test_what_is_missing_is_said(place):
    with pytest.raises(RecipeError, match="--references FILE"):
        foretold(place, references=())
    with pytest.raises(RecipeError, match=r"--safety FILE .* and --references"):
        foretold(place, safety=None, references=())
    with pytest.raises(UserError, match=r"general\.jsonl:1: there is no column 'x'"):
        foretold(place, safety=place / "general.jsonl", columns={"completion": "x"})
    with pytest.raises(RecipeError, match=r"no \{source\}"):
        foretold(place, prompt="same for all")
    with pytest.raises(UserError, match=r"nowhere\.jsonl"):
        foretold(place, safety=place / "nowhere.jsonl")
    with pytest.raises(RecipeError, match="--learning-rate"):
        foretold(place, learning_rate=0.0)


def _recipe(place, **more):
    made = {
        "name": "r", "model": {"base": str(place / "base")},
        "data": {"dir": str(place), "train": "safety.jsonl", "kind": "prompt-completion", "prompt": "{source}"},
        "references": {"general": {"data": "general.jsonl"}},
        "train": {"objective": "sft", "learning_rate": 3e-4, "num_train_epochs": 4, "per_device_train_batch_size": 4},
    } | more  # fmt: skip
    path = place / "recipe.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in made.items() if value is not None}))
    return path


def test_a_recipe_names_everything(place):
    """10 records that repeat their answer, in batches of 4, 4 times: ceil(2.5 * 4) = 10 steps at 3e-4."""
    found = diagnose.before(str(_recipe(place)), out=place / "out")
    made = found.prediction
    assert (made.learning_rate, made.steps, made.batch_size, made.safety_rows) == (3e-4, 10, 4, 10)
    assert [one.name for one in made.sets] == ["general"]
    plain = foretold(place, learning_rate=3e-4, steps=10)
    assert made.cosine == pytest.approx(plain.prediction.cosine, rel=1e-5)
    faster = diagnose.before(str(_recipe(place)), out=place / "out", learning_rate=1e-3, steps=3).prediction
    assert (faster.learning_rate, faster.steps) == (1e-3, 3)


def test_recipes_that_cannot_be_looked_at(place):
    with pytest.raises(RecipeError, match="names no references"):
        diagnose.before(str(_recipe(place, references=None)), out=place / "out")
    with pytest.raises(RecipeError, match="trains nothing"):
        diagnose.before(str(_recipe(place, train=None, decoding="instructive")), out=place / "out")
    with pytest.raises(RecipeError, match="names its data itself"):
        diagnose.before(str(_recipe(place)), safety=place / "safety.jsonl", out=place / "out")


# --------------------------------------------------------------------------- the command


def test_the_lab_alone_is_enough_before_a_training(tmp_path, monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "diagnose", "lab", "--before-training", "--out", tmp_path / "out")
    assert code == 0
    assert "the values of layer 3" in out
    assert "repetitive (above 50 %)" in out
    assert "400 targets" in out
    assert (tmp_path / "out" / "before-training.html").stat().st_size < 1_000_000


def test_the_lab_after_a_training(tmp_path, monkeypatch, capsys):
    """A base whose values of layer 3 are shrunk: it forgets, and there only did it move."""
    import torch

    model, tokenizer = models.load(str(diagnose.LAB_BASE))
    with torch.no_grad():
        model.model.layers[3].self_attn.v_proj.weight *= 0.4
    models.save(model, tokenizer, tmp_path / "hurt")
    code, out, _ = run(
        monkeypatch,
        capsys,
        "diagnose",
        "lab",
        tmp_path / "hurt",
        "--max-items",
        "12",
        "--out",
        tmp_path / "out",
        "--quiet",
    )
    assert code == 0
    assert "the v of layer 3 (by 60 % of their size; 100 % of all squared movement)" in out
    assert "garden" in out
    assert (tmp_path / "out" / "diagnosis.html").stat().st_size < 1_000_000


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "give the model before and the one after"),
        (("lab",), "the model after is missing"),
        (("lab", "lab", "--before-training"), "looks at one model"),
        (("lab", "lab", "--steps", "3"), "belong to --before-training"),
        (("no-such-folder", "--before-training"), "--before-training needs --safety FILE"),
    ],
)
def test_misuse_is_usage(arguments, told, tmp_path, monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, "diagnose", *arguments, "--out", tmp_path / "out")
    assert code == 3
    assert told in err
    assert "Traceback" not in err


# --------------------------------------------------------------------------- what was paid

SPECS = (
    MetricSpec("facts", "exact_match", "generate", "ability", "higher", 0.02, "points", binary=True),
    MetricSpec("copying", "exact_match", "generate", "ability", "higher", 0.02, "points", binary=True),
    MetricSpec("perplexity", "perplexity", "text", "ability", "lower", 0.02, "nats per token"),
)


def _scores(system, facts, copying, seed=None, predicted=None, family="sft"):
    rows = [
        ScoreRow(name, f"i{i}", "h", "", score)
        for name, given in (("facts", facts), ("copying", copying))
        for i, score in enumerate(given)
    ]
    about = {"family": family} | ({"predicted": predicted} if predicted else {})
    return Scores(system, SPECS, tuple(rows), seed, about)


def test_taxes_are_read_from_runs(tmp_path):
    """facts 4/4 to 2/4 is 50 points; copying 1/2 to 1/2 (the third item has no score) is 0: 25 points. Seed 1: 25 and 0 is 12.5."""
    folder = tmp_path / "run"
    base = _scores("base", [1, 1, 1, 1], [1, 0, math.nan])
    tables.write(replace(base, about={}), folder / "scores" / "base")
    for seed, facts in ((0, [1, 1, 0, 0]), (1, [1, 1, 1, 0])):
        made = _scores("sft", facts, [0, 1, 1], seed, {"predictors": {"cosine": -0.5 + seed}})
        tables.write(made, folder / "scores" / f"sft-seed{seed}")
    tables.write(_scores("edit", [1, 1, 1, 1], [1, 1, 1], 0, family="edit"), folder / "scores" / "edit")
    tables.write(_scores("edit", [1, 1, 1, 1], [1, 1, 1], 1, family="edit"), folder / "scores" / "edit1")
    rows = diagnose.read_rows([folder])
    assert [(row["system"], row["seed"], row["family"], row["tax"]) for row in rows] == [
        ("sft", 0, "sft", 25.0),
        ("sft", 1, "sft", 12.5),
    ]
    assert rows[1]["predictors"] == {"cosine": 0.5}


def test_families_of_two_runs_are_kept_apart(tmp_path):
    for name in ("a", "b"):
        tables.write(replace(_scores("base", [1, 1], [1, 1]), about={}), tmp_path / name / "scores" / "base")
        tables.write(_scores("sft", [1, 0], [1, 1], 0, {"predictors": {}}), tmp_path / name / "scores" / "sft")
    assert [row["family"] for row in diagnose.read_rows([tmp_path / "a", tmp_path / "b"])] == ["a/sft", "b/sft"]
    (tmp_path / "c").mkdir()
    with pytest.raises(UserError, match="no scores"):
        diagnose.read_rows([tmp_path / "c"])


# --------------------------------------------------------------------------- what users get wrong


def test_a_base_under_an_adapter_is_diagnosed_without_its_weights(place):
    """All answers are there by then: the page is written, and says why nothing stands of the weights."""
    made = diagnosed(place, "adapter", "base").diagnosis
    assert made.moved == ()
    assert any("under an adapter. Merge it" in note for note in made.notes)
    assert set(made.scored.transitions) == {"facts", "choice"}


@pytest.mark.parametrize("rate", [0.0, -1.0, math.inf, math.nan])
def test_a_learning_rate_that_is_none_is_a_wrong_command(place, rate):
    with pytest.raises(RecipeError, match=r"--learning-rate is .*; it must be a number above 0"):
        foretold(place, learning_rate=rate)


def test_rows_that_cannot_be_read_are_told_with_flag_and_file(place):
    _write(place / "odd.jsonl", [{"foo": "a"}])
    with pytest.raises(UserError, match=r"--safety .*odd\.jsonl: .*has the columns foo; .* --column FIELD=COLUMN"):
        foretold(place, safety=place / "odd.jsonl")
    with pytest.raises(UserError, match=r"--references .*odd\.jsonl: .*has the columns foo; "):
        foretold(place, references=[place / "odd.jsonl"])


def test_rows_that_were_cut_are_told(place):
    """The context is 256 bytes; one of the two rows has 300."""
    _write(place / "long.jsonl", [{"text": "a" * 300}, {"text": "a b c"}])
    assert (
        "note: 1 of 2 rows of long are longer than 256 tokens and were cut."
        in foretold(place, references=[place / "long.jsonl"]).text
    )
