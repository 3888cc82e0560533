"""Takes directions out of a hidden state: while a block lasts, by a hook, or for good, in the output matrix, where that is exact.

Legend of shapes: R directions, H hidden width, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from untax import files, models, references
from untax.types import RecipeError, UserError

__all__ = ["LAST", "Projection", "head_of", "listening", "load", "orthonormal", "union", "untie"]

#: the last hidden state, after the final norm: what the output layer reads
LAST = -1

#: a direction whose singular value is below this share of the largest is rounding
NOTHING = 1e-10

#: rows of the output matrix that are multiplied at once, in float64
ROWS_AT_ONCE = 8192

KEY = "untax"


@dataclass(frozen=True)
class Projection:
    """h <- h - sum over the R directions of (h . b) b, at every position of one layer's output.

    `basis_RH` has orthonormal rows (float64, on the CPU); no row is the identity. `layer` is LAST, or the number of a block from 0.
    `about` says where it comes from: plain values.
    Raises: UserError for rows that are not orthonormal; RecipeError for a layer below -1.
    """

    basis_RH: Tensor
    layer: int = LAST
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        basis_RH = self.basis_RH.detach().to(torch.float64).cpu()
        object.__setattr__(self, "basis_RH", basis_RH)
        if self.layer < LAST:
            raise RecipeError(f"layer is {self.layer}; it must be -1 (the last hidden state) or the number of a block.")
        if basis_RH.ndim != 2:
            raise UserError(f"a projection needs rows of directions, not a tensor of shape {tuple(basis_RH.shape)}.")
        off = (basis_RH @ basis_RH.T - torch.eye(len(basis_RH), dtype=torch.float64)).abs()
        if not bool(torch.isfinite(basis_RH).all()) or (off.numel() and float(off.max()) > 1e-6):
            raise UserError("the directions of a projection must be finite, of length 1 and at right angles.")

    @property
    def rank(self) -> int:
        """How many directions are removed."""
        return len(self.basis_RH)

    @property
    def matrix_HH(self) -> Tensor:
        """P = I - B^T B: symmetric, P P = P, trace H - R."""
        return torch.eye(self.basis_RH.shape[1], dtype=torch.float64) - self.basis_RH.T @ self.basis_RH

    def of(self, states: Tensor) -> Tensor:
        """P h of every row (..., H), computed in float32 or wider, in the dtype and on the device of the states."""
        wide = torch.promote_types(states.dtype, torch.float32)
        return _without(states, self.basis_RH.to(wide).to(states.device))

    def folded(self, weight_VH: Tensor) -> Tensor:
        """W P, computed in float64, in the weight's own dtype and place: W (P h) = (W P) h."""
        parts = [self.of(part.cpu().double()).to(weight_VH.dtype) for part in weight_VH.detach().split(ROWS_AT_ONCE)]
        return torch.cat(parts).to(weight_VH.device)

    @contextmanager
    def applied(self, model: Any) -> Iterator[Any]:
        """The model with this projection in it, for the length of a `with` block; its weights are not touched.

        Raises: UserError where the model has no such layer, the widths differ, or the layer does not run when the model does.
        """
        module = _place(model, self.layer, self.basis_RH.shape[1])
        kept: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        ran = []

        def projected(states: Tensor) -> Tensor:
            ran.append(True)
            wide = torch.promote_types(states.dtype, torch.float32)
            if (states.device, wide) not in kept:
                with torch.inference_mode(False):  # what is made while asking could not be used while training
                    kept[states.device, wide] = self.basis_RH.to(wide).to(states.device)
            return _without(states, kept[states.device, wide])

        handle = _hook(module, self.layer, projected)
        try:
            with references.still(model), torch.no_grad():
                model(input_ids=torch.zeros((1, 2), dtype=torch.long, device=model.device), use_cache=False)
            if not ran:
                raise UserError(
                    f"{type(model).__name__} does not run its layer {self.layer}: nothing would be projected."
                )
            yield model
        finally:
            handle.remove()

    def fold(self, model: Any) -> float:
        """Put P into the output matrix of a whole model for good; embeddings that share it are untied and stay as they are.

        Returns what rounding to the weights' dtype left: |W' B^T| / |W B^T|, 0 where nothing was left or nothing was to remove.
        Raises: UserError for an inner layer, an adapter, or an output layer that is quantised or not linear.
        """
        if self.layer != LAST:
            raise UserError(
                f"a projection of layer {self.layer} cannot be folded into weights exactly: use it as a hook."
            )
        if models.has_adapter(model):
            raise UserError("a projection cannot be folded into the output matrix under an adapter: merge it first.")
        head = _place(model, LAST, self.basis_RH.shape[1])
        if not head.weight.is_floating_point():
            raise UserError(f"the output matrix holds {head.weight.dtype} numbers: load the model unquantised.")
        untie(model)
        before = self._along(head.weight)
        with torch.no_grad():
            head.weight.copy_(self.folded(head.weight))
        return self._along(head.weight) / before if before else 0.0

    def _along(self, weight_VH: Tensor) -> float:
        parts = (part.cpu().double() @ self.basis_RH.T for part in weight_VH.detach().split(ROWS_AT_ONCE))
        return float(sum(float(part.square().sum()) for part in parts)) ** 0.5

    def save(self, path: Path) -> None:
        """Write directions, layer and origin into one safetensors file, whole or not at all."""
        note = json.dumps({"kind": "projection", "layer": self.layer, "about": dict(self.about)}, sort_keys=True)
        files.write(path, save({"basis": self.basis_RH.contiguous()}, metadata={KEY: note}))


