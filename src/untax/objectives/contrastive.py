"""Contrastive alignment: keep the good versions of a text together and the bad ones away, beside the likelihood."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from untax.prefix import Batch, Pass
from untax.types import Loss, RecipeError, UserError

__all__ = ["Contrastive"]

POOLS, BLIND, SCOPES = ("entity", "all", "last"), ("pool_all", "keep"), ("source", "batch")

#: a logit whose exponential is exactly 0 beside any cosine; minus infinity would make the gradients of empty rows NaN
NEVER = -1e9

TOXIC_SOURCES = 8  # after as many, an unmoved loss scale is an error and no longer chance


class Contrastive(nn.Module):
    """Pulls a source's good versions together and pushes its bad ones away, beside the likelihood of the reference.

    Paper: Korkmaz, Nair, Daly, del Rio Chanona 2025, arXiv 2505.19327; row softmax and entity pooling of CLIFF, Cao and
        Wang 2021, arXiv 2109.09209. L = L_ce + alpha * mean over sources of w_s * l_s.
    Differs: cross-entropy on the reference, first token and EOS included, over its own tokens (released: a back-translation,
        over the tokens of all targets). A source with a target without span, or with a blind negative (its selected tokens
        have seen nothing that differs from a positive), pools all tokens of all its targets (released: zero vectors, blind
        pairs kept). The loss scale is per source and does move. Sources with fewer than two positives or no negative
        train the likelihood only. alpha 1 (released: 16 on another normaliser).
    Shapes: states (N, T, H), pooled vectors (N, H), one loss a source (S).
    Raises: RecipeError for an unknown option value; UserError when toxic negatives never move the loss scale.
    """

    def __init__(
        self,
        hidden: int,
        *,
        alpha: float = 1.0,  # weight of the contrastive term
        temperature: float = 1.0,  # tau
        pool: Literal["entity", "all", "last"] = "entity",  # which target tokens make the vector
        blind: Literal["pool_all", "keep"] = "pool_all",  # what a blind negative does to its source
        positives_in_denominator: bool = True,  # the other positives stand in the row sum, as in the released code
        w_tox: float = 1.5,  # loss scale at toxicity 1; 1 switches scaling off
        toxic_scope: Literal["source", "batch"] = "source",  # one weight a source, or one a step as the paper words it
        use_head: bool = True,  # W1, W2; False pools the raw states
    ) -> None:
        super().__init__()
        options = {"pool": (pool, POOLS), "blind": (blind, BLIND), "toxic_scope": (toxic_scope, SCOPES)}
        for name, (value, known) in options.items():
            if value not in known:
                raise RecipeError(f"contrastive: {name} '{value}' is not known; write one of: {', '.join(known)}.")
        if temperature <= 0 or alpha < 0 or w_tox <= 0:
            raise RecipeError("contrastive: temperature and w_tox must be above 0, and alpha 0 or more.")
        self.alpha, self.temperature, self.positives_in_denominator = alpha, temperature, positives_in_denominator
        self.pool, self.blind, self.w_tox, self.toxic_scope = pool, blind, w_tox, toxic_scope
        self.scaled_sources = self.toxic_sources = 0
        self.head = Head(hidden) if use_head else nn.Identity()

    def forward(self, forward: Pass) -> Loss:
        """The loss of one batch; logs are this batch's part of the step's figures and add up over accumulation."""
        reference_N = forward.batch.reference_N
        keep_N = reference_N if self.alpha == 0 else reference_N | forward.batch.contrasted_S[forward.batch.source_N]
        forward = forward if keep_N.all() else forward.only(keep_N)
        batch = forward.batch
        ce = -forward.logps(batch.reference_N).sum() / batch.step.reference_tokens
        if self.alpha == 0:
            return Loss(ce, {"L_ce": ce.item()})
        per, used_S = max(1, batch.step.contrasted), batch.contrasted_S
        mask_NT, switched_S = self.pooling_mask(batch)
        vectors_NH = pooled(forward.states_NTH, mask_NT, self.head)
        terms = source_losses(vectors_NH, batch, self.temperature, self.positives_in_denominator)
        weights_S = self.scales(batch)
        contrastive = (weights_S * terms.losses_S)[used_S].sum() / per
        logs_S = {
            "l_unscaled": terms.losses_S.detach(),
            "bound_best": terms.best_S,
            "bound_equal": terms.equal_S,
            "cos_positive": terms.cos_positive_S,
            "cos_negative": terms.cos_negative_S,
            "share_without_span": _share(~batch.spans_NT.any(1), batch.source_N >= 0, batch),
            "share_blind": _share(batch.blind_N, ~batch.positive_N, batch),
            "share_pooled_all": switched_S.float(),
            "share_scaled": (weights_S > 1.01).float(),
        }
        sums = torch.stack([ce.detach(), contrastive.detach(), *(v[used_S].sum() / per for v in logs_S.values())])
        return Loss(ce + self.alpha * contrastive, dict(zip(("L_ce", "L_cl", *logs_S), sums.tolist(), strict=True)))

    def pooling_mask(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Which tokens are pooled (N, T), and which sources were switched from spans to all tokens (S)."""
        switched_S = torch.zeros(batch.sources, dtype=torch.bool, device=batch.source_N.device)
        if self.pool == "all":
            return batch.text_NT, switched_S
        if self.pool == "last":
            return batch.text_NT & ~F.pad(batch.text_NT[:, 1:], (0, 1)), switched_S
        faulty_N = ~batch.spans_NT.any(1)
        if self.blind == "pool_all":
            faulty_N = faulty_N | batch.blind_N
        switched_S[batch.source_N[faulty_N]] = True
        return torch.where(switched_S[batch.source_N, None], batch.text_NT, batch.spans_NT), switched_S

    def scales(self, batch: Batch) -> Tensor:
        """w_s = 1 + (w_tox - 1) * t_s, t_s the highest toxicity of the source's negatives, or of the step's."""
        toxicity_N = torch.where(batch.positive_N, torch.zeros_like(batch.toxicity_N), batch.toxicity_N)
        t_S = toxicity_N.new_zeros(batch.sources).scatter_reduce(0, batch.source_N, toxicity_N, "amax")
        if self.toxic_scope == "batch":
            t_S = torch.full_like(t_S, batch.step.toxicity)
        weights_S = 1 + (self.w_tox - 1) * t_S
        toxic_S = batch.contrasted_S & torch.zeros_like(batch.contrasted_S).index_fill(
            0, batch.source_N[batch.toxic_N], True
        )
        if self.w_tox > 1.01:
            self.toxic_sources += int(toxic_S.sum())
            self.scaled_sources += int((weights_S[toxic_S] > 1.01).sum())
        if self.toxic_sources >= TOXIC_SOURCES and not self.scaled_sources:
            raise UserError(
                f"contrastive: {self.toxic_sources} sources with toxic negatives passed and no loss was scaled: their toxicity "
                "is about 0. Score them with a working scorer, leave the score out (it counts as 1), or set w_tox to 1."
            )
        return weights_S


