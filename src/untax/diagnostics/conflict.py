"""What training on safety data will do to other texts, read off the gradients before anything is trained.

Paper: the cosine of two losses' gradients as a sign of conflict is Yu et al. 2020, arXiv 2001.06782 (PCGrad), definition 1. Adam's first step
    is that of Kingma and Ba 2015, arXiv 1412.6980, algorithm 1: with bias correction it is lr * g / (|g| + eps).
Differs: nothing is trained. First order: one step changes the reference loss by -lr * <direction of the step, reference gradient>. Safety
    rows are drawn by seed and batched in that order; weight decay, clipping, warm-up and dropout are left out. Pairwise figures of batches
    stand on at most SKETCH weights, drawn by seed.
Shapes: losses and rises are means over the tokens that count, in nats; gradients are kept in float32 (float64 models: float64). With several
    sets of references the loss is the mean of theirs.
Raises: UserError for no rows, no weight that could train, a loss or gradient that is not finite, or options out of range.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from untax.diagnostics.backward import (
    Gradient,
    adam_direction,
    after_step,
    batched,
    dot,
    gradient_on,
    kind_of,
    layer_of,
    places_of,
    trainable,
)
from untax.diagnostics.repetition import repetition
from untax.predictions import Module, Prediction, SetConflict, Span, cosine
from untax.references import References, Row, still
from untax.types import UserError

__all__ = ["predict"]


def predict(
    model: Any,
    tokenizer: Any,
    safety: References,
    references: Mapping[str, References] | References,
    *,
    rows: int = 64,  # at most so many of the safety data, and of each set of references
    batch_size: int = 8,  # safety rows of one step
    learning_rate: float = 2e-5,  # of the step that is taken virtually
    steps: int = 100,  # of the training that is to come
    optimizer: Literal["adamw", "sgd"] = "adamw",  # which step is taken virtually
    eps: float = 1e-8,  # of Adam
    seed: int = 0,
) -> Prediction:
    """Gradient conflict, the expected rise of the reference loss, and repetition of the safety data; the model stays as it was, bit for bit."""
    sets = {references.name: references} if isinstance(references, References) else dict(references)
    _check(safety, sets, rows, batch_size, learning_rate, steps, optimizer)
    drawn = _drawn(safety.rows, rows, seed)
    others = {name: _drawn(one.rows, rows, seed) for name, one in sets.items()}
    with trainable(model) as named, still(model), torch.enable_grad():
        weights = [weight for _, weight in named]
        found = {name: gradient_on(model, weights, list(batched(one, batch_size))) for name, one in others.items()}
        reference = [
            sum(parts) / len(found) for parts in zip(*(gradient for gradient, _ in found.values()), strict=True)
        ]
        batches = list(batched(drawn, batch_size))
        ours, loss, seen = _safety(model, weights, batches, reference, eps, seed)
        modules = _modules(named, ours, reference, learning_rate, eps)
        direction = ours if optimizer == "sgd" else [adam_direction(gradient, eps) for gradient in ours]
        sizes = [learning_rate * far for far in (0.0, 1.0, math.sqrt(steps))]
        start, near, far = (after_step(model, weights, direction, size, others, batch_size) for size in sizes)
    return Prediction(
        learning_rate=learning_rate, steps=steps, optimizer=optimizer, seed=seed, safety_rows=len(drawn), batch_size=batch_size,
        safety_loss=loss, reference_loss=start, modules=modules,
        sets=tuple(_set(name, others[name], *found[name], ours, learning_rate, eps) for name in found),
        batches=_span(seen.cosines), alike=_span(seen.alike), adam_batches=_span([learning_rate * rise for rise in seen.adam]),
        sign_agreement=seen.agreement, measured_step=near - start, measured_far=far - start,
        data=repetition(
            [tokenizer.decode(row.ids[row.start :], skip_special_tokens=True) for row in safety.rows],
            tokens=[row.tokens for row in safety.rows], reference_tokens=[row.tokens for one in sets.values() for row in one.rows],
        ),
    )  # fmt: skip


def _check(
    safety: References,
    sets: Mapping[str, References],
    rows: int,
    batch_size: int,
    learning_rate: float,
    steps: int,
    optimizer: str,
) -> None:
    if not sets:
        raise UserError("there are no references: give rows that show what must not be lost.")
    for one in (safety, *sets.values()):
        if not one.rows:
            raise UserError(f"'{one.name}' has no rows: at least one is needed.")
    if rows < 1 or batch_size < 1 or steps < 1:
        raise UserError(f"rows ({rows}), batch_size ({batch_size}) and steps ({steps}) must each be at least 1.")
    if not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise UserError(f"learning_rate is {learning_rate!r}; it must be above 0.")
    if optimizer not in ("adamw", "sgd"):
        raise UserError(f"optimizer is {optimizer!r}; it is 'adamw' or 'sgd'.")


def _drawn(rows: Sequence[Row], most: int, seed: int) -> list[Row]:
    """Up to `most` rows in an order that the seed decides: neighbours in a file are often of one kind."""
    return random.Random(seed).sample(list(rows), min(most, len(rows)))


@dataclass(frozen=True)
class _Seen:
    """Of each safety batch: its cosine with the references and Adam's rise per unit of learning rate; of pairs: cosines, sign agreement."""

    cosines: list[float]
    adam: list[float]
    alike: list[float]
    agreement: float


