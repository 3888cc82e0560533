"""The reference up to an entity, then another ending."""

from __future__ import annotations

import random

from untax import spans
from untax.data.augment import accept
from untax.data.augment.common import Corpus, Tally, edits_between, rewrites, rng_for, sentence_case, typed_continuation
from untax.data.augment.generators import Generator, Request, needs_model, say_wrong
from untax.data.trigram import Trigram
from untax.types import Candidate, ContrastiveRecord

__all__ = ["regen_ent"]


def regen_ent(
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
    """Keep the reference up to one entity and write the rest anew, with an entity or number that nobody mentioned.

    Paper: Korkmaz et al. 2025, arXiv 2505.19327: flan-t5-large; CLIFF, arXiv 2109.09209, "regeneration".
    Differs: encoder-decoder models are asked with their own sentinel at the gap (the release showed them another model's
        mask), decoders continue the prompt and the kept beginning. Without a model, a trigram model of all references goes
        on, beginning with another entity of the same type.
    Shapes: one record in, up to `n_variants` candidates out.
    Raises: UserError when neither a model nor a corpus is given.
    """
    rng = rng_for(seed, "regen_ent", record)
    found = spans.find(record.reference, finder=finder)
    cuts = sorted({span.start for span in found})
    rng.shuffle(cuts)
    if generator is not None:
        if not isinstance(generator, Generator):
            raise say_wrong("regen_ent", generator, "a decoder or an encoder-decoder model")
        request = Request(
            "",
            n=n_variants,
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            stop=("\n",),
            seed=seed,
        )
        proposals = rewrites(record, cuts[:1], generator, prompt, request, "regen_ent")
    elif corpus is not None:
        proposals = _by_trigrams(record, cuts, corpus, finder, n_variants, rng)
    else:
        raise needs_model("regen_ent", "a model or the references of other records (corpus)")

    def check(candidate: Candidate) -> str:
        return "" if accept.new_facts(record, candidate.text, finder=finder) else "no new entity or number"

    return accept.negatives(record, proposals, check=check, tally=tally)[:n_variants]


def _by_trigrams(
    record: ContrastiveRecord, cuts: list[int], corpus: Corpus, finder: str, n_variants: int, rng: random.Random
) -> list[Candidate]:
    of_reference, of_source = spans.find_all([record.reference, record.source], finder=finder)
    known = [span.text for span in (*of_reference, *of_source)]
    starting = {span.start: span for span in of_reference}
    found: list[Candidate] = []
    for attempt in range(3 * n_variants if cuts else 0):
        cut = cuts[attempt % len(cuts)]
        other = corpus.foreign(starting[cut], known, rng)
        if other is None:
            continue
        kept = [span for span in of_reference if span.end <= cut]
        tokens = [*Trigram.tokens(record.reference[:cut], kept), f"<{starting[cut].type}>"]
        rest = typed_continuation(record, tokens, corpus, finder, rng)
        if not rest:
            continue
        # the marks of the kept words are put back as they were: only what follows is new
        text = sentence_case(Trigram.text([record.reference[:cut].rstrip(), other, *rest] if cut else [other, *rest]))
        found.append(Candidate(text, "regen_ent", "rules", edits_between(record.reference, text)))
    return found
