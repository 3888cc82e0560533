"""Fairness objectives: what a model says after a text and after its counterfactual is made alike, beside the likelihood of both."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from untax.data.words import forms
from untax.objectives.common import Aligned, align, continuing, word_tokens
from untax.prefix import Batch, Pass
from untax.types import Loss, RecipeError, UserError

__all__ = ["fairness"]


def fairness(
    forward: Pass,
    *,
    form: Literal["cda", "jsd", "kl", "log_odds"] = "jsd",  # what is made equal between the two versions; cda: nothing
    weight: float = 1.0,  # of the equalising term
    likelihood: float = 1.0,  # of the ability term: nats per token of both versions
    delta: float = 0.0,  # log_odds: what the original's words may be likelier than the counterfactual's, in nats
    attribute: Literal["gender", "race", "religion"] = "gender",  # whose words may go on differing after the two
    words: list[str] | None = None,  # those words; null: the attribute's list, []: none
    tokens: Literal[
        "whole", "first"
    ] = "whole",  # jsd, kl: leave out words that are one token, or the first token of every word
    tokenizer: Any,
) -> Loss:
    """Makes a model treat a text and its counterfactual alike, while it goes on learning both.

    likelihood * mean over tokens of both versions of -log p + weight * mean over pairs of one of:
    jsd: mean over shared tokens behind the first difference of JSD(p(. | original so far), p(. | counterfactual so far));
    kl: the same with KL(p || q) + KL(q || p); log_odds: (log p(w1 | c) - log p(w2 | c) - delta)^2, w1 and w2 the words in which the two
    differ first and c what stands before; cda: 0, so that both versions are trained on and no more.
    After "she" and "he" a model has to say "her" and "his": jsd and kl leave the attribute's words out of the vocabulary and renormalise,
    or that agreement would be trained away. Words are left out that are one token; the first tokens of the others begin much else
    (" a" of " aunt").

    Paper: objectives after arXiv 2509.21456 (Liu et al. 2025), whose own formula was not verified; cda: Lu et al. 2018, arXiv 1807.11714.
    Differs: the definitions are ours. A pair is a source's reference and each of its further positives; a source without one counts in the
        likelihood only, negatives count nowhere. Tokens are aligned by ids; those that spell a word that differs are not shared. Only
        the first slot has the same words before it, so log_odds reads no other; a slot of several tokens sums their log-probabilities.
        Means are over the whole optimiser step. Exchanging the versions (and the sign of delta) changes nothing.
    Shapes: runs all positives; two (M, V) distributions for the M shared places of a batch.
    Raises: RecipeError for weights below 0; UserError where no two tokens are left to compare.
    """
    if weight < 0 or likelihood < 0:
        raise RecipeError(f"fairness: weight is {weight} and likelihood {likelihood}; both must be 0 or more.")
    if isinstance(words, str) or not all(isinstance(word, str) and word.strip() for word in words or ()):
        raise RecipeError(
            f"fairness: words is {words!r}; it must be a list of words, or null for those of the attribute."
        )
    step = forward.batch.step
    used = forward.only(forward.batch.positive_N)
    logps_NT = used.logps()
    ce = -logps_NT.sum() / step.positive_tokens
    pairs = _pairs(used.batch, continuing(tokenizer)) if step.pairs else []
    gaps_P = _gaps(logps_NT, pairs)
    logs = {"L_ce": ce.item(), "slot_gap": gaps_P.detach().abs().sum().item() / max(1, step.pairs)}
    if form == "cda":
        return Loss(likelihood * ce, logs)
    if form == "log_odds":
        unequal = (gaps_P - delta).square().sum() / max(1, step.pairs)
    else:
        attributes = None if words is None else tuple(words)
        unequal = _differences(used, pairs, form, _attribute_tokens(tokenizer, attribute, attributes, tokens)) / max(
            1, step.pairs
        )
    return Loss(likelihood * ce + weight * unequal, {**logs, f"L_{form}": unequal.item()})


def _pairs(batch: Batch, continues: tuple[bool, ...]) -> list[tuple[int, int, Aligned]]:
    """Row of the reference, row of a further positive that differs, and how their tokens belong together."""
    rows = [ids[:length] for ids, length in zip(batch.targets_NT.tolist(), batch.mask_NT.sum(1).tolist(), strict=True)]
    found, reference = [], 0
    for row, is_reference in enumerate(batch.reference_N.tolist()):
        reference = row if is_reference else reference
        if rows[row] != rows[reference]:
            found.append((reference, row, align(rows[reference], rows[row], continues)))
    return found


def _gaps(logps_NT: Tensor, pairs: list[tuple[int, int, Aligned]]) -> Tensor:
    """log p(w1 | c) - log p(w2 | c) of every pair."""
    gaps = [
        logps_NT[one, slice(*found.slot[0])].sum() - logps_NT[other, slice(*found.slot[1])].sum()
        for one, other, found in pairs
    ]
    return torch.stack(gaps) if gaps else logps_NT.new_zeros(0)


def _differences(forward: Pass, pairs: list[tuple[int, int, Aligned]], form: str, hidden: tuple[int, ...]) -> Tensor:
    """The sum over pairs of the mean divergence at their shared places."""
    at = [(one, i, other, j, 1 / len(found.shared)) for one, other, found in pairs for i, j in found.shared]
    device = forward.batch.mask_NT.device
    if not at:
        return torch.zeros((), device=device)
    one_M, i_M, other_M, j_M = torch.tensor([places[:4] for places in at], device=device).T
    p_MV, q_MV = forward.logits(one_M, i_M), forward.logits(other_M, j_M)
    if hidden:
        keep_V = torch.ones(p_MV.shape[1], dtype=torch.bool, device=device)
        keep_V[torch.tensor(hidden, device=device)] = False
        if int(keep_V.sum()) < 2:
            raise UserError("fairness: no two tokens are left beside those of the attribute's words.")
        p_MV, q_MV = p_MV[:, keep_V], q_MV[:, keep_V]
    return (divergence(p_MV, q_MV, form) * torch.tensor([places[4] for places in at], device=device)).sum()


def divergence(p_MV: Tensor, q_MV: Tensor, form: str) -> Tensor:
    """JSD ("jsd") or KL(p || q) + KL(q || p) ("kl") of rows of logits, in nats (M)."""
    p_MV, q_MV = p_MV.log_softmax(-1), q_MV.log_softmax(-1)
    if form == "kl":
        return ((p_MV.exp() - q_MV.exp()) * (p_MV - q_MV)).sum(-1)
    mean_MV = torch.logaddexp(p_MV, q_MV) - math.log(2)
    return (p_MV.exp() * (p_MV - mean_MV) + q_MV.exp() * (q_MV - mean_MV)).sum(-1) / 2


@lru_cache(maxsize=8)
def _attribute_tokens(tokenizer: Any, attribute: str, words: tuple[str, ...] | None, tokens: str) -> tuple[int, ...]:
    if words is None:
        words = forms(attribute)
    return word_tokens(tokenizer, words, whole=tokens == "whole")
