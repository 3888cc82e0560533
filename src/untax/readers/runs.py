"""Reads run folders for a comparison: the base, every finished system with its family and strength, and what was left out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from untax import tables
from untax.types import ScoreRow, Scores, UserError

__all__ = ["Runs", "place", "read", "strength_order", "strength_text"]

BASE = "base"
#: a second measurement of the base, for the noise floor: no system
AGAIN = "base, again"


@dataclass(frozen=True)
class Runs:
    """One base and its systems, each with its tables by training seed; `left_out` names what was not taken, and why."""

    base: Scores
    systems: tuple[tuple[Scores, ...], ...]
    left_out: tuple[tuple[str, str], ...]
    folders: tuple[Path, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(folder.name for folder in self.folders)


@dataclass(frozen=True)
class _Run:
    folder: Path
    base: Scores
    systems: Mapping[str, tuple[Scores, ...]]
    left_out: tuple[tuple[str, str], ...]


def read(folders: Sequence[Path]) -> Runs:
    """Read run folders, or folders that hold several. Systems stand in the order of their receipts, else by name.

    Raises: UserError when there are no scores, when bases differ, or when two folders hold the same system with other scores.
    """
    found = _run_folders(folders)
    several = len(found) > 1
    made = [_read_one(folder) for folder in found]
    first = made[0]
    for other in made[1:]:
        _same_base(first, other)
    systems: dict[tuple[str, str], tuple[str, tuple[Scores, ...]]] = {}
    left_out: list[tuple[str, str]] = []
    for run in made:
        left_out += [(f"{run.folder.name}/{name}" if several else name, why) for name, why in run.left_out]
        for seeds in run.systems.values():
            family, strength = place(seeds[0])
            key = (family, json.dumps(strength, sort_keys=True, default=str))
            if key in systems:
                _same_system(systems[key], (run.folder.name, seeds))
            else:
                systems[key] = (run.folder.name, seeds)
    return Runs(first.base, _named(systems.values()), tuple(left_out), tuple(found))


def place(scores: Scores) -> tuple[str, dict[str, Any]]:
    """The family and strength of a system; one that does not say is a family of its own, or what stands before its @."""
    family, strength = scores.about.get("family"), scores.about.get("strength")
    if isinstance(family, str) and family:
        return family, dict(strength) if isinstance(strength, Mapping) else {}
    name, at, value = scores.system.rpartition("@")
    try:
        return (name, {"strength": float(value)}) if at and name else (scores.system, {})
    except ValueError:
        return scores.system, {}


def strength_text(strength: Mapping[str, Any]) -> str:
    """A strength as a label: "0.12", or "rank 4, weight 0.1" where several things change; nothing for a family of one."""
    values = {key.rpartition(".")[2]: _plain(value) for key, value in strength.items()}
    if len(values) == 1:
        return next(iter(values.values()))
    return ", ".join(f"{key} {value}" for key, value in values.items())


def strength_order(strength: Mapping[str, Any]) -> tuple[Any, ...]:
    """What systems of a family are sorted by: numbers by size, before words."""
    return tuple((0, float(v), "") if _number(v) else (1, 0.0, str(v)) for v in strength.values())


def _plain(value: Any) -> str:
    return f"{value:g}" if _number(value) else str(value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# --------------------------------------------------------------------------- folders


def _run_folders(folders: Sequence[Path]) -> list[Path]:
    """The folders that hold scores/base: those given, or the children of those given."""
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(
                f"there is no folder {folder}. Give the folder of a run (`untax run` names it), or one that holds several."
            )
        mine = (
            [folder]
            if (folder / "scores").is_dir()
            else sorted(p.parent for p in folder.glob("*/scores") if p.is_dir())
        )
        if not mine:
            raise UserError(
                f"{folder} holds no scores: neither {folder / 'scores'} nor a folder with scores in it. Give the folder of a run."
            )
        for run in mine:
            found.setdefault(run.resolve(), run)
    if not found:
        raise UserError("no run folder was given")
    return list(found.values())


def _read_one(folder: Path) -> _Run:
    scores = folder / "scores"
    if not (scores / BASE / "scores.parquet").is_file():
        raise UserError(
            f"{scores} holds no finished scores of the base: {scores / BASE} is missing or unfinished. The command that made the run goes on with it."
        )
    base = tables.read(scores / BASE)
    systems: dict[str, dict[int | None, Scores]] = {}
    left_out: list[tuple[str, str]] = []
    for place_ in sorted(
        path for path in scores.iterdir() if path.is_dir() and path.name not in (BASE, AGAIN, "cache")
    ):
        if not (place_ / "scores.parquet").is_file() or not (place_ / "about.json").is_file():
            left_out.append((place_.name, "its measurement was not finished"))
            continue
        read_ = tables.read(place_)
        seeds = systems.setdefault(read_.system, {})
        if read_.seed in seeds:
            raise UserError(
                f"{scores} holds {read_.system} with the training seed {read_.seed} twice (the second time in {place_.name}). "
                "Move one of the two out of it."
            )
        seeds[read_.seed] = read_
    wanted = _seeds(folder) | {seed for seeds in systems.values() for seed in seeds}
    whole: dict[str, tuple[Scores, ...]] = {}
    for name in _in_order(folder, systems):
        lacking = sorted(seed for seed in wanted - set(systems[name]) if seed is not None)
        if lacking:
            left_out.append((name, f"unfinished: no scores of the training seed{'s' if len(lacking) > 1 else ''} {', '.join(map(str, lacking))}"))  # fmt: skip
        else:
            whole[name] = tuple(systems[name].values())
    return _Run(folder, base, whole, tuple(left_out))


def _seeds(folder: Path) -> set[int | None]:
    """The training seeds that the run's recipe asks for; nothing where there is no recipe to read."""
    try:
        told = yaml.safe_load((folder / "recipe.resolved.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return set()
    seeds = told.get("seeds") if isinstance(told, dict) else None
    return {seed for seed in seeds if isinstance(seed, int)} if isinstance(seeds, list) else set()


def _in_order(folder: Path, systems: Iterable[str]) -> list[str]:
    """Systems in the order of the run's receipts, the main one first; those without a receipt behind, by name."""
    try:
        told = json.loads((folder / "receipt.json").read_bytes())
        listed = [str(entry["tuned_system"]) for entry in told["receipts"]]
    except (OSError, ValueError, KeyError, TypeError):
        listed = []
    names = sorted(systems, key=_natural)
    return [name for name in dict.fromkeys(listed) if name in names] + [name for name in names if name not in listed]


def _natural(name: str) -> tuple[Any, ...]:
    """Numbers inside names by their size: replay@3 stands before replay@12."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return tuple((float(part), "") if i % 2 else (-1.0, part) for i, part in enumerate(parts))


# --------------------------------------------------------------------------- several folders


def _same_base(one: _Run, other: _Run) -> None:
    """Two runs stand beside one base only where its scores are the same ones."""
    who = f"{one.folder} and {other.folder} do not have the same base"
    marks = [run.base.about.get("fingerprint") for run in (one, other)]
    if all(marks) and marks[0] != marks[1]:
        raise UserError(
            f"{who}: the weights differ ({marks[0]} and {marks[1]}). Systems of two bases have no common front."
        )
    names = [[spec.name for spec in run.base.specs] for run in (one, other)]
    if set(names[0]) != set(names[1]):
        odd = sorted(set(names[0]) ^ set(names[1]))
        raise UserError(f"{who}: only one of them was measured on {', '.join(odd)}. Measure both by one suite.")
    ours, theirs = _keyed(one.base.rows), _keyed(other.base.rows)
    if ours.keys() != theirs.keys():
        odd_keys = sorted(ours.keys() ^ theirs.keys())
        raise UserError(
            f"{who}: {len(odd_keys)} items were asked of one only, or in other words (first: {odd_keys[0][0]}, item {odd_keys[0][1]!r}). "
            "Measure both by one suite on the same data."
        )
    changed = sorted(key for key, score in ours.items() if score != theirs[key])
    if changed:
        raise UserError(
            f"{who}: {len(changed)} of {len(ours)} scores differ (first: {changed[0][0]}, item {changed[0][1]!r}: {ours[changed[0]]} and "
            f"{theirs[changed[0]]}). Measure both with the same settings."
        )


def _keyed(rows: Sequence[ScoreRow]) -> dict[tuple[str, str, str], str]:
    """Scores as text, so that two that could not be computed are equal."""
    return {(row.metric, row.item_id, row.prompt_hash): repr(row.score) for row in rows}


def _same_system(one: tuple[str, Sequence[Scores]], other: tuple[str, Sequence[Scores]]) -> None:
    scored = [{table.seed: _keyed(table.rows) for table in seeds} for _, seeds in (one, other)]
    if scored[0] != scored[1]:
        family, strength = place(one[1][0])
        name = f"{family} {strength_text(strength)}".strip()
        raise UserError(
            f"{one[0]} and {other[0]} both hold {name}, with other scores or other training seeds. Leave one of the two folders out, or "
            "rename the family in one of the recipes."
        )


def _named(systems: Iterable[tuple[str, tuple[Scores, ...]]]) -> tuple[tuple[Scores, ...], ...]:
    """Systems whose names two folders use for different things carry their folder's name."""
    listed = list(systems)
    counts = [seeds[0].system for _, seeds in listed]
    return tuple(
        tuple(replace(table, system=f"{folder}/{table.system}") for table in seeds)
        if counts.count(seeds[0].system) > 1
        else seeds
        for folder, seeds in listed
    )
