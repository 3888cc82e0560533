"""Holds each weight near its start as firmly as reference texts depend on it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from untax import models
from untax.penalties.common import Moved, check_references, check_weight, moved, rows_of, thrifty
from untax.references import References, Row, still, target_logits
from untax.types import UserError

__all__ = ["EWC"]

log = logging.getLogger(__name__)


class EWC:
    """Adds weight/2 * sum of F_i (w_i - w0_i)^2, F the diagonal Fisher information of the reference rows at the start.

    F is per token that counts, so the penalty is weight times what (in the diagonal approximation) the KL from the start on those
    texts is, in nats per token: the scale of kl_anchor. The references are what must not be lost; the Fisher of the training data would
    protect the new task. `prepare` runs one forward and one backward pass for each row, and keeps F in float32.
    Under LoRA F belongs to the adapted weights W and the penalty to dW = s B A: at B = 0 the factor A has no gradient, so its own F would
    be 0. Each step forms dW one layer at a time (d_out x d_in, twice: forward and backward); F takes 4 bytes for each adapted weight.

    Paper: Kirkpatrick et al. 2017, arXiv 1612.00796, eq. 3; F_i = E_x E_{y ~ model} (d log p(y|x) / dw_i)^2.
    Differs: F is divided by tokens, not by texts. Squared for each text, then averaged. Labels are drawn for each token from what the model
        says after the reference's own words (teacher-forced), with a generator of its own. Several earlier stages are one set of
        references, not several terms.
    Shapes: every trained tensor (or adapted weight) -> a scalar.
    Raises: UserError for options out of range, no reference rows, weights without gradients (quantised), or an adapter whose
        update is not s B A; UnsupportedTrainer for sharded weights.
    """

    def __init__(
        self,
        references: Mapping[str, References],
        *,
        weight: float = 1.0,  # lambda
        labels: Literal["model", "data"] = "model",  # drawn from the model, or the texts' own (the empirical Fisher)
        samples: int = 1,  # draws for each row; only with labels of the model
        rows: int | None = None,  # at most so many reference rows (500 to 2000 are usual); null: all
        seed: int = 0,  # of the choice of rows and of the drawn labels
    ) -> None:
        if labels not in ("model", "data"):
            raise UserError(f"penalty 'ewc': labels is '{labels}'; there are model, data.")
        if samples < 1 or (rows is not None and rows < 1):
            raise UserError(f"penalty 'ewc': samples is {samples} and rows {rows}; both must be at least 1.")
        self.references, self.labels, self.rows, self.seed = references, labels, rows, seed
        self.samples = samples if labels == "model" else 1
        self.weight = check_weight(weight, "ewc")
        check_references(references, "ewc")
        self.parts: list[Moved] = []
        self.fisher: list[Tensor] = []

    def prepare(self, model: Any) -> None:
        """Keep where the weights are, and estimate F there."""
        rows = rows_of(self.references, method="ewc", seed=self.seed)[: self.rows]
        self.parts = moved(model)
        self.fisher = self._estimate(model, rows)
        free = [part.name for part, f in zip(self.parts, self.fisher, strict=True) if not f.any()]
        if free:
            log.warning(
                "ewc: the reference rows say nothing of %d tensors, which are not held (first: %s)", len(free), free[0]
            )

    def _estimate(self, model: Any, rows: Sequence[Row]) -> list[Tensor]:
        weights = [part.weight for part in self.parts]
        sums = [torch.zeros(w.shape, dtype=torch.float32, device=w.device) for w in weights]
        generator = torch.Generator().manual_seed(self.seed)
        base = models.adapter_off(model) if models.has_adapter(model) else nullcontext()
        with torch.enable_grad(), still(model), base, _differentiable(self.parts):
            for row in rows:
                logits_TV, ids_T = target_logits(model, (row,))
                logps_TV = logits_TV.log_softmax(-1)
                for left in reversed(range(self.samples)):
                    if self.labels == "model":
                        ids_T = torch.multinomial(logps_TV.detach().exp().cpu(), 1, generator=generator)[:, 0]
                    score = logps_TV.gather(-1, ids_T.to(logps_TV.device)[:, None]).sum()
                    # a text's gradient is squared before anything is added: opposite ones must not cancel
                    found = torch.autograd.grad(score, weights, retain_graph=left > 0, allow_unused=True)
                    for total, gradient in zip(sums, found, strict=True):
                        if gradient is not None:
                            total.addcmul_(gradient.float(), gradient.float())
        tokens = sum(row.tokens for row in rows)
        return [total.div_(tokens * self.samples) for total in sums]

    def penalty(self, model: Any, step: int) -> torch.Tensor:
        """weight/2 * sum of F (w - w0)^2. The same at every step."""
        if not self.parts:
            raise UserError("penalty 'ewc': call prepare(model) before training.")
        terms = [thrifty(_cost, part, f) for part, f in zip(self.parts, self.fisher, strict=True)]
        return self.weight / 2 * torch.stack([term.to(terms[0].device) for term in terms]).sum()

    def told(self) -> str:
        """What it holds, for the summary of a training."""
        return f"{len(self.parts)} tensors"

    def release(self) -> None:
        """Nothing: the model was not changed."""


def _cost(part: Moved, fisher: Tensor) -> Tensor:
    shift = part.shift()
    return (fisher.to(shift.device) * shift.square()).sum()


@contextmanager
def _differentiable(parts: Sequence[Moved]) -> Iterator[None]:
    """The weights under an adapter are frozen: gradients by them are asked for here and nowhere else."""
    fixed: list[nn.Parameter] = []
    try:
        for part in parts:
            if not part.weight.is_floating_point():
                raise UserError(
                    f"penalty 'ewc': {part.name} is {part.weight.dtype}, which has no gradient. "
                    "Load the model without quantisation, or use 'kl_anchor' or 'l2_sp'."
                )
            if not part.weight.requires_grad:
                part.weight.requires_grad_(True)
                fixed.append(part.weight)
        yield
    finally:
        for weight in fixed:
            weight.requires_grad_(False)
