"""Which weights a training moved, how far and in how many directions: per tensor, per kind of module and per layer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from untax import models
from untax.diagnostics import movement
from untax.diagnostics.backward import kind_of, layer_of
from untax.types import UserError

__all__ = ["layers", "Moved", "layers_of_folders", "summed"]  # noqa: RUF022 (the method first)

#: numbers in a matrix beyond which its singular values are not computed
LARGEST = 4 * 2**20


@dataclass(frozen=True)
class Moved:
    """One tensor, or several together: |dW| and |W| (Frobenius, W before), their ratio, and the share of all squared movement.

    `effective_rank` is exp of the entropy of dW's normalised singular values, `stable_rank` |dW|^2 over the largest squared one; NaN,
    with the reason in `note`, for vectors, what did not move, and matrices of more than `largest` numbers. Of several tensors the
    ranks are means weighted by squared movement; `unranked` counts tensors that moved and have none.
    """

    name: str
    layer: int | None
    kind: str
    moved: float
    norm: float
    relative: float
    share: float
    effective_rank: float
    stable_rank: float
    numbers: int
    tensors: int = 1
    unranked: int = 0
    note: str = ""


def layers(
    before: Any | None,
    after: Any,
    *,
    largest: int = LARGEST,  # numbers in a matrix beyond which its ranks are left out
) -> list[Moved]:
    """See where a training changed the model: every weight with how far it moved, those that moved most first.

    `before=None` is the model after without its adapter: a LoRA's change s B A is read off its factors, no large matrix is formed,
    and only the weights that it touches are listed. `summed` adds tensors up by layer or by kind of module. Known weakness: a large
    movement need not matter, nor a small one be harmless.

    Paper: effective rank: Roy and Vetterli 2007, EUSIPCO; low rank of fine-tuning: Hu et al. 2021, arXiv 2106.09685
    Differs: nothing; weights of more than two dimensions are read as the first against all others
    Shapes: two models of one architecture, or one under a LoRA -> one `Moved` per tensor; shares add up to 1
    Raises: UserError for models without a weight in common, adapters that are more than factors, or weights that are not finite
    """
    if models.has_adapter(after):
        if before is not None and not movement.same_base(before, after):
            raise UserError("The adapter lies over another base than the model before; merge it, or give before=None.")
        return _finished(_moved(*each, largest) for each in movement.of_adapter(after))
    if before is None:
        raise UserError("Where a model moved needs the model before: the one given has no adapter to switch off.")
    old, new = ({name: p.detach() for name, p in model.named_parameters()} for model in (before, after))
    return _compared(old, new, lambda side, name: side[name], largest)


def layers_of_folders(base_dir: str | Path, tuned_dir: str | Path, *, largest: int = LARGEST) -> list[Moved]:
    """`layers` of two model folders, or of a base's and an adapter's, read tensor by tensor: neither model is loaded.

    Raises: UserError as `layers`, and for a folder without safetensors.
    """
    with ExitStack() as stack:
        base, tuned = (movement.stored(Path(folder), stack) for folder in (base_dir, tuned_dir))
        if (Path(tuned_dir) / "adapter_config.json").is_file():
            return _finished(_moved(*each, largest) for each in movement.of_folder(base, tuned, Path(tuned_dir)))
        return _compared(base, tuned, lambda side, name: side[name].get_tensor(name), largest)


def summed(moved: Iterable[Moved], by: Literal["layer", "kind", "all"]) -> list[Moved]:
    """Tensors added up: one entry per layer (those outside layers by kind), per kind of module, or one for the whole model."""
    groups: dict[str, list[Moved]] = defaultdict(list)
    for one in moved:
        inside = one.kind if one.layer is None else f"layer {one.layer}"
        groups[{"layer": inside, "kind": one.kind, "all": "all"}[by]].append(one)
    return [_together(name, many, by) for name, many in groups.items()]


def _together(name: str, many: Sequence[Moved], by: str) -> Moved:
    ranked = [one for one in many if not math.isnan(one.effective_rank)]
    known = [one for one in many if not math.isnan(one.moved)]
    weight = sum(one.moved**2 for one in ranked) or math.nan
    moved = math.sqrt(sum(one.moved**2 for one in known))
    norm = math.sqrt(sum(one.norm**2 for one in known))
    return Moved(
        name=name, layer=many[0].layer if by == "layer" else None, kind=name if by != "layer" else "", moved=moved, norm=norm,
        relative=_ratio(moved, norm), share=sum(one.share for one in known),
        effective_rank=sum(one.moved**2 * one.effective_rank for one in ranked) / weight,
        stable_rank=sum(one.moved**2 * one.stable_rank for one in ranked) / weight,
        numbers=sum(one.numbers for one in known), tensors=len(many), unranked=sum(one.unranked for one in many),
        note=f"{len(many) - len(known)} could not be compared" if len(known) < len(many) else "",
    )  # fmt: skip


# --------------------------------------------------------------------------- one tensor


def _compared(
    before: Mapping[str, Any], after: Mapping[str, Any], read: Callable[[Mapping[str, Any], str], Tensor], largest: int
) -> list[Moved]:
    shared = [name for name in after if name in before]
    if not shared:
        raise UserError("The two models have no weight of one name in common: they are of two architectures.")
    found = []
    for name in shared:
        old, new = read(before, name), read(after, name)
        if old.shape != new.shape:
            found.append(_unknown(name, f"its shape changed from {tuple(old.shape)} to {tuple(new.shape)}"))
        elif old.is_floating_point() and new.is_floating_point():
            wide = old.double()
            found.append(_moved(name, float(wide.norm()), new.to(wide.device).double() - wide, largest))
    for mine, other, where in ((after, before, "after"), (before, after, "before")):
        found += [_unknown(name, f"only in the model {where}") for name in mine if name not in other]
    return _finished(found)


def _unknown(name: str, why: str) -> Moved:
    nan = math.nan
    return Moved(name, layer_of(name), kind_of(name), nan, nan, nan, nan, nan, nan, 0, note=why)


def _moved(name: str, norm: float, change: movement.Change, largest: int) -> Moved:
    """One tensor from |W| and its change; its share is filled in when all are known."""
    if not (math.isfinite(norm) and movement.finite(change)):
        raise UserError(f"{name} holds numbers that are not finite: the model is damaged.")
    far, values, note = movement.measured(change, largest)
    effective, stable = (math.nan, math.nan) if note else movement.ranks(values)
    return Moved(
        name=name, layer=layer_of(name), kind=kind_of(name), moved=far, norm=norm, relative=_ratio(far, norm), share=math.nan,
        effective_rank=effective, stable_rank=stable, numbers=change.numel(), unranked=int(bool(far) and bool(note)), note=note,
    )  # fmt: skip


def _ratio(moved: float, norm: float) -> float:
    return moved / norm if norm else (0.0 if not moved else math.inf)


def _finished(found: Iterable[Moved]) -> list[Moved]:
    """The tensors with their shares of all squared movement, those that moved most first and those without a figure last."""
    moved = list(found)
    total = sum(one.moved**2 for one in moved if not math.isnan(one.moved))
    shared = [replace(one, share=one.moved**2 / total if total else one.moved) for one in moved]
    return sorted(
        shared, key=lambda one: (math.isnan(one.moved), 0.0 if math.isnan(one.moved) else -one.share, one.name)
    )
