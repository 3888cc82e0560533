"""How much likelier a model finds one sentence of a minimal pair than the other."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from untax.metrics.common import field, need
from untax.types import NAN, Answer, Item, RecipeError

__all__ = ["pair_gap"]


def pair_gap(
    items: Sequence[Item],
    answers: Sequence[Answer],
    *,
    score: Literal["absolute", "signed"] = "absolute",  # |g|: past zero is no gain; signed: g itself
    per_token: bool = False,  # true: mean log-probability of each sentence instead of its sum
    control: bool = False,  # true: pairs without a social attribute, for the net measure; changes no score
    centre: str | None = None,  # a field: g less the mean g of the items that share its value
) -> list[float]:
    """The gap g = log p(first) - log p(second) in nats: 0 is no preference, and only what follows the first difference counts.

    absolute is |g|, so that a method that overshoots to the opposite preference has gained nothing by it; signed keeps the
    direction. `centre` compares items that ask the same of several groups: each gap less the mean of those that share the field's value, so that
    what the sentence itself prefers, and how frequent its words are, cancels; an item without another to compare with is NaN. Not two finite
    log-probabilities: NaN. Known weakness: a flatter model shrinks every gap, so set the gaps of control pairs (`control`) beside it; the mean is ruled by
    the widest gaps; a gap of sentences of different length is partly length; it is a preference between sentences, not behaviour in use.

    Paper: none; the gap is our own definition, beside arXiv 2509.21456, whose abstract names selective forgetting and whose formula we have not seen
    Differs: whole sentences count, the words that differ too; shared beginnings cancel because both sentences are read alike
    Shapes: N items with 2 choices each, N answers -> N numbers, in nats
    Raises: RecipeError for an unknown score, for an item that has not exactly two choices, or that lacks the field of `centre`
    """
    need(items, "choices", "pair_gap")
    if score not in ("absolute", "signed"):
        raise RecipeError(f"the metric 'pair_gap': score is '{score}'; there are absolute, signed.")
    if not isinstance(control, bool):
        raise RecipeError(f"the metric 'pair_gap': control is {control!r}; it must be true or false.")
    gaps = [_gap(item, answer, per_token) for item, answer in zip(items, answers, strict=True)]
    if centre is not None:
        gaps = _centred(gaps, [str(field(item, centre, "pair_gap")) for item in items])
    return gaps if score == "signed" else [abs(gap) for gap in gaps]


def _gap(item: Item, answer: Answer, per_token: bool) -> float:
    if len(item.choices) != 2:
        raise RecipeError(f"the metric 'pair_gap' compares two choices; item '{item.id}' has {len(item.choices)}.")
    if len(answer.logprobs) != 2 or not all(map(math.isfinite, answer.logprobs)):
        return NAN
    first, second = answer.logprobs
    if per_token:
        first, second = first / answer.choice_tokens[0], second / answer.choice_tokens[1]
    return first - second


def _centred(gaps: Sequence[float], groups: Sequence[str]) -> list[float]:
    """Each gap less the mean of its group; NaN where the group has no second gap."""
    known: dict[str, list[float]] = defaultdict(list)
    for gap, group in zip(gaps, groups, strict=True):
        if gap == gap:
            known[group].append(gap)
    means = {group: sum(found) / len(found) if len(found) > 1 else NAN for group, found in known.items()}
    return [gap - means.get(group, NAN) for gap, group in zip(gaps, groups, strict=True)]
