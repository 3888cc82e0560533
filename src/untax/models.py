"""Loads a causal language model and asks it things: continuations, log-probabilities, distance from its base.

Weights come from safetensors only, code from the installed libraries only, and nothing is fetched unless the caller says
so. Every question takes a list and answers it in the same order; inside, rows are sorted by length and batched, and greedy
answers do not depend on the batch they travelled in (float32; up to the last bits of the arithmetic).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import re
import shutil
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from untax import methods
from untax.types import Answer, UserError

__all__ = [
    "adapter_off",
    "adds_space",
    "asking",
    "check",
    "choice_logprobs",
    "context_length",
    "continued",
    "decoded",
    "drift_from",
    "fingerprint",
    "generate",
    "has_adapter",
    "load",
    "locate",
    "no_loading_bar",
    "opening_ids",
    "prompt_ids",
    "reserving",
    "save",
    "settings_fingerprint",
    "target_ids",
    "text_logprobs",
    "tokenizer_fingerprint",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

#: numbers in the largest block of logits: 2**26 float32 are 256 MB
LOGITS_AT_ONCE = 2**26

Tick = Callable[[int], object]


def _no_tick(done: int) -> None:
    """Progress that nobody watches."""


# --------------------------------------------------------------------------- loading and saving


def load(
    name_or_path: str | Path,
    *,
    dtype: str = "float32",
    adapter: str | Path | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
    allow_network: bool = False,
) -> tuple[Any, Any]:
    """A causal language model in evaluation mode, and its tokenizer.

    A folder that holds a PEFT adapter loads its base as well; `adapter` lays one over the model named first. dtype "auto" is the
    one that the weights are stored in. Hub names need `allow_network`.
    Raises: UserError when there is nothing to load, or what is there cannot be loaded safely and whole.
    """
    known = [*DTYPES, "auto"]
    if dtype not in known:
        raise UserError(
            f"dtype '{dtype}' is not known.{methods.did_you_mean(dtype, known)} There are: {', '.join(known)}."
        )
    target = _device(device)
    folder = locate(name_or_path, allow_network)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        if adapter is not None:
            raise UserError(f"{folder} is an adapter already; give its base model first and one adapter, not two.")
        adapter, folder = folder, _base_of(folder, allow_network)
    adapter_folder = None if adapter is None else locate(adapter, allow_network)
    _check_files(folder)
    tokenizer = _load_tokenizer(folder, adapter_folder, trust_remote_code)
    model = _load_weights(folder, dtype, trust_remote_code)
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise UserError(
            f"{folder}: the tokenizer knows {len(tokenizer)} tokens, the model only {rows}. They do not belong together."
        )
    if adapter_folder is not None:
        model = _lay_adapter(model, adapter_folder)
    return model.to(target).eval(), tokenizer


def check(
    name_or_path: str | Path,
    *,
    adapter: str | Path | None = None,
    device: str = "cpu",
    allow_network: bool = False,
) -> None:
    """Look at the files of a model, and at the device, without loading anything.

    Raises: UserError where `load` would find at once that it cannot go on.
    """
    _device(device)
    folder = locate(name_or_path, allow_network)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        folder = _base_of(folder, allow_network)
    _check_files(folder)
    if adapter is not None:
        _check_adapter(locate(adapter, allow_network))


def save(model: Any, tokenizer: Any, folder: str | Path) -> None:
    """Write model (or adapter) and tokenizer into `folder`, which appears whole or not at all.

    A model that stands there already is replaced.
    Raises: UserError when `folder` holds something that is no model, or the disk refuses.
    """
    from safetensors import SafetensorError

    folder = Path(folder)
    kept = folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
    if kept and not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise UserError(f"{folder} exists and holds no model; nothing was touched. Give another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        try:
            model.save_pretrained(fresh)
            tokenizer.save_pretrained(fresh)
        except SafetensorError as error:
            free = shutil.disk_usage(folder.parent).free / 2**20
            raise UserError(
                f"the model cannot be written to {folder}: {error} ({free:.1f} MiB are free there)."
            ) from error
        if folder.exists():
            old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.old")
            os.rename(folder, old)
            os.rename(fresh, folder)
            shutil.rmtree(old)
        else:
            os.rename(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device '{name}' is not known; write cpu, cuda, cuda:0, mps or auto.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device '{name}': this machine shows {torch.cuda.device_count()} CUDA devices. Use device=cpu."
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps' is not available here. Use device=cpu.")
    try:
        float(torch.zeros(1, device=device))
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise UserError(f"device '{name}': the torch that is installed here cannot use it. Use device=cpu.") from error
    return device


def locate(name_or_path: str | Path, allow_network: bool) -> Path:
    """The local folder of a model or an adapter; a hub name is fetched into the usual cache when that is allowed."""
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{path} is a file; give the folder that holds config.json, the weights and the tokenizer.")
    name = str(name_or_path)
    near = sorted(p.name for p in path.parent.iterdir() if p.is_dir()) if path.parent.is_dir() else []
    hint = methods.did_you_mean(path.name, near)
    if not allow_network or not HUB_NAME.fullmatch(name):
        if HUB_NAME.fullmatch(name):
            hint += " If this is the name of a model on a hub, allow the network (--allow-network; in a recipe, allow_network: true)."
        raise UserError(f"There is no model folder at {path}.{hint}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise UserError(
            f"'{name}' is no folder here and could not be fetched from the hub: {_first_line(error)}"
        ) from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _base_of(adapter: Path, allow_network: bool) -> Path:
    settings = _read_json(adapter / "adapter_config.json")
    name = settings.get("base_model_name_or_path")
    if not name:
        raise UserError(f"{adapter}/adapter_config.json names no base model; give the base and adapter={adapter}.")
    beside = adapter / str(name)
    try:
        return beside if beside.is_dir() else locate(str(name), allow_network)
    except UserError as error:
        raise UserError(
            f"{adapter} is an adapter on '{name}', which cannot be found: {error} Give the base model and adapter={adapter}."
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON: {_first_line(error)}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}, not an object.")
    return found


def _check_files(folder: Path) -> None:
    """Say what is missing or unsafe before a library does so in its own words."""
    if not (folder / "config.json").is_file():
        inside = sorted(str(p.parent.relative_to(folder)) for p in folder.glob("*/config.json"))
        hint = f" Models below it: {', '.join(inside)}." if inside else ""
        raise UserError(f"{folder} holds no config.json: it is no model folder.{hint}")
    _read_json(folder / "config.json")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLED)
        if pickled:
            raise UserError(
                f"{folder}: the weights ({', '.join(pickled)}) are pickled, and a pickle can run code, so they are not opened. "
                "Save the model again as safetensors (save_pretrained does) where you trust the file."
            )
        raise UserError(f"{folder} holds no weights: no *.safetensors file.")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = _read_json(index).get("weight_map", {})
        missing = sorted({str(name) for name in shards.values()} - {p.name for p in weights})
        if missing:
            raise UserError(
                f"{folder}: the index names weights that are not there: {', '.join(missing)}. Copy them again."
            )
    for path in weights:
        _check_safetensors(path)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(f"{folder} holds no tokenizer (looked for {', '.join(TOKENIZER_FILES)}).")


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as opened:
            opened.keys()
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a whole safetensors file ({_first_line(error)}). Copy or save it again."
        ) from error


def _load_tokenizer(folder: Path, adapter: Path | None, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    # an adapter that was saved with its own tokenizer was trained with it
    if adapter is not None and any((adapter / name).is_file() for name in TOKENIZER_FILES):
        folder = adapter
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as error:  # the tokenizers library raises plain Exception for a file that it cannot read
        raise UserError(f"{folder}: the tokenizer cannot be loaded: {_first_line(error)}") from error


def _load_weights(folder: Path, dtype: str, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        with no_loading_bar():
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=DTYPES.get(dtype, "auto"),
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, ImportError) as error:
        raise UserError(
            f"{folder}: the model cannot be loaded as a causal language model: {_first_line(error)}"
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError(
            f"{folder}: the weights lack {len(missing)} tensors that config.json asks for (first: {missing[0]}); "
            "they would be random. The file belongs to another configuration."
        )
    return model


@contextmanager
def no_loading_bar() -> Iterator[None]:
    """A bar per loaded model would bury the lines that a run prints about its own progress."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _lay_adapter(model: Any, folder: Path) -> Any:
    from peft import PeftModel

    _check_adapter(folder)
    try:
        with warnings.catch_warnings():
            # a tensor that the file lacks would stay at its random start: PEFT only warns
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            return PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, UserWarning) as error:
        raise UserError(f"{folder}: the adapter does not fit its base model: {_first_line(error)}") from error


