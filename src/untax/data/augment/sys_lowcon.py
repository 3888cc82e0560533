"""What the model itself writes when it is least sure."""

from __future__ import annotations

import math
import random

from untax import spans
from untax.data.augment import accept
from untax.data.augment.common import Tally, edits_between, rng_for, sentence_case
from untax.data.augment.generators import Generator, Request, say_wrong
from untax.data.trigram import Trigram
from untax.scorers import Scorer
from untax.spans import NUMERIC
from untax.types import Candidate, ContrastiveRecord

__all__ = ["sys_lowcon"]


def sys_lowcon(
    record: ContrastiveRecord,
    *,
    seed: int = 0,
    generator: Generator | None = None,
    scorer: Scorer | None = None,
    finder: str = "rules",
    prompt: str = "{source}\nSummary:",
    n_samples: int = 8,  # the paper's beams
    keep: int = 1,
    max_probability: float = 0.21,  # CLIFF's; named but unused in the release
    temperature: float = 1.0,
    top_p: float = 0.95,
    max_new_tokens: int = 64,
    tally: Tally | None = None,
) -> list[Candidate]:
    """Let the base model answer several times and keep the answer whose names and numbers it believed in least.

    Paper: Korkmaz et al. 2025, arXiv 2505.19327: gpt2, beams; CLIFF, arXiv 2109.09209, "low confidence system output".
    Differs: samples instead of beams, the prompt of training and evaluation, and CLIFF's threshold is applied: the least
        probable first token of a name or number must have had less than 0.21. Without a model, a trigram model of the post
        writes, and the least probable of its texts is kept.
    Shapes: one record in, up to `keep` candidates out of `n_samples`.
    Raises: UserError when `generator` is no decoder.
    """
    tally = tally if tally is not None else Tally()
    if generator is None:
        return accept.negatives(record, _by_trigrams(record, finder, seed, n_samples)[:keep], tally=tally)
    if not isinstance(generator, Generator) or not generator.model.continues:
        raise say_wrong("sys_lowcon", generator, "a decoder model")
    asked = prompt.replace("{source}", record.source)
    request = Request(asked, n_samples, temperature, top_p, max_new_tokens=max_new_tokens, stop=("\n",), seed=seed)
    answer = generator.ask(request)
    if answer is None:
        return []
    sure = {text: _least_sure(text, tokens, finder) for text, tokens in zip(answer.texts, answer.tokens, strict=True)}
    texts = sorted((text for text in sure if text), key=lambda text: (sure[text], text))
    proposals = [Candidate(text, "sys_lowcon", generator.name, edits_between(record.reference, text)) for text in texts]
    toxic = dict(zip(texts, scorer.score(texts), strict=True)) if scorer is not None and texts else {}

    def check(candidate: Candidate) -> str:
        if math.isinf(sure[candidate.text]):
            return "no name or number"
        if sure[candidate.text] >= max_probability:
            return f"names and numbers with {max_probability:g} or more"
        return accept.toxicity_reason("sys_lowcon", toxic.get(candidate.text), positive=False)

    return accept.negatives(record, proposals, check=check, tally=tally)[:keep]


def _least_sure(text: str, tokens: tuple[tuple[int, float], ...], finder: str) -> float:
    """The smallest probability among the first tokens of names and numbers; infinite when there are none."""
    least = math.inf
    for span in spans.find(text, finder=finder):
        # a token often brings the space before its word along: the last one that begins at or before the span
        first = [p for start, p in tokens if start <= span.start]
        if first and span.type in (*NUMERIC, "PERSON", "PLACE", "ORG", "NAME"):
            least = min(least, first[-1])
    return least


def _by_trigrams(record: ContrastiveRecord, finder: str, seed: int, n_samples: int) -> list[Candidate]:
    """Texts of the length of the reference out of the words of the post, the least probable first."""
    rng = rng_for(seed, "sys_lowcon", record)
    model, mentions = _model_of(record.source, finder)
    long = len(Trigram.tokens(record.reference, spans.find(record.reference, finder=finder)))
    found = {}
    for _ in range(n_samples):
        sentences: list[list[str]] = []
        while sum(map(len, sentences)) < 0.6 * long and len(sentences) < 8:
            sentences.append(_blurred(model.continue_from([], rng, longest=2 * long), mentions, rng))
        text = " ".join(sentence_case(Trigram.text(tokens)) for tokens in sentences if tokens)
        found[text] = model.log_probability([token for tokens in sentences for token in tokens])
    texts = sorted(found, key=lambda text: (found[text], text))
    return [Candidate(text, "sys_lowcon", "rules", edits_between(record.reference, text)) for text in texts]


def _model_of(source: str, finder: str) -> tuple[Trigram, dict[str, list[str]]]:
    """A trigram model of one post, its entities as single tokens, and the entities by type."""
    model = Trigram()
    mentions: dict[str, list[str]] = {}
    found = spans.find(source, finder=finder)
    starts = sorted(spans.sentence_starts(source)) or [0]
    for start, end in zip(starts, [*starts[1:], len(source)], strict=True):
        tokens, last = [], start
        for span in (s for s in found if start <= s.start < end):
            tokens += [*Trigram.tokens(source[last : span.start]), span.text]
            mentions.setdefault(span.type, []).append(span.text)
            last = span.end
        model.add(tokens + Trigram.tokens(source[last:end]))
    return model, mentions


def _blurred(tokens: list[str], mentions: dict[str, list[str]], rng: random.Random) -> list[str]:
    """Half of the entities are confused with another of the post: a copied sentence alone would be true."""
    by_text = {text: texts for texts in mentions.values() for text in texts}
    return [rng.choice(by_text[token]) if token in by_text and rng.random() < 0.5 else token for token in tokens]
