"""Two models in, a receipt out: directories, hub names, a base and its adapter, or two addresses; measured alike, guarded, paired."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from untax import calibration, contamination, files, methods, tables
from untax import receipt as receipts
from untax.diagnostics import scored
from untax.readers.find import one_scale
from untax.report import examples, page
from untax.run import LAB_BASE, Outcome, data_dir, environment, outcome_of, quiet_libraries
from untax.suites.read import LmEval, Suite
from untax.types import Engine, RecipeError, Scores, UserError

__all__ = ["Addresses", "Loading", "compare_two", "is_adapter", "is_address", "other_base", "same_dtype"]

ENGINES = ("transformers", "vllm")


@dataclass(frozen=True)
class Addresses:
    """How to speak to models behind addresses: chat or plain completions, the variable that holds the key, and how many at once."""

    chat: bool = False
    api_key_env: str | None = None
    concurrency: int = 8


def compare_two(
    base: str,
    tuned: str,
    *,
    suite: str,
    data: str,
    out: Path,
    tasks: LmEval | None = None,
    max_items: int | None = None,
    batch_size: int = 64,
    dtype: str = "float32",
    device: str = "cpu",
    margins: Mapping[str, float] | None = None,
    allow_dtype_mismatch: bool = False,
    noise_floor: bool = False,
    training_data: Sequence[Path] = (),
    addresses: Addresses | None = None,
    engine: str = "transformers",
    seed: int = 0,
    resamples: int = 10_000,
    trust_remote_code: bool = False,
    allow_network: bool = False,
    command: str = "",
    progress: bool = True,
) -> Outcome:
    """Measure two models by one suite and write scores and receipt into `out`; finished groups of answers are kept.

    Raises: UserError when a model, the suite or its data cannot be used, or the two are of different dtypes.
    """
    _check_places(base, tuned, out)
    if not allow_network:
        os.environ["HF_HUB_OFFLINE"] = "1"
    quiet_libraries()
    read = _suite(suite, data, out, tasks, max_items)
    _check_margins(margins or {}, read)
    # before the models are asked: an unreadable file is said now, not after an hour of measuring
    asked = {line.spec.name: line.items for line in read.lines}
    found = contamination.check(asked, training_data) if training_data else {}
    cache = out / "scores" / "cache"
    if engine not in ENGINES:
        raise RecipeError(f"--engine {engine}:{methods.did_you_mean(engine, ENGINES)} There are: {', '.join(ENGINES)}.")
    first, second = (str(LAB_BASE) if name == "lab" else name for name in (base, tuned))
    notes: list[str] = []
    if is_address(base) or engine == "vllm":
        make = (
            partial(_vllm, dtype=dtype)
            if engine == "vllm"
            else partial(_endpoint, how=addresses or Addresses(), cache=cache)
        )
        sides = _measure_engines(first, second, read, make, cache, noise_floor, progress)
    else:
        loading = Loading(dtype, device, trust_remote_code, allow_network)
        notes = other_base(first, second)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        sides = _measure_models(
            first, second, read, loading, cache, batch_size, allow_dtype_mismatch, noise_floor, progress
        )
    if training_data:
        sides["tuned"] = replace(sides["tuned"], about={**sides["tuned"].about, "contamination": found})
    for scores in sides.values():
        tables.write(scores, out / "scores" / scores.system)
    files.write_json(out / "environment.json", environment(command))
    made = receipts.make(
        sides["base"], sides["tuned"], noise=sides.get("noise"), seed=seed, resamples=resamples, margins=margins,
        allow_dtype_mismatch=allow_dtype_mismatch,
    )  # fmt: skip
    path = page.write(
        [made],
        out,
        title=f"{_short(tuned)} against {_short(base)}",
        examples=examples.collect(sides["base"], sides["tuned"]),
        forgotten={sides["tuned"].system: scored.of_scores(sides["base"], sides["tuned"])},
        environment=environment(command),
        command=command,
        notes=[*notes, *_calibration(sides["base"], sides["tuned"])],
    )
    return outcome_of(out, path, [made])


def _calibration(base: Scores, tuned: Scores) -> list[str]:
    """What is no mean of scores (calibration error, overconfidence), for each set of items whose confidence was measured."""
    told = []
    sets: dict[str, dict[str, str]] = {}
    for spec in tuned.specs:
        if spec.metric == "calibration":
            options = dict(spec.settings.get("options", {}))
            score = str(options.pop("score", "brier"))
            # one set is the same items, asked in the same way and read in the same form
            sets.setdefault(repr((spec.items_hash, spec.prompt_hash, sorted(options.items()))), {})[score] = spec.name
    for names in sets.values():
        if {"confidence", "correct"} <= names.keys():
            try:
                found = calibration.between(
                    base,
                    tuned,
                    confidence=names["confidence"],
                    correct=names["correct"],
                    repaired=names.get("repaired"),
                )
            except UserError as error:  # a set without a score on both sides is no reason to lose all other lines
                told.append(f"{names['correct']}: {error}")
                continue
            told.append(f"{names['correct']}: {' '.join(calibration.told(found))}")
    return told


def is_address(spec: str) -> bool:
    """Does the argument name a model behind an address, and not one of this machine or a hub?"""
    return spec.lower().startswith(("http://", "https://"))


def _short(spec: str) -> str:
    return spec.rpartition("#")[2] if is_address(spec) else Path(spec).name


def _suite(suite: str, data: str, out: Path, tasks: LmEval | None, max_items: int | None) -> Suite:
    """The named suite, its lm-eval tasks replaced by those of the command line; or those tasks alone when no suite is named."""
    from untax import measure

    if suite == "none":
        if tasks is None:
            raise RecipeError("--suite none leaves nothing to measure: name lm-eval tasks with --tasks.")
        return Suite("lm-eval", (), lm_eval=tasks)
    read = measure.load_suite(suite, data_dir=data_dir(data, out), max_items=max_items)
    return read if tasks is None else replace(read, lm_eval=tasks)


def _check_places(base: str, tuned: str, out: Path) -> None:
    """Two models that can stand side by side, and a folder that holds nothing else."""
    if out.exists() and not out.is_dir():
        raise RecipeError(f"{out} is a file; give the folder for scores and receipt with --out.")
    if (out / "recipe.resolved.yaml").exists():
        raise RecipeError(f"{out} holds a run, whose receipt would be overwritten. Give another folder with --out.")
    if not base.strip() or not tuned.strip():
        raise RecipeError("one of the two models has an empty name: give a directory, 'lab', a hub name or an address.")
    if is_address(base) != is_address(tuned):
        raise RecipeError("One side is an address and the other a model of this machine: measure both in the same way.")


def _check_margins(margins: Mapping[str, float], suite: Suite) -> None:
    """A name that no line has is said before anything is measured; what lm-eval's lines are called is known only afterwards."""
    known = [line.spec.name for line in suite.lines]
    for name in margins:
        if name not in known and suite.lm_eval is None:
            raise RecipeError(
                f"--margin {name}: there is no such line.{methods.did_you_mean(name, known)} There are: {', '.join(known)}."
            )