def _safety(
    model: Any, weights: Sequence[Tensor], batches: Sequence[Sequence[Row]], reference: Gradient, eps: float, seed: int
) -> tuple[Gradient, float, _Seen]:
    """The gradient over all safety rows, the loss, and what the batches say of it one by one."""
    total = sum(row.tokens for batch in batches for row in batch)
    sums = [torch.zeros_like(one) for one in reference]
    places = places_of(weights, seed)
    loss, cosines, adam, sketch = 0.0, [], [], []
    for batch in batches:
        gradient, value = gradient_on(model, weights, [batch])
        share = sum(row.tokens for row in batch) / total
        loss += share * value
        for kept, found in zip(sums, gradient, strict=True):
            kept += share * found
        cosines.append(cosine(dot(gradient, reference), dot(gradient, gradient), dot(reference, reference)))
        adam.append(-dot([adam_direction(one, eps) for one in gradient], reference))
        sketch.append(torch.cat([one.flatten()[at] for one, at in zip(gradient, places, strict=True)]).cpu().numpy())
    alike, agreement = _pairs(np.stack(sketch).astype(np.float64))
    return sums, loss, _Seen(cosines, adam, alike, agreement)


def _pairs(sketch_BN: Any) -> tuple[list[float], float]:
    """Cosines of all pairs of batches, and in how many weights that both push they push the same way."""
    norms_B = np.sqrt((sketch_BN**2).sum(axis=1))
    gram_BB = sketch_BN @ sketch_BN.T
    pairs = [(i, j) for i in range(len(norms_B)) for j in range(i)]
    cosines = [cosine(gram_BB[i, j], norms_B[i] ** 2, norms_B[j] ** 2) for i, j in pairs]
    up_N, down_N = (sketch_BN > 0).sum(axis=0), (sketch_BN < 0).sum(axis=0)
    same = (up_N * (up_N - 1) + down_N * (down_N - 1)).sum() / 2
    both = ((up_N + down_N) * (up_N + down_N - 1)).sum() / 2
    return cosines, float(same / both) if both else math.nan


def _modules(
    named: Sequence[tuple[str, Tensor]], ours: Gradient, reference: Gradient, learning_rate: float, eps: float
) -> tuple[Module, ...]:
    """Sums over the tensors of each kind in each layer, in the order of the model."""
    groups: dict[tuple[int | None, str], list[int]] = {}
    for place, (name, _) in enumerate(named):
        groups.setdefault((layer_of(name), kind_of(name)), []).append(place)
    made = []
    for (layer, kind), places in groups.items():
        s, r = [ours[i] for i in places], [reference[i] for i in places]
        product = dot(s, r)
        made.append(
            Module(
                name=kind if layer is None else f"layer {layer} {kind}", kind=kind, layer=layer, dot=product,
                parameters=sum(one.numel() for one in s), safety_sq=dot(s, s), reference_sq=dot(r, r), sgd=-learning_rate * product,
                adam=-learning_rate * dot([adam_direction(one, eps) for one in s], r),
            )
        )  # fmt: skip
    return tuple(made)


def _set(
    name: str, rows: Sequence[Row], gradient: Gradient, loss: float, ours: Gradient, learning_rate: float, eps: float
) -> SetConflict:
    product = dot(ours, gradient)
    adam = dot([adam_direction(one, eps) for one in ours], gradient)
    return SetConflict(
        name, len(rows), sum(row.tokens for row in rows), loss, cosine(product, dot(ours, ours), dot(gradient, gradient)),
        -learning_rate * product, -learning_rate * adam,
    )  # fmt: skip


def _span(values: Sequence[float]) -> Span:
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return Span(math.nan, math.nan, math.nan, math.nan, 0)
    sd = float(np.std(known, ddof=1)) if len(known) > 1 else math.nan
    return Span(float(np.mean(known)), sd, min(known), max(known), len(known))
