"""What the methods of this folder share: a view of the parameters, gradients on reference rows, meters, and who is refused.

Everything works on local parts: a parameter that FSDP2 shards is seen as its shard, and a sum over processes makes whole what a
sum over shards began. `.grad` and the random state are left as they were.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.tensor import DTensor, Replicate

from untax import references
from untax.references import References, Row
from untax.types import UnsupportedTrainer, UserError

__all__ = [
    "Granularity",
    "Meters",
    "Parameters",
    "Removed",
    "at_least",
    "autocast",
    "check_clipping",
    "check_trainer",
    "checkpoint_folder",
    "clip_",
    "one_of",
    "read_sets",
    "reference_gradient",
    "small",
]

log = logging.getLogger(__name__)

Granularity = Literal["tensor", "module", "global"]

#: sum over the rows' tokens, in nats, and how many tokens there were
RowLoss = Callable[[Any, Sequence[Row]], tuple[Tensor, int]]

TRAINERS = "transformers.Trainer, TRL's SFTTrainer and DPOTrainer on one process, DDP or FSDP2"


def small(table: Tensor) -> Tensor:
    """A small table in float64, where the device has it."""
    return table.float() if table.device.type == "mps" else table.double()


class Parameters:
    """The parameters that train, as this process holds them, and the groups that are projected together.

    `granularity`: every tensor for itself, all tensors of a module (both factors of a LoRA and its magnitude are one module), or all
    tensors as one vector. `share_T` weighs a tensor's local sums so that one sum over processes gives the whole: 1 for a shard,
    1/copies for what several processes hold.
    Raises: UserError when nothing trains.
    """

    def __init__(self, model: nn.Module, *, granularity: Granularity = "tensor") -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise UserError("no weight of the model can be trained: all are frozen.")
        distributed = dist.is_available() and dist.is_initialized()
        self.world = dist.get_world_size() if distributed else 1
        self.rank = dist.get_rank() if distributed else 0
        self.names = tuple(name for name, _ in named)
        self.tensors = tuple(p for _, p in named)
        self.sharded = any(isinstance(p, DTensor) for p in self.tensors)
        owners = [_group(name, granularity) for name in self.names]
        self.groups = tuple(dict.fromkeys(owners))
        self.device = self.values()[0].device
        index = {group: i for i, group in enumerate(self.groups)}
        self.group_T = torch.tensor([index[owner] for owner in owners], device=self.device)
        copies = [_copies(p, self.world) for p in self.tensors]
        self.share_T = small(torch.tensor([1 / count for count in copies], device=self.device))

    def values(self) -> list[Tensor]:
        """The local part of every parameter; writing to it changes the parameter."""
        return [_local(p.detach()) for p in self.tensors]

    def gradients(self) -> list[Tensor | None]:
        """The local part of every `.grad`; None where there is none."""
        return [None if p.grad is None else _local(p.grad.detach()) for p in self.tensors]

    def table(self, *shape: int) -> Tensor:
        """Zeros for small sums, on the parameters' device."""
        return small(torch.zeros(shape, device=self.device))

    def by_group(self, rows_T: Tensor) -> Tensor:
        """Sums over the tensors of each group, (groups, ...) from (tensors, ...)."""
        return rows_T.new_zeros(len(self.groups), *rows_T.shape[1:]).index_add_(0, self.group_T, rows_T)

    def sum_over_processes(self, table: Tensor) -> Tensor:
        """The table summed over all processes, in place; with one process nothing is called."""
        if self.world > 1:
            dist.all_reduce(table)
        return table

    def norm(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """The Euclidean norm of all tensors of all processes as one vector. One all-reduce of one number."""
        squares = [self.table() if t is None else small(t.float().square().sum()) for t in tensors]
        return self.sum_over_processes((torch.stack(squares) * self.share_T).sum()).sqrt()


def _group(name: str, granularity: Granularity) -> str:
    if granularity == "global":
        return ""
    if granularity == "tensor":
        return name
    owner, lora, _ = name.partition(".lora_")
    return owner if lora else name.rpartition(".")[0]


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _copies(parameter: Tensor, world: int) -> int:
    """How many processes hold the same numbers of this parameter."""
    if not isinstance(parameter, DTensor):
        return world
    mesh = parameter.device_mesh
    kept = math.prod(mesh.size(i) for i, place in enumerate(parameter.placements) if isinstance(place, Replicate))
    return kept * max(1, world // mesh.size())


# --------------------------------------------------------------------------- gradients on reference rows


def one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse an option that is none of those allowed. Raises: UserError."""
    if value not in allowed:
        raise UserError(f"{name} is {value!r}; it is one of {', '.join(map(repr, allowed))}.")


def at_least(name: str, value: float, least: float) -> None:
    """Refuse a number below `least`, or one that is none. Raises: UserError."""
    if not (value >= least and math.isfinite(value)):
        raise UserError(f"{name} is {value!r}; it must be at least {least}.")


def read_sets(given: Mapping[str, Any], tokenizer: Any, *, max_length: int | None = None) -> dict[str, References]:
    """Named sets of reference rows, tokenised; what is read already stays as it is.

    Raises: UserError for no sets, or rows that cannot be read.
    """
    if not isinstance(given, Mapping) or not given:
        raise UserError('references are named sets of rows: {"general": dataset, ...}; at least one is needed.')
    unread = [name for name, rows in given.items() if not isinstance(rows, References)]
    if unread and tokenizer is None:
        raise UserError(f"references '{unread[0]}' are not tokenised, and the trainer was given no tokenizer.")
    return {
        name: rows if isinstance(rows, References) else references.read(name, rows, tokenizer, max_length=max_length)
        for name, rows in given.items()
    }


@contextmanager
def autocast(args: Any, device: torch.device) -> Iterator[None]:
    """The precision that the trainer's own forward passes run in."""
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    with nullcontext() if dtype is None else torch.autocast(device.type, dtype):
        yield


def reference_gradient(
    model: Any,
    view: Parameters,
    part: References,
    *,
    loss: RowLoss = references.nll,
    batch_size: int = 8,
    scale: float = 1.0,
    into: list[Tensor] | None = None,
) -> tuple[list[Tensor], Tensor]:
    """The gradient of the mean loss per token over the rows of all processes (float32, local parts), and that loss in nats.

    Each process runs its share of the rows. `.grad` is untouched and no hook of DDP fires; no dropout. `scale` multiplies the loss
    and divides the gradient: for half precision. `into`: float32 tensors that take the sums.
    Raises: UnsupportedTrainer for re-entrant checkpointing; UserError for a gradient that is not finite.
    """
    sums = into or [torch.zeros_like(value, dtype=torch.float32) for value in view.values()]
    for kept in sums:
        kept.zero_()
    total = view.table()
    with references.still(model), _aside(view) if view.sharded else nullcontext(), torch.enable_grad():
        for rows in part.batches(batch_size, rank=view.rank, world=view.world):
            value, _ = loss(model, rows)
            value = value / part.tokens
            total += value.detach()
            for kept, found in zip(sums, _backward(view, value * scale), strict=True):
                if found is not None:
                    kept += found.reshape(kept.shape)
    view.sum_over_processes(total)
    if view.world > 1:
        for kept, parameter in zip(sums, view.tensors, strict=True):
            if not isinstance(parameter, DTensor):
                dist.all_reduce(kept)
    for kept in sums:
        kept /= scale
    return sums, total


def _backward(view: Parameters, loss: Tensor) -> list[Tensor | None]:
    """Gradients of this process's rows; of a sharded parameter already summed over the processes."""
    if view.sharded:
        # hooks reduce into .grad, and average: an average times the number of processes is the sum
        for parameter in view.tensors:
            parameter.grad = None
        (loss * view.world).backward()
        found = [None if p.grad is None else _local(p.grad.detach()) for p in view.tensors]
        return [
            None if g is None else g if isinstance(p, DTensor) else g / view.world
            for g, p in zip(found, view.tensors, strict=True)
        ]
    try:
        return list(torch.autograd.grad(loss, view.tensors, allow_unused=True))
    except RuntimeError as error:
        if "use_reentrant" in str(error):
            raise UnsupportedTrainer(REENTRANT) from error
        raise


@contextmanager
def _aside(view: Parameters) -> Iterator[None]:
    kept = [p.grad for p in view.tensors]
    try:
        yield
    finally:
        for parameter, gradient in zip(view.tensors, kept, strict=True):
            parameter.grad = gradient


# --------------------------------------------------------------------------- clipping


def check_clipping(args: Any, own: float | None) -> None:
    """See that gradients are clipped once, and say when that happens before they are changed. `own`: the method's own limit.

    Raises: UserError when both clip; UnsupportedTrainer for an own limit under fp16.
    """
    if own is not None and args.fp16:
        raise UnsupportedTrainer(
            "fp16 scales gradients until the step: clip with the trainer's max_grad_norm, or train in bf16."
        )
    if not args.max_grad_norm:
        return
    if own is not None:
        raise UserError(
            f"gradients would be clipped twice: the trainer's max_grad_norm is {args.max_grad_norm:g}, the method's own {own:g}. "
            "Set the trainer's to 0."
        )
    log.warning(
        "the trainer clips gradients before they are projected; the paper clips after: give the trainer max_grad_norm=0 and the "
        "method max_grad_norm=%g",
        args.max_grad_norm,
    )


def clip_(view: Parameters, gradients: Sequence[Tensor | None], most: float) -> None:
    """Scale gradients in place so that their norm over all tensors and processes is at most `most`."""
    share = (most / (view.norm(gradients) + 1e-6)).clamp_max(1.0)
    for gradient in gradients:
        if gradient is not None:
            gradient.mul_(share.to(gradient.dtype))


# --------------------------------------------------------------------------- meters and checkpoints


@dataclass(frozen=True)
class Removed:
    """What one projection did, still on the device: squared norms before and of what was taken away, and groups in conflict."""

    whole: Tensor  # squared norm of the tensors, all groups
    part: Tensor  # squared norm of what was removed
    conflicts: Tensor  # share of groups whose step would have raised the loss of a reference set, to first order


class Meters:
    """Numbers for the trainer's log: what was measured since the last line, averaged over steps where steps were counted."""

    def __init__(self) -> None:
        self.fresh: dict[str, float] = {}
        self.sums: Tensor | None = None  # removed_energy, conflict_rate, steps that moved

    def put(self, values: Mapping[str, float]) -> None:
        """Numbers that stand in the next line as they are."""
        self.fresh.update(values)

    def count(self, removed: Removed) -> None:
        """One projected step; waits for nothing."""
        whole = removed.whole
        moved = torch.isfinite(whole) & (whole > 0)  # a step that a loss scaler skipped tells nothing
        row = torch.stack([removed.part / whole, removed.conflicts.to(whole.dtype), torch.ones_like(whole)])
        row = torch.where(moved, row, 0.0)
        self.sums = row if self.sums is None else self.sums + row

    def write(self, logs: MutableMapping[str, float], state: Any) -> None:
        """Add everything to a line of the trainer's log and to its history, and begin anew. Other lines are left alone."""
        if "loss" not in logs:
            return
        found = dict(self.fresh)
        if self.sums is not None:
            removed, conflicts, steps = self.sums.tolist()
            if steps:
                found |= {"removed_energy": removed / steps, "conflict_rate": conflicts / steps}
        logs.update(found)
        if state.log_history:
            state.log_history[-1].update(found)
        self.fresh, self.sums = {}, None

    def state(self) -> dict[str, Any]:
        """What has not been written yet, as plain numbers."""
        return {"fresh": self.fresh, "sums": None if self.sums is None else self.sums.tolist()}

    def restore(self, state: Mapping[str, Any], table: Tensor) -> None:
        """Take what `state` gave; sums go where `table` lies."""
        self.fresh = dict(state["fresh"])
        self.sums = None if state["sums"] is None else table.new_tensor(state["sums"])


def checkpoint_folder(args: Any, state: Any) -> Path:
    """Where the trainer writes, or wrote, the checkpoint of the present step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


# --------------------------------------------------------------------------- who is refused

REENTRANT = (
    "re-entrant gradient checkpointing allows no gradient beside .grad: give the trainer "
    'gradient_checkpointing_kwargs={"use_reentrant": False}.'
)


#: optimisers that are fused into the backward pass
FUSED = ("lomo", "adalomo")


def check_trainer(args: Any, model: nn.Module, optimizer: Any) -> None:
    """Refuse a way of training under which a projection would do nothing, or the wrong thing.

    Raises: UnsupportedTrainer that names what to use instead.
    """
    for wrong, message in _refusals(args, model, optimizer):
        if wrong:
            raise UnsupportedTrainer(message)


def _refusals(args: Any, model: nn.Module, optimizer: Any) -> Iterable[tuple[bool, str]]:
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.utils.deepspeed import DeepSpeedOptimizerWrapper
    from torch.distributed.fsdp import FullyShardedDataParallel
    from transformers.trainer_pt_utils import LayerWiseDummyOptimizer

    inner = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
    named = str.lower(args.optim)  # not str(): that of an enumeration is the name of its member
    yield (
        bool(args.deepspeed) or isinstance(optimizer, DeepSpeedOptimizerWrapper),
        f"DeepSpeed steps inside backward, where no callback can change the update. Train with {TRAINERS}: "
        "FSDP2 (accelerate's fsdp_version: 2) shards as ZeRO-3 does.",
    )
    yield (
        named.endswith("layerwise") or isinstance(inner, LayerWiseDummyOptimizer),
        "layer-wise optimisers step inside backward, tensor by tensor, where no callback can change the update. Take optim='adamw_torch', "
        "or another that steps once for all tensors: 'galore_adamw' where it was 'galore_adamw_layerwise'.",
    )
    yield (
        named in FUSED or type(inner).__name__.lower() in FUSED,
        "LOMO steps inside backward, where no callback can change the update. Take optim='adamw_torch', or a LoRA where memory is short.",
    )
    yield (
        named.startswith("schedule_free") or "ScheduleFree" in type(inner).__name__,
        "schedule-free optimisers keep a second set of weights, from which they undo what a projection did to the first. "
        "Take optim='adamw_torch'.",
    )
    yield (
        _parallel(model),
        f"tensor, expert and pipeline parallelism cut a model in ways that sums over processes do not follow here. Train with {TRAINERS}.",
    )
    yield (
        any(
            isinstance(module, FullyShardedDataParallel) or type(module).__name__ == "FlatParameter"
            for module in (*model.modules(), *model.parameters())
        ),
        "FSDP1 melts parameters into flat ones. Set fsdp_version: 2 (FSDP2) in accelerate's configuration.",
    )
    yield (
        isinstance(inner, torch.optim.LBFGS),
        "an optimiser that calls a closure takes several steps in one. Take optim='adamw_torch' or 'sgd'.",
    )
    checkpointing = args.gradient_checkpointing_kwargs or {}
    yield (bool(args.gradient_checkpointing and checkpointing.get("use_reentrant")), REENTRANT)


def _parallel(model: nn.Module) -> bool:
    """Whether parameters are cut otherwise than FSDP2 cuts them: along another dimension of the mesh, or by hand."""
    from torch.distributed.fsdp import FSDPModule

    meshes = {p.device_mesh for p in model.parameters() if isinstance(p, DTensor)}
    cut = {name for mesh in meshes for i, name in enumerate(mesh.mesh_dim_names or ()) if mesh.size(i) > 1}
    return bool(cut & {"tp", "ep", "pp"}) or (
        bool(meshes) and not any(isinstance(module, FSDPModule) for module in model.modules())
    )
