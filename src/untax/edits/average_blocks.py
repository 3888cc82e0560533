"""A share of the base for each block of layers, searched on texts of the tuned model at a fixed mean share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from untax.edits.common import Edited, adapter_base, belong_together, blocks_of, check_ratio, mixed
from untax.references import References, Row, nll, still
from untax.types import RecipeError, UserError

__all__ = ["average_blocks"]


def average_blocks(
    base: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    *,
    model: Any,  # the module that gives logits; tensors that the states do not name stay as they are in it
    references: Mapping[
        str, References
    ],  # proxy texts: the tuned model's own answers to prompts like those it was tuned on
    towards_base: float = 0.2,  # a: mean share of the base over the blocks; that of embeddings, norms and head
    blocks: int = 3,  # K, blocks of layers of equal depth
    eps: float = 0.2,  # keeps every block's share above 0 and below towards_base * K
    learning_rate: float = 1e-2,  # of Adam on the K numbers r_b (released code: 2e-5, each number stepped 56 to 70 times)
    steps: int = 200,  # optimiser steps; the texts are gone through as often as that needs
    batch_size: int = 8,  # texts a step
    weight_by_size: bool = False,  # the mean weighs a block by its number of weights
    seed: int = 0,  # order of the texts
    adapter: bool = False,  # `tuned` is a LoRA's state dict and `base` is not read: B is scaled, block by block
) -> Edited:
    """Give back more of the base where the tuned model's answers do not need it: the same mean share, less safety lost for it.

    Paper: Lin et al. 2023, arXiv 2309.06256 (HMA): max over a_b of the likelihood of the tuned model's answers, with mean a_b = a,
        a_b = a (s(r_b) + eps) / mean (s(r) + eps), s the logistic function, r_b = logit(a) at the start. a = eps = 0.2, r =
        (logit 0.2, 2, -2): (0.133333, 0.360266, 0.106401).
    Differs: the released code hands a shared number to the optimiser once per linear layer, so that blocks learn at different speeds;
        merges linear layers only, so that 0 does not return the tuned model; lets a_b leave 0..1; and pulls layers towards a with
        weights written for one model. Here each number is stepped once, everything is merged, the shares are projected onto {mean =
        a, 0 <= a_b <= 1}, and nothing pulls. Blocks are equally deep (released code: splits at layers 8 and 16 of 26).
    Shapes: two state dicts of one architecture, the result like `tuned`. Holds both, a merged copy and its gradient at once.
    Raises: RecipeError for options out of range; UserError without a text, a layer, or a finite loss.
    """
    mean = check_ratio("average_blocks: towards_base", towards_base)
    for name, value, least in (("eps", eps, 0), ("learning_rate", learning_rate, 0), ("steps", steps, 1), ("batch_size", batch_size, 1)):  # fmt: skip
        if value < least:
            raise RecipeError(f"average_blocks: {name} is {value}; it must be at least {least}.")
    rows = [row for one in references.values() for row in one.rows]
    if not rows:
        raise UserError("average_blocks needs texts that the tuned model wrote: give references to search on.")
    if adapter:
        base = adapter_base(tuned)
    belong_together(base, tuned)
    of_block = blocks_of(tuned, blocks)
    sizes = [float(sum(tuned[name].numel() for name, b in of_block.items() if b == i)) for i in range(blocks)]
    weights_K = torch.tensor(sizes if weight_by_size else [1.0] * blocks)
    weights_K /= weights_K.sum()
    merged = _Merged(model, base, tuned, of_block, mean)
    with still(model):
        equal_K = torch.full((blocks,), mean)
        before = _loss(merged, equal_K, rows, batch_size)
        shares_K = equal_K
        if 0 < mean < 1:
            r_K = torch.nn.Parameter(torch.logit(equal_K))
            optimiser = torch.optim.Adam([r_K], lr=learning_rate)
            for batch in _batches(rows, batch_size, steps, seed):
                loss, tokens = nll(merged.at(shares(r_K, mean, eps, weights_K)), batch)
                if not torch.isfinite(loss):
                    raise UserError(
                        "average_blocks: the loss on the texts is not finite; base or tuned model is damaged."
                    )
                (r_K.grad,) = torch.autograd.grad(loss / tokens, r_K)
                optimiser.step()
            shares_K = shares(r_K.detach(), mean, eps, weights_K)
        after = _loss(merged, shares_K, rows, batch_size)
    found = [float(share) for share in shares_K]
    edited = mixed(base, tuned, lambda name: found[of_block[name]] if name in of_block else mean)
    told = {"towards_base": mean, "per_block": found, "loss_equal": before, "loss_found": after, "adapter": adapter}
    return Edited(edited.state, {**told, **edited.audit})


def shares(r_K: Tensor, mean: float, eps: float, weights_K: Tensor) -> Tensor:
    """a_b of each block, projected onto {sum w_b a_b = mean, 0 <= a_b <= 1}: the nearest point, by one shift of what is not at a bound."""
    raw_K = r_K.sigmoid() + eps
    raw_K = mean * raw_K / (weights_K * raw_K).sum()
    with torch.no_grad():
        low, high = -raw_K.max(), 1 - raw_K.min()
        for _ in range(60):
            middle = (low + high) / 2
            too_low = (weights_K * (raw_K + middle).clamp(0, 1)).sum() < mean
            low, high = (middle, high) if too_low else (low, middle)
        free_K = ((raw_K + high) > 0) & ((raw_K + high) < 1)
        held = (weights_K * (raw_K + high).clamp(0, 1))[~free_K].sum()
    if not bool(free_K.any()):
        return (raw_K + high).clamp(0, 1)
    # the shift once more, now as a function of r, so that its gradient is that of the projection
    shift = (mean - held - (weights_K * raw_K)[free_K].sum()) / weights_K[free_K].sum()
    return (raw_K + shift).clamp(0, 1)


class _Merged:
    """The merged model as a function of the shares: reads like a model to what takes losses of rows."""

    def __init__(
        self,
        model: Any,
        base: Mapping[str, Tensor],
        tuned: Mapping[str, Tensor],
        of_block: Mapping[str, int],
        mean: float,
    ) -> None:
        self.model, self.of_block, self.mean = model, of_block, mean
        where = {name: p.device for name, p in model.named_parameters() if name in tuned}
        self.tuned = {name: tuned[name].to(device, torch.float32) for name, device in where.items()}
        self.back = {name: base[name].to(device, torch.float32) - self.tuned[name] for name, device in where.items()}
        if not any(name in where for name in of_block):
            raise UserError("average_blocks: the model has none of the weights that lie in the blocks.")
        self.weights: dict[str, Tensor] = {}

    def at(self, shares_K: Tensor) -> _Merged:
        for name, tuned in self.tuned.items():
            share = shares_K[self.of_block[name]] if name in self.of_block else self.mean
            self.weights[name] = tuned + share * self.back[name]
        return self

    def parameters(self) -> Iterator[Tensor]:
        return iter(self.model.parameters())

    def __call__(self, **inputs: Any) -> Any:
        return functional_call(self.model, self.weights, (), inputs)


def _batches(rows: Sequence[Row], size: int, steps: int, seed: int) -> Iterator[list[Row]]:
    """`steps` batches: the rows in one order of the seed after another."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for _ in range(steps):
        while len(order) < min(size, len(rows)):
            order += torch.randperm(len(rows), generator=generator).tolist()
        yield [rows[i] for i in order[:size]]
        order = order[size:]


@torch.no_grad()
def _loss(merged: _Merged, shares_K: Tensor, rows: Sequence[Row], size: int) -> float:
    """Nats per token that counts, over all rows."""
    parts = [nll(merged.at(shares_K), rows[i : i + size]) for i in range(0, len(rows), size)]
    return sum(float(loss) for loss, _ in parts) / sum(tokens for _, tokens in parts)
