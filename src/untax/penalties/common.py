"""What the penalties share: the tensors that training moves, how far each has moved, and the rows that a penalty looks at."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from untax import models
from untax.references import References, Row
from untax.types import UnsupportedTrainer, UserError

__all__ = ["Moved", "check_references", "check_weight", "moved", "rows_of", "thrifty"]


@dataclass(frozen=True)
class Moved:
    """One tensor w that training moves away from w0. Under LoRA w is the adapted weight, w0 + s B A, and w0 the base's own.

    `weight` is the parameter by which log-probabilities are differentiated at w0; `shift` gives w - w0 in its shape, `squared` the squared
    norm of that, for LoRA without forming it. Both are float32 and let gradients through.
    """

    name: str
    weight: nn.Parameter
    shift: Callable[[], Tensor]
    squared: Callable[[], Tensor]


def moved(model: Any) -> list[Moved]:
    """Every tensor that training moves, once each; a full one starts where it is now.

    Raises: UnsupportedTrainer for sharded weights; UserError where nothing is trained, or by an adapter whose update is not s B A.
    """
    _refuse_sharded(model)
    found = _adapted(model) if models.has_adapter(model) else []
    covered = {id(factor) for _, factors in found for factor in factors}
    parts = [part for part, _ in found]
    for name, weight in model.named_parameters():
        if weight.requires_grad and id(weight) not in covered:
            parts.append(_full(name, weight, weight, weight.detach().clone()))
    if not parts:
        raise UserError("no weight of the model can be trained: there is nothing to hold.")
    return parts


def _refuse_sharded(model: Any) -> None:
    if not torch.distributed.is_available():
        return
    from torch.distributed.tensor import DTensor

    if any(isinstance(weight, DTensor) or not weight.numel() for weight in model.parameters()):
        raise UnsupportedTrainer(
            "the weights are sharded over several processes (FSDP, ZeRO-3): l2_sp and ewc would see a piece of each. "
            "Use DDP, or the penalty 'kl_anchor', which asks the model only for what it says."
        )


def _full(name: str, weight: nn.Parameter, at: nn.Parameter, start: Tensor) -> Moved:
    def shift() -> Tensor:
        return weight.float() - start.to(weight.device).float()  # a trainer may have moved the model since

    return Moved(name, at, shift, lambda: shift().square().sum())


def _adapted(model: Any) -> list[tuple[Moved, Sequence[Tensor]]]:
    """What a PEFT adapter changes, each with the trained parameters that it is made of."""
    from peft.tuners.lora import LoraLayer
    from peft.utils.other import ModulesToSaveWrapper

    found: list[tuple[Moved, Sequence[Tensor]]] = []
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            factors = _factors(name, module)
            if any(factor.requires_grad for _, *pair in factors for factor in pair):
                found.append((_low_rank(name, module, factors), [factor for _, *pair in factors for factor in pair]))
        elif isinstance(module, ModulesToSaveWrapper) and module.active_adapters:
            for key, start in module.original_module.named_parameters():
                weight = module.modules_to_save[module.active_adapters[0]].get_parameter(key)
                found.append((_full(f"{name}.{key}", weight, start, start.detach()), [weight]))
    return found


def _factors(name: str, layer: Any) -> list[tuple[float, Tensor, Tensor]]:
    """Scale, B and A of every adapter that is at work in a layer."""
    from peft.tuners.lora.layer import MultiheadAttention, ParamWrapper

    used = [key for key in layer.active_adapters if key in layer.scaling]
    if isinstance(layer, MultiheadAttention | ParamWrapper) or any(key in layer.lora_variant for key in used):
        raise UserError(
            f"{name}: l2_sp and ewc know the update of plain LoRA (s B A), not that of DoRA, of expert stacks or other variants. "
            "Use the penalty 'kl_anchor', or plain LoRA."
        )
    return [
        (float(layer.scaling[key]), layer.lora_embedding_B[key], layer.lora_embedding_A[key])
        if key in layer.lora_embedding_A
        else (float(layer.scaling[key]), layer.lora_B[key].weight, layer.lora_A[key].weight)
        for key in used
    ]


def _low_rank(name: str, layer: Any, factors: Sequence[tuple[float, Tensor, Tensor]]) -> Moved:
    from peft.tuners.lora import Embedding, Linear

    base = layer.get_base_layer().weight
    turned = isinstance(layer, Embedding) or (isinstance(layer, Linear) and layer.fan_in_fan_out)

    def pair() -> tuple[Tensor, Tensor]:
        b_OR = torch.cat([scale * b.float().flatten(1) for scale, b, _ in factors], dim=1)
        return b_OR, torch.cat([a.float().flatten(1) for _, _, a in factors])

    def shift() -> Tensor:
        b_OR, a_RI = pair()
        return ((b_OR @ a_RI).T if turned else b_OR @ a_RI).reshape(base.shape)

    def squared() -> Tensor:
        b_OR, a_RI = pair()
        return ((b_OR.T @ b_OR) * (a_RI @ a_RI.T)).sum()

    return Moved(name, base, shift, squared)


def rows_of(references: Mapping[str, References], *, method: str, seed: int) -> list[Row]:
    """The rows of all sets, in an order that depends on the seed alone.

    Raises: UserError for no rows, or rows that are not tokenised yet.
    """
    for name, held in references.items():
        if not isinstance(held, References):
            raise UserError(
                f"penalty '{method}', references '{name}': a {type(held).__name__}; untax.references.read(name, rows, tokenizer) "
                "makes references of rows."
            )
    rows = [row for held in references.values() for row in held.rows]
    if not rows:
        raise UserError(f"penalty '{method}' needs reference rows: texts whose answers must not change.")
    random.Random(seed).shuffle(rows)
    return rows


def check_references(references: Mapping[str, Any], method: str) -> None:
    """Refuse no sets at all, which a recipe can be told of before any work. Raises: UserError."""
    if not references:
        raise UserError(
            f"penalty '{method}' needs reference rows, and has no set of them: texts whose answers must not change."
        )


def check_weight(weight: float, method: str) -> float:
    """The weight, if it is one. Raises: UserError."""
    if not math.isfinite(weight) or weight < 0:
        raise UserError(f"penalty '{method}': weight is {weight}; it must be 0 or more.")
    return weight


def thrifty(value: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """A value whose gradient is worked out anew in the backward pass, so that nothing the size of a weight is kept until then."""
    result: Tensor = checkpoint(value, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result
