"""How surprised a model is by a text."""

from __future__ import annotations

from collections.abc import Sequence

from untax.metrics.common import need
from untax.types import NAN, Answer, Item, RecipeError

__all__ = ["perplexity"]


def perplexity(
    items: Sequence[Item],
    answers: Sequence[Answer],
    *,
    per: str = "token",  # "token", "character" or "byte": what the negative log-likelihood is divided by
    opening: bool = True,  # false leaves the first token out, before which nothing has been said
) -> list[float]:
    """Negative log-likelihood of each text in nats per token: the logarithm of perplexity, lower is better.

    A model that was trained on one kind of text expects that kind: the first token, which only says what kind this text is, can then hide
    what happened to all others. `opening: false` leaves it out (of every piece; its characters or bytes still count).
    Known weakness: per token it compares models with one tokenizer only (per byte compares any two); the mean over texts
    weighs a short text like a long one; a text longer than the context is scored in pieces that begin anew.

    Paper: Jelinek et al. 1977 (perplexity)
    Differs: the logarithm is kept, because its differences add up and are not ruled by the worst text
    Shapes: N items with a text, N answers -> N numbers >= 0
    Raises: RecipeError for an unknown unit or items without a text
    """
    need(items, "text", "perplexity")
    if per not in ("token", "character", "byte"):
        raise RecipeError(f"the metric 'perplexity': per is '{per}'; there are token, character, byte.")
    scores = []
    for item, answer in zip(items, answers, strict=True):
        if len(answer.logprobs) != 1 or answer.n_tokens < 1:
            scores.append(NAN)
            continue
        begun = 0.0 if opening else answer.values.get("openings", NAN)
        first = 0.0 if opening else answer.values.get("opening", NAN)
        sizes = {"token": answer.n_tokens - begun, "character": len(item.text), "byte": len(item.text.encode())}
        scores.append((first - answer.logprobs[0]) / sizes[per] if sizes[per] else NAN)
    return scores
