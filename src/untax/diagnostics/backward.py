"""What the diagnostics of gradients share: which weights would train, gradients on rows, steps that are taken back, and what a weight is of."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from untax import models, references
from untax.references import Row
from untax.types import UserError

__all__ = [
    "Gradient",
    "adam_direction",
    "after_step",
    "batched",
    "dot",
    "gradient_on",
    "kind_of",
    "layer_of",
    "places_of",
    "trainable",
]

#: entries of a gradient that a sketch of it keeps
SKETCH = 2**22

#: one tensor for each parameter that trains
Gradient = list[Tensor]

#: what a weight is of, by the first of these that stands in its name
KINDS = (
    ("norm", r"norm|\bln_|\bln\d"),
    ("q", r"\bq_proj|\bquery\b|\bwq\b"),
    ("k", r"\bk_proj|\bkey\b|\bwk\b"),
    ("v", r"\bv_proj|\bvalue\b|\bwv\b"),
    ("qkv", r"c_attn|qkv|query_key_value|Wqkv"),
    ("o", r"\bo_proj|\bout_proj|attn\.c_proj|attention\.dense|\bwo\b"),
    ("mlp", r"mlp|feed_forward|ffn|\bfc\d|experts|gate_proj|up_proj|down_proj"),
    ("head", r"lm_head|embed_out|output_projection"),
    ("embedding", r"embed|\bwte\b|\bwpe\b"),
)
LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")


def kind_of(name: str) -> str:
    """What the weight of that name is of: q, k, v, qkv, o, mlp, norm, embedding, head, or other."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, name)), "other")


def layer_of(name: str) -> int | None:
    """The number of the layer, counted from 0 as in the weights' names; None outside of the layers."""
    found = LAYER.search(name)
    return None if found is None else int(found.group(1))


def batched(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """The rows in their order, `size` at a time."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


@contextmanager
def trainable(model: nn.Module) -> Iterator[list[tuple[str, nn.Parameter]]]:
    """The weights that would train: those that may now, else those of the adapter, else all; which ones may is put back afterwards.

    Raises: UserError when the model has no weight of floating-point numbers.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.is_floating_point()]
    before = [p.requires_grad for _, p in named]
    chosen = [(name, p) for name, p in named if p.requires_grad]
    if not chosen and models.has_adapter(model):
        chosen = [(name, p) for name, p in named if "lora_" in name]
    chosen = chosen or named
    if not chosen:
        raise UserError("no weight of the model can be trained: there are none of floating-point numbers.")
    wanted = {name for name, _ in chosen}
    try:
        for name, parameter in named:
            parameter.requires_grad_(name in wanted)
        yield chosen
    finally:
        for (_, parameter), was in zip(named, before, strict=True):
            parameter.requires_grad_(was)


def gradient_on(model: Any, weights: Sequence[Tensor], batches: Sequence[Sequence[Row]]) -> tuple[Gradient, float]:
    """The gradient of the mean loss per token, and that loss in nats; `.grad` is not touched.

    Raises: UserError when either is not finite.
    """
    total = sum(row.tokens for batch in batches for row in batch)
    sums = [torch.zeros_like(w, dtype=torch.promote_types(w.dtype, torch.float32)) for w in weights]
    loss = 0.0
    for batch in batches:
        value = references.nll(model, batch)[0] / total
        loss += value.item()
        for kept, found in zip(sums, torch.autograd.grad(value, list(weights), allow_unused=True), strict=True):
            if found is not None:
                kept += found
    if not math.isfinite(loss) or not all(bool(kept.isfinite().all()) for kept in sums):
        raise UserError("the loss or its gradient is not finite. Load the model in float32, and look at the rows.")
    return sums, loss


def places_of(weights: Sequence[Tensor], seed: int) -> list[Any]:
    """Which entries of each tensor a sketch keeps: all of them, or as many as its share of SKETCH, drawn by seed."""
    total = sum(w.numel() for w in weights)
    if total <= SKETCH:
        return [slice(None)] * len(weights)
    rng = torch.Generator().manual_seed(seed)
    counts = [max(1, w.numel() * SKETCH // total) for w in weights]
    return [torch.randint(w.numel(), (n,), generator=rng).to(w.device) for w, n in zip(weights, counts, strict=True)]


def adam_direction(gradient: Tensor, eps: float) -> Tensor:
    """What Adam's first step goes against, per unit of learning rate: the sign, but for entries as small as eps."""
    return gradient / (gradient.abs() + eps)


def dot(one: Gradient, other: Gradient) -> float:
    """The inner product of two gradients, in float64 where the device has it."""
    return math.fsum(float((_wide(a) * _wide(b)).sum()) for a, b in zip(one, other, strict=True))


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.device.type == "mps" else tensor.double()


@torch.no_grad()
def after_step(
    model: Any,
    weights: Sequence[Tensor],
    direction: Gradient,
    size: float,
    sets: Mapping[str, Sequence[Row]],
    batch_size: int,
) -> float:
    """The sets' mean loss after a step of `size` against `direction`, which is taken back: the old numbers are copied in again."""
    kept = [weight.detach().clone() for weight in weights]
    try:
        for weight, way in zip(weights, direction, strict=True):
            weight.sub_(size * way)
        losses = []
        for rows in sets.values():
            found = [references.nll(model, batch) for batch in batched(rows, batch_size)]
            losses.append(sum(float(value) for value, _ in found) / sum(count for _, count in found))
        return float(np.mean(losses))
    finally:
        for weight, old in zip(weights, kept, strict=True):
            weight.copy_(old)
