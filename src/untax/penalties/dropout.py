"""Raises dropout while a model trains, so that it leans less on single features, and switches it off again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from untax import models
from untax.references import References
from untax.types import UserError

__all__ = ["Dropout"]

#: rate and length of the trial that shows which dropouts a forward pass reads: by chance alone no rate goes unseen
TRIAL, TOKENS = 0.5, 8


@dataclass(frozen=True)
class Knob:
    """A dropout rate of the model's own: a number that its forward pass reads from a module while that trains."""

    module: nn.Module
    key: str
    attention: bool
    layer: bool


class Dropout:
    """Trains with more dropout than the model came with: correlations that hold by a few features alone are unlearned.

    It adds nothing to the loss. `prepare` raises the rates of residual, embedding and attention dropout, `release` puts every one back. Llama,
    Mistral, Qwen and their like have a switch for attention only: there the outputs of attention, of the MLP and of the embedding are
    dropped by hooks, and `told` says so. Which switches a forward pass reads is tried, not believed. Evaluation mode is not touched,
    and so neither are reference passes of other penalties and of gradient methods; configuration and saved weights do not know of it.

    Paper: Webster et al. 2020, arXiv 2010.06032: more dropout in further pre-training lowers gendered correlations.
        The rate is that of GPT-2 in the survey arXiv 2110.08527: residual = embedding = attention = 0.15.
    Differs: rates are set on the loaded model for the length of a training instead of in its configuration. Under LoRA the base's
        activations are dropped as well; `lora_dropout` stays as it is. Targets that share a prompt share its dropped activations.
    Shapes: -> a scalar, always 0.
    Raises: UserError for a rate outside [0, 1), and for a model without layers that are known.
    """

    def __init__(
        self,
        references: Mapping[str, References],
        *,
        rate: float = 0.15,  # share of activations that is set to 0; 0 is plain training
        attention: bool = True,  # also drop attention probabilities
    ) -> None:
        if not 0 <= rate < 1:
            raise UserError(f"penalty 'dropout': rate is {rate}; it must be 0 or more and below 1.")
        self.references, self.rate, self.attention = references, rate, attention
        self.before: list[tuple[Knob, float]] = []
        self.handles: list[Any] = []
        self.report = ""

    def prepare(self, model: Any) -> None:
        """Raise the rates, or drop outputs by hooks where a model has no rate to raise."""
        self.release()
        if self.rate == 0:
            self.report = "rate 0: plain training"
            return
        inner = model.get_base_model() if models.has_adapter(model) else model
        layers = _layers(inner)
        knobs = _knobs(inner, layers)
        said = [f"rate {self.rate:g} while training"]
        parts = {
            "residual": [knob for knob in knobs if knob.layer and not knob.attention],
            "embedding": [knob for knob in knobs if not knob.layer and not knob.attention],
        }
        if self.attention:
            parts["attention"] = [knob for knob in knobs if knob.attention]
        live = {part: used for part, used in parts.items() if _is_read(inner, knobs, used)}
        for part in parts:
            if part in live:
                self._raise(live[part])
                said.append(f"{part}: {len(live[part])} of the model's own rates raised")
            elif part == "attention":
                said.append(f"attention: {type(inner).__name__} reads no rate, its probabilities are not dropped")
            else:
                wrapped = _outputs(layers) if part == "residual" else [inner.get_input_embeddings()]
                self.handles += [module.register_forward_hook(self._drop) for module in wrapped]
                what = "outputs of attention and MLP" if part == "residual" else "output of the embedding"
                said.append(f"{part}: {type(inner).__name__} reads no rate, {len(wrapped)} {what} wrapped")
        self.report = "; ".join(said)

    def _raise(self, knobs: Sequence[Knob]) -> None:
        for knob in knobs:
            self.before.append((knob, vars(knob.module)[knob.key]))
            setattr(knob.module, knob.key, self.rate)

    def _drop(self, module: nn.Module, given: Any, output: Any) -> Any:
        if not module.training:
            return output
        if isinstance(output, tuple):
            return (F.dropout(output[0], self.rate), *output[1:])
        return F.dropout(output, self.rate)

    def penalty(self, model: Any, step: int) -> Tensor:
        """0: what it does, it does in the forward pass."""
        if not self.report:
            raise UserError("penalty 'dropout': call prepare(model) before training.")
        return torch.zeros((), device=next(model.parameters()).device)

    def told(self) -> str:
        """Which dropouts were raised and which outputs wrapped, for the summary of a training."""
        return self.report

    def release(self) -> None:
        """Put every rate back and take the hooks off."""
        while self.before:
            knob, rate = self.before.pop()
            setattr(knob.module, knob.key, rate)
        while self.handles:
            self.handles.pop().remove()


def _layers(inner: nn.Module) -> list[nn.Module]:
    """The decoder layers. Raises: UserError where there are none."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in inner.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not any(_outputs([layer]) for layer in layers):
        raise UserError(f"penalty 'dropout': {type(inner).__name__} has no layers of a kind that is known here.")
    return layers


def _outputs(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """Attention and MLP of each layer: the parts that have parts themselves, which norms have not."""
    return [child for layer in layers for child in layer.children() if any(True for _ in child.children())]


def _knobs(inner: nn.Module, layers: Sequence[nn.Module]) -> list[Knob]:
    """Every dropout rate of the model; those of an adapter are not the model's."""
    inside = {module for layer in layers for module in layer.modules()}
    found = []
    for name, module in inner.named_modules():
        if isinstance(module, nn.Dropout):
            if ".lora_" not in name:
                found.append(Knob(module, "p", name.rpartition(".")[2].startswith("att"), module in inside))
            continue
        for key, value in vars(module).items():
            if "dropout" in key and isinstance(value, int | float) and not isinstance(value, bool):
                own = key == "dropout" and "Attention" in type(module).__name__
                found.append(Knob(module, key, own or key.startswith("att"), module in inside))
    return found


def _is_read(inner: Any, knobs: Sequence[Knob], tried: Sequence[Knob]) -> bool:
    """Whether two training passes differ once these rates are up and all others down."""
    if not tried:
        return False
    embeddings = inner.get_input_embeddings().weight
    ids = torch.arange(TOKENS, device=embeddings.device)[None] % embeddings.shape[0]
    with _set_aside(inner, knobs), torch.random.fork_rng(devices=_devices(embeddings)), torch.no_grad():
        for knob in knobs:
            setattr(knob.module, knob.key, TRIAL if knob in tried else 0.0)
        one, other = (inner(input_ids=ids, use_cache=False).logits for _ in range(2))
    return not torch.equal(one, other)


def _devices(tensor: Tensor) -> list[torch.device]:
    return [tensor.device] if tensor.is_cuda else []


@contextmanager
def _set_aside(inner: nn.Module, knobs: Sequence[Knob]) -> Iterator[None]:
    """Training mode (an adapter's dropout excepted) and rates that may be changed, for the length of a block."""
    modes = {module: module.training for module in inner.modules()}
    rates = [vars(knob.module)[knob.key] for knob in knobs]
    try:
        for name, module in inner.named_modules():
            module.training = ".lora_" not in name
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for knob, rate in zip(knobs, rates, strict=True):
            setattr(knob.module, knob.key, rate)
