"""Safety loss and reference loss as two tasks, each freed of what hurts the other before they are added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from untax.gradients import common
from untax.gradients.memory import Memory
from untax.types import UnsupportedTrainer, UserError

__all__ = ["ProjectingConflicts"]


class ProjectingConflicts(TrainerCallback):
    """Trains on reference rows beside the safety data, and takes from each of the two gradients what would undo the other (PCGrad).

    Paper: Yu et al. 2020, arXiv 2001.06782, algorithm 1 with two tasks: where s . r < 0, s' = s - (s . r) / (r . r) r and r' = r - (r .
        s) / (s . s) s, of the gradients as they came; the step takes s' + r'. s = (3, 4), r = (-1, 0): s' = (0, 4), r' = (-1, 0) + 3/25 *
        (3, 4) = (-0.64, 0.48), sum (-0.64, 4.48).
    Differs: r is `weight` times the reference gradient. `granularity` can do the same for every tensor or module by itself. The rows are
        drawn by step and seed. No order of tasks is drawn: with two it makes no difference. The safety gradient is projected after
        accumulation and averaging; `max_grad_norm` clips the sum, where the trainer would clip the safety gradient alone.
    Shapes: works on local parts of `.grad` in place; one all-reduce of (groups, 3) numbers a step. A forward and backward pass on `rows`
        rows a step is its cost, and one more gradient in float32 its memory.
    Raises: UserError for options or references that cannot be used; UnsupportedTrainer where no callback can change the step, and for
        fp16, whose gradients are scaled by a number that the references' would have to be scaled by.
    """

    def __init__(
        self,
        references: Mapping[str, Any],
        *,
        weight: float = 1.0,  # of the reference gradient in the sum; 0 is plain training
        rows: int = 8,  # reference rows drawn at each step, from all sets together
        granularity: Literal["tensor", "module", "global"] = "global",  # what is one vector
        seed: int = 0,  # of the draws
        batch_size: int = 8,  # reference rows in one forward pass
        max_length: int | None = None,  # tokens a reference row is cut to
        max_grad_norm: float | None = None,  # clip the sum (the trainer's own at 0)
    ) -> None:
        common.one_of("granularity", granularity, ("tensor", "module", "global"))
        common.at_least("weight", weight, 0)
        common.at_least("rows", rows, 1)
        common.at_least("batch_size", batch_size, 1)
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise UserError(f"max_grad_norm is {max_grad_norm!r}; it must be above 0, or None.")
        self.references, self.weight, self.max_length, self.max_grad_norm = (
            references,
            weight,
            max_length,
            max_grad_norm,
        )
        self.view_of = partial(common.Parameters, granularity=granularity)
        self.draws = partial(Memory, rows=rows, seed=seed, batch_size=batch_size)
        self.meters = common.Meters()
        self.watched: nn.Module | None = None
        self.memory: Memory | None = None
        self.reference: list[Tensor] = []

    def watch(self, model: nn.Module) -> None:
        """The module that gives logits, where the trainer's own model is a wrapper around it; call it before training."""
        self.watched = model

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        common.check_trainer(args, kwargs["model"], kwargs["optimizer"])
        common.check_clipping(args, self.max_grad_norm)
        if args.fp16:
            raise UnsupportedTrainer(
                "fp16 scales the safety gradient until the step, and the sum would be wrong: train in bf16."
            )
        sets = common.read_sets(self.references, kwargs["processing_class"], max_length=self.max_length)
        model = self.watched or kwargs["model"]
        self.memory = self.draws(model, self.view_of(model), sets)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        memory = self._drawn()
        with common.autocast(args, memory.view.device):
            self.reference = memory.gradient(state.global_step)
        for gradient in self.reference:
            gradient.mul_(self.weight)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        view = self._drawn().view
        if self.weight:
            for parameter, reference in zip(view.tensors, self.reference, strict=True):
                if parameter.grad is None and bool(reference.any()):
                    parameter.grad = torch.zeros_like(parameter)  # the safety loss does not reach it; the references do
        gradients = view.gradients()
        self.meters.count(combine_(view, gradients, self.reference))
        self.reference = []
        if self.max_grad_norm is not None:
            common.clip_(view, gradients, self.max_grad_norm)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in (logs or {}):
            self.meters.put(self._drawn().told())
        self.meters.write(logs if logs is not None else {}, state)

    def _drawn(self) -> Memory:
        if self.memory is None:
            raise UserError(
                "ProjectingConflicts was not there when training began: hand it to the trainer's constructor."
            )
        return self.memory


def combine_(view: common.Parameters, safety: Sequence[Tensor | None], reference: Sequence[Tensor]) -> common.Removed:
    """Turn the safety gradients, in place, into (1 - c / s.s) s + (1 - c / r.r) r with c = min(0, s.r), group by group.

    What counts as removed is what the safety gradient lost, c^2 / r.r.
    """
    rows = []
    for s, r in zip(safety, reference, strict=True):
        s_N, r_N = torch.zeros_like(r).reshape(-1) if s is None else s.reshape(-1).float(), r.reshape(-1)
        rows.append(torch.stack([s_N.dot(r_N), s_N.dot(s_N), r_N.dot(r_N)]))
    table_T3 = common.small(torch.stack(rows)) * view.share_T[:, None]
    table_G3 = view.sum_over_processes(view.by_group(table_T3))
    conflict_G, ss_G, rr_G = table_G3[:, 0].clamp_max(0), table_G3[:, 1], table_G3[:, 2]
    of_safety_G = torch.where(ss_G > 0, 1 - conflict_G / ss_G, 1.0)
    of_reference_G = torch.where(rr_G > 0, 1 - conflict_G / rr_G, 1.0)
    for s, r, one, other in zip(
        safety, reference, of_safety_G[view.group_T].float(), of_reference_G[view.group_T].float(), strict=True
    ):
        if s is not None:
            s.copy_(one * s.float() + other * r)
    heard_G = (ss_G > 0) & (rr_G > 0)
    removed_G = torch.where(heard_G, conflict_G.square() / rr_G, 0.0)
    conflicts = ((conflict_G < 0) & heard_G).sum() / heard_G.sum().clamp_min(1)
    return common.Removed(ss_G.sum(), removed_G.sum(), conflicts)
