"""Tasks of lm-eval, asked of a loaded model through `PrefixLM`: what `lm_eval --log_samples` would write, without its files.

Every task is evaluated by itself and kept under a key of everything that decides its answers, so a measurement that was killed
goes on behind the last finished task. The few-shot examples are drawn from lm-eval's own fixed seeds, so a base and a tuned
model see the same prompts; the global generators are left as they were found.
"""

from __future__ import annotations

import copy
import fnmatch
import hashlib
import io
import json
import logging
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from untax import files, methods, models, prefix
from untax.marks import versions
from untax.types import RecipeError, UserError

__all__ = ["evaluate", "known_tasks"]

#: lm-eval's own defaults for Python, NumPy, torch, and the draw of few-shot examples
SEEDS = {"random_seed": 0, "numpy_seed": 1234, "torch_seed": 1234, "fewshot_seed": 1234}
#: what of one task's results is put together for all
PARTS = ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples")

#: a task: its name, a path to its YAML, or its whole configuration
Task = str | Mapping[str, Any]


def evaluate(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[Task],
    *,
    num_fewshot: int | None = None,  # None: what each task says
    limit: int | float | None = None,  # so many documents a task; below 1 a share of them
    include_path: str | Path | Sequence[str | Path] | None = None,  # folders with task files
    batch_size: int = 16,  # where HFLM itself has to be asked
    cache_dir: str | Path | None = None,
    wrapped: Mapping[str, Any]
    | None = None,  # what lies round the model beside its weights: kept results are known by it
    gen_kwargs: Mapping[str, Any] | None = None,
    progress: bool = True,
    apply_chat_template: bool = False,
    allow_network: bool = False,
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """What lm-eval finds for tasks (or groups, tags, patterns) of a loaded causal language model, with or without an adapter.

    Returns its results without the samples, and the samples of every task. Task files are code: they may name Python functions
    beside them, which are run. Task metrics that lm-eval does not hold itself are fetched by it as scripts when `allow_network`.
    Raises: RecipeError for a task that does not exist or options that cannot be; UserError when lm-eval is not installed, the
    data of a task are not here, or a task cannot be asked of this model.
    """
    lm_class = _prefix_lm()
    if not tasks:
        raise RecipeError("No lm-eval task is named.")
    if limit is not None and limit <= 0:
        raise RecipeError(f"limit is {limit}; it must be a number of documents, or a share of them between 0 and 1.")
    if apply_chat_template and not tokenizer.chat_template:
        raise UserError("apply_chat_template: this tokenizer has no chat template. Leave the option out.")
    quiet = nullcontext() if progress else redirect_stderr(io.StringIO())
    with _generators_kept(), _network(allow_network), _hushed(), quiet:
        manager = _manager(_folders(include_path), tasks)
        loaded, groups = _loaded(manager, tasks, num_fewshot, gen_kwargs, allow_network)
        lm = lm_class(model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)
        who = _identity(model, tokenizer) | {
            "limit": limit, "gen_kwargs": dict(gen_kwargs or {}), "chat": apply_chat_template, **SEEDS,
            **({} if wrapped is None else {"wrapped": wrapped}),
        }  # fmt: skip
        found = {
            name: _kept(cache_dir, name, {**who, **_asked_of(task, limit)}, lm, task, limit, apply_chat_template)
            for name, task in loaded.items()
        }
    results: dict[str, Any] = {part: {} for part in PARTS}
    for each in found.values():
        for part in PARTS:
            results[part] |= each[part]
    results["group_subtasks"] = {name: [] for name in loaded} | groups
    results["config"] = {
        "model": "untax-prefix", "model_args": {"pretrained": str(model.config.name_or_path)},
        "model_dtype": str(model.dtype), "device": str(model.device), "batch_size": batch_size, "limit": limit,
        "gen_kwargs": dict(gen_kwargs) if gen_kwargs else None, **SEEDS,
    }  # fmt: skip
    results |= {f"{library}_version": version for library, version in versions(("lm_eval", "transformers")).items()}
    if apply_chat_template:
        results["chat_template_sha"] = hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()
    return results, {name: each["samples"] for name, each in found.items()}


def known_tasks(include_path: str | Path | Sequence[str | Path] | None = None) -> tuple[str, ...]:
    """The names of all tasks, groups and tags that lm-eval knows, in alphabetical order. Takes seconds the first time."""
    _prefix_lm()
    return tuple(_index(_folders(include_path), True).all_tasks)


# --------------------------------------------------------------------------- finding tasks


def _prefix_lm() -> Any:
    from untax.prefix_lm import PrefixLM

    return PrefixLM


def _folders(include_path: str | Path | Sequence[str | Path] | None) -> tuple[str, ...]:
    paths = [include_path] if isinstance(include_path, str | Path) else list(include_path or ())
    for path in paths:
        if not Path(path).is_dir():
            raise RecipeError(f"include_path: there is no folder {path}.")
    return tuple(str(path) for path in paths)


@lru_cache(maxsize=8)
def _index(folders: tuple[str, ...], with_lm_evals_own: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=list(folders) or None, include_defaults=with_lm_evals_own)


def _manager(folders: tuple[str, ...], tasks: Sequence[Task]) -> Any:
    """The index in which all tasks are found; lm-eval's own takes seconds to read and is left out when nothing needs it."""
    from lm_eval.tasks._index import Kind

    own = _index(folders, False)
    alone = {name for name, entry in own.task_index.items() if entry.kind in (Kind.TASK, Kind.PY_TASK)}
    if all(not isinstance(task, str) or task in alone or Path(task).is_file() for task in tasks):
        return own
    return _index(folders, True)


def _names(manager: Any, task: Task) -> list[Any]:
    """One wish as lm-eval takes it. Raises: RecipeError when it knows no such task."""
    if not isinstance(task, str):
        if not isinstance(task.get("task"), str):
            raise RecipeError("A task that is given as a mapping needs the key 'task' with its name.")
        return [dict(task)]
    if Path(task).is_file() or task in manager.task_index:
        return [task]
    matched = fnmatch.filter(manager.all_tasks, task) if any(sign in task for sign in "*?[") else []
    if not matched:
        hint = methods.did_you_mean(task, manager.all_tasks)
        raise RecipeError(
            f"lm-eval has no task, group or tag '{task}'.{hint} It knows {len(manager.all_tasks)}: `lm-eval ls tasks` prints "
            "them; your own are found through include_path."
        )
    return matched


def _loaded(
    manager: Any,
    tasks: Sequence[Task],
    num_fewshot: int | None,
    gen_kwargs: Mapping[str, Any] | None,
    allow_network: bool,
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """All single tasks by name, with the options laid over them as lm-eval does, and the members of every group."""
    found: dict[str, Any] = {}
    groups: dict[str, list[str]] = {}
    for task in tasks:
        for name in _names(manager, task):
            _seed()
            try:
                told = manager.load([name])
            except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, ImportError) as error:
                raise _not_loaded(manager, name, error, allow_network) from error
            found |= told["tasks"]
            groups |= told.get("group_map") or {}
    for task in found.values():
        if task.get_config("output_type") == "generate_until" and gen_kwargs:
            task.set_config(key="generation_kwargs", value=dict(gen_kwargs), update=True)
        # a task that says 0 itself means it, lm-eval holds
        shots = task.get_config("num_fewshot")
        if num_fewshot is not None and shots != 0:
            task.set_config(key="num_fewshot", value=num_fewshot)
        elif shots is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=SEEDS["fewshot_seed"])
    return found, groups


