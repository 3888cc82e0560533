"""How much of a reference an answer has, in order."""

from __future__ import annotations

from collections.abc import Sequence

from untax.metrics.common import field, need, words
from untax.types import Answer, Item

__all__ = ["rouge_l"]


def rouge_l(
    items: Sequence[Item],
    answers: Sequence[Answer],
    *,
    reference: str = "reference",  # the field with the reference text
) -> list[float]:
    """F1 of the longest common subsequence of words between answer and reference; an empty answer has 0.

    Known weakness: it rewards wording, not truth: one wrong name in a sentence costs as little as one other article, and a true
    summary in other words scores low.

    Paper: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries" (ROUGE-L, beta = 1)
    Differs: no stemming, the whole text is one sentence
    Shapes: N items, N answers -> N numbers in [0, 1]
    Raises: RecipeError when a row lacks the field or the items are not generated
    """
    need(items, "generate", "rouge_l")
    scores = []
    for item, answer in zip(items, answers, strict=True):
        said, wanted = words(answer.text), words(str(field(item, reference, "rouge_l")))
        common = _common(said, wanted)
        scores.append(2 * common / (len(said) + len(wanted)) if common else 0.0)
    return scores


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for j, other in enumerate(second, start=1):
            diagonal, row[j] = row[j], diagonal + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]
