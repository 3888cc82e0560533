"""Holds every weight near the value that it had when training began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from untax.penalties.common import Moved, check_weight, moved, thrifty
from untax.references import References
from untax.types import UserError

__all__ = ["L2SP"]


class L2SP:
    """Adds weight/2 times the squared distance of the weights from where they started; it needs no data.

    Under LoRA the distance is that of the adapted weights, the norm of dW = s B A: |A|^2 + |B|^2 is another number, and penalises A, which
    does not start at zero. Full training keeps a copy of the start (in the weights' own dtype).
    Weight decay pulls the same weights to zero: train with weight_decay 0 (the default here).

    Paper: Li, Grandvalet, Davoine 2018, arXiv 1802.01483, eq. 2: weight/2 * |w - w0|^2.
    Differs: no term of its own for new parameters (a head for new classes): a language model has none. LoRA without forming dW:
        |BA|^2 = tr((B^T B)(A A^T)), r^2 (d_in + d_out) operations a layer.
    Shapes: every trained parameter -> a scalar.
    Raises: UserError for a negative weight, a model that trains nothing, or an adapter whose update is not s B A (DoRA);
        UnsupportedTrainer for sharded weights.
    """

    def __init__(
        self,
        references: Mapping[str, References],
        *,
        weight: float = 0.01,  # a: the gradient is a (w - w0)
    ) -> None:
        self.references = references
        self.weight = check_weight(weight, "l2_sp")
        self.parts: list[Moved] = []

    def prepare(self, model: Any) -> None:
        """Keep where the weights are before training; under an adapter the base is there already."""
        self.parts = moved(model)

    def penalty(self, model: Any, step: int) -> torch.Tensor:
        """weight/2 * squared distance from the start. The same at every step."""
        if not self.parts:
            raise UserError("penalty 'l2_sp': call prepare(model) before training.")
        terms = [thrifty(part.squared) for part in self.parts]
        return self.weight / 2 * torch.stack([term.to(terms[0].device) for term in terms]).sum()

    def told(self) -> str:
        """What it holds, for the summary of a training."""
        return f"{len(self.parts)} tensors"

    def release(self) -> None:
        """Nothing: the model was not changed."""
