"""A model run by vLLM on a GPU of this machine: the same questions as `Local`, many times faster. **Unverified until run on one.**

The arguments follow vLLM's documentation (0.11); what is asked and what is read are plain functions that are tested without it.
Compare two models that were both asked this way: kernels and batches round differently from those of transformers.

Prompts are turned into tokens here, by the same functions as for a loaded model, so that both engines show a model the same
numbers. An adapter is merged into its base first: `untax` loads and saves it as one folder.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from untax import models
from untax.marks import versions
from untax.types import Answer, Ask, Budget, Request, UserError

__all__ = ["Vllm", "sampling", "summed", "written"]

#: prompts handed over at a time: enough for vLLM to fill its batches, few enough for a bar that moves
AT_ONCE = 512
LIBRARIES = ("untax", "vllm", "torch", "transformers", "tokenizers")


class Vllm:
    """One model folder, run by `vllm.LLM`.

    `length` is the most tokens of a prompt and its answer (the model's own context by default). `memory` is the share of the GPU
    that vLLM may take; `gpus` the number that the model is spread over.
    Raises: UserError when vLLM is not installed, or the folder holds no model.
    """

    def __init__(
        self, folder: str | Path, *, dtype: str = "auto", length: int | None = None, memory: float = 0.9, gpus: int = 1
    ) -> None:
        models.check(folder)
        self.folder = Path(folder)
        self.name = str(folder)
        self.dtype = dtype
        self.length = length or _context(self.folder)
        self._llm, self._params = _load(
            {
                "model": str(folder),
                "tokenizer": str(folder),
                "dtype": dtype,
                "max_model_len": self.length,
                "gpu_memory_utilization": memory,
                "tensor_parallel_size": gpus,
                "seed": 0,
                "trust_remote_code": False,
                # a model's own ideas of temperature and penalties must not reach the answers
                "generation_config": "vllm",
            }
        )
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        self._ends = ends(self.folder, self.tokenizer)

    def about(self) -> Mapping[str, Any]:
        """Hashes of the weights' files, the tokenizer and the configuration; dtype, context and versions."""
        return {
            "engine": "vllm",
            "fingerprint": self._fingerprint,
            "tokenizer": models.tokenizer_fingerprint(self.tokenizer),
            "dtype": _stored(self.folder) if self.dtype == "auto" else self.dtype,
            "device": "cuda",
            "context": self.length,
            "settings": hashlib.sha256((self.folder / "config.json").read_bytes()).hexdigest()[:32],
            "ends": list(self._ends),
            "versions": versions(LIBRARIES),
        }

    def cannot(self, request: Request) -> str:
        """What looks into a model, or into two at once, needs it loaded here."""
        if request in ("generate", "choices", "text"):
            return ""
        return f"{request} looks at whole distributions, which vLLM does not give: measure it with a loaded model"

    def fits(self, ask: Ask, budget: Budget, request: Request) -> bool:
        """Do prompt and budget, or prompt and longest choice and the one token that vLLM must write, fit? Texts are cut."""
        if self.length is None or request == "text":
            return True
        prompt, choices, _ = ask
        longest = max((len(models.target_ids(self.tokenizer, c)) + 1 for c in choices), default=budget.max_new_tokens)
        return len(models.prompt_ids(self.tokenizer, prompt)) + longest <= self.length

    def answers(
        self, request: Request, asks: Sequence[Ask], budget: Budget, *, tick: Callable[[int], object]
    ) -> list[Answer | None]:
        """One answer per question, in order. Raises: UserError for a request that `cannot` refuses."""
        why = self.cannot(request)
        if why:
            raise UserError(f"{self.name}: {why}.")
        if request == "generate":
            return list(self._written([prompt for prompt, _, _ in asks], budget, tick))
        if request == "choices":
            return list(self._chosen(asks, tick))
        return list(self._texts([text for _, _, text in asks], tick))

    def _written(self, prompts: Sequence[str], budget: Budget, tick: Callable[[int], object]) -> list[Answer]:
        found = []
        for start in range(0, len(prompts), AT_ONCE):
            some = prompts[start : start + AT_ONCE]
            rows = [models.prompt_ids(self.tokenizer, prompt) for prompt in some]
            for each in self._ask(rows, [sampling(budget, self._ends, prompt) for prompt in some]):
                found.append(written(each.outputs, self._ends, self._decode, budget.stop))
            tick(len(some))
        return found

    def _chosen(self, asks: Sequence[Ask], tick: Callable[[int], object]) -> list[Answer]:
        rows, starts = [], []
        for prompt, choices, _ in asks:
            before = models.prompt_ids(self.tokenizer, prompt)
            for choice in choices:
                target = models.target_ids(self.tokenizer, choice)
                if not target:
                    raise UserError(f"the choice {choice!r} has no token.")
                rows.append([*before, *target])
                starts.append(len(before))
        sums = iter(zip(self._score(rows, starts, tick), rows, starts, strict=True))
        found = []
        for _, choices, _ in asks:
            mine = [next(sums) for _ in choices]
            found.append(
                Answer(
                    logprobs=tuple(total for total, _, _ in mine),
                    choice_tokens=tuple(len(row) - start for _, row, start in mine),
                )
            )
        return found

    def _texts(self, texts: Sequence[str], tick: Callable[[int], object]) -> list[Answer]:
        opening = models.prompt_ids(self.tokenizer, "")
        rows, owners = [], []
        for number, text in enumerate(texts):
            ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text else []
            # one place stays free for the token that vLLM must write
            step = len(ids) if self.length is None else self.length - len(opening) - 1
            for begin in range(0, len(ids), max(step, 1)):
                rows.append([*opening, *ids[begin : begin + step]])
                owners.append(number)
        totals, tokens = [0.0] * len(texts), [0] * len(texts)
        sums = self._score(rows, [len(opening)] * len(rows), tick)
        for total, row, owner in zip(sums, rows, owners, strict=True):
            totals[owner] += total
            tokens[owner] += len(row) - len(opening)
        return [Answer(logprobs=(t,) if n else (), n_tokens=n) for t, n in zip(totals, tokens, strict=True)]

    def _score(self, rows: list[list[int]], starts: list[int], tick: Callable[[int], object]) -> list[float]:
        found = []
        one = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 1, "detokenize": False}
        for begin in range(0, len(rows), AT_ONCE):
            some, where = rows[begin : begin + AT_ONCE], starts[begin : begin + AT_ONCE]
            for out, ids, start in zip(self._ask(some, [one] * len(some)), some, where, strict=True):
                found.append(summed(out.prompt_logprobs, ids, start))
            tick(len(some))
        return found

    def _ask(self, rows: list[list[int]], settings: Sequence[Mapping[str, Any]]) -> list[Any]:
        asked = [{"prompt_token_ids": row} for row in rows]
        return list(self._llm.generate(asked, [self._params(**each) for each in settings], use_tqdm=False))

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    @cached_property
    def _fingerprint(self) -> str:
        whole = hashlib.sha256()
        for path in sorted(self.folder.glob("*.safetensors")):
            with path.open("rb") as file:
                whole.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
        return whole.hexdigest()[:32]


