"""One reference gradient a step, and the step bent only where it would raise the reference loss."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn
from transformers import TrainerCallback

from untax.gradients import common
from untax.gradients.memory import Memory
from untax.gradients.subspace import Subspace
from untax.types import UserError

__all__ = ["AveragedMemory"]


class AveragedMemory(TrainerCallback):
    """Bends a gradient that would unlearn a few reference rows, drawn anew at every step, just so far that it does not (A-GEM).

    Paper: Chaudhry et al. 2018, arXiv 1812.00420, eq. 11: g~ = g - (g . g_ref) / (g_ref . g_ref) g_ref where g . g_ref < 0, else g~ =
        g; all tensors as one vector, g_ref of a random batch of the memory. g = (3, 4), g_ref = (-1, 0): (0, 4); g_ref = (1, 0): (3, 4).
    Differs: the rows are drawn by step and seed, so that a resumed run draws the same. The gradient is projected after accumulation
        and averaging over processes, once a step. The trainer clips before this; scaling g scales g~ alike, so only the
        norm that is clipped by is another. Under AdamW the update is not the gradient: OrthogonalProjection projects that.
    Shapes: works on local parts of `.grad` in place; two all-reduces of one and two numbers a step. A forward and backward pass on `rows`
        rows a step is its cost, and one more gradient its memory.
    Raises: UserError for options or references that cannot be used; UnsupportedTrainer where no callback can change the step.
    """

    def __init__(
        self,
        references: Mapping[str, Any],
        *,
        rows: int = 8,  # reference rows drawn at each step, from all sets together
        strength: float = 1.0,  # 0 only measures; between, a part of the correction
        seed: int = 0,  # of the draws
        batch_size: int = 8,  # reference rows in one forward pass
        max_length: int | None = None,  # tokens a reference row is cut to
    ) -> None:
        common.at_least("rows", rows, 1)
        common.at_least("strength", strength, 0)
        common.at_least("batch_size", batch_size, 1)
        self.references, self.strength, self.max_length = references, strength, max_length
        self.draws = partial(Memory, rows=rows, seed=seed, batch_size=batch_size)
        self.meters = common.Meters()
        self.watched: nn.Module | None = None
        self.memory: Memory | None = None

    def watch(self, model: nn.Module) -> None:
        """The module that gives logits, where the trainer's own model is a wrapper around it; call it before training."""
        self.watched = model

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        common.check_trainer(args, kwargs["model"], kwargs["optimizer"])
        sets = common.read_sets(self.references, kwargs["processing_class"], max_length=self.max_length)
        model = self.watched or kwargs["model"]
        self.memory = self.draws(model, common.Parameters(model, granularity="global"), sets, half=bool(args.fp16))
        self.subspace = Subspace(self.memory.view, [1], side="one")

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        memory = self._drawn()
        with common.autocast(args, memory.view.device):
            self.subspace.store(0, memory.gradient(state.global_step))
        self.subspace.settle()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        gradients = self._drawn().view.gradients()
        self.meters.count(self.subspace.project_(gradients, descends=True, strength=self.strength))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in (logs or {}):
            self.meters.put(self._drawn().told())
        self.meters.write(logs if logs is not None else {}, state)

    def _drawn(self) -> Memory:
        if self.memory is None:
            raise UserError("AveragedMemory was not there when training began: hand it to the trainer's constructor.")
        return self.memory
