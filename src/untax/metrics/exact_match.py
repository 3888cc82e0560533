"""Whether an answer is the expected one."""

from __future__ import annotations

from collections.abc import Sequence

from untax.metrics.common import field, need
from untax.types import Answer, Item

__all__ = ["exact_match"]


def exact_match(
    items: Sequence[Item],
    answers: Sequence[Answer],
    *,
    expected: str = "answer",  # the field with the expected text, or a list of accepted ones
    casefold: bool = False,  # true: upper and lower case are the same
) -> list[float]:
    """1 where the answer, stripped of white space at both ends, is the expected one, 0 elsewhere: facts, copying, counting.

    An empty answer to a question is a wrong one: 0. Known weakness: a right answer in other words, or with a sentence around
    it, counts as wrong, so a change of style can look like lost knowledge. Read examples before believing a loss.

    Paper: Rajpurkar et al. 2016, arXiv 1606.05250 (exact match)
    Differs: no articles or punctuation are removed; only white space at the ends, and case when asked
    Shapes: N items, N answers -> N numbers, 0 or 1
    Raises: RecipeError when a row lacks the field or the items are not generated
    """
    need(items, "generate", "exact_match")
    scores = []
    for item, answer in zip(items, answers, strict=True):
        wanted = field(item, expected, "exact_match")
        accepted = wanted if isinstance(wanted, list) else [wanted]
        said = _plain(answer.text, casefold)
        scores.append(float(any(said == _plain(str(text), casefold) for text in accepted)))
    return scores


def _plain(text: str, casefold: bool) -> str:
    stripped = text.strip()
    return stripped.casefold() if casefold else stripped