def _check_adapter(folder: Path) -> None:
    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} holds no adapter_config.json: it is no PEFT adapter.")
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLED)
        raise UserError(
            f"{folder} holds no adapter_model.safetensors"
            + (f"; {', '.join(pickled)} is pickled and is not opened. Save the adapter again." if pickled else ".")
        )
    _check_safetensors(weights)


# --------------------------------------------------------------------------- adapters and identity


def has_adapter(model: Any) -> bool:
    """Whether the model is a PEFT adapter laid over a base."""
    # without PEFT in memory nothing can be a PeftModel, and importing it takes a second
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


@contextmanager
def adapter_off(model: Any) -> Iterator[Any]:
    """The base under an adapter, for the length of a `with` block: one load is both models.

    Raises: UserError when the model has no adapter.
    """
    if not has_adapter(model):
        raise UserError("This model has no adapter that could be switched off; load the base model as well.")
    with model.disable_adapter():
        yield model


def fingerprint(model: Any) -> str:
    """A hash of the weights that the model runs with, the same in every process.

    With an adapter it covers base, adapter and scale; with the adapter switched off it equals the base's own.
    """
    digest = hashlib.sha256()
    tensors: dict[str, torch.Tensor] = {}
    with_adapter = has_adapter(model)
    enabled = with_adapter and model.get_model_status().enabled is not False
    active = model.active_adapters if with_adapter else []
    for name, tensor in model.state_dict().items():
        plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".") if with_adapter else name
        runs = enabled and any(f".{adapter}." in f"{plain}." for adapter in active)
        if with_adapter and _of_adapter(plain, model.peft_config) and not runs:
            continue
        plain = plain.replace(".original_module.", ".")
        tensors[plain] = tensor
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    if enabled:
        digest.update(json.dumps(_scales(model, active), sort_keys=True).encode())
    return digest.hexdigest()[:32]


