"""Reference rows as a memory: every step draws a few of all sets, by its number and a seed alone, and takes their gradient."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from untax.gradients.common import Parameters, reference_gradient
from untax.references import References
from untax.types import UserError

__all__ = ["Memory"]


class Memory:
    """All rows of all sets as one store. Nothing is kept from step to step, so there is no state to save."""

    def __init__(
        self,
        model: nn.Module,
        view: Parameters,
        sets: Mapping[str, References],
        *,
        rows: int = 8,
        seed: int = 0,
        batch_size: int = 8,
        half: bool = False,
    ) -> None:
        self.model, self.view, self.size, self.seed, self.batch_size = model, view, rows, seed, batch_size
        self.rows = tuple(row for part in sets.values() for row in part.rows)
        self.scale = 1024.0 if half else 1.0  # small gradients vanish in fp16
        self.losses: list[float] = []

    def draw(self, step: int) -> References:
        """The rows of a step, without repetition: the same in every process, at every try, whatever else drew random numbers."""
        mark = hashlib.sha256(f"{self.seed}:{step}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(mark[:7], "big"))
        picked = torch.randperm(len(self.rows), generator=generator)[: self.size].tolist()
        return References("memory", tuple(self.rows[i] for i in sorted(picked)))

    def gradient(self, step: int) -> list[Tensor]:
        """The gradient of the mean loss per token of the step's rows (float32, local parts). Raises: UserError where it is not finite."""
        part = self.draw(step)
        for scale in dict.fromkeys((self.scale, 1.0)):
            found, loss = reference_gradient(self.model, self.view, part, batch_size=self.batch_size, scale=scale)
            if bool(torch.isfinite(self.view.norm(found))):
                self.losses.append(float(loss))
                return found
        raise UserError(
            f"step {step}: the gradient on reference rows is not finite at a loss of {float(loss):.4g} nats per token; look for broken "
            "rows, or train in bf16 or float32."
        )

    def told(self) -> dict[str, float]:
        """The loss of the rows drawn since this was last asked, in nats per token: the mean over steps."""
        seen, self.losses = self.losses, []
        return {"reference_loss": sum(seen) / len(seen)} if seen else {}
