"""Parallel texts (a bad one and its good rewrites) as contrastive records: both continue the words that they share.

Pairs of whole sentences have no source. Their common beginning is one: a person wrote it, it fits the bad and the good
continuation alike, and it is what a model is given when its continuations are measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from untax.data.formats import BadRow
from untax.types import Candidate, ContrastiveRecord

__all__ = ["MIN_SHARED", "pair_from"]

MIN_SHARED = 2  # words that both must begin with: fewer leave nothing to go by


def pair_from(fields: Mapping[str, Any], *, default_id: str) -> ContrastiveRecord:
    """A row with `positives` and `negatives` (a text or a list each) as a record whose source is their common beginning.

    Texts that leave it before the reference does are left out of the record.
    Raises: BadRow when a field is missing or no text, or fewer than two words are shared.
    """
    good, bad = _texts(fields, "positives"), _texts(fields, "negatives")
    shared = _shared(good[0], bad[0])
    if len(shared) < MIN_SHARED:
        raise BadRow(
            f"the texts share {len(shared)} words at their beginning, {MIN_SHARED} are needed to make a source of"
        )
    positives, negatives = (
        [rest for text in dict.fromkeys(texts) if (rest := _behind(text, shared))] for texts in (good, bad)
    )
    if not positives or not negatives or _behind(good[0], shared) is None:
        raise BadRow("nothing is left of a text behind the words that both share")
    return ContrastiveRecord(
        id=str(fields.get("id", default_id)),
        source=" ".join(shared),
        positives=tuple(Candidate(text, "reference" if i == 0 else "data") for i, text in enumerate(positives)),
        negatives=tuple(Candidate(text, "data") for text in negatives if text not in positives),
    )


def _texts(fields: Mapping[str, Any], name: str) -> Sequence[str]:
    if name not in fields:
        raise BadRow(f"field '{name}' is missing; the row has: {', '.join(map(str, fields)) or 'nothing'}")
    value = fields[name]
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise BadRow(f"field '{name}' must be a text or a list of texts, none of them empty")
    return texts


def _shared(one: str, other: str) -> list[str]:
    words = []
    for first, second in zip(one.split(), other.split(), strict=False):
        if first != second:
            break
        words.append(first)
    return words


def _behind(text: str, shared: Sequence[str]) -> str | None:
    """What a text says behind the shared words; None when it does not begin with them or says nothing more."""
    words = text.split()
    return " ".join(words[len(shared) :]) or None if words[: len(shared)] == list(shared) else None
