"""lm-eval's tasks asked of a loaded model: the same numbers, kept per task, and nothing around them disturbed."""

import json
import random

import numpy as np
import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

import tiny
from untax import models
from untax.engines import harness
from untax.types import RecipeError, UserError

COLOURS = ["red", "blue", "green", "black"]


@pytest.fixture
def folder(tmp_path):
    """A folder of task files on local data: a choice among four with two shots, a generation, and a group of both."""
    rows = [{"thing": f"thing {n}", "colour": n % 4} for n in range(12)]
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = (
        "dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: "
        + str(path)
        + "\ntest_split: test\nfewshot_split: test\n"
        "doc_to_text: 'The {{thing}} is'\nmetadata:\n  version: 3\n"
    )
    (tmp_path / "colours.yaml").write_text(
        f"task: colours\n{common}output_type: multiple_choice\ndoc_to_target: colour\ndoc_to_choice: {json.dumps(COLOURS)}\n"
        "num_fewshot: 2\nmetric_list:\n  - metric: acc\n  - metric: acc_norm\n"
    )
    (tmp_path / "said.yaml").write_text(
        f"task: said\n{common}output_type: generate_until\ndoc_to_target: '{{{{thing}}}}'\n"
        "generation_kwargs:\n  until: ['.']\n  max_gen_toks: 8\n  do_sample: false\n"
        "metric_list:\n  - metric: exact_match\n    aggregation: mean\n    higher_is_better: true\n"
    )
    (tmp_path / "both.yaml").write_text("group: both\ntask:\n  - colours\n  - said\n")
    return tmp_path


@pytest.fixture(autouse=True)
def _no_long_scan(monkeypatch):
    """lm-eval's own tasks take seconds to index; none of them is needed here."""
    real = harness._index
    monkeypatch.setattr(harness, "_index", lambda folders, with_lm_evals_own: real(folders, False))


def test_results_and_samples_are_those_of_simple_evaluate(folder):
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    results, samples = harness.evaluate(model, tokenizer, ["colours", "said"], include_path=folder, progress=False)
    truth = simple_evaluate(
        HFLM(model, tokenizer=tiny.tokenizer(), batch_size=4),
        tasks=["colours", "said"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
    )
    for name in ("colours", "said"):
        assert len(samples[name]) == 12
        for mine, theirs in zip(samples[name], truth["samples"][name], strict=True):
            for key in ("doc_id", "doc_hash", "prompt_hash", "target_hash", "filter", "target"):
                assert mine[key] == theirs[key]
        shown = {key: value for key, value in truth["results"][name].items() if isinstance(value, float)}
        assert {key: results["results"][name][key] for key in shown} == pytest.approx(shown, abs=1e-6)
        assert results["versions"][name] == 3
    assert results["n-shot"] == {"colours": 2, "said": 0}
    for mine, theirs in zip(samples["colours"], truth["samples"]["colours"], strict=True):
        ours, those = ([float(reply[0][0]) for reply in sample["resps"]] for sample in (mine, theirs))
        assert ours == pytest.approx(those, abs=1e-4)
    assert [s["resps"] for s in samples["said"]] == [s["resps"] for s in truth["samples"]["said"]]


def test_samples_and_results_can_be_read_as_scores(folder):
    from untax.readers import lm_eval

    results, samples = harness.evaluate(
        tiny.llama(), tiny.tokenizer(), ["colours"], include_path=folder, progress=False
    )
    scores = lm_eval.to_scores(results, samples, system="base")
    assert {spec.name for spec in scores.specs} == {"colours/acc", "colours/acc_norm"}
    accuracy = [row.score for row in scores.of("colours/acc")]
    assert sum(accuracy) / 12 == pytest.approx(results["results"]["colours"]["acc,none"])


def test_base_and_adapter_are_one_loaded_model(folder):
    model, tokenizer = tiny.with_adapter(tiny.llama()), tiny.tokenizer()
    with models.adapter_off(model):
        _, off = harness.evaluate(model, tokenizer, ["colours"], include_path=folder, progress=False)
    _, on = harness.evaluate(model, tokenizer, ["colours"], include_path=folder, progress=False)
    _, base = harness.evaluate(tiny.llama(), tokenizer, ["colours"], include_path=folder, progress=False)
    said = [[float(r[0][0]) for sample in found["colours"] for r in sample["resps"]] for found in (off, on, base)]
    assert said[0] == pytest.approx(said[2], abs=1e-5)
    assert max(abs(a - b) for a, b in zip(said[0], said[1], strict=True)) > 0.01
    assert [s["prompt_hash"] for s in off["colours"]] == [s["prompt_hash"] for s in on["colours"]]


def test_a_killed_measurement_goes_on_behind_the_last_finished_task(folder, tmp_path, monkeypatch):
    model, tokenizer, cache = tiny.llama(), tiny.tokenizer(), tmp_path / "cache"
    options = {"include_path": folder, "cache_dir": cache, "progress": False}
    real, asked = harness._evaluated, []

    def killed(name, *given):
        asked.append(name)
        if name == "said":
            raise KeyboardInterrupt
        return real(name, *given)

    monkeypatch.setattr(harness, "_evaluated", killed)
    with pytest.raises(KeyboardInterrupt):
        harness.evaluate(model, tokenizer, ["both"], **options)
    assert asked == ["colours", "said"]
    monkeypatch.setattr(harness, "_evaluated", lambda name, *given: asked.append(name) or real(name, *given))
    first = harness.evaluate(model, tokenizer, ["both"], **options)
    assert asked == ["colours", "said", "said"]
    assert first[0]["group_subtasks"]["both"] == ["colours", "said"]
    assert harness.evaluate(model, tokenizer, ["both"], **options) == first
    assert len(asked) == 3
    kept = sorted(cache.iterdir())
    kept[0].write_text("{")  # damaged
    assert harness.evaluate(model, tokenizer, ["both"], **options) == first
    assert len(asked) == 4


@pytest.mark.parametrize(
    "change", ["limit", "num_fewshot", "gen_kwargs", "model", "data", "shots", "tokenizer", "wrapped"]
)
def test_what_decides_the_answers_is_in_the_key(change, folder, tmp_path, monkeypatch):
    real, asked = harness._evaluated, []
    monkeypatch.setattr(harness, "_evaluated", lambda name, *given: asked.append(name) or real(name, *given))
    options = {"include_path": folder, "cache_dir": tmp_path / "cache", "progress": False}
    task = "said" if change in ("gen_kwargs", "data") else "colours"
    if change == "shots":
        options["limit"] = 1  # the document that changes is only ever shown
    given = [tiny.llama(), tiny.tokenizer(), [task]]
    harness.evaluate(*given, **options)
    if change == "model":
        given[0] = tiny.llama(1)
    elif change == "tokenizer":
        given[1] = tiny.tokenizer(adds_end_in_front=True)
    elif change in ("data", "shots"):
        path = tmp_path / "items.jsonl"
        path.write_text(path.read_text().replace("thing 3", "thing three"))
    else:
        options[change] = {
            "limit": 5,
            "num_fewshot": 1,
            "gen_kwargs": {"max_gen_toks": 3},
            "wrapped": {"projection": "ab"},
        }[change]
    results, samples = harness.evaluate(*given, **options)
    assert len(asked) == 2
    if change == "limit":
        assert len(samples["colours"]) == 5
        assert results["n-samples"]["colours"] == {"original": 12, "effective": 5}
    if change == "num_fewshot":
        assert results["n-shot"]["colours"] == 1
    if change == "gen_kwargs":
        assert all(len(s["resps"][0][0].encode()) <= 3 * 3 for s in samples["said"])


def test_generators_tokenizer_and_network_are_left_as_they_were(folder, monkeypatch):
    from huggingface_hub import constants

    real, seen, tokenizer = harness._evaluated, [], tiny.tokenizer()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(harness, "_evaluated", lambda *given: seen.append(constants.HF_HUB_OFFLINE) or real(*given))
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), tokenizer.pad_token
    harness.evaluate(tiny.llama(), tokenizer, ["colours"], include_path=folder, progress=False)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), tokenizer.pad_token
    assert after == before
    harness.evaluate(tiny.llama(), tokenizer, ["colours"], include_path=folder, progress=False, allow_network=True)
    assert seen == [True, False]
    assert constants.HF_HUB_OFFLINE is False


