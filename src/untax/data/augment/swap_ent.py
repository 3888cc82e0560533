"""Entities of the reference exchanged for others of the same post."""

from __future__ import annotations

import random

from untax import spans
from untax.data.augment import accept
from untax.data.augment.common import Tally, edit, fits, rng_for, same_entity, sentence_case
from untax.spans import Span
from untax.types import Candidate, ContrastiveRecord

__all__ = ["swap_ent"]

Change = tuple[int, int, str]


def swap_ent(
    record: ContrastiveRecord,
    *,
    seed: int = 0,
    finder: str = "rules",
    n_variants: int = 3,
    tally: Tally | None = None,
) -> list[Candidate]:
    """Put another name, date or number of the same post in place of one or two of the reference: a mix-up.

    Paper: Korkmaz et al. 2025, arXiv 2505.19327; CLIFF, arXiv 2109.09209, "entity swap".
    Differs: edits are carried out from right to left, so that a second swap does not use stale positions; two entities of
        the reference may also change places; an alias ("US" for "United States") is no swap; variants are not thrown away
        for resembling the reference, which is what a mix-up does.
    Shapes: one record in, up to `n_variants` candidates out: a change of places first, then single swaps, then pairs.
    Raises: UserError when the finder cannot be loaded.
    """
    rng = rng_for(seed, "swap_ent", record)
    of_reference, of_source = spans.find_all([record.reference, record.source], finder=finder)
    singles = _singles(record.reference, of_reference, of_source, rng)
    exchanges = _exchanges(record.reference, of_reference)
    doubles = [[a, b] for i, a in enumerate(singles) for b in singles[i + 1 :] if a[1] <= b[0] or b[1] <= a[0]]
    for group in (exchanges, doubles):
        rng.shuffle(group)
    one_per_span = list({change[:2]: change for change in reversed(singles)}.values())
    rng.shuffle(one_per_span)
    rest = [change for change in singles if change not in one_per_span]
    order: list[list[Change]] = [
        *exchanges[:1],
        *([c] for c in one_per_span[:2]),
        *doubles,
        *([c] for c in one_per_span[2:] + rest),
        *exchanges[1:],
    ]
    name = "rules" if finder == "rules" else f"neural:{finder}"
    proposals = []
    for changes in order[: 2 * n_variants]:
        text, places = edit(record.reference, changes)
        proposals.append(Candidate(text, "swap_ent", name, places))
    return accept.negatives(record, proposals, tally=tally)[:n_variants]


def _singles(reference: str, of_reference: list[Span], of_source: list[Span], rng: random.Random) -> list[Change]:
    """Every span of the reference with every other entity of the post that fits its place, in drawn order per span."""
    singles: list[Change] = []
    for span in of_reference:
        others: list[str] = []
        for other in of_source:
            # one that the reference names elsewhere would stand there twice
            new = not any(same_entity(other.text, s.text) for s in of_reference)
            if fits(other, span) and new and not any(same_entity(other.text, text) for text in others):
                others.append(other.text)
        rng.shuffle(others)
        singles += [(span.start, span.end, _at(span.start, text)) for text in others]
    return singles


def _exchanges(reference: str, of_reference: list[Span]) -> list[list[Change]]:
    """Two entities of one type that change places."""
    found = []
    for i, one in enumerate(of_reference):
        for other in of_reference[i + 1 :]:
            if fits(one, other) and not same_entity(one.text, other.text):
                found.append(
                    [(one.start, one.end, _at(one.start, other.text)), (other.start, other.end, _within(one, other))]
                )
    return found


def _at(start: int, text: str) -> str:
    return sentence_case(text) if start == 0 else text


def _within(moved: Span, place: Span) -> str:
    """A role that began the sentence ("My boss") loses its capital in the middle."""
    return (
        moved.text[0].lower() + moved.text[1:]
        if moved.start == 0 and moved.type == "ROLE" and place.start > 0
        else moved.text
    )