# --------------------------------------------------------------------------- models of this machine


@dataclass(frozen=True)
class Loading:
    """How models of this machine are loaded: the same way for both sides."""

    dtype: str
    device: str
    trust_remote_code: bool
    allow_network: bool

    def load(self, name: str, *, adapter: str | None = None) -> tuple[Any, Any]:
        from untax import models

        beside = Path(name).parent / "projection.safetensors"
        if beside.is_file():
            raise UserError(
                f"{name} is only half of an edited model: an inner layer is projected by {beside}, which no weights hold. A recipe measures the two "
                "together; by hand, `with untax.edits.projection.load(FILE).applied(model)`. An edit of the last layer (layer: -1) stands in the weights."
            )
        return models.load(
            name, dtype=self.dtype, adapter=adapter, device=self.device, trust_remote_code=self.trust_remote_code,
            allow_network=self.allow_network,
        )  # fmt: skip


def _measure_models(
    base: str,
    tuned: str,
    suite: Suite,
    loading: Loading,
    cache: Path,
    batch_size: int,
    allow_dtype_mismatch: bool,
    noise_floor: bool,
    progress: bool,
) -> dict[str, Scores]:
    from untax import measure, models

    before, base_tokenizer = None, None
    if is_adapter(tuned) and not is_adapter(base):
        # one load is both sides: the adapter lies over the base that was named, and is switched off for its turn
        after, tokenizer = loading.load(base, adapter=tuned)
    else:
        after, tokenizer = loading.load(tuned)
        before, base_tokenizer = loading.load(base)
        same_dtype(before, after, allowed=allow_dtype_mismatch)
    found = measure.measure_pair(
        after, tokenizer, suite, base=before, base_tokenizer=base_tokenizer, cache_dir=cache, batch_size=batch_size,
        progress=progress,
    )  # fmt: skip
    # scores of a task of lm-eval that happen to be all 0 or 1 on one side are no 0/1 scores on the other
    sides = dict(zip(("base", "tuned"), one_scale(found), strict=True))
    if noise_floor:
        with models.adapter_off(after) if before is None else nullcontext(before) as first:
            again = measure.measure(
                first, base_tokenizer or tokenizer, _reseeded(suite), system="base, again", base=first, cache_dir=cache,
                batch_size=max(1, batch_size // 2), check=False, progress=progress,
            )  # fmt: skip
        sides["noise"] = _as_asked(again, sides["base"])
    return sides


def is_adapter(name: str) -> bool:
    """Whether a name is a folder that holds an adapter and no model."""
    folder = Path(name).expanduser()
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def other_base(base: str, tuned: str) -> list[str]:
    """A note when an adapter names another base than the one it is laid over: where shapes fit, nothing else would show it."""
    if not is_adapter(tuned) or is_adapter(base):
        return []
    try:
        told = json.loads((Path(tuned).expanduser() / "adapter_config.json").read_bytes())
    except ValueError:  # said where the adapter is loaded
        return []
    said = str(told.get("base_model_name_or_path") or "") if isinstance(told, dict) else ""
    if not said or Path(said).name == Path(base).name:
        return []
    return [
        f"The adapter {Path(tuned).name} says that its base is {Path(said).name}; it is laid over {Path(base).name}."
    ]


def same_dtype(base: Any, tuned: Any, *, allowed: bool) -> None:
    """Raises: UserError for two models of different numbers, unless that is allowed."""
    dtypes = [str(model.dtype).removeprefix("torch.") for model in (base, tuned)]
    if dtypes[0] != dtypes[1] and not allowed:
        raise UserError(
            f"[different-dtype] the base is in {dtypes[0]}, the tuned model in {dtypes[1]}: rounding alone would change answers. "
            "Name one with --dtype float32 (or bfloat16), or accept it with --allow-dtype-mismatch; the receipt will say so."
        )


def _reseeded(suite: Suite) -> Suite:
    """The same questions with other luck: what is sampled is drawn anew, what is greedy travels in other batches."""
    lines = [replace(line, budget=replace(line.budget, seed=line.budget.seed + 1)) for line in suite.lines]
    return replace(suite, lines=tuple(lines), lm_eval=None)


def _as_asked(again: Scores, base: Scores) -> Scores:
    """The second measurement with the first one's prompt hashes: its seed is another on purpose."""
    hashes = {(row.metric, row.item_id): row.prompt_hash for row in base.rows}
    rows = tuple(replace(row, prompt_hash=hashes[row.metric, row.item_id]) for row in again.rows)
    specs = {spec.name: spec for spec in base.specs}
    return replace(again, rows=rows, specs=tuple(specs[spec.name] for spec in again.specs))


# --------------------------------------------------------------------------- other engines


def _measure_engines(
    base: str, tuned: str, suite: Suite, make: Callable[[str], Engine], cache: Path, noise_floor: bool, progress: bool
) -> dict[str, Scores]:
    """One after the other: two models on one GPU would halve the memory of each."""
    from untax import measure

    if not suite.lines:
        raise RecipeError("lm-eval's tasks need the model itself, not an address: name a suite with lines of its own.")
    engine = make(base)
    sides = {"base": measure.measure_engine(engine, suite, system="base", cache_dir=cache, progress=progress)}
    if noise_floor:
        again = measure.measure_engine(
            engine, _reseeded(suite), system="base, again", cache_dir=cache, progress=progress
        )
        sides["noise"] = _as_asked(again, sides["base"])
    del engine
    sides["tuned"] = measure.measure_engine(make(tuned), suite, system="tuned", cache_dir=cache, progress=progress)
    return sides


def _vllm(folder: str, dtype: str) -> Engine:
    from untax.engines.vllm import Vllm

    if is_adapter(folder):
        raise RecipeError(f"{folder} is an adapter; vLLM takes whole models: merge it into its base and save that.")
    return Vllm(folder, dtype=dtype)


def _endpoint(spec: str, how: Addresses, cache: Path) -> Engine:
    from untax.engines import endpoint

    address = endpoint.parse(spec)
    if address is None:
        raise RecipeError(f"{spec} is no address: write http://HOST:PORT/v1#MODEL.")
    return endpoint.Endpoint(
        address.url, model=address.model, chat=how.chat, api_key_env=how.api_key_env, concurrency=how.concurrency, keep=cache
    )  # fmt: skip