def test_progress_can_be_silent(folder, capfd):
    harness.evaluate(tiny.llama(), tiny.tokenizer(), ["colours"], include_path=folder, progress=False)
    assert capfd.readouterr() == ("", "")


def test_a_task_may_be_a_file_a_pattern_or_a_mapping(folder):
    given = [tiny.llama(), tiny.tokenizer()]
    config = {
        "task": "mine", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "items.jsonl")}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{thing}}", "doc_to_target": "colour",
        "doc_to_choice": COLOURS,
    }  # fmt: skip
    for task, name, options in (
        (str(folder / "colours.yaml"), "colours", {}),
        ("colo*", "colours", {"include_path": folder}),
        (config, "mine", {}),
    ):
        assert list(harness.evaluate(*given, [task], limit=2, progress=False, **options)[1]) == [name]


def test_mistakes_are_named(folder):
    given = [tiny.llama(), tiny.tokenizer()]
    with pytest.raises(RecipeError, match=r"no task, group or tag 'colors'. Did you mean 'colours'\?"):
        harness.evaluate(*given, ["colors"], include_path=folder)
    with pytest.raises(RecipeError, match="no folder"):
        harness.evaluate(*given, ["colours"], include_path=folder / "nowhere")
    with pytest.raises(RecipeError, match="limit is 0"):
        harness.evaluate(*given, ["colours"], include_path=folder, limit=0)
    with pytest.raises(UserError, match="no chat template"):
        harness.evaluate(*given, ["colours"], include_path=folder, apply_chat_template=True)
    with pytest.raises(UserError, match=r"'said' cannot be asked of this model.*max tokens to generate"):
        harness.evaluate(*given, ["said"], include_path=folder, gen_kwargs={"max_gen_toks": 300}, progress=False)


def test_data_that_are_not_here_are_not_fetched(folder):
    (folder / "far.yaml").write_text(
        "task: far\ndataset_path: somebody/their-data\ntest_split: test\noutput_type: multiple_choice\ndoc_to_text: x\n"
        "doc_to_target: 0\ndoc_to_choice: ['a', 'b']\n"
    )
    with pytest.raises(
        UserError, match=r"task 'far' \(its data: 'somebody/their-data'\) cannot be loaded.*allow_network"
    ):
        harness.evaluate(tiny.llama(), tiny.tokenizer(), ["far"], include_path=[folder], progress=False)


@pytest.mark.slow
def test_lm_evals_own_tasks_are_known(monkeypatch):
    monkeypatch.undo()
    assert {"mmlu", "gsm8k", "blimp"} <= set(harness.known_tasks())
    with pytest.raises(RecipeError, match="Did you mean 'gsm8k'"):
        harness.evaluate(tiny.llama(), tiny.tokenizer(), ["gsm8kk"])
    with pytest.raises(UserError, match=r"'gsm8k' \(its data: 'openai/gsm8k'\) cannot be loaded"):
        harness.evaluate(tiny.llama(), tiny.tokenizer(), ["gsm8k"], progress=False)
