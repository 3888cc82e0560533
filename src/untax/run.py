"""Carries a recipe out: lab, augmentation, training, measuring, receipt. Every step finds its own finished work again.

A run folder holds recipe.resolved.yaml, environment.json, log.jsonl, data/ (augmented records and their table), models/,
scores/ (one score per item), receipt.json, receipt.md and receipt.html. Killed anywhere, the same command goes on where it
stood and ends with the same receipt.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from untax import recipe as recipes
from untax import tables
from untax.recipe import DataSection, Recipe, System
from untax.types import ContrastiveRecord, RecipeError, Scores, UserError

__all__ = ["LAB_BASE", "Outcome", "data_dir", "environment", "run"]

LAB_BASE = Path(__file__).parent / "lab" / "base"
LIBRARIES = ("untax", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy", "scipy", "scikit-learn")


@dataclass(frozen=True)
class Outcome:
    """What a run left behind: its folder, the page, one verdict sentence per system, and the names of paid abilities."""

    folder: Path
    page: Path
    verdicts: Mapping[str, str]
    paid: tuple[str, ...]


class _Journal:
    """Prints a numbered line per step and appends it to log.jsonl with the seconds it took."""

    def __init__(self, path: Path, steps: int) -> None:
        self.path, self.steps, self.number = path, steps, 0
        self.start = time.monotonic()

    def step(self, text: str) -> None:
        self.number += 1
        seconds = time.monotonic() - self.start
        print(f"[{self.number}/{self.steps}] {text}  ({seconds:.0f} s so far)", file=sys.stderr, flush=True)
        entry = {"time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "step": text, "elapsed_s": round(seconds, 1)}
        with self.path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")

    def say(self, text: str) -> None:
        print(f"      {text}", file=sys.stderr, flush=True)


def run(recipe: Recipe, out: Path, *, command: str = "", progress: bool = True) -> Outcome:
    """Do everything a recipe says and write the receipt into `out`; finished steps of an earlier try are not repeated.

    Raises: UserError when something the user gave cannot be used; RecipeError when `out` holds another recipe's run.
    """
    _claim(recipe, out)
    if not recipe.allow_network:
        os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    all_systems = recipes.systems(recipe)
    journal = _Journal(out / "log.jsonl", steps=3 + 2 * len(all_systems) * len(recipe.seeds) + 1)
    _write_json(out / "environment.json", environment(command))

    from untax import measure, models

    directory = data_dir(recipe.data, out)
    suite = measure.load_suite(recipe.measure.suite, data_dir=directory, max_items=recipe.measure.max_items)
    _check_apart(recipe, suite)
    base_path = _base_path(recipe)

    journal.step("data: read, augment, check")
    records = {system.name: _records(recipe, system, out, directory, base_path, journal, progress) for system in all_systems}

    journal.step("base: load and measure")
    base, tokenizer = _load(recipe, base_path)
    base_scores = measure.measure(
        base, tokenizer, suite, system="base", cache_dir=out / "scores" / "base" / "cache",
        batch_size=recipe.measure.batch_size, progress=progress,
    )  # fmt: skip
    tables.write(base_scores, out / "scores" / "base")

    measured: dict[str, list[Scores]] = {system.name: [] for system in all_systems}
    curves: dict[str, Sequence[Mapping[str, float]]] = {}
    for seed in recipe.seeds:
        for system in all_systems:
            name = f"{system.name}-seed{seed}"
            journal.step(f"{name}: train")
            result = _train(recipe, system, base_path, records[system.name], seed, out / "models" / name, progress)
            curves[name] = result.log
            journal.step(f"{name}: measure")
            tuned, _ = models.load(result.model_dir, dtype=recipe.model.dtype, device=recipe.model.device)
            scores = measure.measure(
                tuned, tokenizer, suite, system=system.name, seed=seed, base=base,
                cache_dir=out / "scores" / name / "cache", batch_size=recipe.measure.batch_size, progress=progress,
            )  # fmt: skip
            tables.write(scores, out / "scores" / name)
            measured[system.name].append(scores)

    journal.step("receipt")
    return _receipt(recipe, out, base_scores, measured, curves, command)


def data_dir(data: DataSection, out: Path) -> Path:
    """Where relative data paths start: the embedded world, written into the run folder on first use, or a folder."""
    if data.dir == "lab":
        folder = out / "lab"
        if not (folder / "complete").is_file():
            from untax.lab import world

            world.write(folder)
            (folder / "complete").touch()
        return folder
    folder = Path(data.dir).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"data.dir: there is no folder {folder}. Give the folder with your data as data.dir=PATH, or 'lab' for the embedded world."
        )
    return folder


def environment(command: str = "") -> dict[str, Any]:
    """Versions and machine, for the reader who wants the same numbers again."""
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": command,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "versions": versions,
    }


def _claim(recipe: Recipe, out: Path) -> None:
    """Make the folder ours, or find out that it is: the resolved recipe decides."""
    resolved = recipes.to_yaml(recipe)
    marker = out / "recipe.resolved.yaml"
    if marker.is_file():
        if marker.read_text(encoding="utf-8") != resolved:
            raise RecipeError(
                f"{out} holds the run of another recipe (or of this one before it was changed). "
                "Give another folder with --out, or remove that one."
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecipeError(f"{out} exists and is no run folder; nothing in it was touched. Give another folder with --out.")
    out.mkdir(parents=True, exist_ok=True)
    _write_text(marker, resolved)


def _base_path(recipe: Recipe) -> str:
    return str(LAB_BASE) if recipe.model.base == "lab" else recipe.model.base


def _load(recipe: Recipe, base_path: str) -> tuple[Any, Any]:
    from untax import models

    return models.load(
        base_path,
        dtype=recipe.model.dtype,
        adapter=recipe.model.adapter,
        device=recipe.model.device,
        trust_remote_code=recipe.model.trust_remote_code,
        allow_network=recipe.allow_network,
    )
