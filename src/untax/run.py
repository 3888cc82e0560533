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


def _check_apart(recipe: Recipe, suite: Any, building: Any) -> None:
    """The scorer that builds data must not judge the result, unless the recipe insists."""
    from untax import scorers

    for line in suite.lines:
        if "scorer" in line.options:
            scorers.refuse_same(building, scorers.load(str(line.options["scorer"])), force=recipe.measure.allow_same_scorer)


def _building_scorer(spec: str, directory: Path, kept: Path) -> Any:
    """The scorer that builds data; `fit:FILE` fits the offline one on labelled texts and keeps it in `kept`."""
    from untax import scorers

    kind, _, name = spec.partition(":")
    if kind != "fit":
        return scorers.load(spec, base_dir=directory)
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        scorers.fit_ngram_file(directory / name).save(kept)
    return scorers.load(f"ngram:{kept}")


class _Records:
    """Training records of each system: systems with the same data section share one reading and one augmentation."""

    def __init__(self, recipe: Recipe, out: Path, base_path: str, journal: _Journal, progress: bool) -> None:
        self.recipe, self.out, self.base_path = recipe, out, base_path
        self.journal, self.progress = journal, progress
        self.known: dict[str, list[ContrastiveRecord]] = {}

    def of(self, data: DataSection) -> list[ContrastiveRecord]:
        """Read, augmented and mixed records of a data section."""
        key = data.model_dump_json()
        if key not in self.known:
            self.known[key] = self._make(data, "" if not self.known else f"-{_digest(key)}")
        return self.known[key]

    def _make(self, data: DataSection, suffix: str) -> list[ContrastiveRecord]:
        from untax.data import load as loading
        from untax.data import mix
        from untax.data.augment import run as augmenting

        directory = data_dir(data, self.out)
        loaded = loading.load(
            directory / data.train, columns=data.columns, on_error=data.on_error, limit=data.limit, kind="contrastive",
            allow_network=self.recipe.allow_network,
        )  # fmt: skip
        for skipped in loaded.skipped[:5]:
            self.journal.say(f"skipped {skipped}")
        if loaded.skipped:
            self.journal.say(f"{len(loaded.skipped)} rows skipped, {len(loaded.records)} read")
        records: list[ContrastiveRecord] = list(loaded.records)
        if data.augment is not None:
            scorer = _building_scorer(data.augment.scorer, directory, self.out / "data" / "building_scorer.json")
            report = augmenting.augment(
                records,
                self.out / "data" / f"augmented{suffix}.jsonl",
                kinds=data.augment.kinds,
                seed=0,
                scorer=scorer,
                finder=data.augment.finder,
                lexicon=directory / data.augment.lexicon if data.augment.lexicon else None,
                generators={k: self.base_path if v == "base" else v for k, v in data.augment.generators.items()},
                prompt=data.prompt,
                progress=self.progress,
            )
            _write_text(self.out / "data" / f"augmented{suffix}.md", report.table() + "\n")
            records = list(report.records)
        if data.mix:
            parts = [
                (list(loading.load(directory / part.data, columns=part.columns, kind="contrastive").records), part.share)
                for part in data.mix
            ]
            records = mix.mix(records, parts, seed=0)
        return records


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _train(
    recipe: Recipe, system: System, base_path: str, records: list[ContrastiveRecord], seed: int, out: Path, progress: bool
) -> Any:
    from untax.train import loop

    model, tokenizer = _load(recipe, base_path)
    return loop.train(
        model,
        tokenizer,
        records,
        objective=system.train.objective.name,
        objective_options=system.train.objective.options,
        prompt=system.data.prompt,
        seed=seed,
        out=out,
        arguments=system.train.arguments,
        lora=system.train.lora,
        progress=progress,
    )


def _write_text(path: Path, text: str) -> None:
    """Write under a temporary name, then rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _write_json(path: Path, value: Any) -> None:
    _write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
