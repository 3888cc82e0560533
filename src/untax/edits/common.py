"""What edits share: the result, the check that two models belong together, and one mixing of weights with its audit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from untax.edits.projection import LAST, Projection, head_name
from untax.types import RecipeError, UserError

__all__ = [
    "Edited",
    "adapter_base",
    "belong_together",
    "blocks_of",
    "check_ratio",
    "depth_of",
    "mixed",
    "not_linear",
    "projected",
]

#: the last part of a module's name by which a norm is known: input_layernorm, norm, q_norm, ln_1, ln_f
NORM = re.compile(r"norm|^ln(_|\d|$)")


@dataclass(frozen=True)
class Edited:
    """An edited state dict, and what was done to it: plain numbers, texts and lists of them.

    With a `projection` of the last hidden state it is folded into the state's output matrix, which an embedding then no longer
    shares; with one of an inner layer the state is as it was, and the projection has to be applied while the model is used.
    """

    state: dict[str, Tensor]
    audit: dict[str, Any]
    projection: Projection | None = None


def check_ratio(name: str, value: Any) -> float:
    """A share of the base between 0 and 1. Raises: RecipeError for anything else."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise RecipeError(f"{name} is {value!r}; it must be a number from 0 (the tuned model) to 1 (the base).")
    return float(value)