def _not_loaded(manager: Any, name: Any, error: Exception, allow_network: bool) -> UserError:
    called = name if isinstance(name, str) else name["task"]
    config = name if isinstance(name, dict) else (manager.task_index[name].cfg if name in manager.task_index else None)
    data = (config or {}).get("dataset_path")
    which = f" (its data: '{data}')" if data else ""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    todo = (
        "Check the name of its data and the connection."
        if allow_network
        else "Nothing is fetched unless you allow it (allow_network), which is needed once; or write a task file whose "
        "dataset_path is json and whose dataset_kwargs.data_files are your own files, and give its folder as include_path."
    )
    return UserError(f"The lm-eval task '{called}'{which} cannot be loaded: {said} {todo}")


# --------------------------------------------------------------------------- one task


def _identity(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Everything but the task that decides the answers."""
    return {
        "fingerprint": models.fingerprint(model),
        "settings": models.settings_fingerprint(model),
        "generation": model.generation_config.to_diff_dict() if model.generation_config is not None else None,
        "tokenizer": models.tokenizer_fingerprint(tokenizer),
        "chat_template": tokenizer.chat_template,
        "dtype": str(model.dtype),
        "device": model.device.type,
        "versions": versions(("untax", "lm_eval", "torch", "transformers", "tokenizers", "peft")),
        "code": _code(),
    }


@lru_cache(maxsize=1)
def _code() -> str:
    """The code that asks and that keeps: results of other code are not used again."""
    here = Path(__file__)
    return _digest(
        [
            path.read_text(encoding="utf-8")
            for path in (here, here.parents[1] / "prefix_lm.py", Path(str(prefix.__file__)))
        ]
    )


def _asked_of(task: Any, limit: int | float | None) -> dict[str, Any]:
    """What decides a task's prompts and scores: its configuration, the documents that are asked, those that are shown."""
    from lm_eval.evaluator_utils import get_sample_size

    config = task.dump_config()
    shown = list(task.fewshot_docs()) if config.get("num_fewshot") else []
    asked = [doc for _, doc in task.doc_iterator(rank=0, limit=get_sample_size(task, limit), world_size=1)]
    return {"config": re.sub(r" at 0x[0-9a-f]+", "", _json(config)), "asked": _digest(asked), "shown": _digest(shown)}


def _kept(
    cache_dir: str | Path | None,
    name: str,
    key: Mapping[str, Any],
    lm: Any,
    task: Any,
    limit: int | float | None,
    apply_chat_template: bool,
) -> dict[str, Any]:
    """One task's results and samples: those that are kept under `key`, or new ones, which are kept."""
    path = None
    if cache_dir is not None:
        plain = re.sub(r"[^\w.-]+", "_", name)[:80]
        path = Path(cache_dir) / f"lm-eval-{plain}-{_digest(key)[:32]}.json"
        if path.is_file():
            try:
                return dict(json.loads(path.read_bytes()))
            except ValueError:  # a damaged file costs one task, asked again
                pass
    found = _evaluated(name, lm, task, limit, apply_chat_template)
    # also without a cache: what comes from it and what does not must look the same
    text = _json({part: found.get(part, {}) for part in (*PARTS, "samples")} | {"samples": found["samples"][name]})
    if path is not None:
        try:
            files.write(path, text)
        except OSError as error:
            raise UserError(
                f"The results of '{name}' cannot be kept: {error}. Free some space, or measure without a cache."
            ) from error
    return dict(json.loads(text))


def _evaluated(name: str, lm: Any, task: Any, limit: int | float | None, apply_chat_template: bool) -> dict[str, Any]:
    from lm_eval.evaluator import evaluate as run

    _seed()
    try:
        found = run(
            lm, {"tasks": {name: task}}, limit=limit, log_samples=True, apply_chat_template=apply_chat_template,
            fewshot_as_multiturn=apply_chat_template, bootstrap_iters=0,
        )  # fmt: skip
    except torch.OutOfMemoryError as error:
        raise UserError(f"'{name}': the device's memory ran out. Use a smaller batch_size.") from error
    except (ValueError, AssertionError, KeyError, TypeError, IndexError) as error:
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"The lm-eval task '{name}' cannot be asked of this model: {said}") from error
    return dict(found)


def _json(value: Any) -> str:
    return json.dumps(value, default=_plain, ensure_ascii=False, sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)


def _digest(value: Any) -> str:
    return hashlib.sha256(_json(value).encode("utf-8", "surrogatepass")).hexdigest()


# --------------------------------------------------------------------------- surroundings


def _seed() -> None:
    random.seed(SEEDS["random_seed"])
    np.random.seed(SEEDS["numpy_seed"])
    torch.manual_seed(SEEDS["torch_seed"])


@contextmanager
def _generators_kept() -> Iterator[None]:
    """lm-eval draws from the global generators; a training loop around it must not notice."""
    python, numpy, here = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(here)
        if devices:
            torch.cuda.set_rng_state_all(devices)


@contextmanager
def _network(allowed: bool) -> Iterator[None]:
    """Unless it is allowed, the hub's clients answer every request with an error for the length of the block."""
    import datasets
    from huggingface_hub import constants

    if allowed:
        yield
        return
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE, datasets.config.HF_DATASETS_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = datasets.config.HF_DATASETS_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE, datasets.config.HF_DATASETS_OFFLINE = before


@contextmanager
def _hushed() -> Iterator[None]:
    """lm-eval warns of what is meant here: a model that is loaded already, options laid over a task."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