def _of_adapter(name: str, adapters: Any) -> bool:
    parts = name.split(".")
    return any(adapter in parts for adapter in adapters) and (
        any(part.startswith("lora_") for part in parts) or "modules_to_save" in parts or "token_adapter" in parts
    )


def _scales(model: Any, active: Sequence[str]) -> dict[str, float]:
    from peft.tuners.lora import LoraLayer

    return {
        f"{name}:{adapter}": float(layer.scaling[adapter])
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
        for adapter in active
        if adapter in layer.scaling
    }


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A hash of what the tokenizer does to a text; padding and truncation switches, which calls leave behind, are not in it."""
    from transformers import PreTrainedTokenizerFast

    if isinstance(tokenizer, PreTrainedTokenizerFast):
        told = json.loads(tokenizer.backend_tokenizer.to_str())
        told.pop("padding", None)
        told.pop("truncation", None)
    else:
        told = {"vocabulary": tokenizer.get_vocab(), "class": type(tokenizer).__name__}
    told["special"] = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def settings_fingerprint(model: Any) -> str:
    """A hash of what beside the weights decides the answers: the configuration, the tokens that end an answer, code of its own."""
    settings = model.config.to_dict()
    for key in ("_name_or_path", "transformers_version", "use_cache", "torch_dtype", "dtype"):
        settings.pop(key, None)
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    told = json.dumps([settings, ends, *_own_code(model)], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def _own_code(model: Any) -> list[str]:
    """Hashes of the files that a model brings with it (trust_remote_code); none where an installed library is its code."""
    inner = model.get_base_model() if has_adapter(model) else model
    package = type(inner).__module__.rpartition(".")[0]
    if package.partition(".")[0] != "transformers_modules":
        return []
    specs = [module.__spec__ for name, module in sys.modules.items() if name.startswith(f"{package}.")]
    paths = sorted(Path(spec.origin) for spec in specs if spec is not None and spec.origin is not None)
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()]


#: tokens of a model's context that something which lies round it takes for itself
_RESERVED: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def context_length(model: Any) -> int | None:
    """The most tokens that the model can read at once, or None when its configuration does not say."""
    settings = model.config.to_dict()
    taken = _RESERVED.get(model.get_base_model() if has_adapter(model) else model, 0)
    for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        if isinstance(settings.get(key), int):
            return int(settings[key]) - taken
    return None


@contextmanager
def reserving(model: Any, tokens: int) -> Iterator[None]:
    """Leaves so many tokens of a model's context to what lies round it, for the length of a `with` block; `model` has no adapter round it."""
    _RESERVED[model] = tokens
    try:
        yield
    finally:
        del _RESERVED[model]


