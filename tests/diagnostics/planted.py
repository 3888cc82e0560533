"""Tiny language models whose next-token probabilities are chosen by hand."""

import copy
from typing import Any

import torch

import tiny


def exact(model: Any) -> Any:
    """The model in float64, so that formulas hold to the last digits."""
    return model.double().eval()


def headed(model: Any, *, bias: Any = None, scale: float = 1.0) -> Any:
    """A copy whose output layer stands alone: every logit multiplied, then a bias of its own added."""
    other = copy.deepcopy(model)
    old = model.get_output_embeddings().weight
    head = torch.nn.Linear(old.shape[1], old.shape[0], dtype=old.dtype)
    with torch.no_grad():
        head.weight.copy_(old * scale)
        head.bias.zero_()
        for token, value in (bias or {}).items():
            head.bias[token] = value
    other.lm_head = head
    return other.eval()


def constant(shares: dict[int, float]) -> Any:
    """A model that gives the named tokens these probabilities after any text, and all others next to none."""
    model = headed(exact(tiny.llama()), scale=0.0)
    with torch.no_grad():
        model.lm_head.bias.fill_(-1e4)
        for token, share in shares.items():
            model.lm_head.bias[token] = torch.tensor(share, dtype=torch.float64).log()
    return model


def probabilities(model: Any, ids: list[int], opening: list[int]) -> torch.Tensor:
    """Softmax (T, V) at the positions that predict `ids`, without any of the code under test."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*opening, *ids]])).logits[0]
    return logits[len(opening) - 1 : -1].softmax(-1)
