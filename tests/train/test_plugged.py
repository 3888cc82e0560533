"""Gradient methods, penalties and replay in our own loop: once a step, the same after a crash, and part of what a run is known by."""

from __future__ import annotations

import pytest
from training import furthest, go
from transformers import TrainerCallback

import tiny
from untax import references
from untax.train.loop import Plugged, Replay
from untax.types import Candidate, ContrastiveRecord, UserError

TEXTS = ["Max Stone sold 3 cars.", "Ada Brook has sold 4 cars.", "Eve Marsh sold 5 cars.", "Tom Field sold 7 cars."]
GENERAL = [ContrastiveRecord(f"g{i}", "", (Candidate(t, "replay"),), extra={"prompt": ""}) for i, t in enumerate(TEXTS)]
METHODS = {
    "ogpsa": {"refresh_every": 5},
    "ogpsa to the start": {"refresh_every": 3, "loss": "kl_to_start", "max_reference_loss_rise": 1e-4},
    "agem": {"rows": 2},
    "pcgrad": {"rows": 2},
    "null_space": {"energy": 0.5, "meter_every": 3},
}


def rows(texts=TEXTS):
    return {"general": references.read("general", texts, tiny.tokenizer())}


def held(**options):
    return [
        Plugged("kl_anchor", {"weight": 2.0, "rows_per_step": 3, **options}, rows()),
        Plugged("l2_sp", {"weight": 0.5}, {}),
    ]


class Stop(Exception):
    pass


class Die(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 7:
            raise Stop


def test_a_penalty_counts_once_a_step_however_it_is_cut(tmp_path):
    """Added to each of two micro-batches it would weigh twice as much."""
    one = go(tmp_path / "one", objective="sft", penalties=held())
    split = go(
        tmp_path / "split", objective="sft", penalties=held(),
        arguments={"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    )  # fmt: skip
    assert furthest(one, split) < 1e-5
    for name in ("penalty_kl_anchor", "penalty_l2_sp", "loss"):
        assert [row[name] for row in split.log] == pytest.approx([row[name] for row in one.log], rel=1e-3, abs=1e-6)
    assert one.log[0]["penalty_kl_anchor"] == pytest.approx(0, abs=1e-6)
    assert one.log[-1]["penalty_kl_anchor"] > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_died_ends_where_the_uninterrupted_one_does(tmp_path, method):
    arguments = {"max_steps": 10, "save_steps": 4, "gradient_accumulation_steps": 2}

    def train(out, **options):
        return go(
            out, objective="sft", arguments=arguments, penalties=held(), replay=[Replay("general", GENERAL, 0.2)],
            gradients=Plugged(method.split()[0], METHODS[method], rows()), **options,
        )  # fmt: skip

    whole = train(tmp_path / "whole")
    with pytest.raises(Stop):
        train(tmp_path / "died", callbacks=[Die()])
    resumed = train(tmp_path / "died")
    assert resumed.resumed_from == 4
    assert furthest(whole, resumed) == 0
    assert resumed.log == whole.log
    assert "reference_loss" in whole.log[-1] or method != "agem"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"gradients": Plugged("agem", {"rows": 3}, rows())}, "gradients"),
        ({"gradients": Plugged("agem", {"rows": 2}, rows(TEXTS[:3]))}, "gradients"),
        ({"penalties": held(weight=3.0)}, "penalties"),
        ({"replay": [Replay("general", GENERAL, 0.3)]}, "replay"),
        ({"replay": [Replay("general", GENERAL[:3], 0.2)]}, "replay"),
    ],
    ids=["option", "row", "weight", "share", "replayed row"],
)
def test_a_folder_of_another_run_is_refused(tmp_path, change, named):
    asked = {
        "gradients": Plugged("agem", {"rows": 2}, rows()), "penalties": held(), "replay": [Replay("general", GENERAL, 0.2)],
    }  # fmt: skip
    go(tmp_path / "run", objective="sft", arguments={"max_steps": 1}, **asked)
    with pytest.raises(UserError, match=named):
        go(tmp_path / "run", objective="sft", arguments={"max_steps": 1}, **(asked | change))