# --------------------------------------------------------------------------- text to tokens


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """The tokens of a prompt, opened as the tokenizer opens a text; an empty prompt is BOS (or EOS where no BOS exists).

    A closing EOS that some tokenizers add is left out: the text goes on.
    Raises: UserError when the prompt is empty and the tokenizer has neither BOS nor EOS.
    """
    ids = [*opening_ids(tokenizer), *_plain_ids(tokenizer, prompt)]
    if ids:
        return ids
    for special in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if special is not None:
            return [int(special)]
    raise UserError("The tokenizer has neither BOS nor EOS: an empty prompt leaves the first token without a context.")


def target_ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text that continues a prompt: no special token before or behind, and one space, not two.

    Where the tokenizer puts a space before every text by itself, the text's own first space is that one.
    """
    return _plain_ids(tokenizer, text[1:] if text.startswith(" ") and adds_space(tokenizer) else text)


def adds_space(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a space before every text by itself, as those of Llama 2 and Mistral do."""
    return bool(tokenizer.tokenize("a")[:1] != ["a"])


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []


def opening_ids(tokenizer: Any) -> list[int]:
    """The tokens that the tokenizer puts before every text: BOS, or none."""
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    full = list(tokenizer("a")["input_ids"])
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return full[:start]
    return []


def _start_ids(tokenizer: Any) -> list[int]:
    return prompt_ids(tokenizer, "")


# --------------------------------------------------------------------------- continuation


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    samples: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
    tick: Tick = _no_tick,
) -> list[Answer]:
    """Continue each prompt until EOS, a stop string or the budget: with its likeliest tokens, or `samples` times at a temperature.

    The text ends before the stop string; `n_tokens` counts what was generated without EOS; `truncated` says that the budget
    ran out first. Sampling draws the same uniform numbers for a prompt whatever the model and the batch, so that two models are
    compared on the same luck. `tick` is called with the number of prompts that a batch finished.
    Raises: UserError when a prompt and the budget do not fit into the model's context, or the budget is not positive.
    """
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {max_new_tokens}; it must be at least 1.")
    if samples < 1 or temperature < 0 or not 0 < top_p <= 1:
        raise UserError(
            f"samples {samples}, temperature {temperature}, top_p {top_p}: at least one sample, a temperature from 0 on, "
            "and top_p above 0 and at most 1."
        )
    if samples > 1 and temperature == 0:
        raise UserError(f"{samples} samples at temperature 0 are {samples} times the same answer: name a temperature.")
    limit = context_length(model)
    rows = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    for number, row in enumerate(rows):
        if limit is not None and len(row) + max_new_tokens > limit:
            raise UserError(
                f"prompt {number} has {len(row)} tokens; with {max_new_tokens} new ones it exceeds the model's context of {limit}."
            )
    sampling = _Sampling(temperature, top_p, seed) if temperature > 0 else None
    answers: list[list[Answer]] = [[Answer()] * samples for _ in rows]
    # rows of one length travel together: little padding, and the longest come first, so that memory fails early or never
    order = sorted(((i, k) for i in range(len(rows)) for k in range(samples)), key=lambda ik: (-len(rows[ik[0]]), ik))
    with asking(model):
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            luck = None if sampling is None else sampling.luck([(prompts[i], k) for i, k in chosen], max_new_tokens)
            batch = continued(
                model, tokenizer, [rows[i] for i, _ in chosen], max_new_tokens, tuple(stop), sampling, luck
            )
            for (i, k), (tokens, finished) in zip(chosen, batch, strict=True):
                answers[i][k] = _written(tokenizer, tokens, tuple(stop), finished)
            tick(sum(k == 0 for _, k in chosen))
    return [_together(many) for many in answers]


