"""Prefixed streams the slow way: every row alone, every prefix alone, no padding, no cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from untax import models


def logits(model: Any, row: Sequence[int]) -> Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([list(row)]), use_cache=False).logits[0]


def behind(model: Any, tokenizer: Any, text: str, row: Sequence[int], opening: Sequence[int] = (0,)) -> Tensor:
    """Logits (T, V) of a row behind a prefix, the opening token in front of both."""
    ids, m = list(tokenizer(text, add_special_tokens=False)["input_ids"]), len(opening)
    opens = list(row[:m]) == list(opening)
    whole = [*row[:m], *ids, *row[m:]] if opens else [*ids, *row]
    return logits(model, whole)[len(ids) :]


def self_debiased(model: Any, tokenizer: Any, texts: Sequence[str], row: Sequence[int], decay=50.0, epsilon=0.01, **where) -> Tensor:  # fmt: skip
    """log q (T, V) as the paper writes it, in float64."""
    p = logits(model, row).double().softmax(-1)
    p_k = [behind(model, tokenizer, text, row, **where).double().softmax(-1) for text in texts]
    distance = p - torch.stack(p_k).max(0).values
    factor = torch.where(distance >= 0, 1.0, (decay * distance).exp().maximum(torch.tensor(epsilon, dtype=p.dtype)))
    return (factor * p / (factor * p).sum(-1, keepdim=True)).log()


def instructed(model: Any, tokenizer: Any, texts: Sequence[str], row: Sequence[int], **where) -> Tensor:
    return behind(model, tokenizer, texts[0], row, **where).double().log_softmax(-1)


def greedy(distribution: Any, row: Sequence[int], steps: int, end: int = 0) -> list[int]:
    """The likeliest continuation, every step from the beginning."""
    new: list[int] = []
    for _ in range(steps):
        token = int(distribution([*row, *new])[-1].argmax())
        if token == end:
            break
        new.append(token)
    return new


def total(log_q_TV: Tensor, row: Sequence[int]) -> float:
    """The log-probability of a row's tokens behind its first."""
    return float(log_q_TV[range(len(row) - 1), list(row[1:])].sum())


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    return models.decoded(tokenizer, ids)
