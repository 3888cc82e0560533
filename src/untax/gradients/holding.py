"""The core of the projection without a trainer: references that are asked again, a subspace, a budget, and a state that can be saved."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from untax import models, references
from untax.gradients.common import Granularity, Parameters, reference_gradient
from untax.gradients.subspace import Side, Subspace
from untax.references import References, Start
from untax.types import UserError

__all__ = ["Budget", "Holding"]

log = logging.getLogger(__name__)

#: a start is remembered exactly up to so many numbers, beyond that by its TOP likeliest tokens and one bin for the rest
EXACT_NUMBERS, TOP = 2**24, 128
#: nats per token; below it KL to the start is rounding, and so is the direction of its gradient
NO_KL = 1e-6


@dataclass
class Budget:
    """How far the reference loss may rise above its first, in nats per token, and what happens then.

    `scale` multiplies the learning rate of every step: "lower" halves it at each refresh that finds the budget exceeded, "stop" makes it 0.
    """

    most: float | None
    on_rise: Literal["lower", "stop"] = "lower"
    scale: float = 1.0

    def judge(self, first: Mapping[str, float], now: Mapping[str, float], step: int) -> None:
        """Compare, and warn of what follows."""
        if self.most is None:
            return
        name = max(now, key=lambda key: now[key] - first[key])
        rise = now[name] - first[name]
        if rise <= self.most:
            return
        self.scale = 0.0 if self.on_rise == "stop" else self.scale / 2
        log.warning(
            "step %d: the loss on references '%s' is %.4g nats per token above its first, more than the %.4g allowed; %s",
            step, name, rise, self.most, "training stops" if self.on_rise == "stop" else f"steps are scaled by {self.scale:g} from now on",
        )  # fmt: skip


class Holding:
    """Named reference sets and the stored gradients of a model on them.

    `directions` parts of each set give one gradient each. All of it lives on the parameters' device, cut as they are.
    """

    def __init__(
        self,
        model: Any,
        sets: Mapping[str, References],
        *,
        side: Side = "one",
        granularity: Granularity = "tensor",
        directions: int = 1,
        energy: float = 0.95,
        loss: Literal["ce", "kl_to_start"] = "ce",
        batch_size: int = 8,
        keep_in: torch.dtype | None = None,
        half: bool = False,
    ) -> None:
        self.model, self.sets, self.batch_size = model, dict(sets), batch_size
        self.scale = 1024.0 if half else 1.0  # small gradients vanish in fp16
        self.view = Parameters(model, granularity=granularity)
        self.parts = {name: part.parts(directions) if directions else [] for name, part in self.sets.items()}
        sizes = [len(parts) for parts in self.parts.values()]
        self.subspace = Subspace(self.view, sizes, side=side, energy=energy, keep_in=keep_in)
        self.start = _start(model, self.sets) if loss == "kl_to_start" else None
        self.first: dict[str, float] = {}
        self.losses: dict[str, float] = {}
        self.refreshed_at = -1
        self.again = False

    @property
    def forgets(self) -> bool:
        """Whether the start that KL is taken to is lost unless it is saved."""
        return self.start is not None and not models.has_adapter(self.model)

    def remember(self, *, late: bool = False) -> None:
        """Keep what the model says now as the start that KL is taken to.

        Raises: UserError when it is too `late`, because training has begun and what it said then is lost.
        """
        if self.start is None:
            return
        if late and self.forgets:
            raise UserError(
                "loss='kl_to_start' holds the model to what it said when training began, and the checkpoint holds nothing of that: resume "
                "from one that has an untax_projection file, train with LoRA (its start is never lost), or take loss='ce'."
            )
        for part in self.sets.values():
            self.start.remember(self.model, part.rows)

    def refresh(self, step: int) -> None:
        """Take the reference gradients anew at the present weights, and with them the loss of every set."""
        at, losses = 0, {}
        for name, parts in self.parts.items():
            total = 0.0
            for part in parts or [self.sets[name]]:
                # no second copy where gradients are kept in float32
                gradients, mean = self._gradient(part, self.subspace.rows(at) if parts else None)
                total += float(mean) * part.tokens
                if parts:
                    self.subspace.store(at, gradients)
                    at += 1
            losses[name] = total / self.sets[name].tokens
        self.subspace.settle()
        self.losses = losses
        self.first = self.first or losses
        # a LoRA's A gets no gradient while B is zero, and KL to the start has none at the start
        self.again = self.subspace.directions > 0 and self.subspace.silent > 0 and self.refreshed_at < 0
        self.refreshed_at = step

    def _gradient(self, part: References, into: list[Tensor] | None = None) -> tuple[list[Tensor], Tensor]:
        loss = references.nll if self.start is None else self.start.kl
        for scale in dict.fromkeys((self.scale, 1.0)):
            found, mean = reference_gradient(
                self.model, self.view, part, loss=loss, batch_size=self.batch_size, scale=scale, into=into
            )
            if self.start is not None and float(mean) < NO_KL:
                return [gradient.zero_() for gradient in found], mean
            if bool(torch.isfinite(self.view.norm(found))):
                return found, mean
        raise UserError(
            f"references '{part.name}': the gradient is not finite at a loss of {float(mean):.4g} nats per token; "
            "look for broken rows, or train in bf16 or float32."
        )

    def told(self) -> dict[str, float]:
        """The losses of the last refresh: nats per token of every set, their mean over tokens, and the highest rise above the first."""
        tokens = {name: part.tokens for name, part in self.sets.items()}
        mean = sum(self.losses[name] * tokens[name] for name in tokens) / sum(tokens.values())
        rise = max(self.losses[name] - self.first[name] for name in tokens)
        each = {f"reference_loss/{name}": value for name, value in self.losses.items()}
        return {"reference_loss": mean, "reference_loss_rise": rise} | each

    def due(self, step: int, every: int) -> bool:
        """Whether the stored gradients are missing, old, or were empty."""
        return self.refreshed_at < 0 or step - self.refreshed_at >= every or (self.again and step > self.refreshed_at)

    def cosine(self, step: int) -> float:
        """The least cosine, over the sets, of a fresh gradient on a batch of rows (chosen by `step`) and the mean stored one."""
        least, at = 1.0, 0
        for name, parts in self.parts.items():
            rows = self.sets[name].rows
            picked = [rows[(step * self.batch_size + i) % len(rows)] for i in range(min(self.batch_size, len(rows)))]
            fresh, _ = self._gradient(References(name, tuple(picked)))
            stored = [kept[at : at + len(parts)].float().sum(0) for kept in self.subspace.kept]
            at += len(parts)
            least = min(least, self._cosine(fresh, stored))
        return least

    def _cosine(self, one: list[Tensor], other: list[Tensor]) -> float:
        dots = [
            torch.stack([a.reshape(-1).dot(b), a.reshape(-1).dot(a.reshape(-1)), b.dot(b)])
            for a, b in zip(one, other, strict=True)
        ]
        table = torch.stack(dots).to(self.view.share_T.dtype) * self.view.share_T[:, None]
        inner, left, right = self.view.sum_over_processes(table.sum(0)).tolist()
        return inner / (left * right) ** 0.5 if left and right else 1.0

    # ----------------------------------------------------------------------- state

    def save(self, folder: Path, counters: Mapping[str, Any]) -> None:
        """Write this process's part of the state into a folder, whole or not at all; what is there already stays."""
        path = folder / self._file()
        # what every process holds alike is written once per machine
        if path.exists() or not (self.view.sharded or int(os.environ.get("LOCAL_RANK", self.view.rank)) == 0):
            return
        tensors = {f"kept.{name}": kept for name, kept in zip(self.view.names, self.subspace.kept, strict=True)}
        for i, (logps, ids) in enumerate(self.start.kept.values() if self.start is not None else ()):
            tensors |= {f"start.{i}.logps": logps} | ({} if ids is None else {f"start.{i}.ids": ids})
        state = {
            "identity": self._identity(), "first": self.first, "losses": self.losses,
            "refreshed_at": self.refreshed_at, "again": self.again, "counters": dict(counters),
        }  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            save_file(tensors, part, metadata={"state": json.dumps(state)})
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def load(self, folder: Path) -> dict[str, Any] | None:
        """Take the state that lies in a folder; the counters that were saved with it, or None where a process finds none.

        Raises: UserError for a damaged file, or one of other references or options.
        """
        path = folder / self._file()
        found = self.view.table() + float(path.is_file())
        if float(self.view.sum_over_processes(found)) < self.view.world:
            return None
        try:
            with safe_open(path, framework="pt", device=str(self.view.device)) as file:
                state = json.loads(file.metadata()["state"])
                if state["identity"] != self._identity():
                    raise UserError(
                        f"{path} is the state of a projection of other references, options or number of processes. Resume with the "
                        "same ones, or remove it: the references are then taken at the present weights."
                    )
                for name, kept in zip(self.view.names, self.subspace.kept, strict=True):
                    kept.copy_(file.get_tensor(f"kept.{name}"))
                self._load_start(file)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}). Remove it to go on without it.") from error
        self.subspace.settle()
        self.first, self.losses = state["first"], state["losses"]
        self.refreshed_at, self.again = state["refreshed_at"], state["again"]
        return dict(state["counters"])

    def _load_start(self, file: Any) -> None:
        if self.start is None or not self.forgets:
            return
        names = set(file.keys())
        for i, row in enumerate(dict.fromkeys(row for part in self.sets.values() for row in part.rows)):
            ids = file.get_tensor(f"start.{i}.ids").cpu() if f"start.{i}.ids" in names else None
            self.start.kept[row] = (file.get_tensor(f"start.{i}.logps").cpu(), ids)

    def _file(self) -> str:
        return f"untax_projection-rank{self.view.rank if self.view.sharded else 0}.safetensors"

    def _identity(self) -> str:
        rows = {name: [(row.ids, row.start) for row in part.rows] for name, part in self.sets.items()}
        about = [rows, self.subspace.sizes, self.start is not None, self.view.world if self.view.sharded else 1]
        shapes = [
            [name, list(kept.shape), str(kept.dtype)]
            for name, kept in zip(self.view.names, self.subspace.kept, strict=True)
        ]
        return hashlib.sha256(json.dumps([about, shapes]).encode()).hexdigest()


def _start(model: Any, sets: Mapping[str, References]) -> Start:
    """How the start is remembered: exactly where that is small; under an adapter it is asked each time and needs no memory."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    numbers = sum(part.tokens for part in sets.values()) * vocabulary
    return Start() if models.has_adapter(model) or numbers <= EXACT_NUMBERS else Start(k=TOP)
