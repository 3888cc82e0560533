"""How much of an answer is a loop."""

from __future__ import annotations

from collections.abc import Sequence

from untax.metrics.common import need, ngrams, positive, words
from untax.types import NAN, Answer, Item

__all__ = ["repeated"]


def repeated(
    items: Sequence[Item],
    answers: Sequence[Answer],
    *,
    n: int = 2,  # words in a run
) -> list[float]:
    """Share of an answer's word runs that stood in the same answer before: 0 for fresh text, near 1 for a loop.

    An answer with fewer than n words is NaN. To be watched: degenerate text can pass a toxicity scorer. Known weakness: lists
    and counting repeat themselves by right; a short answer can hardly repeat.

    Paper: Li et al. 2016, arXiv 1510.03055 (distinct-n; this is 1 - distinct-n of one answer)
    Differs: per answer, not over the whole set
    Shapes: N items, N answers -> N numbers in [0, 1)
    Raises: RecipeError for n < 1 or items that are not generated
    """
    need(items, "generate", "repeated")
    positive(n, "n", "repeated")
    scores = []
    for answer in answers:
        runs = ngrams(words(answer.text), n)
        scores.append(1 - len(set(runs)) / len(runs) if runs else NAN)
    return scores
