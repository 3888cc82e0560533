"""Two processes give what one gives: DDP and FSDP2 (by hand and by accelerate) over gloo on a CPU, full weights and LoRA.

All cases of `worker_processes.py` run once in one pair of processes, and once in this one; every test compares what came out.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import worker_processes as worker
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

WORKER = Path(worker.__file__)
TIMEOUT = 600  # seconds for all cases; they take 45 on two quiet cores
PROJECTED = [name for name, case in worker.CASES.items() if case.options is not None]
TOLERANCE = 1e-6


def launch(out: Path, names: list[str], *, processes: int = 2) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
        str(WORKER),
    ]
    return subprocess.Popen(
        [*command, str(out), *names],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=(out / "output.txt").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(started: subprocess.Popen, out: Path, timeout: float) -> None:
    """Wait for the processes; whatever happens, none of them outlives this."""
    try:
        code = started.wait(timeout)
    except subprocess.TimeoutExpired:
        code = "a timeout"
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()
    text = (out / "output.txt").read_text(encoding="utf-8", errors="replace")
    assert code == 0, f"the processes ended with {code}:\n{text[-4000:]}"


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """The folder that the two processes wrote, and what this process made of the same cases."""
    torch.set_num_threads(1)
    out, own = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    started = launch(out, list(worker.CASES))
    try:
        alone = {name: worker.run(name, own) for name in worker.CASES}
    except BaseException:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        raise
    finish(started, out, TIMEOUT)
    return out, alone


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest absolute difference over all parameters."""
    assert a.keys() == b.keys()
    assert a
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def notes(out: Path, name: str, rank: int = 0) -> dict[str, Any]:
    return json.loads((out / f"{name}-{rank}.json").read_text(encoding="utf-8"))


def plain(name: str) -> str:
    """The case without a projection that a case is to differ from."""
    way = name.split("-")[0]
    return f"{way}-lora-plain" if worker.CASES[name].lora else f"{way}-plain"


@pytest.mark.parametrize("name", worker.CASES)
def test_two_processes_end_with_the_weights_of_one(pair, name):
    out, alone = pair
    first, second = (load_file(out / f"{name}-{rank}.safetensors") for rank in (0, 1))
    assert difference(first, second) == 0.0
    assert difference(first, alone[name][0]) < TOLERANCE


@pytest.mark.parametrize("name", PROJECTED)
def test_the_projection_changed_something(pair, name):
    """Otherwise two runs that project nothing would pass for equal."""
    _, alone = pair
    assert difference(alone[name][0], alone[plain(name)][0]) > 100 * TOLERANCE


@pytest.mark.parametrize("name", PROJECTED)
def test_one_all_reduce_a_projection_and_nothing_else_between_processes(pair, name):
    out, _ = pair
    for rank in (0, 1):
        steps = notes(out, name, rank)["collectives"]
        assert len(steps) == (worker.STEPS // 2 if worker.CASES[name].resume else worker.STEPS)
        count = (
            2 if "max_grad_norm" in worker.CASES[name].options else 1
        )  # clipping needs the norm of what was projected
        for seen in steps:
            assert seen == {"c10d::allreduce_": count}, steps


@pytest.mark.parametrize("name", PROJECTED)
def test_no_large_tensor_goes_to_the_host(pair, name):
    """Coefficients may (a few numbers per group); a stored gradient has at least 1024 numbers in these models."""
    out, alone = pair
    assert notes(out, name)["largest_host_copy"] < 1024
    assert alone[name][1]["largest_host_copy"] < 1024


@pytest.mark.parametrize("name", PROJECTED)
def test_stored_gradients_stay_where_the_parameters_are(pair, name):
    """On the parameter's device, cut as it is, and in the same memory from the first step to the last."""
    out, alone = pair
    for found in (notes(out, name), notes(out, name, 1), alone[name][1]):
        assert (found["moved"], found["elsewhere"]) == (0, 0)
    case = worker.CASES[name]
    assert notes(out, name)["sharded"] == (case.sharded or case.way == "shards")
    assert not alone[name][1]["sharded"]


@pytest.mark.parametrize("name", PROJECTED)
def test_stored_gradients_are_as_long(pair, name):
    """A projection does not see how long they are, so weights would not show a gradient that was counted twice."""
    out, alone = pair
    assert notes(out, name)["gram"] == pytest.approx(alone[name][1]["gram"], rel=1e-4)
    assert notes(out, name, 1)["gram"] == notes(out, name)["gram"]


@pytest.mark.parametrize("way", ["trainer", "shards", "sft"])
def test_accumulation_changes_nothing(pair, way):
    """8 rows at once, or in turns of 2 or 4: the same step, on one process and on two."""
    out, alone = pair
    whole = "sft" if way == "sft" else f"{way}-tensor-update-one"
    turns = f"{way}-accumulation"
    assert difference(alone[whole][0], alone[turns][0]) < TOLERANCE
    assert difference(load_file(out / f"{whole}-0.safetensors"), load_file(out / f"{turns}-1.safetensors")) < TOLERANCE


@pytest.mark.parametrize("way", ["trainer", "trainer-sharded"])
def test_a_resumed_run_ends_as_the_uninterrupted_one(pair, way):
    """Saved at step 2 of 4 by two processes and taken up by two: bit for bit the same, and so on one."""
    out, alone = pair
    whole = "trainer-tensor-update-one" if way == "trainer" else way
    resumed = f"{way}-resume"
    assert difference(load_file(out / f"{whole}-0.safetensors"), load_file(out / f"{resumed}-0.safetensors")) == 0.0
    assert difference(alone[whole][0], alone[resumed][0]) == 0.0


def test_the_meters_are_the_same_on_one_process_and_two(pair):
    out, alone = pair
    one = [row for row in alone["sft"][1]["log"] if "removed_energy" in row]
    two = [row for row in notes(out, "sft")["log"] if "removed_energy" in row]
    assert len(one) == len(two) > 0
    for mine, theirs in zip(one, two, strict=True):
        for key in ("removed_energy", "conflict_rate", "reference_loss", "reference_loss/facts"):
            if key in mine:
                assert mine[key] == pytest.approx(theirs[key], rel=1e-3, abs=1e-5), key


def test_four_processes_as_two_copies_of_two_shards(pair, tmp_path):
    """Hybrid sharding (HSDP), where a shard is held twice; the case that clips sees how long vectors are."""
    _, alone = pair
    names = ["shards-global-update-two", "shards-own-clip"]
    finish(launch(tmp_path, names, processes=4), tmp_path, TIMEOUT)
    for name in names:
        assert difference(load_file(tmp_path / f"{name}-3.safetensors"), alone[name][0]) < TOLERANCE
        assert notes(tmp_path, name)["gram"] == pytest.approx(alone[name][1]["gram"], rel=1e-4)


def test_a_worker_that_hangs_is_stopped(tmp_path):
    """A case that no process knows fails in both; a time limit that is too short ends them too."""
    started = launch(tmp_path, ["no-such-case"])
    with pytest.raises(AssertionError, match="a timeout"):
        finish(started, tmp_path, timeout=0.2)
    with pytest.raises(ProcessLookupError):
        os.killpg(started.pid, 0)
