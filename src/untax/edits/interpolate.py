"""Weights between the base and the tuned model: the free baseline that every other method has to beat."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from untax.edits.common import Edited, adapter_base, blocks_of, check_ratio, mixed
from untax.types import RecipeError

__all__ = ["interpolate"]


def interpolate(
    base: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    *,
    towards_base: float = 0.2,  # share of the base: 0 = tuned, 1 = base (alpha of 2309.06256's code; 1 - alpha of WiSE-FT)
    per_block: list[float] | None = None,  # one share for each block of layers, equally deep, from the input on
    adapter: bool = False,  # `tuned` is a LoRA's state dict and `base` is not read: B is scaled by 1 - towards_base
) -> Edited:
    """Go back part of the way to the base, in a straight line: ability returns faster than safety leaves, and no training is needed.

    Paper: Wortsman et al. 2021, arXiv 2109.01903 (WiSE-FT): theta = a * base + (1 - a) * tuned; for the alignment tax: Lin et
        al. 2023, arXiv 2309.06256. Base 2, tuned 5, a = 0.7: 0.7 * 2 + 0.3 * 5 = 2.9.
    Differs: one name for the direction that the two papers write in opposite ways. Everything is averaged: embeddings, norms and
        head, too, for which `towards_base` holds where `per_block` is given. float32, whatever the model's dtype; the audit
        says what was lost when the result was rounded to that dtype again.
    Shapes: two state dicts of one architecture, the result like `tuned`. One LoRA: dW = s * B A, so scaling B is exact.
    Raises: RecipeError for a share outside 0..1; UserError for models of two architectures, a block without a layer, quantised
        weights, or an adapter that is more than its factors (DoRA, whole modules saved beside it).
    """
    share = check_ratio("interpolate: towards_base", towards_base)
    if adapter:
        base = adapter_base(tuned)
    shares: list[float] = []
    blocks: dict[str, int] = {}
    if per_block is not None:
        if not isinstance(per_block, list | tuple) or not per_block:
            raise RecipeError(
                f"interpolate: per_block is {per_block!r}; it must be a list with one share for each block."
            )
        shares = [check_ratio(f"interpolate: per_block, block {i}", one) for i, one in enumerate(per_block)]
        blocks = blocks_of(tuned, len(shares))
    edited = mixed(base, tuned, lambda name: shares[blocks[name]] if name in blocks else share)
    told = {"towards_base": share, "per_block": shares or None, "adapter": adapter}
    return Edited(edited.state, {**told, **edited.audit})
