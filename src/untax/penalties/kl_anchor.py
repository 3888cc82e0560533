"""Holds what the model says of reference texts to what it said when training began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from untax.penalties.common import check_references, check_weight, rows_of
from untax.references import References, Row, Start, still
from untax.types import UserError

__all__ = ["KLAnchor"]


class KLAnchor:
    """Adds the KL divergence from the starting model on reference rows: answers there may not change, weights may.

    A replay term pulls the model to the data; this one pulls it to itself, and what the rows do not ask about is free to move.
    Each step looks at `rows_per_step` rows in a fixed order, in a forward pass of its own without dropout: lower it where time or memory
    are short. Under an adapter the start is the model with the adapter off, one more pass; otherwise `prepare` keeps the start's log-probabilities in memory: 4 bytes x tokens x vocabulary, or with `k` 8 x tokens x k.

    Paper: Baichuan Alignment 2024, arXiv 2410.14940: weight * sum over the k likeliest tokens v of the start of
        p(v) log(p(v) / q(v)), p the policy and q the start, both renormalised over the k; k = 500.
    Differs: exact over the whole vocabulary unless `k` is given. With `k`, one more bin holds all other tokens, so that mass which
        leaves the k is seen; the value is never above the exact KL. `lump=False` renormalises as the paper does, and is blind to
        that. The mean is over the tokens that count (behind a prompt, the answer with EOS), teacher-forced.
    Shapes: rows of T tokens in all -> a scalar, weight * nats per token; gradients reach every trained parameter.
    Raises: UserError for options out of range when it is made, for no reference rows or rows unknown to `prepare` when it is used.
    """

    def __init__(
        self,
        references: Mapping[str, References],
        *,
        weight: float = 0.1,  # gamma: what a drift of one nat per token costs
        k: int | None = None,  # likeliest tokens of the start that are compared; null: all, the exact KL (paper: 500)
        lump: bool = True,  # with k: one more bin for all other tokens; false renormalises as the paper does
        rows_per_step: int = 8,  # reference rows a step, in turn
        seed: int = 0,  # of the order of the rows
    ) -> None:
        if rows_per_step < 1:
            raise UserError(f"penalty 'kl_anchor': rows_per_step is {rows_per_step}; it must be at least 1.")
        self.references, self.seed, self.rows_per_step = references, seed, rows_per_step
        self.weight = check_weight(weight, "kl_anchor")
        self.start = Start(k=k, lump=lump)
        check_references(references, "kl_anchor")
        self.rows: list[Row] = []

    def prepare(self, model: Any) -> None:
        """Keep what the model says of the rows before training; under an adapter there is nothing to keep."""
        self.rows = rows_of(self.references, method="kl_anchor", seed=self.seed)
        self.start = Start(k=self.start.k, lump=self.start.lump)  # what another model said is forgotten
        self.start.remember(model, self.rows)

    def penalty(self, model: Any, step: int) -> torch.Tensor:
        """weight * KL(model || start) in nats per token, on the rows of this optimiser step (from 0)."""
        if not self.rows:
            raise UserError("penalty 'kl_anchor': call prepare(model) before training.")
        count = min(self.rows_per_step, len(self.rows))
        chosen = [self.rows[(step * count + i) % len(self.rows)] for i in range(count)]
        with still(model):
            total, tokens = self.start.kl(model, chosen)
        return self.weight * total / tokens

    def told(self) -> str:
        """What it holds, for the summary of a training."""
        return f"{len(self.rows)} reference rows, {min(self.rows_per_step, len(self.rows))} a step"

    def release(self) -> None:
        """Nothing: the model was not changed."""
