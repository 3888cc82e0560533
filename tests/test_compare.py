"""Two models in, a receipt out: the real path of `untax measure`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import tiny
from untax import compare, models, tables
from untax import receipt as receipts
from untax.suites.read import LmEval
from untax.types import RecipeError, UserError

QUESTIONS = {
    "note": "Two choices, and a text.",
    "lines": [
        {
            "name": "choice", "metric": "choice_accuracy", "data": "q.jsonl", "request": "choices", "prompt": "{q}",
            "choices": ["{a}", "{b}"], "side": "ability", "better": "higher", "margin": 0.02, "binary": True,
        },
        {
            "name": "perplexity", "metric": "perplexity", "data": "q.jsonl", "request": "text", "text": "{q}",
            "side": "ability", "better": "lower", "margin": 0.02, "unit": "nats per token",
        },
        {
            "name": "words", "metric": "length", "data": "q.jsonl", "request": "generate", "prompt": "{q}",
            "max_new_tokens": 4, "samples": 2, "temperature": 1.0, "side": "watch", "better": "higher",
        },
    ],
}  # fmt: skip


@pytest.fixture
def place(tmp_path):
    """A suite, its data, a base, another model, and an adapter of the base."""
    rows = [{"id": f"q{i}", "q": f"question {i} {'x' * (i % 5)}", "a": f" yes {i}", "b": " no"} for i in range(30)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(QUESTIONS))
    tok = tiny.tokenizer()
    models.save(tiny.llama(0), tok, tmp_path / "base")
    models.save(tiny.llama(1), tok, tmp_path / "other")
    models.save(tiny.with_adapter(models.load(tmp_path / "base")[0]), tok, tmp_path / "adapter")
    return tmp_path


def compared(place, base, tuned, **settings):
    given = {"suite": str(place / "suite.yaml"), "data": str(place), "out": place / "out", "resamples": 500}
    return compare.compare_two(str(place / base), str(place / tuned), progress=False, **{**given, **settings})


def test_two_directories(place):
    outcome = compared(place, "base", "other", margins={"choice": 0.5})
    (made,) = receipts.read_json(place / "out" / "receipt.json")
    assert [line.name for line in made.metrics] == ["choice", "perplexity", "words"]
    assert made.of("choice").margin == 0.5
    assert outcome.page.is_file()
    assert {scores.system for scores in map(tables.read, (place / "out" / "scores").glob("[bt]*"))} == {"base", "tuned"}
    assert "sampled at temperature 1" in tables.read(place / "out" / "scores" / "base").about["decoding"]


def test_an_adapter_lies_over_the_base_that_was_named(place, monkeypatch):
    """The adapter's own note of where its base lies may be stale: the base of the command line counts, and is loaded once."""
    config = json.loads((place / "adapter" / "adapter_config.json").read_text())
    (place / "adapter" / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": "nobody/nothing"})
    )
    loads = []
    real = models.load
    monkeypatch.setattr(models, "load", lambda *a, **k: loads.append(a) or real(*a, **k))
    compared(place, "base", "adapter")
    assert len(loads) == 1
    base, tuned = (tables.read(place / "out" / "scores" / side) for side in ("base", "tuned"))
    assert base.about["fingerprint"] == models.fingerprint(real(place / "base")[0]) != tuned.about["fingerprint"]


