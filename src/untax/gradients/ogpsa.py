"""Holds ability during safety training: each step loses its part in the span of a few gradients on reference rows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from untax.gradients import common
from untax.gradients.holding import Budget, Holding
from untax.types import UserError

__all__ = ["OrthogonalProjection"]

log = logging.getLogger(__name__)

BEGUN_ANEW = (
    "the checkpoint of step %d holds no state of the projection: references are taken at the present weights, and the rise of "
    "their loss counts from here"
)


class OrthogonalProjection(TrainerCallback):
    """Frees every step of its part in the gradients of reference rows, so that, to first order, it cannot unlearn what they show.

    Paper: OGPSA 2026, arXiv 2602.07892: g~ = g - U U^T g, U the Gram-Schmidt basis of reference gradients, renewed every K steps
        (`target="gradient", side="two", granularity="global"`); the released code has granularity="tensor".
    Differs: by default the update is projected, after the optimiser: under AdamW a projected gradient still moves along the
        references. `side="one"` takes away only what raises the reference loss, so that replay beside it is not undone. Reference
        gradients never enter `.grad` (as released they leak into the next step: `leak`), have no limit of rank, and are in the checkpoint.
    Shapes: works on local parts of parameters in place; one all-reduce of (groups, directions + 1) numbers a step.
    Raises: UserError for options or references that cannot be used; UnsupportedTrainer where no callback can change the step.
    """

    def __init__(
        self,
        references: Mapping[str, Any],
        *,
        target: Literal["update", "gradient"] = "update",  # what is projected: the optimiser's step, or its gradient
        side: Literal["one", "two"] = "one",  # one: only what raises the reference loss; two: every part in their span
        granularity: Literal["tensor", "module", "global"] = "tensor",  # what is one vector
        directions_per_set: int = 1,  # each set is dealt into so many parts, one gradient each
        energy: float = 0.95,  # two-sided: share of a set's squared singular values that is kept
        refresh_every: int = 30,  # K, optimiser steps
        refresh_when: float | None = None,  # tau: also when a fresh gradient's cosine with the stored one is below it
        strength: float = 1.0,  # 0 only measures; between, a part of the correction
        loss: Literal["ce", "kl_to_start"] = "ce",  # what the references' gradient is of
        batch_size: int = 8,  # reference rows in one forward pass
        max_length: int | None = None,  # tokens a reference row is cut to
        max_reference_loss_rise: float | None = None,  # nats per token above the first
        on_rise: Literal["lower", "stop"] = "lower",  # then halve the step, or stop
        max_grad_norm: float | None = None,  # clip after projection (target="gradient", trainer's own at 0)
        leak: bool = False,  # as released: the step after a refresh also follows the reference gradients (target="gradient")
        keep_in: Literal["parameter", "bfloat16"] = "parameter",  # the stored gradients' precision
    ) -> None:
        common.one_of("target", target, ("update", "gradient"))
        common.one_of("side", side, ("one", "two"))
        common.one_of("granularity", granularity, ("tensor", "module", "global"))
        common.one_of("loss", loss, ("ce", "kl_to_start"))
        common.one_of("on_rise", on_rise, ("lower", "stop"))
        common.one_of("keep_in", keep_in, ("parameter", "bfloat16"))
        common.at_least("directions_per_set", directions_per_set, 0)
        common.at_least("refresh_every", refresh_every, 1)
        common.at_least("strength", strength, 0)
        common.at_least("batch_size", batch_size, 1)
        if not 0 < energy <= 1:
            raise UserError(f"energy is {energy!r}; it is a share, above 0 and at most 1.")
        if max_grad_norm is not None and (target != "gradient" or not max_grad_norm > 0):
            raise UserError("max_grad_norm clips a projected gradient: it is above 0, and needs target='gradient'.")
        if leak and target != "gradient":
            raise UserError("leak adds reference gradients to the gradient: it needs target='gradient'.")
        self.references, self.target, self.strength, self.max_length = references, target, strength, max_length
        self.refresh_every, self.refresh_when, self.max_grad_norm = refresh_every, refresh_when, max_grad_norm
        self.core = partial(
            Holding, side=side, granularity=granularity, directions=directions_per_set, energy=energy, loss=loss,
            batch_size=batch_size, keep_in=torch.bfloat16 if keep_in == "bfloat16" else None,
        )  # fmt: skip
        self.budget, self.meters, self.leak = Budget(max_reference_loss_rise, on_rise), common.Meters(), leak
        self.holding: Holding | None = None
        self.watched: nn.Module | None = None
        self.folder: Path | None = None
        self.before: list[Tensor] = []
        self.rates: list[Any] = []

    def watch(self, model: nn.Module) -> None:
        """The module that gives logits, where the trainer's own model is a wrapper around it; call it before training."""
        self.watched = model

    def save(self, folder: str | Path) -> None:
        """Write what resuming needs into a folder (once; the trainer's checkpoints get it by themselves)."""
        if self.holding is not None:
            self.holding.save(Path(folder), {"scale": self.budget.scale, "meters": self.meters.state()})

    def load(self, folder: str | Path) -> None:
        """Take the state from a folder when training begins, instead of from the trainer's checkpoint."""
        self.folder = Path(folder)

    # ----------------------------------------------------------------------- events

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        common.check_trainer(args, kwargs["model"], kwargs["optimizer"])
        if self.target == "gradient":
            common.check_clipping(args, self.max_grad_norm)
        self.budget.scale, self.meters, self.before = (
            1.0,
            common.Meters(),
            [],
        )  # it may have held another training before
        sets = common.read_sets(self.references, kwargs["processing_class"], max_length=self.max_length)
        self.holding = self.core(self.watched or kwargs["model"], sets, half=bool(args.fp16))
        if state.global_step > 0 or self.folder is not None:
            self._resume(args, state)
        if self.holding.refreshed_at < 0:
            with common.autocast(args, self.holding.view.device):
                self.holding.remember(late=state.global_step > 0)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        holding, step = self._held(), state.global_step
        with common.autocast(args, holding.view.device):
            due = holding.due(step, self.refresh_every)
            if not due and self.refresh_when is not None and self._looks(step - holding.refreshed_at):
                cosine = holding.cosine(step)
                self.meters.put({"reference_cosine": cosine})
                due = cosine < self.refresh_when
            if not due:
                return
            holding.refresh(step)
        self.budget.judge(holding.first, holding.losses, step)
        self.meters.put(holding.told() | ({} if self.budget.most is None else {"step_scale": self.budget.scale}))
        if self.budget.scale == 0:
            control.should_training_stop = True  # the step that is under way moves nothing

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        holding = self._held()
        if self.budget.scale < 1:
            self.rates = [group["lr"] for group in kwargs["optimizer"].param_groups]
            for group, rate in zip(kwargs["optimizer"].param_groups, self.rates, strict=True):
                group["lr"] = rate * self.budget.scale
        if self.target == "update":
            values = holding.view.values()
            self.before = self.before or [torch.empty_like(value) for value in values]
            torch._foreach_copy_(self.before, values)
            return
        gradients = holding.view.gradients()
        self.meters.count(holding.subspace.project_(gradients, descends=True, strength=self.strength))
        if self.leak and holding.refreshed_at == state.global_step:
            holding.subspace.add_(gradients, 1 / args.gradient_accumulation_steps)
        if self.max_grad_norm is not None:
            common.clip_(holding.view, gradients, self.max_grad_norm)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.rates:
            for group, rate in zip(kwargs["optimizer"].param_groups, self.rates, strict=True):
                group["lr"] = rate
            self.rates = []
        if self.target == "update":
            holding = self._held()
            removed = holding.subspace.project_(holding.view.values(), before=self.before, strength=self.strength)
            self.meters.count(removed)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.meters.write(logs if logs is not None else {}, state)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = common.checkpoint_folder(args, state)
        if folder.is_dir() and not args.save_only_model:
            self.save(folder)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.before = []

    # ----------------------------------------------------------------------- helpers

    def _held(self) -> Holding:
        if self.holding is None:
            raise UserError(
                "OrthogonalProjection was added after training began: give it to the trainer before train()."
            )
        return self.holding

    def _looks(self, age: int) -> bool:
        return age > 0 and age % max(1, self.refresh_every // 5) == 0

    def _resume(self, args: Any, state: Any) -> None:
        holding = self._held()
        given = args.resume_from_checkpoint
        folders = [self.folder, Path(given) if isinstance(given, str) else None, common.checkpoint_folder(args, state)]
        self.folder = None
        counters = next(filter(None, (holding.load(folder) for folder in folders if folder is not None)), None)
        if counters is None:
            log.warning(BEGUN_ANEW, state.global_step)
            return
        self.budget.scale = counters["scale"]
        self.meters.restore(counters["meters"], holding.view.table())
