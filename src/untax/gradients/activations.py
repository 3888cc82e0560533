"""What goes into every linear layer on reference rows, and the few directions that hold most of it. Forward passes only."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.tensor import DTensor, Replicate, Shard
from transformers.pytorch_utils import Conv1D

from untax import files, references
from untax.gradients.common import Parameters, small
from untax.references import References, Row
from untax.types import UnsupportedTrainer, UserError

__all__ = ["InputSpace", "Layer", "collect", "layers_of", "leading", "losses_of"]

#: numbers of covariance (float64) that are collected in one pass over the rows; more layers take more passes
AT_ONCE = 2**29

#: an eigenvalue below this share of the largest is rounding
NOTHING = 1e-13


@dataclass(frozen=True)
class Layer:
    """A linear layer whose weight trains: where it stands in the view of parameters, and the first layer with the same input."""

    name: str
    index: int
    width: int
    transposed: bool  # Conv1D keeps (in, out), Linear (out, in)
    leader: str


def layers_of(model: nn.Module, view: Parameters) -> list[Layer]:
    """Every Linear and Conv1D of the model with a weight of its own that trains; of a LoRA, its A.

    Layers that get one and the same tensor (q, k, v; gate, up) have one leader. The output layer is left out where its weight is
    the embedding, and so is a LoRA's B, which sees nothing but what A lets through.
    Raises: UserError for DoRA; UnsupportedTrainer for weights that are cut across their input.
    """
    place = {id(p): i for i, p in enumerate(view.tensors)}
    embedded = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    if any("lora_magnitude" in name for name in view.names):
        raise UserError("DoRA rescales the base's weights, which no subspace of A can hold still. Train a plain LoRA.")
    found: dict[str, nn.Linear | Conv1D] = {}
    for name, module in model.named_modules():
        if (
            not isinstance(module, nn.Linear | Conv1D)
            or id(module.weight) in embedded
            or id(module.weight) not in place
        ):
            continue
        if ".lora_B." in f".{name}.":
            continue
        _check_cut(name, module.weight, isinstance(module, Conv1D))
        found[name] = module
    leaders = _leaders(model, found)
    return [
        Layer(
            name,
            place[id(module.weight)],
            module.weight.shape[0 if isinstance(module, Conv1D) else 1],
            isinstance(module, Conv1D),
            leaders[name],
        )
        for name, module in found.items()
    ]


def _check_cut(name: str, weight: Tensor, transposed: bool) -> None:
    if not isinstance(weight, DTensor):
        return
    rows = [place for place in weight.placements if not isinstance(place, Replicate)]
    if any(not isinstance(place, Shard) or place.dim != 0 for place in rows) or (rows and transposed):
        raise UnsupportedTrainer(
            f"the weight of {name} is cut across its input ({weight.placements}), and a projection needs whole rows. Train on one "
            "process or with DDP, or with a model of nn.Linear layers under FSDP2."
        )


def _leaders(model: nn.Module, found: Mapping[str, nn.Module]) -> dict[str, str]:
    """The first layer that got the same tensor, by one pass over two tokens; a layer that is called twice or never leads itself."""
    seen: dict[str, list[Tensor]] = {name: [] for name in found}
    with _listening(found, lambda name, x: seen[name].append(x)), references.still(model), torch.no_grad():
        references.target_logits(model, (Row((0, 0), 1),))
    leaders: dict[str, str] = {}
    for name, inputs in seen.items():
        same = [
            other
            for other in leaders
            if len(inputs) == len(seen[other]) == 1 and leaders[other] == other and seen[other][0] is inputs[0]
        ]
        leaders[name] = same[0] if same else name
    return leaders


@contextmanager
def _listening(modules: Mapping[str, nn.Module], hear: Callable[[str, Tensor], object]) -> Iterator[None]:
    """Every input of the modules is told, by name."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def told(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            hear(name, inputs[0])

        return told

    handles = [module.register_forward_pre_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# --------------------------------------------------------------------------- covariance


def collect(
    model: nn.Module, view: Parameters, layers: Sequence[Layer], sets: Mapping[str, References], *, batch_size: int
) -> Iterator[tuple[str, Tensor, dict[str, float]]]:
    """For each leader: X^T X over all tokens of all rows, prompts too, padding not (float64); and the loss of every set, nats per token.

    Rows are dealt out to the processes, and each matrix is summed over them once. No dropout, no gradient, no random number.
    """
    widths = {layer.leader: layer.width for layer in layers}
    modules = dict(model.named_modules())
    while widths:
        chosen: dict[str, Tensor] = {}
        for name, width in list(widths.items()):
            if not chosen or (width**2 + sum(c.numel() for c in chosen.values())) <= AT_ONCE:
                chosen[name] = small(torch.zeros(width, width, device=view.device))
                del widths[name]
        losses = _pass(model, view, {name: modules[name] for name in chosen}, chosen, sets, batch_size)
        for name in list(chosen):
            gathered = chosen.pop(name)
            if view.world > 1:
                dist.all_reduce(gathered)
            yield name, gathered, losses


def _pass(
    model: nn.Module,
    view: Parameters,
    modules: Mapping[str, nn.Module],
    sums: Mapping[str, Tensor],
    sets: Mapping[str, References],
    batch_size: int,
) -> dict[str, float]:
    """One pass over all rows of this process: adds to the covariances, and gives the loss of every set over all processes."""
    mask_N = torch.zeros(0, dtype=torch.bool)

    def hear(name: str, x: Tensor) -> None:
        flat_NH = x.detach().reshape(-1, x.shape[-1])
        if len(flat_NH) == len(mask_N):  # an expert gets some tokens only, and those are no padding or harmless
            flat_NH = flat_NH[mask_N]
        flat_NH = small(flat_NH)
        sums[name].addmm_(flat_NH.T, flat_NH)

    totals = view.table(len(sets))
    with _listening(modules, hear), references.still(model), torch.no_grad():
        for number, part in enumerate(sets.values()):
            for rows in part.batches(batch_size, rank=view.rank, world=view.world):
                width = max((len(row.ids) for row in rows), default=2)
                real = [[i < len(row.ids) for i in range(width)] for row in rows] or [[False] * width]
                mask_N = torch.tensor(real, device=view.device).reshape(-1)
                value, _ = references.nll(model, rows)
                totals[number] += value / part.tokens
    return dict(zip(sets, view.sum_over_processes(totals).tolist(), strict=True))


def losses_of(
    model: nn.Module, view: Parameters, sets: Mapping[str, References], *, batch_size: int
) -> dict[str, float]:
    """The loss of every set in nats per token; forward only."""
    return _pass(model, view, {}, {}, sets, batch_size)


def leading(covariance: Tensor, *, energy: float, max_rank: int | None) -> Tensor:
    """The fewest orthonormal directions (H, k) that hold `energy` of the trace, at most `max_rank`, the largest first.

    Source: Saha et al. 2021, arXiv 2103.09762, eq. 5 and 9: the squared singular values of X are the eigenvalues of X^T X.
    """
    values_H, vectors_HH = torch.linalg.eigh(covariance)
    values_H, vectors_HH = values_H.flip(0).clamp_min(0), vectors_HH.flip(1)
    before_H = values_H.cumsum(0) - values_H
    kept = int(((before_H < energy * values_H.sum()) & (values_H > NOTHING * values_H[0])).sum())
    return vectors_HH[:, : kept if max_rank is None else min(kept, max_rank)]


# --------------------------------------------------------------------------- the space, and what it does to weights


class InputSpace:
    """The leading directions V of every layer's inputs on named reference sets, and W V, which steps are not to change.

    With `max_rank` 0 or `strength` 0 nothing is collected or changed, and only losses are measured. All of it is cut as the
    parameters are: V is whole in every process, W V has the rows of the local part.
    """

    def __init__(
        self,
        model: nn.Module,
        sets: Mapping[str, References],
        *,
        energy: float = 0.97,
        max_rank: int | None = None,
        strength: float = 1.0,
        batch_size: int = 8,
    ) -> None:
        self.model, self.sets, self.batch_size = model, dict(sets), batch_size
        self.energy, self.max_rank, self.strength = energy, max_rank, strength
        self.view = Parameters(model)
        self.off = strength == 0 or max_rank == 0
        self.layers = [] if self.off else layers_of(model, self.view)
        if not self.layers and not self.off:
            raise UserError("no linear layer of the model trains, so there is nothing to project.")
        self.bases: dict[str, Tensor] = {}
        self.held: dict[str, Tensor] = {}
        self.first: dict[str, float] = {}
        self.refreshed_at = -1

    def uncovered(self) -> list[Tensor]:
        """The parameters that no layer's input covers, and that are not what A lets through."""
        covered = {layer.index for layer in self.layers}
        named = zip(self.view.names, self.view.tensors, strict=True)
        return [p for i, (name, p) in enumerate(named) if i not in covered and ".lora_B." not in name]

    def refresh(self, step: int) -> dict[str, float]:
        """Take the directions anew at the present weights; the meters. The first time a LoRA's A leaves them while its B is zero."""
        self.bases, losses = {}, {}
        found = collect(self.model, self.view, self.layers, self.sets, batch_size=self.batch_size)
        if self.off:
            losses = losses_of(self.model, self.view, self.sets, batch_size=self.batch_size)
        for leader, covariance, losses in found:  # noqa: B007
            basis = leading(covariance, energy=self.energy, max_rank=self.max_rank)
            self.bases[leader] = basis.to(torch.promote_types(self._dtype(leader), torch.float32)).contiguous()
        if self.refreshed_at < 0:
            self._clear_fresh_factors()
        self.refreshed_at = step
        values = self.view.values()
        self.held = {layer.name: self._part(layer, values[layer.index]) for layer in self.layers}
        ranks = [self.bases[layer.leader].shape[1] / layer.width for layer in self.layers]
        return self.told(losses) | ({"held_rank": sum(ranks) / len(ranks)} if ranks else {})

    def measure(self) -> dict[str, float]:
        """The meters at the present weights, by a forward pass on all rows."""
        return self.told(losses_of(self.model, self.view, self.sets, batch_size=self.batch_size))

    def told(self, losses: Mapping[str, float]) -> dict[str, float]:
        """Nats per token of every set, their mean over tokens, and the highest rise above the first."""
        self.first = self.first or dict(losses)
        tokens = {name: part.tokens for name, part in self.sets.items()}
        return {
            **{f"reference_loss/{name}": loss for name, loss in losses.items()},
            "reference_loss": sum(losses[name] * tokens[name] for name in losses) / sum(tokens.values()),
            "reference_loss_rise": max(losses[name] - self.first[name] for name in losses),
        }

    def project_gradients_(self, *, measure: bool = False) -> float | None:
        """Free every layer's gradient, in place, of its part; if measured, the share of its energy that was removed."""
        gradients = self.view.gradients()
        chosen = self._only(gradients)
        whole = self.view.norm(chosen) if measure else None
        for layer in self.layers:
            gradient = gradients[layer.index]
            if gradient is not None:
                self._subtract_(layer, gradient, self._part(layer, gradient))
        return None if whole is None else _removed(whole, self.view.norm(chosen))

    def before(self) -> list[Tensor | None]:
        """Copies of the weights that are projected, to measure a step by."""
        return [None if value is None else value.clone() for value in self._only(list(self.view.values()))]

    def project_update_(self, before: Sequence[Tensor | None] = ()) -> float | None:
        """Undo what the weights' part in the space moved since it was last held; with `before`, the share of the step's energy removed.

        What rounding leaves is seen again at the next step, so that it does not add up.
        """
        values = self.view.values()
        whole = self.view.norm(self._moved(before)) if before else None
        for layer in self.layers:
            moved = self._part(layer, values[layer.index]) - self.held[layer.name]
            self._subtract_(layer, values[layer.index], moved)
            self.held[layer.name] += (1 - self.strength) * moved
        return None if whole is None else _removed(whole, self.view.norm(self._moved(before)))

    # ----------------------------------------------------------------------- small parts

    def _dtype(self, leader: str) -> torch.dtype:
        return next(self.view.tensors[layer.index].dtype for layer in self.layers if layer.leader == leader)

    def _only(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        covered = {layer.index for layer in self.layers}
        return [tensor if i in covered else None for i, tensor in enumerate(tensors)]

    def _moved(self, before: Sequence[Tensor | None]) -> list[Tensor | None]:
        now = self.view.values()
        return [None if old is None else new - old for old, new in zip(before, now, strict=True)]

    def _part(self, layer: Layer, weight: Tensor) -> Tensor:
        """W V (out, k)."""
        basis = self.bases[layer.leader]
        return (weight.T if layer.transposed else weight).to(basis.dtype) @ basis

    def _subtract_(self, layer: Layer, weight: Tensor, part: Tensor) -> None:
        removed = (self.strength * part) @ self.bases[layer.leader].T
        weight.copy_(weight.to(removed.dtype) - (removed.T if layer.transposed else removed))

    def _clear_fresh_factors(self) -> None:
        named = dict(zip(self.view.names, self.view.values(), strict=True))
        values = self.view.values()
        factors = [layer for layer in self.layers if ".lora_A." in f".{layer.name}."]
        alive = self.view.table(len(factors))
        for number, layer in enumerate(factors):
            alive[number] = float((named[self.view.names[layer.index].replace(".lora_A.", ".lora_B.")] != 0).sum())
        for layer, nonzero in zip(factors, self.view.sum_over_processes(alive).tolist(), strict=True):
            if not nonzero:
                self._subtract_(layer, values[layer.index], self._part(layer, values[layer.index]))

    # ----------------------------------------------------------------------- state

    def save(self, folder: Path) -> None:
        """Write this process's part of the state into a folder, whole or not at all; what is there already stays."""
        path = folder / self._file()
        if path.exists() or not (self.view.sharded or int(os.environ.get("LOCAL_RANK", self.view.rank)) == 0):
            return
        tensors = {f"basis.{name}": tensor for name, tensor in self.bases.items()}
        tensors |= {f"held.{name}": tensor.contiguous() for name, tensor in self.held.items()}
        state = {"identity": self._identity(), "first": self.first, "refreshed_at": self.refreshed_at}
        files.write(path, save(tensors, metadata={"state": json.dumps(state)}))

    def load(self, folder: Path) -> bool:
        """Take the state that lies in a folder; False, in every process, where a process finds none.

        Raises: UserError for a damaged file, or one of other references, options or number of processes.
        """
        path = folder / self._file()
        found = self.view.table() + float(path.is_file())
        if float(self.view.sum_over_processes(found)) < self.view.world:
            return False
        try:
            with safe_open(path, framework="pt", device=str(self.view.device)) as file:
                state = json.loads(file.metadata()["state"])
                if state["identity"] != self._identity():
                    raise UserError(
                        f"{path} is the state of a projection of other references, options or number of processes. Resume with the "
                        "same ones, or remove it: the subspace is then taken at the present weights."
                    )
                self.bases = {
                    layer.leader: file.get_tensor(f"basis.{layer.leader}")
                    for layer in self.layers
                    if state["refreshed_at"] >= 0
                }
                self.held = {layer.name: file.get_tensor(f"held.{layer.name}") for layer in self.layers if self.bases}
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}). Remove it to go on without it.") from error
        self.first, self.refreshed_at = state["first"], state["refreshed_at"]
        return True

    def _file(self) -> str:
        return f"untax_null_space-rank{self.view.rank if self.view.sharded else 0}.safetensors"

    def _identity(self) -> str:
        rows = {name: [(row.ids, row.start) for row in part.rows] for name, part in self.sets.items()}
        options = [self.energy, self.max_rank, self.strength, self.view.world if self.view.sharded else 1]
        told = json.dumps([rows, options, [asdict(layer) for layer in self.layers]])
        return hashlib.sha256(told.encode()).hexdigest()


def _removed(before: Tensor, after: Tensor) -> float:
    """The share of a squared norm that went, 0 where there was none."""
    whole = float(before) ** 2
    return 1 - float(after) ** 2 / whole if whole else 0.0
