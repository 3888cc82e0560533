"""Holds what linear layers answer to reference rows: weights move only where those rows' activations are not."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from transformers import TrainerCallback

from untax.gradients import common
from untax.gradients.activations import InputSpace
from untax.types import UserError

__all__ = ["NullSpace"]

log = logging.getLogger(__name__)


class NullSpace(TrainerCallback):
    """Moves weights only in directions that reference rows' activations do not have, so that what those rows are answered stays.

    Paper: Saha et al. 2021, arXiv 2103.09762 (GPM): dW <- dW - dW V V^T, V the fewest directions that hold `energy` of a layer's inputs
        on the references (eq. 5; 0.97 on CIFAR-100). For language models NSPO 2025, arXiv 2512.11391; for LoRA, whose A leaves the
        directions at the start, LoRA-Null 2025, arXiv 2503.02659. dW = (3, 4), x = (1, 0): dW becomes (0, 4).
    Differs: by default the update is projected, not the gradient (under AdamW the two differ), and the subspace is of the start
        weights unless `refresh_every` says otherwise. GPM's code drops the direction that reaches `energy`; we keep it. Weights that
        no layer's input covers (embeddings and a head tied to them, norms, biases) stand still, as its norms and biases do, or
        everything behind them would drift. Prompt tokens count as well as answers. A LoRA's B is free: A V = 0 is enough.
    Shapes: V (in, k) per distinct input, float32; a forward pass holds in^2 float64 numbers per input. Works on rows of local parts.
    Raises: UserError for options or references that cannot be used, or DoRA; UnsupportedTrainer where no callback can change the step,
        or where weights are cut across their input.
    """

    def __init__(
        self,
        references: Mapping[str, Any],
        *,
        target: Literal["update", "gradient"] = "update",  # what is projected: the optimiser's step, or its gradient
        energy: float = 0.97,  # epsilon_th, eq. 9: share of the inputs' squared norm that is held
        max_rank: int | None = None,  # at most so many directions a layer; 0 only measures
        refresh_every: int | None = None,  # steps until the subspace is taken anew; None: once, at the start
        strength: float = 1.0,  # 0 only measures; between, a part of the correction
        others: Literal["freeze", "leave"] = "freeze",  # weights that no layer's input covers
        meter_every: int | None = 30,  # steps between two meters; each costs a forward pass on all references
        batch_size: int = 8,  # reference rows in one forward pass
        max_length: int | None = None,  # tokens a reference row is cut to
    ) -> None:
        common.one_of("target", target, ("update", "gradient"))
        common.one_of("others", others, ("freeze", "leave"))
        common.at_least("strength", strength, 0)
        common.at_least("batch_size", batch_size, 1)
        for name, number, least in (
            ("max_rank", max_rank, 0),
            ("refresh_every", refresh_every, 1),
            ("meter_every", meter_every, 1),
        ):
            if number is not None:
                common.at_least(name, number, least)
        if not 0 < energy <= 1:
            raise UserError(f"energy is {energy!r}; it is a share, above 0 and at most 1.")
        self.references, self.target, self.others, self.max_length = references, target, others, max_length
        self.refresh_every, self.meter_every = refresh_every, meter_every
        self.core = partial(InputSpace, energy=energy, max_rank=max_rank, strength=strength, batch_size=batch_size)
        self.meters = common.Meters()
        self.space: InputSpace | None = None
        self.watched: nn.Module | None = None
        self.before: list[Tensor | None] = []

    def watch(self, model: nn.Module) -> None:
        """The module that gives logits, where the trainer's own model is a wrapper around it; call it before training."""
        self.watched = model

    def _held(self) -> InputSpace:
        if self.space is None:
            raise UserError("NullSpace was not there when training began: hand it to the trainer's constructor.")
        return self.space

    def _metered(self, step: int) -> bool:
        return self.meter_every is not None and step % self.meter_every == 0

    def _removed(self, share: float | None) -> None:
        if share is not None:
            self.meters.put({"removed_energy": share})

    # ----------------------------------------------------------------------- events

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        common.check_trainer(args, kwargs["model"], kwargs["optimizer"])
        sets = common.read_sets(self.references, kwargs["processing_class"], max_length=self.max_length)
        self.space = self.core(self.watched or kwargs["model"], sets)
        if state.global_step > 0:
            self._resume(args, state)

    def _resume(self, args: Any, state: Any) -> None:
        given = args.resume_from_checkpoint
        folders = [*([Path(given)] if isinstance(given, str) else []), common.checkpoint_folder(args, state)]
        if not any(self._held().load(folder) for folder in folders):
            log.warning(
                "the checkpoint of step %d holds no state of NullSpace: the subspace is taken at the present weights, and the rise of "
                "the reference loss counts from here",
                state.global_step,
            )

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        space, step = self._held(), state.global_step
        every = self.refresh_every
        with common.autocast(args, space.view.device):
            if space.refreshed_at < 0 or (every is not None and step - space.refreshed_at >= every):
                self.meters.put(space.refresh(step))
            elif self._metered(step):
                self.meters.put(space.measure())

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        space = self._held()
        if space.off:
            return
        metered = self._metered(state.global_step)
        if self.target == "gradient":
            self._removed(space.project_gradients_(measure=metered))
        else:
            self.before = space.before() if metered else []
        if self.others == "freeze":
            for parameter in space.uncovered():
                parameter.grad = None  # no decay and no momentum either

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        space = self._held()
        if not space.off and self.target == "update":
            self._removed(space.project_update_(self.before))
            self.before = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.meters.write(logs if logs is not None else {}, state)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = common.checkpoint_folder(args, state)
        if folder.is_dir() and not args.save_only_model:
            self._held().save(folder)
