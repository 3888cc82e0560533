"""The reference up to a verb, then another story."""

from __future__ import annotations

import random

from untax import spans
from untax.data.augment import accept, rules
from untax.data.augment.common import (
    Corpus,
    Tally,
    content_words,
    edits_between,
    rewrites,
    rng_for,
    sentence_case,
    typed_continuation,
)
from untax.data.augment.generators import Generator, Request, needs_model, say_wrong
from untax.data.trigram import Trigram
from untax.types import Candidate, ContrastiveRecord

__all__ = ["regen_rel"]


def regen_rel(
    record: ContrastiveRecord,
    *,
    seed: int = 0,
    generator: Generator | None = None,
    corpus: Corpus | None = None,
    finder: str = "rules",
    prompt: str = "{source}\nSummary:",
    n_variants: int = 3,
    temperature: float = 0.7,  # the paper's
    top_p: float = 0.9,  # the paper's
    max_new_tokens: int = 64,
    tally: Tally | None = None,
) -> list[Candidate]:
    """Keep the reference up to one verb and write the rest anew, so that the same people do something else.

    Paper: Korkmaz et al. 2025, arXiv 2505.19327: flan-t5-large; CLIFF, arXiv 2109.09209, "regeneration" of relations.
    Differs: as regen_ent; the verb is found without a parser. A text counts as new when it holds a content word or an
        entity that neither post nor reference has. Without a model, the trigram model of all references goes on behind a
        different verb, one that stands behind names in other references.
    Shapes: one record in, up to `n_variants` candidates out.
    Raises: UserError when neither a model nor a corpus is given.
    """
    rng = rng_for(seed, "regen_rel", record)
    verbs = rules.head_verbs(record.reference, finder=finder)
    rng.shuffle(verbs)
    if generator is not None:
        if not isinstance(generator, Generator):
            raise say_wrong("regen_rel", generator, "a decoder or an encoder-decoder model")
        request = Request(
            "",
            n=n_variants,
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            stop=("\n",),
            seed=seed,
        )
        proposals = rewrites(record, [start for start, _ in verbs[:1]], generator, prompt, request, "regen_rel")
    elif corpus is not None:
        proposals = _by_trigrams(record, verbs, corpus, finder, n_variants, rng)
    else:
        raise needs_model("regen_rel", "a model or the references of other records (corpus)")

    def check(candidate: Candidate) -> str:
        new = content_words(candidate.text) - content_words(record.source) - content_words(record.reference)
        return "" if new or accept.new_facts(record, candidate.text, finder=finder) else "no new relation or entity"

    return accept.negatives(record, proposals, check=check, tally=tally)[:n_variants]


def _by_trigrams(
    record: ContrastiveRecord,
    verbs: list[tuple[int, int]],
    corpus: Corpus,
    finder: str,
    n_variants: int,
    rng: random.Random,
) -> list[Candidate]:
    known = content_words(record.source) | content_words(record.reference)
    others = [verb for verb in corpus.verbs if verb not in known]
    of_reference = spans.find(record.reference, finder=finder)
    found: list[Candidate] = []
    for attempt in range(3 * n_variants if verbs and others else 0):
        cut, _ = verbs[attempt % len(verbs)]
        verb = rng.choice(others)
        tokens = [*Trigram.tokens(record.reference[:cut], [s for s in of_reference if s.end <= cut]), verb]
        rest = typed_continuation(record, tokens, corpus, finder, rng)
        if not rest:
            continue
        kept = record.reference[:cut].rstrip()
        text = sentence_case(Trigram.text([kept, verb, *rest] if kept else [verb, *rest]))
        found.append(Candidate(text, "regen_rel", "rules", edits_between(record.reference, text)))
    return found
