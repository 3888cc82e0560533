"""What a change of weights is made of: singular values of a difference or of a LoRA's factors, in memory or in files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from untax.types import UserError

__all__ = ["LowRank", "finite", "measured", "of_adapter", "of_folder", "ranks", "same_base", "stored"]

PREFIX = "base_model.model."
UNMOVED = "did not move"


@dataclass(frozen=True)
class LowRank:
    """A change up (out, r) times down (r, in), scaled already; the product is never formed."""

    up: Tensor
    down: Tensor

    def numel(self) -> int:
        """How many numbers the product would have."""
        return self.up.shape[0] * self.down.shape[1]


Change = Tensor | LowRank


def finite(change: Change) -> bool:
    """Whether every number of a change is one."""
    parts = (change.up, change.down) if isinstance(change, LowRank) else (change,)
    return all(bool(torch.isfinite(part).all()) for part in parts)


def measured(change: Change, largest: int) -> tuple[float, Tensor, str]:
    """Frobenius norm and singular values (float64) of a change, or none of these and the reason why.

    Without: what did not move, vectors, and full matrices of more than `largest` numbers.
    """
    if isinstance(change, LowRank):
        up, down = (torch.linalg.qr(side.double()).R for side in (change.up, change.down.T))
        values = torch.linalg.svdvals(up @ down.T)
        far = float(values.norm())
        return far, values, "" if far else UNMOVED
    far, none = float(change.double().norm()), change.new_empty(0)
    if not far:
        return far, none, UNMOVED
    if change.dim() < 2:
        return far, none, "a vector has no rank"
    if change.numel() > largest:
        return far, none, f"more than {largest:,} numbers: ranks left out"
    matrix = change.double().reshape(change.shape[0], -1)
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    # the Gram matrix of the shorter side costs a tenth of a decomposition; what lies below its rounding is none
    squares = torch.linalg.eigvalsh(matrix @ matrix.T)
    floor = len(squares) * torch.finfo(squares.dtype).eps * float(squares.abs().max())
    return far, torch.where(squares > floor, squares, 0.0).sqrt(), ""


def ranks(values: Tensor) -> tuple[float, float]:
    """Effective rank exp(H) of the normalised singular values, and stable rank. By hand: 3, 3, 3, 0 has 3 and 3; 2, 1 has
    exp(-2/3 ln 2/3 - 1/3 ln 1/3) = 1.8899 and (4 + 1) / 4 = 1.25."""
    shares = values[values > 0] / values.sum()
    return float(torch.exp(-(shares * shares.log()).sum())), float((values**2).sum() / values.max() ** 2)


# --------------------------------------------------------------------------- adapters


def of_adapter(model: Any) -> Iterator[tuple[str, float, Change]]:
    """Name, |W| of the base and the change, for every weight that the active adapters of a loaded PEFT model touch.

    Raises: UserError for adapters that are not plain LoRA, or that have been merged.
    """
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

    active = list(model.active_adapters)
    for adapter in active:
        _check_plain({key: value for key, value in model.peft_config[adapter].to_dict().items()}, adapter)
    for name, module in model.named_modules():
        plain = name.removeprefix(PREFIX)
        if isinstance(module, LoraLayer):
            if module.merged_adapters:
                raise UserError(f"{plain}: the adapter is merged into its base; unmerge it first (unmerge_adapter).")
            change = _change(module, active)
            if change is not None:
                yield f"{plain}.weight", _norm(module.get_base_layer().weight), change
        elif isinstance(module, ModulesToSaveWrapper):
            for adapter in active:
                if adapter in module.modules_to_save:
                    new = dict(module.modules_to_save[adapter].named_parameters())
                    for part, old in module.original_module.named_parameters():
                        yield f"{plain}.{part}", _norm(old), new[part].detach().double() - old.detach().double()


def _check_plain(config: Mapping[str, Any], where: str) -> None:
    kind = str(config.get("peft_type", "")).rpartition(".")[2]
    odd = [key for key in ("use_dora", "lora_bias", "trainable_token_indices", "target_parameters") if config.get(key)]
    if kind != "LORA" or odd:
        what = f"it uses {', '.join(odd)}" if kind == "LORA" else f"it is of the kind {kind or 'unknown'}"
        raise UserError(
            f"The adapter '{where}' is more than LoRA's factors ({what}). Merge it and compare the whole models."
        )


def _change(layer: Any, active: list[str]) -> Change | None:
    """The change that all active adapters make to one layer together."""
    mine = [adapter for adapter in active if adapter in layer.lora_A]
    if mine and layer.lora_A[mine[0]].weight.dim() > 2:
        return torch.stack([layer.get_delta_weight(adapter).detach().double() for adapter in mine]).sum(0)
    ups, downs = [], []
    for adapter in active:
        if adapter in layer.lora_A:
            up, down = layer.lora_B[adapter].weight, layer.lora_A[adapter].weight
        elif adapter in layer.lora_embedding_A:
            up, down = layer.lora_embedding_B[adapter], layer.lora_embedding_A[adapter]
        else:
            continue
        ups.append(layer.scaling[adapter] * up.detach().double())
        downs.append(down.detach().double())
    return LowRank(torch.cat(ups, 1), torch.cat(downs)) if ups else None


def _norm(weight: Tensor) -> float:
    return float(weight.detach().double().norm())


def same_base(before: Any, after: Any) -> bool:
    """Whether the model under an adapter has the weights of `before`, bit for bit."""
    under = {
        name.removeprefix(PREFIX).replace(".base_layer.", ".").replace(".original_module.", "."): weight
        for name, weight in after.named_parameters()
    }
    return all(name in under and torch.equal(weight, under[name]) for name, weight in before.named_parameters())


# --------------------------------------------------------------------------- folders


def stored(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Every tensor of a folder's safetensors by name, and the open file that can read it.

    Raises: UserError when there are none, or they are not whole.
    """
    from safetensors import SafetensorError, safe_open

    adapter = folder / "adapter_model.safetensors"
    paths = [adapter] if (folder / "adapter_config.json").is_file() else sorted(folder.glob("*.safetensors"))
    if not paths or not all(path.is_file() for path in paths):
        raise UserError(f"{folder} holds no weights in safetensors: it is no model folder.")
    found = {}
    for path in paths:
        try:
            opened = stack.enter_context(safe_open(path, framework="pt"))
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is not a whole safetensors file ({error}). Copy or save it again.") from error
        found.update(dict.fromkeys(opened.keys(), opened))
    return found


def of_folder(base: Mapping[str, Any], adapter: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, float, Change]]:
    """`of_adapter` from files: the base's tensors, the adapter's, and the adapter's configuration.

    Raises: UserError as `of_adapter`, for ranks that differ by layer, and for a weight that the base does not have.
    """
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    _check_plain(config, str(folder))
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        raise UserError(f"{folder}: its rank differs by layer; load base and adapter and compare them with `layers`.")
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    for name, opened in adapter.items():
        plain = name.removeprefix(PREFIX)
        if ".lora_B" in plain or ".lora_embedding_B" in plain:
            continue
        own = plain
        for mark in (".lora_A.weight", ".lora_embedding_A"):
            own = own.replace(mark, ".weight")
        if own not in base:
            raise UserError(
                f"{folder}: the adapter changes {own}, which the base does not have: it is of another model."
            )
        old = base[own].get_tensor(own)
        if own == plain:
            yield own, _norm(old), opened.get_tensor(name).double() - old.double()
            continue
        other = name.replace(".lora_A", ".lora_B").replace(".lora_embedding_A", ".lora_embedding_B")
        up, down = adapter[other].get_tensor(other), opened.get_tensor(name)
        yield own, _norm(old), LowRank(scale * up.double(), down.double())
