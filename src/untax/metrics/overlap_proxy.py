"""Whether the names and numbers of an answer occur in its source."""

from __future__ import annotations

from collections.abc import Sequence

from untax import spans
from untax.metrics.common import field, need
from untax.types import NAN, Answer, Item

__all__ = ["overlap_proxy"]


def overlap_proxy(
    items: Sequence[Item],
    answers: Sequence[Answer],
    *,
    source: str = "source",  # the field with the text that the answer is about
    finder: str = "rules",  # "rules", "spacy:NAME" or "hf:DIR"
) -> list[float]:
    """Share of an answer's names, dates and numbers that stand in its source: a proxy, never called faithfulness.

    An answer that names nothing is NaN, not faithful. Known weakness: right names in wrong roles score 1 ("Bo sold to Ann" for
    "Ann sold to Bo"); a name written another way scores 0; false verbs are not seen at all; copying scores 1.

    Paper: Nan et al. 2021, arXiv 2102.09130 (precision of source entities)
    Differs: dates and numbers count as well; compared as lower-cased text at word boundaries
    Shapes: N items, N answers -> N numbers in [0, 1]
    Raises: RecipeError when a row lacks the field or the items are not generated; UserError when the finder cannot be loaded
    """
    need(items, "generate", "overlap_proxy")
    sources = [_plain(str(field(item, source, "overlap_proxy"))) for item in items]
    if not any(answer.text.strip() for answer in answers):
        return [NAN] * len(answers)
    scores = []
    for known, named in zip(sources, spans.find_all([answer.text for answer in answers], finder=finder), strict=True):
        found = [_plain(span.text) for span in named]
        scores.append(sum(text in known for text in found) / len(found) if found else NAN)
    return scores


def _plain(text: str) -> str:
    """Lower case, punctuation as spaces, one space at both ends: containment is then containment of whole words."""
    return " " + " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split()) + " "
