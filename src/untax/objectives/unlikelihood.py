"""Unlikelihood training: likelihood on the reference, and its opposite on the negatives."""

from __future__ import annotations

from typing import Literal

import torch

from untax.prefix import Pass
from untax.types import Loss, RecipeError

__all__ = ["unlikelihood"]

#: log-probabilities are held this far below 0, where log(1 - p) would be minus infinity
CERTAIN = -1e-6


def unlikelihood(
    forward: Pass,
    *,
    alpha: float = 1.0,  # weight of the unlikelihood term, eq. 4 (mixing weight of the sequence-level loss)
    tokens: Literal["all", "edited"] = "all",  # which tokens of a negative are pushed down
) -> Loss:
    """Cross-entropy on the reference plus -log(1 - p) on the tokens of the same negatives that contrast would use.

    Paper: Welleck et al. 2019, arXiv 1908.04319, eq. 4 with the negatives as negative candidates:
        L = L_ce + alpha * mean over negative tokens of -log(1 - p(y_t | x, y_<t)). p = 0.8 costs 1.609438 and has the
        derivative p / (1 - p) = 4 with respect to log p.
    Differs: the negatives are given texts, not the model's own samples. `tokens="edited"` spares the words that a
        minimal edit shares with the reference, which the cross-entropy pulls the other way; a negative without recorded
        edits counts whole. Both means are over the tokens of the whole optimiser step.
    Shapes: runs reference and negative rows; log-probabilities (R, T).
    Raises: RecipeError when `tokens` is neither "all" nor "edited".
    """
    if tokens not in ("all", "edited"):
        raise RecipeError(f"unlikelihood: tokens '{tokens}' is not known; write all or edited.")
    step = forward.batch.step
    keep_N = forward.batch.reference_N if alpha == 0 else forward.batch.reference_N | ~forward.batch.positive_N
    used = forward.only(keep_N)
    logps_NT = used.logps()
    negative_N = ~used.batch.positive_N
    ce = -logps_NT[~negative_N].sum() / step.reference_tokens
    mask_RT = (used.batch.mask_NT if tokens == "all" else used.batch.edited_NT)[negative_N]
    count = step.negative_tokens if tokens == "all" else step.edited_tokens
    pushed_M = logps_NT[negative_N][mask_RT].clamp(max=CERTAIN)
    unlikely = -torch.log(-torch.expm1(pushed_M)).sum() / max(1, count)
    loss = ce + alpha * unlikely
    return Loss(loss, {"L_ce": ce.item(), "L_ul": unlikely.item()})