class Head(nn.Module):
    """z = u / |u|, u = W2 GELU(W1 x + b1) + b2, in float32; trained beside the model and not exported."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(hidden, hidden, dtype=torch.float32)
        self.second = nn.Linear(hidden, hidden, dtype=torch.float32)
        nn.init.normal_(self.first.weight, std=0.01)
        nn.init.normal_(self.second.weight, std=1 / hidden)
        nn.init.zeros_(self.first.bias)
        nn.init.zeros_(self.second.bias)

    def forward(self, states_MH: Tensor) -> Tensor:
        """The projection before it is normalised."""
        return self.second(F.gelu(self.first(states_MH)))


def pooled(states_NTH: Tensor, mask_NT: Tensor, head: nn.Module) -> Tensor:
    """Unit vectors (N, H): every selected token is projected and normalised, then averaged, then normalised again."""
    with torch.autocast(states_NTH.device.type, enabled=False):
        z_MH = F.normalize(head(states_NTH[mask_NT].float()), dim=-1)
        rows_M = mask_NT.nonzero()[:, 0]
        # The sum has the direction of the mean, and only the direction is kept.
        return F.normalize(z_MH.new_zeros(len(mask_NT), z_MH.shape[1]).index_add(0, rows_M, z_MH), dim=-1)


@dataclass(frozen=True)
class Terms:
    """Per source: its loss, the best value that loss can take, its value when all vectors coincide, mean cosines."""

    losses_S: Tensor
    best_S: Tensor
    equal_S: Tensor
    cos_positive_S: Tensor
    cos_negative_S: Tensor


def source_losses(vectors_NH: Tensor, batch: Batch, temperature: float, positives_in_denominator: bool) -> Terms:
    """l_s = mean over ordered pairs of positives of -log(e_ij / sum_k e_ik), k over the same source only; 0 where not contrasted."""
    source_N, positive_N, used_S = batch.source_N, batch.positive_N, batch.contrasted_S
    cosine_NN = vectors_NH @ vectors_NH.T
    others_NN = source_N[:, None] == source_N
    others_NN = others_NN.masked_fill(torch.eye(len(source_N), dtype=torch.bool, device=source_N.device), False)
    logits_NN = cosine_NN / temperature
    if positives_in_denominator:
        rows_NN = logits_NN.masked_fill(~others_NN, NEVER).logsumexp(1, keepdim=True)
    else:
        negatives_N1 = logits_NN.masked_fill(~(others_NN & ~positive_N), NEVER).logsumexp(1, keepdim=True)
        rows_NN = torch.logaddexp(logits_NN, negatives_N1)
    pairs_NN = others_NN & positive_N & positive_N[:, None] & used_S[source_N]
    crossed_NN = others_NN & ~positive_N & positive_N[:, None] & used_S[source_N]
    losses_NN = torch.where(pairs_NN, rows_NN - logits_NN, 0.0)

    def by_source(values_N: Tensor) -> Tensor:
        return vectors_NH.new_zeros(batch.sources).index_add(0, source_N, values_N.to(vectors_NH.dtype))

    count_S, crossings_S = by_source(pairs_NN.sum(1)).clamp(min=1), by_source(crossed_NN.sum(1)).clamp(min=1)
    p_S, n_S = by_source(positive_N), by_source(~positive_N)
    peers_S = p_S - 1 if positives_in_denominator else torch.ones_like(p_S)
    return Terms(
        losses_S=by_source(losses_NN.sum(1)) / count_S,
        best_S=(peers_S + n_S * math.exp(-2 / temperature)).log(),
        equal_S=(peers_S + n_S).log(),
        cos_positive_S=by_source((cosine_NN.detach() * pairs_NN).sum(1)) / count_S,
        cos_negative_S=by_source((cosine_NN.detach() * crossed_NN).sum(1)) / crossings_S,
    )


def _share(flag_N: Tensor, among_N: Tensor, batch: Batch) -> Tensor:
    """Per source, the share of the targets in `among_N` for which `flag_N` holds."""
    counts_S2 = torch.zeros(batch.sources, 2, device=flag_N.device)
    counts_S2 = counts_S2.index_add(0, batch.source_N, torch.stack([flag_N & among_N, among_N], dim=1).float())
    return counts_S2[:, 0] / counts_S2[:, 1].clamp(min=1)
