"""How much of an answer is taken over from its source."""

from __future__ import annotations

from collections.abc import Sequence

from untax.metrics.common import field, need, ngrams, positive, words
from untax.types import NAN, Answer, Item

__all__ = ["copied"]


def copied(
    items: Sequence[Item],
    answers: Sequence[Answer],
    *,
    source: str = "source",  # the field with the text that may be copied from
    n: int = 2,  # words in a run
) -> list[float]:
    """Share of an answer's word runs that stand in its source: 1 is an extract, 0 shares no run of n words.

    An answer with fewer than n words is NaN. To be watched: copying raises every faithfulness score. Known weakness: names and
    dates are copied by right.

    Paper: See et al. 2017, arXiv 1704.04368 (novel n-grams; this is 1 - their share)
    Differs: runs are counted as often as they occur, not once
    Shapes: N items, N answers -> N numbers in [0, 1]
    Raises: RecipeError when a row lacks the field, for n < 1, or for items that are not generated
    """
    need(items, "generate", "copied")
    positive(n, "n", "copied")
    scores = []
    for item, answer in zip(items, answers, strict=True):
        known = set(ngrams(words(str(field(item, source, "copied"))), n))
        runs = ngrams(words(answer.text), n)
        scores.append(sum(run in known for run in runs) / len(runs) if runs else NAN)
    return scores