def test_other_dtypes_are_refused_or_told(place):
    import torch

    models.save(tiny.llama(1).to(torch.bfloat16), tiny.tokenizer(), place / "half")
    with pytest.raises(UserError, match=r"\[different-dtype\] the base is in float32, the tuned model in bfloat16"):
        compared(place, "base", "half", dtype="auto")
    compared(place, "base", "half", dtype="auto", allow_dtype_mismatch=True)
    (made,) = receipts.read_json(place / "out" / "receipt.json")
    assert {guard.name: guard.severity for guard in made.guards}["different-dtype"] == "warn"
    compared(place, "base", "half", dtype="float32", out=place / "same")
    (made,) = receipts.read_json(place / "same" / "receipt.json")
    assert "different-dtype" not in {guard.name for guard in made.guards}


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"margins": {"chioce": 0.1}}, UserError, "chioce"),
        ({"suite": "none"}, RecipeError, "--tasks"),
        ({"dtype": "float23"}, UserError, "Did you mean 'float32'"),
        ({"device": "cuda:99"}, UserError, "cuda:99"),
        ({"engine": "vlm"}, RecipeError, "Did you mean 'vllm'"),
        ({"engine": "vllm"}, UserError, "vllm"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_said(place, change, error, says):
    with pytest.raises(error, match=says):
        compared(place, "base", "other", **change)


def test_training_data_that_hold_the_questions_are_told(place):
    """Questions of one or two words cannot be looked for: this suite's prompts get longer ones."""
    rows = [
        {"id": f"q{i}", "q": f"the keeper of the {i}th lighthouse counted {i + 3} ships before noon and wrote it down", "a": " a", "b": " b"}
        for i in range(30)
    ]  # fmt: skip
    (place / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "train.jsonl").write_text("".join(json.dumps({"text": row["q"]}) + "\n" for row in rows[:20]))
    compared(place, "base", "other", training_data=[place / "train.jsonl"])
    (made,) = receipts.read_json(place / "out" / "receipt.json")
    assert "20 of 30" in next(guard.seen for guard in made.guards if guard.name == "contaminated")
    with pytest.raises(UserError, match=r"absent\.jsonl"):
        compared(place, "base", "other", training_data=[place / "absent.jsonl"])


def test_a_measurement_checks_itself(place, monkeypatch):
    """Scores that depend on the batch they travelled in: the receipt names the guard."""
    real = models._score
    monkeypatch.setattr(
        models, "_score", lambda m, rows, starts, size, tick: tuple(
            [x - 0.5 * len(rows) for x in part] for part in real(m, rows, starts, size, tick)
        )
    )  # fmt: skip
    compared(place, "base", "other")
    (made,) = receipts.read_json(place / "out" / "receipt.json")
    assert "batching" in {guard.name for guard in made.guards}
    monkeypatch.undo()
    compared(place, "base", "other", out=place / "sound")
    (made,) = receipts.read_json(place / "sound" / "receipt.json")
    assert "batching" not in {guard.name for guard in made.guards}


def test_calibration_is_told_for_each_form_apart(place):
    """One set read in two forms: the confidence of one beside the right answers of the other would be neither's calibration."""
    asked = {"metric": "calibration", "data": "q.jsonl", "request": "choices", "prompt": "{q}", "choices": ["{a}", "{b}"],
             "side": "watch", "better": "higher"}  # fmt: skip
    lines = [
        {**asked, "name": f"{form} {score}", "options": {"form": form, "score": score, "min_mass": 0.0}}
        for form in ("continuation", "letter")
        for score in ("correct", "confidence")
    ]
    (place / "suite.yaml").write_text(yaml.safe_dump({"lines": [*lines, QUESTIONS["lines"][1]]}))
    compared(place, "base", "other")
    text = (place / "out" / "receipt.md").read_text()
    assert "continuation correct: Calibration on 30 items" in text
    # no option is one token, so that the letter form has no score: told, and no reason to lose the rest
    assert "letter correct: calibration: no item has a score on all of letter confidence, letter correct" in text


def test_tasks_alone_cannot_be_asked_of_an_address(place):
    with pytest.raises(RecipeError, match="lines of its own"):
        compare.compare_two(
            "http://127.0.0.1:9/v1#a", "http://127.0.0.1:9/v1#b", suite="none", data="lab", out=place / "out",
            tasks=LmEval(("x",)), progress=False,
        )  # fmt: skip


def test_an_address_against_a_directory(place):
    with pytest.raises(RecipeError, match="measure both in the same way"):
        compare.compare_two("http://127.0.0.1:9/v1#m", str(place / "base"), suite="lab", data="lab", out=place / "out")


PEAK = """
import re, sys
from pathlib import Path
from untax import compare, measure, models
import untax.probes, untax.report.page, peft, transformers.models.llama.modeling_llama
place, how = Path(sys.argv[1]), sys.argv[2]
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
if how == "one":
    model, tokenizer = models.load(place / "base")
    suite = measure.load_suite(place / "suite.yaml", data_dir=place, max_items=4)
    measure.measure(model, tokenizer, suite, system="base", progress=False)
else:
    compare.compare_two(
        str(place / "base"), str(place / how), suite=str(place / "suite.yaml"), data=str(place), out=place / "out",
        progress=False, resamples=500, max_items=4,
    )
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_base_and_adapter_need_the_memory_of_one_model(place):
    """Peak memory beyond the imports, each in its own process: one model, base and adapter, base and a second directory."""
    tok = tiny.tokenizer()
    models.save(tiny.llama(0, width=512, layers=8), tok, place / "base")
    models.save(tiny.llama(1, width=512, layers=8), tok, place / "other")
    models.save(tiny.with_adapter(models.load(place / "base")[0]), tok, place / "adapter")
    peak = {
        how: int(subprocess.run([sys.executable, "-c", PEAK, str(place), how], check=True, stdout=subprocess.PIPE, text=True).stdout)
        for how in ("one", "adapter", "other")
    }  # fmt: skip
    weights = (place / "base" / "model.safetensors").stat().st_size / 1024
    assert peak["one"] > 0.8 * weights  # the measure sees a model at all
    assert peak["adapter"] <= 1.1 * peak["one"]
    assert peak["other"] > 1.5 * peak["one"]  # and sees a second one


def test_the_noise_floor_is_measured(place):
    """The base is asked twice; what is sampled draws anew, what is greedy gives the same: a floor of (nearly) 0."""
    compared(place, "base", "other", noise_floor=True)
    (made,) = receipts.read_json(place / "out" / "receipt.json")
    assert all(line.noise is not None for line in made.metrics)
    assert made.of("choice").noise.difference == pytest.approx(0, abs=1e-6)
    assert made.of("words").noise.floor > 0  # two draws of the same model
    assert tables.read(place / "out" / "scores" / "base, again").system == "base, again"


def test_what_is_wrong_is_said_before_anything_is_measured(place):
    """No model is loaded: the names of the two lead nowhere, and that is not what the message is about."""
    with pytest.raises(RecipeError, match=r"--margin chioce: there is no such line\. Did you mean 'choice'"):
        compared(place, "nowhere", "nowhere", margins={"chioce": 0.1})
    (place / "bad.jsonl").write_text('{"text": "one"}\n{bad\n')
    with pytest.raises(UserError, match="line 2 is not JSON"):
        compared(place, "nowhere", "nowhere", training_data=[place / "bad.jsonl"])
    (place / "numbers.jsonl").write_text('{"text": 1}\n')
    with pytest.raises(UserError, match="holds no text"):
        compared(place, "nowhere", "nowhere", training_data=[place / "numbers.jsonl"])
    with pytest.raises(RecipeError, match="empty name"):
        compare.compare_two("", "lab", suite="lab", data="lab", out=place / "out")


def test_a_binary_line_with_other_scores_is_refused(place):
    """A length is no share: 200 % of anything would stand on the receipt."""
    lines = [{**QUESTIONS["lines"][2], "name": "words", "binary": True}]
    (place / "suite.yaml").write_text(yaml.safe_dump({"lines": lines}))
    with pytest.raises(UserError, match="'words' is 'binary: true' in the suite, but 'length' gave a score of"):
        compared(place, "base", "other")


def test_a_suite_that_asks_the_same_every_time_is_refused(place):
    lines = [{**QUESTIONS["lines"][2], "prompt": "{q"}]
    (place / "suite.yaml").write_text(yaml.safe_dump({"lines": lines}))
    with pytest.raises(RecipeError, match="every item asks the same"):
        compared(place, "base", "other")


def test_the_tasks_section_is_checked_like_the_rest(place):
    for section, said in (
        ({"tasks": ["t"], "margins": {"t": -1}}, "margins"),
        ({"tasks": ["t"], "fewshot": 2}, "There are: tasks, num_fewshot, limit"),
    ):
        (place / "suite.yaml").write_text(yaml.safe_dump({"lm_eval": section}))
        with pytest.raises(RecipeError, match=said):
            compared(place, "base", "other")


def test_a_device_that_torch_cannot_use_is_refused(place):
    with pytest.raises(UserError, match="device 'meta'"):
        compared(place, "base", "other", device="meta")


def invoked(*arguments):
    """Exit code and what was said by the command line, which turns every error into both."""
    script = "import sys; from untax.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_tasks_that_name_none_and_data_of_ones_own(tmp_path):
    code, said = invoked("measure", "lab", "lab", "--tasks", ",", "--out", tmp_path / "out")
    assert (code, "--tasks names no task" in said) == (3, True)
    code, said = invoked("show", "safety")
    assert code == 1
    assert "there is no data file lab/toxicity/toxigen_prompts.jsonl" in said  # no temporary folder's name
    assert "--data" in said


def test_an_address_may_be_written_in_capitals():
    assert compare.is_address("HTTP://host/v1#m")
    assert not compare.is_address("http/model")


def test_a_line_without_a_unit_has_no_empty_brackets(place):
    (place / "suite.yaml").write_text(yaml.safe_dump({"lines": [{**QUESTIONS["lines"][1], "unit": ""}]}))
    assert "perplexity  ability" in compared(place, "base", "other").table


def test_an_adapter_over_another_base_than_its_own_is_noted(place, capsys):
    """The shapes fit, so that nothing fails; only what the adapter says of itself shows it."""
    compared(place, "other", "adapter")
    assert "The adapter adapter says that its base is base; it is laid over other." in capsys.readouterr().err
    assert "it is laid over other" in (place / "out" / "receipt.md").read_text()
    compared(place, "base", "adapter", out=place / "out2")
    assert "laid over" not in capsys.readouterr().err
