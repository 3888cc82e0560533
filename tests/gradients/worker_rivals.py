"""What test_rivals_processes.py starts: a few steps of A-GEM, PCGrad and the null space, on as many processes as there are.

python -m torch.distributed.run --standalone --nproc-per-node 2 worker_rivals.py OUT CASE ...
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import torch
from safetensors.torch import save_file
from short_training import ARGS, REFERENCES, rows, state
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import tiny
from untax.gradients.agem import AveragedMemory
from untax.gradients.null_space import NullSpace
from untax.gradients.pcgrad import ProjectingConflicts

STEPS = 4
METHODS = {
    "plain": None,
    "agem": lambda: AveragedMemory(REFERENCES, rows=3),
    "pcgrad": lambda: ProjectingConflicts(REFERENCES, rows=3),
    "pcgrad-tensor": lambda: ProjectingConflicts(REFERENCES, rows=3, granularity="tensor", max_grad_norm=0.1),
    "null": lambda: NullSpace(REFERENCES, refresh_every=2),
    "null-gradient": lambda: NullSpace(REFERENCES, target="gradient", meter_every=1),
    "null-lora": lambda: NullSpace(REFERENCES, meter_every=1),
}
CASES = [f"{way}-{name}" for way in ("copies", "shards") for name in METHODS]


def run(case: str) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The weights after the steps, whole, and the last meters."""
    way, _, name = case.partition("-")
    many = dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if many else (0, 1)
    model: Any = tiny.llama(spread=0.1)
    if name.endswith("lora"):
        model = tiny.with_adapter(model, strength=0.0)
    outer = model
    if many and way == "shards":
        mesh = init_device_mesh("cpu", (world,))
        for layer in model.get_decoder().layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    elif many:
        outer = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, eps=1e-5)
    make = METHODS[name]
    callback = make() if make else None
    logs: dict[str, float] = {}
    ids = torch.tensor([row["input_ids"] for row in rows()])
    told = {"model": model, "optimizer": optimizer, "processing_class": tiny.tokenizer()}
    if callback:
        callback.on_train_begin(ARGS, state(), None, **told)
    for step in range(STEPS):
        if callback:
            callback.on_step_begin(ARGS, state(step), None, **told)
        batch = torch.roll(ids, -step, 0)[:8][rank::world]
        loss = -outer(input_ids=batch, labels=batch).loss  # to unlearn texts is to unlearn the references: a conflict
        loss.backward()
        if callback:
            callback.on_pre_optimizer_step(ARGS, state(step), None, **told)
        optimizer.step()
        if callback:
            callback.on_optimizer_step(ARGS, state(step), None, **told)
        optimizer.zero_grad()
        logs = {"loss": 0.0}
        if callback:
            callback.on_log(ARGS, state(step), None, logs=logs)
    whole = {
        n: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone() for n, p in model.named_parameters()
    }
    return whole, logs


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for case in sys.argv[2:]:
        found, meters = run(case)
        found |= {f"meter.{key}": torch.tensor(value) for key, value in meters.items()}
        save_file(found, Path(sys.argv[1]) / f"{case}-{dist.get_rank()}.safetensors")
    dist.destroy_process_group()