def load(path: str | Path) -> Projection:
    """The projection that `save` wrote.

    Raises: UserError for a file that is not there, not whole, or something else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no projection at {path}.")
    try:
        with safe_open(path, framework="pt") as opened:
            note = json.loads((opened.metadata() or {})[KEY])
            return Projection(opened.get_tensor("basis"), int(note["layer"]), note["about"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is no projection that untax wrote, or is damaged ({error}). Make it again.") from error


def orthonormal(rows_NH: Tensor) -> Tensor:
    """An orthonormal basis (R, H) of the space that the rows span, in float64; rows of no new direction add nothing.

    Raises: UserError where the rows span nothing, or are not finite.
    """
    rows_NH = rows_NH.detach().to(torch.float64).cpu()
    if not bool(torch.isfinite(rows_NH).all()):
        raise UserError("the directions to remove are not finite: the model's hidden states are damaged.")
    _, values, basis = torch.linalg.svd(rows_NH, full_matrices=False)
    if not values.numel() or float(values[0]) == 0:
        raise UserError("there is no direction to remove: every direction is zero.")
    return basis[values > NOTHING * values[0]]


def union(projections: Sequence[Projection]) -> Projection:
    """What removes all their directions at once. The product of the single ones would not: it is no projection unless they are at right angles.

    Raises: RecipeError for projections of several layers.
    """
    layers = sorted({one.layer for one in projections})
    if len(layers) != 1:
        raise RecipeError(f"projections of the layers {layers} cannot be joined; give all of them one layer.")
    if len(projections) == 1:
        return projections[0]
    stack_NH = torch.cat([one.basis_RH for one in projections])
    basis_RH = orthonormal(stack_NH) if len(stack_NH) else stack_NH
    return Projection(basis_RH, layers[0], {"joined": [dict(one.about) for one in projections]})


# --------------------------------------------------------------------------- where a model keeps its states


def head_of(model: Any) -> nn.Module:
    """The output layer of a model, as it is called; under an adapter the module that the adapter put there.

    Raises: UserError for a model without one, or one whose output layer is not linear.
    """
    inner = model.get_base_model() if models.has_adapter(model) else model
    head = inner.get_output_embeddings()
    plain = head
    if models.has_adapter(model):
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        if isinstance(plain, AuxiliaryTrainingWrapper):
            plain = plain.original_module
        if isinstance(plain, BaseTunerLayer):
            plain = plain.get_base_layer()
    if not isinstance(plain, nn.Linear):
        found = "none" if plain is None else f"a {type(plain).__name__}"
        raise UserError(
            f"{type(inner).__name__}: its output layer must be linear for a projection, and it has {found}."
        )
    return head


def untie(model: Any) -> None:
    """Give every tensor that shares another's memory its own, and say so in the configuration, so that a saved model keeps both.

    Nothing that the model computes changes.
    """
    inner = model.get_base_model() if models.has_adapter(model) else model
    shared = {head_name(inner), *inner.all_tied_weights_keys}
    own = dict(inner.named_parameters(remove_duplicate=False))
    for name in sorted(shared & own.keys()):
        if any(own[name] is other for key, other in own.items() if key != name):
            module, _, key = name.rpartition(".")
            fresh = nn.Parameter(own[name].detach().clone(), requires_grad=own[name].requires_grad)
            setattr(inner.get_submodule(module), key, fresh)
            own[name] = fresh
    inner.all_tied_weights_keys = {}
    inner.config.tie_word_embeddings = False
    inner.config.get_text_config().tie_word_embeddings = False


def head_name(model: Any) -> str:
    """The output matrix's name in the state dict of a whole model."""
    head = head_of(model)
    return next(name for name, module in model.named_modules() if module is head) + ".weight"


@contextmanager
def listening(model: Any, layer: int) -> Iterator[list[Tensor]]:
    """Collects the hidden states (B, T, H) that a projection of this layer would see, one tensor a forward pass; logits are made
    of the first position alone, which saves most of their cost."""
    seen: list[Tensor] = []

    def hear(states: Tensor) -> Tensor:
        seen.append(states)
        return states[:, :1] if layer == LAST else states

    handles = [_hook(_place(model, layer), layer, hear)]
    if layer != LAST:
        handles.append(_hook(head_of(model), LAST, lambda states: states[:, :1]))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _place(model: Any, layer: int, width: int | None = None) -> Any:
    """The module whose input (the output layer) or output (a block) is the hidden state of a layer."""
    inner = model.get_base_model() if models.has_adapter(model) else model
    if layer == LAST:
        found = head_of(model)
        has = inner.get_output_embeddings().weight.shape[1]
    else:
        settings = inner.config.get_text_config()
        depth, has = settings.num_hidden_layers, settings.hidden_size
        if layer >= depth:
            raise UserError(
                f"layer {layer} does not exist: the model's blocks are 0 to {depth - 1} (-1: after the last norm)."
            )
        stacks = [m for m in inner.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
        if not stacks:
            raise UserError(
                f"{type(inner).__name__} keeps its {depth} blocks in no list: only layer -1 can be projected."
            )
        found = stacks[0][layer]
    if width is not None and has != width:
        raise UserError(
            f"the projection is {width} wide and the model's hidden state {has}: it was made for another model."
        )
    return found


def _hook(module: nn.Module, layer: int, change: Any) -> Any:
    """What `change` makes of the hidden state goes on in its place, until the handle is removed."""

    def before(_: nn.Module, inputs: tuple[Any, ...]) -> Any:
        return (change(inputs[0]), *inputs[1:]) if inputs else None

    def after(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return module.register_forward_pre_hook(before) if layer == LAST else module.register_forward_hook(after)


def _without(states: Tensor, basis_RH: Tensor) -> Tensor:
    wide = states.to(basis_RH.dtype)
    return (wide - (wide @ basis_RH.T) @ basis_RH).to(states.dtype)
