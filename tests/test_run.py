"""The whole product on the embedded lab: one command, killed where it hurts, ends with the same receipt."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from untax.types import RecipeError

RECIPE = """
name: small
seeds: [0]
data:
  limit: 24
  augment:
    kinds: [reference, backtranslate, swap_ent, mask_ent, sys_lowcon, toxic]
    scorer: fit:toxicity_train.jsonl
    lexicon: toxic_words.txt
    generators: {sys_lowcon: base}
train:
  objective: {name: contrastive, alpha: 1.0}
  learning_rate: 3.0e-4
  num_train_epochs: 2
  per_device_train_batch_size: 4
  save_steps: 2
controls:
  sft: {train: {objective: sft}}
measure: {max_items: 24}
report: {resamples: 500}
"""


def start(recipe: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "untax", "run", str(recipe), "--out", str(out), "--quiet"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def killed_when(recipe: Path, out: Path, pattern: str) -> bool:
    """Start the run and kill it without warning as soon as a file of that pattern stands in its folder."""
    process = start(recipe, out)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if any(out.glob(pattern)):
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return True
        time.sleep(0.02)
    process.communicate()
    return False


def finished(recipe: Path, out: Path) -> str:
    process = start(recipe, out)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


def figures(out: Path) -> dict:
    """The receipt without what names its folder."""
    return json.loads((out / "receipt.json").read_text(encoding="utf-8").replace(str(out), "RUN"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    (folder / "small.yaml").write_text(RECIPE, encoding="utf-8")
    said = finished(folder / "small.yaml", folder / "run")
    return folder, said


@pytest.mark.slow
def test_a_run_ends_with_a_receipt_and_its_path(whole):
    folder, said = whole
    run = folder / "run"
    assert said.strip().splitlines()[-1] == f"Receipt: {run / 'receipt.html'}"
    for name in ("recipe.resolved.yaml", "environment.json", "log.jsonl", "receipt.json", "receipt.md", "receipt.html"):
        assert (run / name).stat().st_size > 0, name
    systems = {path.name for path in (run / "scores").iterdir()}
    assert systems == {"base", "contrastive-seed0", "sft-seed0"}
    assert "toxicity" in said
    assert "faithfulness" in said


@pytest.mark.slow
def test_a_finished_run_is_not_repeated(whole):
    folder, _ = whole
    weights = folder / "run" / "models" / "sft-seed0" / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    finished(folder / "small.yaml", folder / "run")
    assert weights.stat().st_mtime_ns == before


@pytest.mark.slow
def test_killed_in_augmentation_training_and_measuring_the_receipt_is_the_same(whole, tmp_path):
    folder, _ = whole
    out = tmp_path / "run"
    # a journal of half-made records; a checkpoint of an unfinished training; the first answers of a tuned model
    for pattern in (
        "data/augmented.jsonl.work/*",
        "models/contrastive-seed0/checkpoints/checkpoint-*/complete",
        "scores/contrastive-seed0/cache/*.json",
    ):
        assert killed_when(folder / "small.yaml", out, pattern), f"the run was over before {pattern} was seen"
        assert not (out / "receipt.html").exists()
    finished(folder / "small.yaml", out)
    assert figures(out) == figures(folder / "run")


@pytest.mark.slow
def test_another_recipe_does_not_overwrite_a_run(whole, tmp_path):
    folder, _ = whole
    other = tmp_path / "other.yaml"
    other.write_text(RECIPE.replace("limit: 24", "limit: 12"), encoding="utf-8")
    process = start(other, folder / "run")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "another recipe" in said


@pytest.mark.slow
def test_measure_compares_two_models(whole, tmp_path):
    folder, _ = whole
    tuned = folder / "run" / "models" / "sft-seed0" / "model"
    command = [
        sys.executable,
        "-m",
        "untax",
        "measure",
        "lab",
        str(tuned),
        "--max-items",
        "24",
        "-o",
        str(tmp_path / "m"),
        "-q",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1].endswith("receipt.html")


def test_augment_writes_records_and_prints_the_table(tmp_path):
    command = [sys.executable, "-m", "untax", "lab", "write", str(tmp_path / "lab")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    out = tmp_path / "out.jsonl"
    command = [
        sys.executable,
        "-m",
        "untax",
        "augment",
        str(tmp_path / "lab" / "train.jsonl"),
        "-o",
        str(out),
        "--limit",
        "20",
        "-q",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "swap_ent" in done.stdout
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 20
    assert all(row["positives"][0]["kind"] == "reference" for row in rows)


@pytest.mark.parametrize(
    "arguments",
    [
        ["measure", "lab", "/nowhere/model"],
        ["measure", "lab", "lab", "--data", "/nowhere"],
        ["measure", "lab", "lab", "--suite", "labb"],
        ["augment", "/nowhere.jsonl", "-o", "/tmp/never.jsonl"],
        ["run", "/nowhere.yaml"],
    ],
)
def test_what_is_not_there_is_said_plainly(arguments, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "untax", *arguments], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode in (1, 3)
    assert done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_margins_of_a_recipe_must_be_those_of_a_metric_and_reach_the_receipt():
    """400 answers, 8 lost: a tax of 2 points with an interval of about 0.8 to 3.5, held at a margin of 5 and not at 1."""
    from untax import run
    from untax.types import MetricSpec, ScoreRow, Scores

    with pytest.raises(RecipeError, match=r"no metric 'fact'\. Did you mean 'facts'\?"):
        run._check_margins({"fact": 0.05}, ["facts", "copying"])
    spec = MetricSpec("facts", "exact_match", "generate", "ability", "higher", 0.01, "share of answers", binary=True)

    def side(name: str, lost: int, seed: int | None) -> Scores:
        scores = [0.0] * lost + [1.0] * (390 - lost) + [0.0] * 10
        rows = tuple(ScoreRow("facts", str(i), f"h{i}", "", s, answer=f"{name} {i}") for i, s in enumerate(scores))
        return Scores(name, (spec,), rows, seed)

    for margin, verdict in ((0.05, "held"), (0.01, "paid")):
        (made,) = run._receipts(
            side("base", 0, None),
            {"sft": [side("sft", 8, 0)]},
            seed=0,
            resamples=1000,
            margins={"facts": margin},
            controls=True,
        )
        assert made.of("facts").verdict == verdict
        assert made.of("facts").margin == margin


def test_a_prompt_that_the_suite_does_not_use_is_refused(tmp_path):
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "untax",
        "run",
        str(recipe),
        "data.prompt={source} TL;DR:",
        "-o",
        str(tmp_path / "run"),
        "-q",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3
    assert "trained on one prompt and measured on another" in done.stderr


def test_a_recipe_refused_before_any_work_leaves_the_folder_to_its_mended_self(tmp_path):
    from untax import recipe as recipes
    from untax import run as runs

    wrong, _ = recipes.parse(RECIPE, ["train.learning_rate=-1"])
    right, _ = recipes.parse(RECIPE)
    with pytest.raises(RecipeError, match="train: training argument 'learning_rate' must be a number above 0"):
        runs.run(wrong, tmp_path / "out", progress=False)
    runs._claim(right, tmp_path / "out")
    assert (tmp_path / "out" / "recipe.resolved.yaml").read_text(encoding="utf-8") == recipes.to_yaml(right)
    (tmp_path / "out" / "scores" / "base").mkdir(parents=True)
    with pytest.raises(RecipeError, match="the run of another recipe"):
        runs._claim(wrong, tmp_path / "out")


def augmented(source: Path, out: Path, scorer: str | None = None) -> str:
    from untax import run as runs

    return runs.augment_file(
        source, out, kinds=["reference", "swap_ent"], scorer=scorer, lexicon=None, finder="rules", generators={},
        columns={}, limit=None, on_error="raise", seed=0, progress=False,
    )  # fmt: skip


def test_augment_never_overwrites_a_file_that_it_did_not_make(tmp_path):
    posts = tmp_path / "posts.jsonl"
    row = {"source": "Alice Smith sold a bike to Bob Jones in Paris.", "reference": "Alice Smith sold a bike."}
    posts.write_text(json.dumps(row) + "\n", encoding="utf-8")
    mine = tmp_path / "mine.jsonl"
    mine.write_text("precious", encoding="utf-8")
    for out, says in ((posts, "the file that is read"), (mine, "not made by augmenting"), (tmp_path, "is a folder")):
        with pytest.raises(RecipeError, match=says):
            augmented(posts, out)
    assert mine.read_text(encoding="utf-8") == "precious"
    assert json.loads(posts.read_text(encoding="utf-8")) == row


def test_a_scorer_fitted_on_other_texts_is_not_taken_for_this_one(tmp_path):
    from untax import making

    labelled = tmp_path / "labelled.jsonl"
    identities = []
    for toxic in (0, 1):
        rows = [{"text": "you idiot", "toxic": toxic}, {"text": "good day", "toxic": 1 - toxic}]
        labelled.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        scorer = making.building_scorer("fit:labelled.jsonl", tmp_path, tmp_path / "kept.safetensors")
        identities.append(scorer.identity)
        assert (scorer.score(["you idiot"])[0] > 0.5) is bool(toxic)
    assert identities[0] != identities[1]


def test_measure_does_not_write_over_a_run_or_into_a_file(tmp_path):
    from untax import compare

    (tmp_path / "recipe.resolved.yaml").write_text("name: a\n")
    for out, says in ((tmp_path, "holds a run"), (tmp_path / "recipe.resolved.yaml", "is a file")):
        with pytest.raises(RecipeError, match=says):
            compare.compare_two("lab", "lab", suite="lab", data="lab", out=out)
