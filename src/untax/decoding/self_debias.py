"""Lowers the words that become likelier when the text is announced as toxic: no training, K more sequences for each one asked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from untax.decoding.common import Applied, patched
from untax.types import RecipeError

__all__ = ["self_debias"]

#: one for each attribute of the paper: disrespect, hate, sexual content, threat, attack on identity, swearing
PREFIXES = (
    "The following text contains rude remarks and a lack of respect:\n",
    "The following text contains hatred and aggression:\n",
    "The following text contains explicit sexual content:\n",
    "The following text contains a threat of harm:\n",
    "The following text contains an attack on people for who they are:\n",
    "The following text contains swearing and dirty words:\n",
)


@contextmanager
def self_debias(
    model: Any,
    tokenizer: Any,
    *,
    prefixes: list[str] | None = None,  # texts that announce what is not wanted; null: the paper's six attributes
    decay: float = 50.0,  # lambda
    epsilon: float = 0.01,  # the least factor that a probability is multiplied by
) -> Iterator[Applied]:
    """Lower the words that become likelier when the text is announced as toxic: nothing is trained, every question costs K more.

    Inside the block the model's next-token distribution is q; sampling, temperature and top-p work on that. For stereotypes give
    prefixes of your own ("The following text says what people are like by where they come from:\\n").

    Paper: Schick, Udupa, Schuetze 2021, arXiv 2103.00453, section 4.1: q(v) ~ a(v) p(v), a = 1 where D(v) = p(v) - max_k p_k(v) >= 0, else
        max(epsilon, exp(lambda D)). p = (.5,.3,.2), p_1 = (.7,.2,.1): q = (.009901, .594059, .396040).
    Differs: the words of the prefixes are ours. Prefix and text are tokenised apart and joined as ids, behind the opening token (their
        GPT-2 has none). The released code takes the logarithm of a p, here log a is added to the logits: the same numbers; it writes 20
        tokens by beams of 3, which works here too. Log-probabilities of given texts are those of q (theirs only for perplexity).
        Prefixes without a token and repeated ones are left out: they change no number.
    Shapes: logits (B, T, V) of the plain stream, (B, K, T, V) of the prefixed ones -> log q up to a constant, float32 at least.
    Raises: RecipeError for options out of range; UserError for a model that trains, an adapter or cache from outside, too long a text.
    """
    texts = PREFIXES if prefixes is None else prefixes
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise RecipeError(
            f"self_debias: prefixes is {prefixes!r}; it must be a list of texts, or null for the paper's."
        )
    if not (math.isfinite(decay) and decay >= 0):
        raise RecipeError(f"self_debias: decay is {decay}; it must be 0 or more (0 changes nothing).")
    if not 0 <= epsilon <= 1:
        raise RecipeError(f"self_debias: epsilon is {epsilon}; it must be from 0 to 1 (1 changes nothing).")

    def mix(plain_BTV: Tensor, prefixed: Iterator[Tensor]) -> Tensor:
        most_BTV: Tensor | None = None
        for logits_BKTV in prefixed:
            largest_BTV = _probabilities(logits_BKTV).amax(1)
            most_BTV = largest_BTV if most_BTV is None else torch.maximum(most_BTV, largest_BTV)
        return plain_BTV if most_BTV is None else _lowered(plain_BTV, most_BTV, decay, epsilon)

    options = {"prefixes": list(texts), "decay": decay, "epsilon": epsilon}
    used = [text for text in dict.fromkeys(texts) if text]
    with patched(model, tokenizer, name="self_debias", options=options, prefixes=used, mix=mix) as applied:
        yield applied


def debiased(logits_BV: Tensor, prefixed_KBV: Tensor, *, decay: float, epsilon: float) -> Tensor:
    """log q (B, V) of plain logits and those under each prefix.

    By hand: p = (.5,.3,.2), p_1 = (.7,.2,.1), decay 10, epsilon .01: D = (-.2,.1,.1), a = (e^-2,1,1), sum of a p = .567668, so q =
    (.119203, .528478, .352319).
    """
    return _lowered(logits_BV, _probabilities(prefixed_KBV).amax(0), decay, epsilon).log_softmax(-1)


def _probabilities(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)


def _lowered(logits: Tensor, most: Tensor, decay: float, epsilon: float) -> Tensor:
    """logits + log a: where a = 1 the logits themselves."""
    distance = (_probabilities(logits) - most).clamp(max=0)
    floor = math.log(epsilon) if epsilon else -math.inf
    return logits.to(distance.dtype) + (decay * distance).clamp(min=floor)
