"""Direct preference optimisation on (reference, negative) pairs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from untax.prefix import Batch, Pass
from untax.types import Loss

__all__ = ["dpo"]


def dpo(
    forward: Pass,
    reference: Callable[[Batch], torch.Tensor],
    *,
    beta: float = 0.1,  # strength of the hold on the reference model, eq. 7
    replay_weight: float = 0.0,  # cross-entropy on sources without a negative: replayed rows
) -> Loss:
    """Prefers the reference text to each negative of its source, held to the model that training began with.

    Paper: Rafailov et al. 2023, arXiv 2305.18290, eq. 7: L = mean over pairs of -log sigmoid(beta * margin),
        margin = (log p(y_w) - log p_ref(y_w)) - (log p(y_l) - log p_ref(y_l)), log-probabilities summed over tokens.
    Differs: nothing in the loss (TRL's trajectory to 1e-4). Every negative of a source makes a pair with its reference
        text; prompt and reference text are run once for all of them. The mean is over the pairs of the whole step. With
        `replay_weight` sources without a negative add their cross-entropy, in nats per token of such sources in the step.
    Shapes: runs reference and negative rows; `reference(batch)` gives the frozen model's log-probabilities (N, T).
    Raises: nothing; sources without a negative add nothing unless they are replayed, and a step without any has loss 0.
    """
    pairs = max(1, forward.batch.step.negatives)
    used = forward.only(forward.batch.reference_N | ~forward.batch.positive_N)
    chosen_N, source_N = used.batch.reference_N, used.batch.source_N
    policy_N, frozen_N = used.logps().sum(1), reference(used.batch).sum(1)
    alone_N = chosen_N & ~torch.isin(source_N, source_N[~chosen_N])
    gains_N = beta * (policy_N - frozen_N)  # the implicit reward, up to a term that depends on the prompt only
    rejected_R = gains_N[~chosen_N]
    chosen_R = gains_N[chosen_N][source_N[~chosen_N]]  # one reference a source, in the order of sources
    margins_R = chosen_R - rejected_R
    loss = F.softplus(-margins_R).sum() / pairs
    logs = {
        "L_dpo": loss.item(),
        "rewards_chosen": chosen_R.sum().item() / pairs,
        "rewards_rejected": rejected_R.sum().item() / pairs,
        "rewards_margins": margins_R.sum().item() / pairs,
        "rewards_accuracies": (margins_R > 0).sum().item() / pairs,
    }
    if replay_weight and forward.batch.step.alone_tokens:
        replayed = -policy_N[alone_N].sum() / forward.batch.step.alone_tokens
        loss = loss + replay_weight * replayed
        logs["L_replay"] = replayed.item()
    return Loss(loss, logs)
