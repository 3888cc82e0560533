"""How far a model has moved from its base on ordinary text."""

from __future__ import annotations

from collections.abc import Sequence

from untax.metrics.common import need
from untax.types import NAN, Answer, Item

__all__ = ["drift"]


def drift(
    items: Sequence[Item],
    answers: Sequence[Answer],
    *,
    opening: bool = True,  # false leaves the first token out, before which nothing has been said
) -> list[float]:
    """KL(base || model) in nats per token of each text, over the whole vocabulary; the base itself has 0.

    At the first token a model shows which kinds of text it expects, and every training on one kind moves that far; `opening: false`
    leaves it out. Known weakness: it says that the model moved, not whether for better or worse; text that the base finds unlikely (or that
    training used) makes it large. Set it beside perplexity on the same text.

    Paper: the observational forgetting measure, mean over positions of KL(p0 || p1); docs/measuring.md has the formula
    Differs: computed per text, never pooled; no top-k cut of the vocabulary
    Shapes: N items with a text, N answers -> N numbers >= 0
    Raises: RecipeError for items without a text
    """
    need(items, "text", "drift")
    return [answer.kl if opening else answer.values.get("inner", NAN) for answer in answers]
