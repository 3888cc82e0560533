"""Supervised fine-tuning on the references: the control that every other objective is compared with."""

from __future__ import annotations

from untax.prefix import Pass
from untax.types import Loss

__all__ = ["sft"]


def sft(forward: Pass) -> Loss:
    """Cross-entropy on the reference only: what training on clean text gains and costs without any contrast.

    Paper: the likelihood term of Korkmaz et al. 2025, arXiv 2505.19327, with their contrastive weight at 0; also the
        SFT-only control that their table lacks. L = sum over reference tokens of -log p(y_t | x, y_<t) / their number.
    Differs: the first target token and EOS are trained (the released code trains neither), and the sum is divided by the
        reference tokens of the whole optimiser step, so that gradient accumulation changes nothing.
    Shapes: reads reference rows of `forward` only; the other targets are not run.
    Raises: nothing.
    """
    reference = forward.only(forward.batch.reference_N)
    loss = -reference.logps().sum() / forward.batch.step.reference_tokens
    return Loss(loss, {"L_ce": loss.item()})
