"""What users get wrong about sweeps, references, penalties, edits and run folders: said early and by name, never a wrong number."""

import json
import logging
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import TrainerCallback

import frontier_data
import tiny
from untax import making, recipe, references, run, tables
from untax.edits import run as editing
from untax.readers import runs
from untax.train import loop
from untax.types import Candidate, ContrastiveRecord, RecipeError, UserError

RECIPE = """
name: broken
data: {train: private_train.jsonl, kind: preference, prompt: "{source}", limit: 8}
references: {general: {data: general_train.jsonl, limit: 6}}
train: {objective: sft, max_steps: 2, per_device_train_batch_size: 2}
measure: {suite: lab-refusal, max_items: 4}
report: {resamples: 100, front: {resamples: 100}}
"""


# --------------------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("references={../x: {self_replay: {}}}", r"'../x' cannot name a set of references"),
        ("references.own={self_replay: {cout: 3}}", r"Did you mean 'count'"),
        ("references.own={self_replay: {temperature: .inf}}", r"temperature is inf"),
        ("references.own={self_replay: {seed: -1}}", r"seed"),
        ("train.max_grad_norm=.nan", r"train.max_grad_norm is nan"),
        ("edits=[{name: interpolate, per_block: [.nan]}]", r"edits\[0\].per_block\[0\] is nan"),
    ],
)
def test_a_recipe_with_a_wrong_value_is_refused_by_name(override, said):
    """A number that is none would be dumped as null, which is the library's default: max_grad_norm null does not clip."""
    with pytest.raises(RecipeError, match=said):
        recipe.parse(RECIPE, [override])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One run folder: a recipe that was refused before any work leaves it to the next."""
    return tmp_path_factory.mktemp("refused") / "run"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["train.gradients={name: ogpsa, energy: 2}"], "energy is 2"),
        (["controls={held: {train: {penalties: [{name: ewc, weight: -1}]}}}"], "controls.held: ewc.*weight is -1"),
        (["edits=[{name: interpolate, towards_base: 2}]"], "towards_base is 2"),
        (["edits=[{name: interpolate, per_block: 0.5}]"], "per_block is 0.5; it must be a list"),
        (["sweep={train.learning_rate: [1.0e-3, 2.0e-3]}", "report.front.at=[much]"], "report.front.*--at much"),
        (["sweep={train.learning_rate: [1.0e-3, 2.0e-3]}", "report.front.reference=dpo"], "no such family"),
        (["sweep={train.learning_rate: [1.0e-3, 2.0e-3]}", "report.front.safety=facts"], "side ability"),
    ],
)
def test_numbers_out_of_range_are_refused_before_any_work(folder, overrides, said):
    """What a comparison would refuse is refused here too: it would be read after the last training."""
    with pytest.raises(RecipeError, match=said):
        run.run(recipe.parse(RECIPE, overrides)[0], folder, progress=False)
    assert not (folder / "scores").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.gradients={name: agem, references: []}", "sft: train.gradients: 'agem' needs reference rows"),
        ("train.penalties=[{name: kl_anchor, references: []}]", "train.penalties.0.: .*needs reference rows"),
        ("edits=[{name: average_blocks, references: []}]", "edits.0.: 'average_blocks' needs reference rows"),
        ("edits=[{name: average_blocks, blocks: 3}]", "3 blocks were asked for and the model has 2 layers"),
        ("edits=[{name: interpolate, per_block: [0.1, 0.2, 0.3]}]", "sft: edits, edit 1: 3 blocks"),
    ],
)
def test_what_the_references_or_the_base_do_not_allow_is_said_before_training(tmp_path, override, said):
    _rows(tmp_path, "general_train.jsonl", [{"text": "one two"}])
    parsed, _ = recipe.parse(RECIPE, [override])
    rows = making.ReferenceRows(parsed, tmp_path, tmp_path, "", False)
    maker = making.Making(parsed, recipe.systems(parsed), {}, rows, tmp_path, "", False)
    with pytest.raises(RecipeError, match=said):
        maker.check(tiny.tokenizer(), tiny.llama())


def test_a_sweep_of_one_value_has_a_receipt_and_no_front(tmp_path):
    parsed, _ = recipe.parse(RECIPE, ["sweep={train.learning_rate: [1.0e-3]}", "train.max_steps=1"])
    outcome = run.run(parsed, tmp_path / "run", progress=False)
    assert outcome.front is None
    assert outcome.page.is_file()


# --------------------------------------------------------------------------- references


def _rows(folder: Path, name: str, rows: list[dict]) -> None:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _sets(folder: Path, *overrides: str) -> making.ReferenceRows:
    parsed, _ = recipe.parse(RECIPE, list(overrides))
    return making.ReferenceRows(parsed, folder, folder, str(making.LAB_BASE), False)


def test_columns_can_change_places(tmp_path):
    """Renamed one after the other, the second would find what the first has written, and the prompt would be lost."""
    _rows(tmp_path, "swapped.jsonl", [{"prompt": "answer", "completion": "question"}])
    swapped = "references.r={data: swapped.jsonl, columns: {prompt: completion, completion: prompt}}"
    assert _sets(tmp_path, swapped).rows("r") == [{"prompt": "question", "completion": "answer"}]


def test_replay_of_rows_that_teach_nothing_is_refused(tmp_path):
    _rows(tmp_path, "cut.jsonl", [{"text": "one two", "ended": False}, {"prompt": "a", "completion": " "}])
    with pytest.raises(UserError, match="references 'r': no row is left to replay"):
        _sets(tmp_path, "references.r={data: cut.jsonl}").records("r")


def test_rows_that_the_base_wrote_are_found_again_only_under_the_same_settings(tmp_path):
    """A recipe that was refused after its rows were written may be changed: rows of other settings must not be taken for its own."""
    asked = "references.own={{self_replay: {{count: 2, max_new_tokens: 3, seed: {}}}}}"
    first = _sets(tmp_path, asked.format(0)).rows("own")
    assert _sets(tmp_path, asked.format(1)).rows("own") != first
    assert _sets(tmp_path, asked.format(0)).rows("own") == first
    for kept in (tmp_path / "data").glob("self_replay-*.jsonl"):
        kept.write_text(kept.read_text(encoding="utf-8").splitlines()[0], encoding="utf-8")
    with pytest.raises(UserError, match=r"is damaged: it should hold 2 rows\. Remove it"):
        _sets(tmp_path, asked.format(0)).rows("own")


# --------------------------------------------------------------------------- training

RECORDS = [
    ContrastiveRecord(f"r{i}", f"Ada {i}", (Candidate(f"sold {i} cars", "reference"),), (Candidate("no", "other"),))
    for i in range(6)
]


def _train(out: Path, objective: str = "sft", arguments: dict | None = None, **options):
    quick = {
        "learning_rate": 1e-3,
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "warmup_steps": 0,
        "use_cpu": True,
    }
    return loop.train(
        tiny.llama(spread=0.1), tiny.tokenizer(), RECORDS, objective=objective, prompt="{source}:", out=out, progress=False,
        arguments=quick | (arguments or {}), **options,
    )  # fmt: skip


def _held(*texts: str) -> dict[str, references.References]:
    return {"held": references.read("held", texts, tiny.tokenizer())}


def test_two_penalties_of_one_method_both_count(tmp_path):
    """Kept by their names, the second would silently take the place of the first."""
    anchors = [loop.Plugged("kl_anchor", {"weight": w}, _held(text)) for w, text in ((1.0, "one two"), (50.0, "three"))]
    log = _train(tmp_path / "two", penalties=anchors).log[-1]
    alone = [_train(tmp_path / str(i), penalties=[one]).log[-1]["penalty_kl_anchor"] for i, one in enumerate(anchors)]
    assert log["penalty_kl_anchor"] > 0
    # after one step, on which an anchor at the start has no gradient, both are what they are alone
    assert [log["penalty_kl_anchor"], log["penalty_kl_anchor_2"]] == pytest.approx(alone, rel=1e-2)


def test_replay_that_does_nothing_is_said(tmp_path, caplog):
    pool = [ContrastiveRecord("g", "", (Candidate("It rained.", "replay"),), extra={"prompt": ""})]
    with caplog.at_level(logging.WARNING):
        _train(tmp_path / "idle", "dpo", replay=[loop.Replay("general", pool, 0.5)])
    assert "replay 'general': its rows have no negatives, so they do nothing under 'dpo'" in caplog.text
    caplog.clear()
    options = {"replay_weight": 1.0}
    _train(tmp_path / "weighed", "dpo", replay=[loop.Replay("general", pool, 0.5)], objective_options=options)
    assert "do nothing" not in caplog.text


def test_an_optimiser_that_is_not_installed_is_named(tmp_path):
    with pytest.raises(RecipeError, match="lomo"):
        _train(tmp_path / "run", arguments={"optim": "adalomo"})


class _Die(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt


def test_a_damaged_projection_makes_its_checkpoint_a_damaged_one(tmp_path):
    """Training goes on from the start and ends with the weights of a run that was never killed."""
    gradients = loop.Plugged("ogpsa", {"refresh_every": 2}, _held("one two", "three"))
    arguments = {"max_steps": 4, "save_steps": 2}
    whole = _train(tmp_path / "whole", gradients=gradients, arguments=arguments)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "died", gradients=gradients, arguments=arguments, callbacks=[_Die()])
    (state,) = (tmp_path / "died").glob("checkpoints/checkpoint-2/untax_projection*")
    state.write_bytes(state.read_bytes()[:-8])
    again = _train(tmp_path / "died", gradients=gradients, arguments=arguments)
    assert again.resumed_from == 0
    weights = [load_file(one.model_dir / "model.safetensors") for one in (whole, again)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def test_a_result_without_its_summary_is_damaged_and_a_strange_log_line_ends_the_log(tmp_path):
    _train(tmp_path / "run")
    (tmp_path / "run" / "log.jsonl").write_text("null\n", encoding="utf-8")
    assert _train(tmp_path / "run").log == []
    (tmp_path / "run" / "result.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"result\.json is damaged\. Remove"):
        _train(tmp_path / "run")


# --------------------------------------------------------------------------- edits and comparisons


@pytest.mark.parametrize("name", ["steps", "batch_size", "blocks"])
def test_an_edit_of_nothing_is_refused(name):
    with pytest.raises(RecipeError, match=f"{name} is 0; it must be at least 1"):
        editing.check([{"name": "average_blocks", name: 0}])


def test_a_system_that_stands_twice_in_a_run_is_not_read_once(tmp_path):
    """A copied folder under another name would silently take the place of the one that it was copied from."""
    tables.write(frontier_data.table("base", frontier_data.BASE, n=8), tmp_path / "scores" / "base")
    for folder, gain in (("x-seed0", 0.3), ("x-copy", 0.1)):
        table = frontier_data.table("x", frontier_data.shifted(gain, 0.1), seed=0, n=8, family="x")
        tables.write(table, tmp_path / "scores" / folder)
    with pytest.raises(UserError, match="holds x with the training seed 0 twice"):
        runs.read([tmp_path])