def _together(many: Sequence[Answer]) -> Answer:
    """The samples of one prompt as one answer."""
    if len(many) == 1:
        return many[0]
    return Answer(
        text=many[0].text,
        n_tokens=max(answer.n_tokens for answer in many),
        truncated=any(answer.truncated for answer in many),
        texts=tuple(answer.text for answer in many),
    )


@dataclass(frozen=True)
class _Sampling:
    temperature: float
    top_p: float
    seed: int

    def luck(self, asks: Sequence[tuple[str, int]], steps: int) -> torch.Tensor:
        """Uniform numbers (rows, steps) that depend on prompt, sample and seed alone."""
        rows = []
        for prompt, sample in asks:
            mark = hashlib.sha256(f"{self.seed}:{sample}:{prompt}".encode("utf-8", "surrogatepass")).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(mark[:7], "big"))
            rows.append(torch.rand(steps, generator=generator, dtype=torch.float64))
        return torch.stack(rows)

    def pick(self, logits_BV: torch.Tensor, luck_B: torch.Tensor) -> torch.Tensor:
        """The token at which the cumulated probability, likeliest first, passes the uniform number."""
        ordered, tokens = (logits_BV.double() / self.temperature).softmax(-1).sort(descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        ordered = ordered.masked_fill(before >= self.top_p, 0.0)  # the token that crosses top-p stays in
        reach = ordered.cumsum(-1)
        target = luck_B.to(reach.device)[:, None] * reach[:, -1:]
        index = (reach <= target).sum(-1, keepdim=True).clamp(max=reach.shape[-1] - 1)
        return tokens.gather(-1, index)[:, 0]


@contextmanager
def asking(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients, for the length of a `with` block."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


@lru_cache(maxsize=8)
def _parameters(forward: Any) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def _accepted(model: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that this architecture knows: not all have positions, or can leave logits out."""
    inner = model.get_base_model() if has_adapter(model) else model
    known = _parameters(type(inner).forward)
    return {name: value for name, value in given.items() if name in known}


def continued(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Sequence[int]],
    budget: int,
    stop: tuple[str, ...],
    sampling: _Sampling | None = None,
    luck: torch.Tensor | None = None,
) -> list[tuple[list[int], bool]]:
    """One batch of prompts' tokens continued inside `asking`: what was written, without the end token, and whether it ended.

    The last tokens written may reach into a stop string, or behind one.
    """
    device = model.device
    ends = torch.tensor(sorted(_end_ids(model, tokenizer)), dtype=torch.long, device=device)
    width = max(len(row) for row in rows)
    ids = torch.tensor([[*[0] * (width - len(row)), *row] for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    written: list[list[int]] = [[] for _ in rows]
    finished = [False] * len(rows)
    active = list(range(len(rows)))  # which row stands in each line of the batch
    cache = None
    for step in range(budget):
        extra = _accepted(model, {"position_ids": positions, "logits_to_keep": 1})
        out = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **extra)
        cache = out.past_key_values
        value, token = out.logits[:, -1].max(-1)
        if torch.isnan(value).any():
            raise UserError(
                "The model's logits are not numbers (NaN): its weights are damaged, or dtype float16 overflows; try float32."
            )
        if sampling is not None and luck is not None:
            token = sampling.pick(out.logits[:, -1], luck[active, step])
        ended = torch.isin(token, ends).tolist()
        for line, (row, new) in enumerate(zip(active, token.tolist(), strict=True)):
            if finished[row]:
                continue
            if ended[line]:
                finished[row] = True
                continue
            written[row].append(new)
            finished[row] = _stopped(tokenizer, written[row], stop)
        going = [line for line, row in enumerate(active) if not finished[row]]
        if not going:
            break
        ids, positions = token[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
        # carrying finished rows along costs more than moving the others together, once a quarter has finished
        if len(going) <= 0.75 * len(active):
            kept = torch.tensor(going, device=device)
            cache.batch_select_indices(kept)
            ids, positions, mask = ids[kept], positions[kept], mask[kept]
            active = [active[line] for line in going]
    return list(zip(written, finished, strict=True))


def _end_ids(model: Any, tokenizer: Any) -> set[int]:
    named = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = set(named) if isinstance(named, list | tuple) else {named}
    return {int(end) for end in (*ends, tokenizer.eos_token_id) if end is not None}


def decoded(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text of tokens as it was written: no special tokens, no tidied spaces."""
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _stopped(tokenizer: Any, tokens: list[int], stop: tuple[str, ...]) -> bool:
    if not stop:
        return False
    text = decoded(tokenizer, tokens)
    return any(mark in text for mark in stop)


def _written(tokenizer: Any, tokens: list[int], stop: tuple[str, ...], finished: bool) -> Answer:
    text = decoded(tokenizer, tokens)
    ends = [text.index(mark) for mark in stop if mark in text]
    return Answer(text=text[: min(ends)] if ends else text, n_tokens=len(tokens), truncated=not finished)


# --------------------------------------------------------------------------- log-probabilities


def choice_logprobs(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    choices: Sequence[Sequence[str]],
    *,
    batch_size: int = 64,
    tick: Tick = _no_tick,
) -> list[Answer]:
    """The log-probability in nats of each choice as a continuation of its prompt: the sum, first token included.

    Raises: UserError when a choice has no token, or a prompt and a choice do not fit into the model's context.
    """
    rows, starts, owners = [], [], []
    limit = context_length(model)
    for number, (prompt, texts) in enumerate(zip(prompts, choices, strict=True)):
        before = prompt_ids(tokenizer, prompt)
        for text in texts:
            target = target_ids(tokenizer, text)
            if not target:
                raise UserError(f"prompt {number}: the choice {text!r} has no token.")
            if limit is not None and len(before) + len(target) > limit:
                raise UserError(
                    f"prompt {number} and a choice have {len(before) + len(target)} tokens; the model's context is {limit}."
                )
            rows.append([*before, *target])
            starts.append(len(before))
            owners.append(number)
    sums, _ = _score(model, rows, starts, batch_size, tick)
    by_owner: list[list[int]] = [[] for _ in prompts]
    for i, owner in enumerate(owners):
        by_owner[owner].append(i)
    return [
        Answer(
            logprobs=tuple(sums[i] for i in mine),
            choice_tokens=tuple(len(rows[i]) - starts[i] for i in mine),
        )
        for mine in by_owner
    ]


def text_logprobs(
    model: Any, tokenizer: Any, texts: Sequence[str], *, batch_size: int = 64, tick: Tick = _no_tick
) -> list[Answer]:
    """The log-likelihood in nats of each text: one sum, first token included, EOS not.

    `values` holds the part of the first token, `opening`, and how many there are (`openings`): one for each piece.
    A text longer than the context is cut into pieces that begin anew, so that every token counts once.
    Raises: UserError when the tokenizer has neither BOS nor EOS to begin with.
    """
    rows, starts, owners = _pieces(model, tokenizer, texts)
    sums, firsts = _score(model, rows, starts, batch_size, tick)
    totals, tokens, openings = [0.0] * len(texts), [0] * len(texts), [0.0] * len(texts)
    pieces = [0] * len(texts)
    for total, first, row, start, owner in zip(sums, firsts, rows, starts, owners, strict=True):
        totals[owner] += total
        openings[owner] += first
        tokens[owner] += len(row) - start
        pieces[owner] += 1
    return [
        Answer(
            logprobs=(total,) if count else (),
            n_tokens=count,
            values={"opening": first, "openings": float(begun)} if count else {},
        )
        for total, count, first, begun in zip(totals, tokens, openings, pieces, strict=True)
    ]


def drift_from(
    base: Any | None,
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    batch_size: int = 64,
    tick: Tick = _no_tick,
) -> list[Answer]:
    """How far the model has moved from its base: KL(base || model) in nats per token of each text, whole vocabulary.

    `values["inner"]` is the same without the first token, before which nothing has been said: there a model shows which kinds of text
    it expects, and not what it knows of this one. NaN for a text of one token.
    `base=None` means the model with its adapter switched off. A model compared with itself has drift 0.
    Raises: UserError when there is neither a base nor an adapter, or the two vocabularies differ in size.
    """
    rows, starts, owners = _pieces(model, tokenizer, texts)
    sums, tokens = [0.0] * len(texts), [0] * len(texts)
    openings, pieces = [0.0] * len(texts), [0] * len(texts)
    if base is None and not has_adapter(model):
        raise UserError("Drift needs the base model: the one measured has no adapter to switch off.")
    if base is model:
        return [Answer(n_tokens=len(_plain_ids(tokenizer, text)), kl=0.0, values={"inner": 0.0}) for text in texts]
    with asking(model):
        for chosen in _batches(rows, batch_size, 4 * model.config.get_text_config().vocab_size):
            ids, mask = _right_padded([rows[i] for i in chosen], model.device)
            new = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1)
            old = _base_logprobs(base, model, ids, mask).to(new.device)
            if old.shape != new.shape:
                raise UserError(
                    f"base and model have {old.shape[-1]} and {new.shape[-1]} tokens: no KL can be computed."
                )
            kl_BT = torch.where(old > -torch.inf, old.exp() * (old - new), 0.0).sum(-1).double().cpu()
            for line, i in enumerate(chosen):
                # what is predicted at position t is token t + 1
                sums[owners[i]] += float(kl_BT[line, starts[i] - 1 : len(rows[i]) - 1].sum())
                tokens[owners[i]] += len(rows[i]) - starts[i]
                openings[owners[i]] += float(kl_BT[line, starts[i] - 1])
                pieces[owners[i]] += 1
            tick(len(chosen))
    return [
        Answer(
            n_tokens=count,
            kl=total / count,
            values={"inner": (total - first) / (count - begun) if count > begun else math.nan},
        )
        if count
        else Answer()
        for total, count, first, begun in zip(sums, tokens, openings, pieces, strict=True)
    ]


def _base_logprobs(base: Any | None, model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    if base is None:
        with adapter_off(model):
            return model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1)
    with asking(base):
        ids, mask = ids.to(base.device), mask.to(base.device)
        return base(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1)


def _pieces(model: Any, tokenizer: Any, texts: Sequence[str]) -> tuple[list[list[int]], list[int], list[int]]:
    """Token rows that open like a text, where the scored part begins in each, and the text that each belongs to."""
    opening = _start_ids(tokenizer)
    limit = context_length(model)
    rows, starts, owners = [], [], []
    for number, text in enumerate(texts):
        ids = _plain_ids(tokenizer, text)
        step = len(ids) if limit is None else limit - len(opening)
        for begin in range(0, len(ids), max(step, 1)):
            rows.append([*opening, *ids[begin : begin + step]])
            starts.append(len(opening))
            owners.append(number)
    return rows, starts, owners


def _batches(rows: Sequence[Sequence[int]], batch_size: int, numbers_per_token: int) -> Iterator[list[int]]:
    """Indices of rows, longest first, in batches whose block of logits stays within LOGITS_AT_ONCE."""
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    start = 0
    while start < len(order):
        fits = LOGITS_AT_ONCE // (numbers_per_token * max(len(rows[order[start]]), 1))
        size = max(1, min(batch_size, fits))
        yield order[start : start + size]
        start += size


def _right_padded(rows: Sequence[Sequence[int]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask


def _score(
    model: Any, rows: list[list[int]], starts: list[int], batch_size: int, tick: Tick
) -> tuple[list[float], list[float]]:
    """Sum of log-probabilities of the tokens of each row from its start on, and the part of the first of them."""
    sums, firsts = [0.0] * len(rows), [0.0] * len(rows)
    with asking(model):
        for chosen in _batches(rows, batch_size, model.config.get_text_config().vocab_size):
            ids, mask = _right_padded([rows[i] for i in chosen], model.device)
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
            picked = logits.gather(-1, ids[:, 1:, None])[..., 0]
            logps_BT = (picked - logits.logsumexp(-1)).double().cpu()
            for line, i in enumerate(chosen):
                sums[i] = float(logps_BT[line, starts[i] - 1 : len(rows[i]) - 1].sum())
                firsts[i] = float(logps_BT[line, starts[i] - 1])
            tick(len(chosen))
    return sums, firsts
