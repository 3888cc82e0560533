"""What the reference says that somebody did, turned round or replaced."""

from __future__ import annotations

import re
from itertools import zip_longest

from untax import spans
from untax.data.augment import accept, rules
from untax.data.augment.common import NAME_TYPES, Tally, edit, rng_for, word_list
from untax.data.augment.generators import MASK, Generator, Request, say_wrong
from untax.types import Candidate, ContrastiveRecord

__all__ = ["mask_rel"]


def mask_rel(
    record: ContrastiveRecord,
    *,
    seed: int = 0,
    generator: Generator | None = None,
    finder: str = "rules",
    n_variants: int = 3,
    top_k: int = 5,  # the paper's
    tally: Tally | None = None,
) -> list[Candidate]:
    """Claim another deed of the same people: the verb of an entity is replaced, or one relation is turned into its opposite.

    Paper: Korkmaz et al. 2025, arXiv 2505.19327; CLIFF, arXiv 2109.09209, "mask and fill" of relations with roberta-large.
    Differs: head verbs are found without a parser, as table verbs or as the word behind a name. Without a model: opposite
        verbs with all inflections, comparatives, before and after, one negation more or less. Verb edits behind the last
        entity are blind under entity pooling; they are made all the same, and their share is reported.
    Shapes: one record in, up to `n_variants` candidates out.
    Raises: UserError when `generator` is no masked language model.
    """
    if generator is not None and not isinstance(generator, Generator):
        raise say_wrong("mask_rel", generator, "a masked language model")
    if generator is None:
        return accept.negatives(record, _by_rules(record, finder, seed, n_variants), tally=tally)[:n_variants]
    known = set(word_list(record.source)) | set(word_list(record.reference))

    def check(candidate: Candidate) -> str:
        fills = [word for start, end in candidate.edits for word in word_list(candidate.text[start:end])]
        turned = any(accept.NEGATION.search(word) for word in fills)
        return (
            "" if turned or any(word not in known for word in fills) else "the new verb is known from post or reference"
        )

    return accept.negatives(
        record, _filled(record, generator, finder, top_k, seed, n_variants), check=check, tally=tally
    )[:n_variants]


def _by_rules(record: ContrastiveRecord, finder: str, seed: int, n_variants: int) -> list[Candidate]:
    """Opposites first, then negations, each group in drawn order; one negation at most while opposites last."""
    rng = rng_for(seed, "mask_rel", record)
    names = [s for s in spans.find(record.reference, finder=finder) if s.type in NAME_TYPES]

    def outside(change: tuple[int, int, str]) -> bool:
        return not any(s.start < change[1] and change[0] < s.end for s in names)

    opposite = [c for c in rules.opposites(record.reference) if outside(c)]
    negated = [c for c in rules.negated(record.reference) if outside(c)]
    rng.shuffle(opposite)
    rng.shuffle(negated)
    mixed = [*opposite[: n_variants - 1], *negated[:1], *opposite[n_variants - 1 :], *negated[1:]]
    return [_candidate(record, change, "rules") for change in mixed[: 2 * n_variants]]


def _filled(
    record: ContrastiveRecord, generator: Generator, finder: str, top_k: int, seed: int, n_variants: int
) -> list[Candidate]:
    rng = rng_for(seed, "mask_rel", record)
    places = rules.head_verbs(record.reference, finder=finder)
    rng.shuffle(places)
    by_place: list[list[Candidate]] = []
    for start, end in places[:n_variants]:
        masked, _ = edit(record.reference, [(start, end, MASK)])
        answer = generator.ask(Request(masked, top_k=top_k, seed=seed))
        words = answer.fills[0] if answer and answer.fills else ()
        by_place.append([_candidate(record, (start, end, word), generator.name) for word in words])
    # one of each verb before the second of any
    return [candidate for rank in zip_longest(*by_place) for candidate in rank if candidate is not None]


def _candidate(record: ContrastiveRecord, change: tuple[int, int, str], generator: str) -> Candidate:
    text, places = edit(record.reference, [change])
    # taking a word away leaves a double space or one before a mark
    tidy = re.sub(r" +([.,;:!?])", r"\1", re.sub(r"  +", " ", text))
    return Candidate(
        tidy, "mask_rel", generator, places if tidy == text else ((places[0][0], min(places[0][1], len(tidy))),)
    )
