"""A-GEM, PCGrad and the null space: two processes give what one gives, with copies (DDP) and with shards (FSDP2), over gloo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import worker_rivals as worker
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

SCRIPT = Path(worker.__file__)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder that two processes wrote."""
    out = tmp_path_factory.mktemp("two")
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(SCRIPT),
        str(out),
    ]
    done = subprocess.run(
        [*launch, *worker.CASES],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.fixture(scope="module")
def one():
    """The same cases in this process; copies and shards are then the same."""
    torch.set_num_threads(1)
    return {name: worker.run(f"copies-{name}") for name in worker.METHODS}


@pytest.mark.parametrize("case", worker.CASES)
def test_two_processes_are_one(case, two, one):
    name = case.partition("-")[2]
    wanted, meters = one[name]
    for rank in (0, 1):
        found = load_file(two / f"{case}-{rank}.safetensors")
        assert max(float((found[key] - wanted[key]).abs().max()) for key in wanted) < 1e-6
        for key, value in meters.items():
            assert float(found[f"meter.{key}"]) == pytest.approx(value, rel=1e-3, abs=1e-6), key


@pytest.mark.parametrize("name", [name for name in worker.METHODS if name not in ("plain", "null-lora")])
def test_the_method_did_something(name, one):
    plain, _ = one["plain"]
    changed, _ = one[name]
    assert max(float((plain[key] - changed[key]).abs().max()) for key in plain) > 1e-4