def belong_together(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> None:
    """Refuse two state dicts that are not of one architecture. Raises: UserError that names what differs."""
    for here, there, where in ((base, tuned, "base"), (tuned, base, "tuned model")):
        alone = [name for name in here if name not in there]
        if alone:
            raise UserError(
                f"base and tuned model are not of one architecture: {len(alone)} tensors only in the {where} (first: {alone[0]}). "
                "Give the model that the tuned one was trained from."
            )
    for name, tensor in tuned.items():
        if base[name].shape != tensor.shape:
            raise UserError(
                f"{name} has the shape {tuple(base[name].shape)} in the base and {tuple(tensor.shape)} in the tuned model. "
                "Give the model that the tuned one was trained from (a vocabulary that grew cannot be averaged)."
            )


# --------------------------------------------------------------------------- layers


def blocks_of(names: Iterable[str], count: int) -> dict[str, int]:
    """The block, from 0, of every weight that lies in a layer and is no norm: layer l of L is in block l * count // L.

    Raises: UserError for more blocks than layers, or names without a layer's number.
    """
    layers = _layers(names)
    depth = 1 + max(layers.values(), default=-1)
    if not 1 <= count <= depth:
        raise UserError(
            f"{count} blocks were asked for and the model has {depth} layers: at least one, at most one a layer."
        )
    return {
        name: layer * count // depth for name, layer in layers.items() if not any(map(NORM.search, name.split(".")))
    }


def depth_of(names: Iterable[str]) -> int:
    """How many layers the model with these tensors has."""
    return 1 + max(_layers(names).values(), default=-1)


def _layers(names: Iterable[str]) -> dict[str, int]:
    """The layer of every tensor of the largest stack of layers."""
    found = {name: place for name in names if (place := _place(name)) is not None}
    stacks = Counter(stack for stack, _ in found.values())
    main = max(stacks, key=lambda stack: stacks[stack]) if stacks else ""
    return {name: layer for name, (stack, layer) in found.items() if stack == main}


def _place(name: str) -> tuple[str, int] | None:
    """The stack of layers that a weight lies in and its layer: the first number of its dotted name."""
    parts = name.split(".")
    at = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return None if at is None else (".".join(parts[:at]), int(parts[at]))


# --------------------------------------------------------------------------- adapters


def not_linear(names: Iterable[str]) -> str:
    """Why an adapter's change is not proportional to its B factors, by the names of its tensors; empty where it is."""
    for name in names:
        if "magnitude" in name:
            return "it is a DoRA adapter, which rescales the base's weights"
        if "lora_" not in name:
            return f"it holds whole weights beside its factors ({name})"
    return ""


def adapter_base(adapter: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The base as an adapter sees it: the same A, and B = 0, for A and B multiply.

    Raises: UserError where scaling B would not be the same as averaging the weights.
    """
    why = not_linear(adapter)
    if why or not any("_B" in name for name in adapter):
        raise UserError(
            f"this adapter cannot be averaged with its base by scaling it: {why or 'it has no lora_B'}. "
            "Merge it into its base and edit the whole model."
        )
    return {name: torch.zeros_like(tensor) if _is_b(name) else tensor for name, tensor in adapter.items()}


def _is_b(name: str) -> bool:
    return "lora_B" in name or "lora_embedding_B" in name


# --------------------------------------------------------------------------- projections


def projected(model: Any, tuned: Mapping[str, Tensor], projection: Projection, audit: Mapping[str, Any]) -> Edited:
    """The tuned state with the projection in its output matrix, where it is one of the last hidden state.

    Raises: UserError for a state dict that is not the model's, or an output layer that is not linear.
    """
    state = dict(tuned)
    if projection.layer == LAST:
        name = head_name(model)
        if name not in state:
            raise UserError(
                f"the weights hold no {name}: give the state dict of the whole model that is given beside it."
            )
        state[name] = projection.folded(state[name])
    rank, width = projection.basis_RH.shape
    told = {"layer": projection.layer, "removed": rank, "width": width, "trace": width - rank}
    return Edited(state, {**audit, **told}, projection)


# --------------------------------------------------------------------------- mixing


def mixed(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], ratio: Callable[[str], float]) -> Edited:
    """Every weight as ratio * base + (1 - ratio) * tuned in float32, saved in the tuned model's dtype.

    Ratio 0 copies the tuned tensor bit for bit, 1 the base's; where the two agree nothing changes; tensors that shared memory share
    it again; integer buffers are copied. Audit: `relative_edit` = |edited - tuned| / |tuned - base| over all weights;
    `changed_by_tuning` and `changed_by_edit` are shares of all weights; `rounded_to_tuned` and `rounded_to_base` are shares of
    the weights that tuning changed and that were to lie between the two, and `lost_on_rounding` is their sum.
    Raises: UserError for models that do not belong together, weights that are quantised, or that are not finite afterwards.
    """
    belong_together(base, tuned)
    state: dict[str, Tensor] = {}
    shared: dict[tuple[Any, ...], str] = {}
    sums: Counter[str] = Counter()
    for name, tensor in tuned.items():
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        twin = shared.setdefault(place, name) if tensor.numel() else name
        if twin != name:
            if not torch.equal(base[twin], base[name]) or ratio(twin) != ratio(name):
                raise UserError(f"{twin} and {name} are one tensor in the tuned model, and not in the base.")
            state[name] = state[twin]
        elif not tensor.is_floating_point():
            _refuse_quantised(name, base[name], tensor)
            sums["copied_buffers"] += 1
            state[name] = tensor.detach().cpu().clone()
        else:
            state[name] = _mix(name, base[name].detach().cpu(), tensor.detach().cpu(), ratio(name), sums)
    return Edited(state, _audit(sums))


def _mix(name: str, old: Tensor, new: Tensor, ratio: float, sums: Counter[str]) -> Tensor:
    wide = torch.promote_types(new.dtype, torch.float32)
    old_wide, new_wide = old.to(wide), new.to(wide)
    moved = old_wide != new_wide
    if ratio in (0, 1):
        result = (old if ratio == 1 else new).to(new.dtype, copy=True)
    else:
        result = torch.where(moved, ratio * old_wide + (1 - ratio) * new_wide, new_wide).to(new.dtype)
        sums["between"] += int(moved.sum())
        sums["rounded_to_tuned"] += int((moved & (result == new)).sum())
        sums["rounded_to_base"] += int((moved & (result.to(wide) == old_wide) & (result != new)).sum())
    if not bool(torch.isfinite(result[moved]).all()):
        raise UserError(
            f"{name}: the edited weights are not finite. Base or tuned model is damaged, or {new.dtype} overflows."
        )
    sums["weights"] += new.numel()
    sums["tuned"] += int(moved.sum())
    sums["edited"] += int((result != new).sum())
    sums["tau2"] += float((new_wide - old_wide)[moved].double().square().sum())  # type: ignore[assignment]
    sums["edit2"] += float((result.to(wide) - new_wide)[moved].double().square().sum())  # type: ignore[assignment]
    return result


def _refuse_quantised(name: str, old: Tensor, new: Tensor) -> None:
    if new.ndim >= 2 and not torch.equal(old.cpu(), new.cpu()):
        raise UserError(
            f"{name} holds {new.dtype} numbers: quantised weights cannot be averaged. Load both models unquantised."
        )


def _audit(sums: Mapping[str, float]) -> dict[str, Any]:
    def share(part: float, whole: float) -> float:
        return part / whole if whole else 0.0

    tuned, edited = sums["rounded_to_tuned"], sums["rounded_to_base"]
    return {
        "relative_edit": share(sums["edit2"] ** 0.5, sums["tau2"] ** 0.5),
        "tuning_norm": sums["tau2"] ** 0.5,
        "edit_norm": sums["edit2"] ** 0.5,
        "weights": sums["weights"],
        "changed_by_tuning": share(sums["tuned"], sums["weights"]),
        "changed_by_edit": share(sums["edited"], sums["weights"]),
        "lost_on_rounding": share(tuned + edited, sums["between"]),
        "rounded_to_tuned": share(tuned, sums["between"]),
        "rounded_to_base": share(edited, sums["between"]),
        "copied_buffers": sums["copied_buffers"],
        "sign_conflict": "not applicable",
    }
