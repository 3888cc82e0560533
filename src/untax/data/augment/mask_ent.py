"""Entities of the reference replaced by ones that the post does not know."""

from __future__ import annotations

import random

from untax import spans
from untax.data.augment import accept
from untax.data.augment.common import Corpus, Tally, edit, rng_for, sentence_case, word_list
from untax.data.augment.generators import MASK, Generator, Request, needs_model, say_wrong
from untax.spans import Span
from untax.types import Candidate, ContrastiveRecord

__all__ = ["mask_ent"]


def mask_ent(
    record: ContrastiveRecord,
    *,
    seed: int = 0,
    generator: Generator | None = None,
    corpus: Corpus | None = None,
    finder: str = "rules",
    n_variants: int = 3,
    max_masks: int = 3,  # one to three entities, the paper's
    top_k: int = 5,  # the paper's
    tally: Tally | None = None,
) -> list[Candidate]:
    """Invent: one to three entities give way to others that occur neither in the post nor in the reference.

    Paper: Korkmaz et al. 2025, arXiv 2505.19327: roberta-large fills the masks; CLIFF, arXiv 2109.09209, "mask and fill".
    Differs: a filled text is kept only when a fill is absent from both post and reference (the paper's rule, not in the
        release). Without a model, an entity of the same type from another record takes the place.
    Shapes: one record in, up to `n_variants` candidates out; variant i changes i entities where there are so many.
    Raises: UserError when neither a masked language model nor a corpus is given.
    """
    rng = rng_for(seed, "mask_ent", record)
    found = spans.find(record.reference, finder=finder)
    if not found:
        return []
    groups = _groups(found, n_variants, max_masks, rng)
    if generator is None:
        if corpus is None:
            raise needs_model("mask_ent", "a masked language model or the entities of other records (corpus)")
        proposals = [c for group in groups if (c := _from_pool(record, group, corpus, finder, rng))]
        return accept.negatives(record, proposals, tally=tally)
    if not isinstance(generator, Generator):
        raise say_wrong("mask_ent", generator, "a masked language model")
    proposals = [c for rank, group in enumerate(groups) if (c := _filled(record, group, generator, rank, top_k, seed))]
    known = set(word_list(record.source)) | set(word_list(record.reference))

    def check(candidate: Candidate) -> str:
        fills = [word for start, end in candidate.edits for word in word_list(candidate.text[start:end])]
        return "" if any(word not in known for word in fills) else "every fill is known from post or reference"

    return accept.negatives(record, proposals, check=check, tally=tally)


def _groups(found: list[Span], n_variants: int, max_masks: int, rng: random.Random) -> list[list[Span]]:
    """Which entities each variant changes: one, then two, then three; each variant begins with another entity."""
    order = list(found)
    rng.shuffle(order)
    groups = []
    for variant in range(n_variants):
        size = min(1 + variant % max_masks, len(order))
        turned = order[variant % len(order) :] + order[: variant % len(order)]
        groups.append(sorted(turned[:size], key=lambda span: span.start))
    return groups


def _from_pool(
    record: ContrastiveRecord, group: list[Span], corpus: Corpus, finder: str, rng: random.Random
) -> Candidate | None:
    known = [s.text for text in (record.source, record.reference) for s in spans.find(text, finder=finder)]
    changes = []
    for span in group:
        other = corpus.foreign(span, known, rng)
        if other is not None:
            changes.append((span.start, span.end, sentence_case(other) if span.start == 0 else other))
            known.append(other)
    if not changes:
        return None
    text, places = edit(record.reference, changes)
    return Candidate(text, "mask_ent", "rules", places)


def _filled(
    record: ContrastiveRecord, group: list[Span], generator: Generator, rank: int, top_k: int, seed: int
) -> Candidate | None:
    """The masks filled by the model, each variant with the next best word."""
    masked, _ = edit(record.reference, [(span.start, span.end, MASK) for span in group])
    answer = generator.ask(Request(masked, top_k=top_k, seed=seed))
    if answer is None or len(answer.fills) != len(group) or not all(answer.fills):
        return None
    words = [fills[rank % len(fills)] for fills in answer.fills]
    changes = [
        (span.start, span.end, sentence_case(word) if span.text[0].isupper() else word)
        for span, word in zip(group, words, strict=True)
    ]
    text, places = edit(record.reference, changes)
    return Candidate(text, "mask_ent", generator.name, places)
