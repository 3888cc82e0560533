"""What needs a GPU: half precision on one device; accelerate's own launcher, FSDP2 and DDP over NCCL on two. Skipped where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import worker_processes as worker
from safetensors.torch import load_file

import tiny
from untax.gradients.ogpsa import OrthogonalProjection

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
two_devices = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")

#: float32 sums on a GPU take another order for another number of rows, and so differ more than on a CPU
TOLERANCE = 1e-5
SHARDED = ["trainer-plain", "trainer-sharded", "trainer-sharded-global", "trainer-sharded-clip", "trainer-sharded-resume",
           "sft-plain", "sft-sharded", "sft-sharded-lora"]  # fmt: skip
COPIED = ["trainer-plain", "trainer-tensor-update-one", "trainer-global-gradient-two", "trainer-resume", "sft", "sft-lora-module",
          "dpo", "shards-plain", "shards-tensor-update-one", "shards-global-gradient-two"]  # fmt: skip


# --------------------------------------------------------------------------- one device


class Watch(OrthogonalProjection):
    """Keeps, after each step, the largest cosine of the step with the stored gradients, tensor by tensor, in float64."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cosines: list[float] = []
        self.moved: list[float] = []

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.weights = [value.double().clone() for value in self.holding.view.values()]
        super().on_pre_optimizer_step(*args, **kwargs)

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().on_optimizer_step(*args, **kwargs)
        found = []
        for now, before, kept in zip(self.holding.view.values(), self.weights, self.holding.subspace.kept, strict=True):
            change = (now.double() - before).flatten()
            for row in kept.double():
                if change.norm() > 0 and row.norm() > 0:
                    found.append(float(row.dot(change) / row.norm() / change.norm()))
        self.cosines.append(max(map(abs, found), default=0.0))
        self.moved.append(
            sum(float((a.double() - b).norm()) for a, b in zip(self.holding.view.values(), self.weights, strict=True))
        )


def trained(
    tmp_path: Path, callback: OrthogonalProjection, *, dtype: torch.dtype = torch.float32, **arguments: Any
) -> Any:
    from transformers import Trainer, TrainingArguments

    settings = TrainingArguments(
        str(tmp_path), max_steps=4, learning_rate=1e-3, per_device_train_batch_size=8, max_grad_norm=0.0, report_to="none",
        logging_steps=1, save_strategy="no", disable_tqdm=True, remove_unused_columns=False, **arguments,
    )  # fmt: skip
    trainer = Trainer(
        model=tiny.llama(spread=0.15).to(dtype),
        args=settings,
        train_dataset=worker.encoded(worker.texts(32, 0)),
        data_collator=worker.collate,
        processing_class=tiny.tokenizer(),
        callbacks=[callback],
    )
    trainer.train()
    return trainer


def references() -> dict[str, Any]:
    return {"facts": worker.texts(7, 1), "strange": worker.strange(5)}


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize("side", ["one", "two"])
def test_the_update_is_free_of_the_references(tmp_path, precision, side):
    """Weights in float32, passes in the given precision: two-sided no step has a part in them; stored on the GPU, in float32."""
    callback = Watch(references(), side=side, refresh_every=2)
    trained(tmp_path, callback, **({} if precision == "float32" else {precision: True}))
    assert all(kept.is_cuda and kept.dtype == torch.float32 for kept in callback.holding.subspace.kept)
    assert sum(callback.moved) > 0
    if side == "two":
        assert max(callback.cosines) < 1e-3  # rounding of weights of size 1 that move by 1e-3
    losses = callback.holding.losses
    assert all(torch.isfinite(torch.tensor(value)) for value in losses.values())


def test_bf16_weights(tmp_path):
    """Weights, stored gradients and snapshot in bf16: two bytes a number and direction, all on the device."""
    callback = Watch(references(), side="two", refresh_every=2)
    trained(tmp_path, callback, dtype=torch.bfloat16)
    kept = callback.holding.subspace.kept
    assert {(t.dtype, t.device.type) for t in kept} == {(torch.bfloat16, "cuda")}
    assert all(torch.isfinite(t.float()).all() for t in callback.holding.view.values())
    assert sum(callback.moved) > 0


@pytest.mark.parametrize("target", ["update", "gradient"])
def test_no_large_tensor_goes_to_the_host(tmp_path, target):
    notes: dict[str, Any] = {}
    callback = worker.watched(OrthogonalProjection(references(), target=target, refresh_every=2), notes)
    trained(tmp_path, callback)
    assert notes["largest_host_copy"] < 1024
    assert (notes["moved"], notes["elsewhere"]) == (0, 0)


def test_a_gpu_ends_where_a_cpu_ends(tmp_path):
    """The same case on both, in float32; epsilon and rate as in the tests of processes."""
    name = "shards-tensor-update-two"
    on_cpu, _ = worker.run(name, tmp_path / "cpu")
    run([sys.executable, str(worker.__file__), str(tmp_path), name], tmp_path)
    assert difference(load_file(tmp_path / f"{name}-0.safetensors"), on_cpu) < TOLERANCE


# --------------------------------------------------------------------------- two devices


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def run(command: list[str], folder: Path, *, devices: str = "0") -> None:
    environment = {**os.environ, "UNTAX_TEST_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": devices}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    (folder / "output.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-4000:]


def compare(command: list[str], names: list[str], tmp_path: Path) -> None:
    """Two devices against one, and each projected case against its plain one."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    run([sys.executable, str(worker.__file__), str(one), *names], one)
    run([*command, str(worker.__file__), str(two), *names], two, devices="0,1")
    for name in names:
        alone = load_file(one / f"{name}-0.safetensors")
        first, second = (load_file(two / f"{name}-{rank}.safetensors") for rank in (0, 1))
        assert difference(first, second) == 0.0, name
        assert difference(first, alone) < TOLERANCE, name
        plain = f"{name.split('-')[0]}-plain"
        if name != plain and not worker.CASES[name].lora and plain in names:
            assert difference(alone, load_file(one / f"{plain}-0.safetensors")) > 10 * TOLERANCE, name
        told = json.loads((two / f"{name}-0.json").read_text(encoding="utf-8"))
        for seen in told.get("collectives", []):
            assert seen == {"c10d::allreduce_": 1}, name


@two_devices
def test_accelerates_own_fsdp2(tmp_path):
    """`accelerate launch --use_fsdp --fsdp_version 2` wraps the model inside the trainer."""
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
        "--dynamo_backend", "no", "--main_process_port", "0", "--use_fsdp", "--fsdp_version", "2",
        "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP", "--fsdp_transformer_layer_cls_to_wrap", "LlamaDecoderLayer",
        "--fsdp_reshard_after_forward", "true", "--fsdp_state_dict_type", "FULL_STATE_DICT",
        "--fsdp_cpu_ram_efficient_loading", "false",
    ]  # fmt: skip
    compare(command, SHARDED, tmp_path)
    for name in ("trainer-sharded", "sft-sharded"):
        told = json.loads((tmp_path / "two" / f"{name}-0.json").read_text(encoding="utf-8"))
        assert told["sharded"], "FSDP2 was not in force"


@two_devices
def test_ddp_and_fsdp2_by_hand_over_nccl(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    compare(command, COPIED, tmp_path)
