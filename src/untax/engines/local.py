"""A model loaded in this process, asked through `models` and `probes`: the engine that can answer everything."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import torch

from untax import models, probes
from untax.marks import versions
from untax.types import Answer, Ask, Budget, Request, UserError

__all__ = ["Local"]

LIBRARIES = ("untax", "torch", "transformers", "tokenizers", "peft")


class Local:
    """A loaded causal language model and its tokenizer.

    `base` is what drift and shift are measured from; without it, an adapter is switched off for the purpose. The base itself
    is measured with itself as `base`: its drift is 0. `base_tokenizer` is the base's own, where it has another. `wrapped` says
    what lies round the model beside its weights (a method of `decoding/`, a projection), in plain values.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        base: Any | None = None,
        base_tokenizer: Any | None = None,
        batch_size: int = 64,
        wrapped: Mapping[str, Any] | None = None,
    ) -> None:
        self.wrapped = wrapped
        self.model = model
        self.tokenizer = tokenizer
        self.base = base
        self.base_tokenizer = base_tokenizer
        self.batch_size = batch_size
        self.name, self._revision = _named(str(model.config.name_or_path))

    def about(self) -> Mapping[str, Any]:
        """Fingerprints of weights, tokenizer, base and generation settings; dtype, device, quantization and versions."""
        model = self.model
        told = {
            "engine": "transformers",
            "fingerprint": self._fingerprint,
            "tokenizer": models.tokenizer_fingerprint(self.tokenizer),
            "base": self._base_fingerprint,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "context": models.context_length(model),
            "settings": models.settings_fingerprint(model),
            "chat_template": "",  # prompts are asked as the suite writes them
            "versions": versions(LIBRARIES),
            "code": _code(),
        }
        if self.wrapped is not None:
            told["wrapped"] = self.wrapped
        if self._revision:
            told["revision"] = self._revision
        quantization = model.config.to_dict().get("quantization_config")
        return {**told, "quantization": _quantization(quantization)} if quantization else told

    def cannot(self, request: Request) -> str:
        """Drift and shift need a base, or an adapter to switch off, and one tokenizer."""
        if request in ("drift", "shift") and self.base is not None and self.base_tokenizer is not None:
            marks = [models.tokenizer_fingerprint(each) for each in (self.tokenizer, self.base_tokenizer)]
            if marks[0] != marks[1]:
                return f"base and model read text with different tokenizers: {request} compares the same tokens"
        if request in ("drift", "shift") and self.base is None and not models.has_adapter(self.model):
            return f"no base model was given to measure the {request} from"
        return ""

    def fits(self, ask: Ask, budget: Budget, request: Request) -> bool:
        """Do prompt and budget, or prompt and longest choice, fit into the context? Long texts are read in pieces."""
        limit = models.context_length(self.model)
        if limit is None or request in ("text", "drift", "induction"):
            return True
        prompt, choices, _ = ask
        longest = max((len(models.target_ids(self.tokenizer, c)) for c in choices), default=budget.max_new_tokens)
        return len(models.prompt_ids(self.tokenizer, prompt)) + longest <= limit

    def answers(
        self, request: Request, asks: Sequence[Ask], budget: Budget, *, tick: Callable[[int], object]
    ) -> list[Answer | None]:
        """One answer per question, in order. Raises: UserError when memory runs out or the numbers are not finite."""
        try:
            return list(self._answers(request, asks, budget, tick))
        except torch.OutOfMemoryError as error:
            raise UserError(f"The device's memory ran out. Use a batch_size below {self.batch_size}.") from error

    def _answers(
        self, request: Request, asks: Sequence[Ask], budget: Budget, tick: Callable[[int], object]
    ) -> list[Answer]:
        model, tokenizer, size = self.model, self.tokenizer, self.batch_size
        prompts, choices, texts = [ask[0] for ask in asks], [ask[1] for ask in asks], [ask[2] for ask in asks]
        match request:
            case "generate":
                return models.generate(
                    model, tokenizer, prompts, max_new_tokens=budget.max_new_tokens, stop=budget.stop, samples=budget.samples,
                    temperature=budget.temperature, top_p=budget.top_p, seed=budget.seed, batch_size=size, tick=tick,
                )  # fmt: skip
            case "choices":
                return models.choice_logprobs(model, tokenizer, prompts, choices, batch_size=size, tick=tick)
            case "text":
                return models.text_logprobs(model, tokenizer, texts, batch_size=size, tick=tick)
            case "drift":
                return models.drift_from(self.base, model, tokenizer, texts, batch_size=size, tick=tick)
            case "shift":
                return probes.shift(
                    self.base, model, tokenizer, prompts, max_new_tokens=budget.max_new_tokens, stop=budget.stop,
                    batch_size=size, base_tokenizer=self.base_tokenizer, tick=tick,
                )  # fmt: skip
            case "induction":
                return probes.induction(model, tokenizer, texts, batch_size=size, tick=tick)

    @cached_property
    def _fingerprint(self) -> str:
        return models.fingerprint(self.model)

    @cached_property
    def _base_fingerprint(self) -> str | None:
        if self.base is self.model:
            return self._fingerprint
        if self.base is not None:
            return models.fingerprint(self.base)
        if models.has_adapter(self.model):
            with models.adapter_off(self.model):
                return models.fingerprint(self.model)
        return None


def _named(path: str) -> tuple[str, str]:
    """A hub model's own name and commit, from the place where the hub's cache keeps it; a folder has no commit."""
    kept = re.search(r"models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})/?$", path)
    return (f"{kept[1]}/{kept[2]}", kept[3]) if kept else (path, "")


@lru_cache(maxsize=1)
def _code() -> str:
    """A hash of the code that asks: while that is worked on, untax keeps its version, and kept answers would be those of before."""
    return hashlib.sha256("".join(map(inspect.getsource, (models, probes))).encode()).hexdigest()[:16]


def _quantization(config: Any) -> str:
    told = config if isinstance(config, Mapping) else config.to_dict()
    bits = next((f"{n} bits" for n in (4, 8) if told.get(f"load_in_{n}bit")), "")
    return " ".join(part for part in (str(told.get("quant_method", "quantized")), bits) if part)