# --------------------------------------------------------------------------- what is asked and what is read


class Written(Protocol):
    """What is read of one of vLLM's `CompletionOutput`s."""

    token_ids: Sequence[int]
    finish_reason: str | None


class Scored(Protocol):
    """What is read of one of vLLM's `Logprob`s: nats."""

    logprob: float


def sampling(budget: Budget, end_ids: Sequence[int], prompt: str) -> dict[str, Any]:
    """The arguments of vLLM's `SamplingParams` for a prompt; sampled ones have a seed of their own, whatever the batch.

    Raises: UserError when the budget asks for nothing, or for many greedy samples.
    """
    if budget.max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {budget.max_new_tokens}; it must be at least 1.")
    if budget.samples > 1 and budget.temperature == 0:
        raise UserError(f"{budget.samples} samples at temperature 0 are the same answer: name a temperature.")
    luck = hashlib.sha256(f"{budget.seed}:{prompt}".encode("utf-8", "surrogatepass")).digest()
    asked: dict[str, Any] = {
        "max_tokens": budget.max_new_tokens,
        "temperature": budget.temperature,
        "stop": list(budget.stop),
        "stop_token_ids": list(end_ids),
    }
    if budget.temperature > 0:
        seed = int.from_bytes(luck[:4], "big") >> 1
        asked |= {"n": budget.samples, "top_p": budget.top_p, "seed": seed}
    return asked


def written(
    outputs: Sequence[Written], end_ids: Sequence[int], decode: Callable[[Sequence[int]], str], stop: Sequence[str]
) -> Answer:
    """The samples of one prompt as one answer: without the ending token, up to the first stop string."""
    texts, lengths, cut = [], [], []
    for each in outputs:
        tokens = list(each.token_ids)
        ended = bool(tokens) and tokens[-1] in end_ids
        tokens = tokens[:-1] if ended else tokens
        text = decode(tokens)
        found = [text.index(mark) for mark in stop if mark in text]
        texts.append(text[: min(found)] if found else text)
        lengths.append(len(tokens))
        cut.append(each.finish_reason == "length" and not found and not ended)
    return Answer(
        text=texts[0], n_tokens=max(lengths), truncated=any(cut), texts=tuple(texts) if len(texts) > 1 else ()
    )


def summed(logprobs: Sequence[Mapping[int, Scored] | None], ids: Sequence[int], start: int) -> float:
    """Nats of the tokens from `start` on, from vLLM's log-probabilities of a prompt (none for the first token).

    Raises: UserError when a token has none, or one that is no number.
    """
    values = []
    for position in range(start, len(ids)):
        known = logprobs[position] if position < len(logprobs) else None
        if known is None or ids[position] not in known or not math.isfinite(known[ids[position]].logprob):
            raise UserError(f"vLLM gave no log-probability for token {position} of {len(ids)}.")
        values.append(known[ids[position]].logprob)
    return math.fsum(values)


def ends(folder: Path, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end an answer: those that generation_config.json names, and the tokenizer's own."""
    path = folder / "generation_config.json"
    named = json.loads(path.read_bytes()).get("eos_token_id") if path.is_file() else None
    every = {*named} if isinstance(named, list) else {named}
    return tuple(sorted(int(end) for end in {*every, tokenizer.eos_token_id} if end is not None))


def _stored(folder: Path) -> str:
    """The dtype that "auto" goes by, so that two models of different ones are told apart: what the configuration says."""
    settings = json.loads((folder / "config.json").read_bytes())
    return f"auto, stored as {settings.get('dtype') or settings.get('torch_dtype') or 'unknown'}"


def _context(folder: Path) -> int | None:
    settings = json.loads((folder / "config.json").read_bytes())
    for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        if isinstance(settings.get(key), int):
            return int(settings[key])
    return None


def _load(arguments: Mapping[str, Any]) -> tuple[Any, Any]:
    """The model in vLLM, and the class that holds how it is asked."""
    try:
        from vllm import LLM, SamplingParams
    except ImportError as error:
        raise UserError(
            "vLLM is not installed here: `pip install 'untax[vllm]'` on a machine with a GPU, or measure without it."
        ) from error
    return LLM(**arguments), SamplingParams
