"""Forgetting from saved score tables: what a run measured already, read as overall and selective forgetting. No model, no torch."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from untax.diagnostics.common import (
    RESAMPLES,
    Estimate,
    Numbers,
    Overall,
    Selective,
    Transitions,
    overall,
    selective,
    selectivity,
    transitions,
)
from untax.types import MetricSpec, ScoreRow, Scores, UserError

__all__ = ["of_scores", "Rows", "Scored", "gap_lines", "is_signed", "once", "options_of", "paired"]  # noqa: RUF022 (the method first)

#: which item a row is of, within its line
Key = tuple[str, str]


@dataclass(frozen=True)
class Rows:
    """The rows of one line that the base and every seed have, in the base's order; `missing` items are in some tables only."""

    base: tuple[ScoreRow, ...]
    tuned: tuple[tuple[ScoreRow, ...], ...]
    missing: int

    @property
    def base_I(self) -> Numbers:
        return np.array([row.score for row in self.base], dtype=np.float64)

    @property
    def tuned_KI(self) -> Numbers:
        return np.array([[row.score for row in rows] for rows in self.tuned], dtype=np.float64)


@dataclass(frozen=True)
class Scored:
    """What the score tables of a base and of its tuned seeds say about forgetting; None or empty where no line says it.

    `overall` is from lines of the metric drift, its `nll_change` from those of perplexity on the same texts. `selective` pools the
    attribute's lines of pair_gap against its control lines, `by_line` has each alone. Tables do not say how many tokens two sentences
    share: `selectivity` is the shrink per *pair* over OF. `transitions` has every binary line of the ability side. `notes` say
    what was left out and why.
    """

    overall: Overall | None
    selective: Selective | None
    by_line: dict[str, Selective]
    selectivity: Estimate | None
    transitions: dict[str, Transitions]
    seeds: tuple[int | None, ...]
    notes: tuple[str, ...] = ()


def of_scores(
    base: Scores,
    tuned: Scores | Sequence[Scores],
    *,
    resamples: int = RESAMPLES,  # draws of every bootstrap
    seed: int = 0,  # of those draws
) -> Scored:
    """What a run's own score tables say about forgetting: drift, gaps of minimal pairs, right answers lost and won.

    Which lines of gaps are read is said by `gap_lines`; without signed ones SF, overshoot and shares are not known (NaN).

    Paper: arXiv 2509.21456 (overall and selective forgetting), 2510.17776 (answers lost and won beside guessing)
    Differs: the formulas are ours (see `common`); k is 1 / chance, the number of choices, or endless for free text
    Shapes: one table of the base and one for each seed of one tuned system -> one `Scored`
    Raises: UserError when there is no table of a tuned system
    """
    tables = once([tuned] if isinstance(tuned, Scores) else tuned)
    if not tables:
        raise UserError("forgetting needs the scores of at least one tuned model; none were given.")
    specs = [spec for spec in tables[0].specs if all(spec.name in {s.name for s in other.specs} for other in tables)]
    notes: list[str] = []
    moved, kl_KI = _overall(base, tables, specs, notes, resamples, seed)
    pooled, by_line, ratio = _selective(base, tables, specs, kl_KI, notes, resamples, seed)
    lost = {}
    for spec in specs:
        if not (spec.binary and spec.side == "ability"):
            continue
        rows = paired(base, tables, spec.name)
        sides = [rows.base_I, rows.tuned_KI]
        if not rows.base or not all(np.isin(side[np.isfinite(side)], (0, 1)).all() for side in sides):
            notes.append(f"{spec.name}: no transitions, its scores are not 0 and 1 on both sides")
            continue
        k, why = options_of(spec)
        notes += [f"{spec.name}: {why}"] * bool(why) + _missing(spec.name, rows.missing)
        old, new = (side if spec.better == "higher" else 1 - side for side in sides)
        clusters = [row.cluster for row in rows.base]
        lost[spec.name] = transitions(old, new, k, clusters=clusters, resamples=resamples, seed=seed)
    return Scored(moved, pooled, by_line, ratio, lost, tuple(table.seed for table in tables), tuple(notes))


def once(seeds: Sequence[Scores]) -> tuple[Scores, ...]:
    """One table of a system that no training seed changes: the others are copies, and no further evidence."""
    if any(table.about.get("trained") is not False for table in seeds):
        return tuple(seeds)
    told = [[(row.metric, row.item_id, repr(row.score), row.answer) for row in table.rows] for table in seeds]
    return tuple(seeds[:1] if all(rows == told[0] for rows in told) else seeds)


def paired(base: Scores, tuned: Sequence[Scores], name: str) -> Rows:
    """The rows of one line brought together by item and prompt, never by row number."""
    tables = [{(row.item_id, row.prompt_hash): row for row in table.of(name)} for table in (base, *tuned)]
    shared = [key for key in tables[0] if all(key in table for table in tables[1:])]
    first, *rest = (tuple(table[key] for key in shared) for table in tables)
    return Rows(first, tuple(rest), len(set().union(*tables)) - len(shared))


def options_of(spec: MetricSpec) -> tuple[float, str]:
    """Among how many options one guesses at a line, math.inf for free text, and a remark where that is a guess itself."""
    if spec.chance:
        k = 1 / spec.chance
        if k >= 2:
            return (float(round(k)) if abs(k - round(k)) < 0.02 else k), ""
        return math.inf, f"guessing is right {spec.chance:.0%} of the time, so nothing was taken off for it"
    choices = len(spec.settings.get("choices") or ())
    if spec.request == "choices" and spec.chance is None:
        if choices >= 2:
            return float(choices), ""
        return math.inf, "the suite names no chance, so nothing was taken off for guessing"
    return math.inf, ""


def _missing(name: str, count: int) -> list[str]:
    return [f"{name}: {count} items are not in every table and were left out"] if count else []


# --------------------------------------------------------------------------- overall


def _overall(
    base: Scores, tables: Sequence[Scores], specs: Sequence[MetricSpec], notes: list[str], resamples: int, seed: int
) -> tuple[Overall | None, Numbers]:
    """All drift lines as one set of documents; a document that stands in several lines counts once."""
    lines = [spec for spec in specs if spec.metric == "drift"]
    found: dict[Key, tuple[list[float], str]] = {}
    domains: dict[Key, str] = {}
    for spec in lines:
        rows = paired(tables[0], tables[1:], spec.name)
        notes += _missing(spec.name, rows.missing)
        for at, row in enumerate(rows.base):
            key = (row.item_id, row.prompt)
            found.setdefault(key, ([row.score, *(other[at].score for other in rows.tuned)], row.cluster))
            told = _domain(spec, row)
            domains[key] = told or domains.get(key) or (spec.name if len(lines) > 1 else "")
    if not found:
        return None, np.empty((len(tables), 0))
    changes: dict[Key, list[float]] = {}
    for spec in specs:
        if spec.metric == "perplexity" and _option(spec, "per", "token") == "token":
            rows = paired(base, tables, spec.name)
            for at, row in enumerate(rows.base):
                changes[row.item_id, row.prompt] = [other[at].score - row.score for other in rows.tuned]
    kl_KI = np.array([kl for kl, _ in found.values()], dtype=np.float64).T
    nll_KI = np.array([changes.get(key, [math.nan] * len(tables)) for key in found], dtype=np.float64).T
    moved = overall(
        kl_KI, nll_KI, [domains[key] for key in found], clusters=[cluster for _, cluster in found.values()],
        resamples=resamples, seed=seed,
    )  # fmt: skip
    return moved, kl_KI


def _domain(spec: MetricSpec, row: ScoreRow) -> str:
    """The kind of text: the group of a line that is split by one, or the file where a line reads several."""
    if spec.name.endswith("]") and "[" in spec.name:
        return spec.name[spec.name.rindex("[") + 1 : -1]
    prefix, colon, _ = row.item_id.partition(":")
    data = spec.settings.get("data") or ()
    several = len(data) > 1 or any("*" in name for name in data)
    known = any(fnmatch.fnmatchcase(prefix, Path(name).stem) for name in data)
    return prefix if colon and several and known else ""


def _option(spec: MetricSpec, name: str, default: Any) -> Any:
    return (spec.settings.get("options") or {}).get(name, default)


# --------------------------------------------------------------------------- selective


def gap_lines(specs: Iterable[MetricSpec]) -> tuple[list[MetricSpec], list[MetricSpec]]:
    """The lines of minimal pairs that can be pooled, and the control lines that belong beside them.

    Of the attribute's lines the signed ones where there are any, for they alone show what was turned round; of those the ones whose gaps
    are neither centred nor per token, else all of one form. A control line is read by the size of its gaps, so centre and tokens have to
    be the same; of signed and absolute ones the signed are taken.
    """

    def form(spec: MetricSpec) -> tuple[bool, bool]:
        return _option(spec, "centre", None) is None, _option(spec, "per_token", False) is not True

    def best(lines: Sequence[MetricSpec]) -> list[MetricSpec]:
        ranked = [(is_signed(spec), *form(spec)) for spec in lines]
        return [spec for spec, rank in zip(lines, ranked, strict=True) if rank == max(ranked)]

    gaps = [spec for spec in specs if spec.metric == "pair_gap"]
    attribute = best([spec for spec in gaps if _option(spec, "control", False) is not True])
    controls = [spec for spec in gaps if spec not in attribute and _option(spec, "control", False) is True]
    return attribute, best([spec for spec in controls if attribute and form(spec) == form(attribute[0])])


def is_signed(spec: MetricSpec) -> bool:
    """Whether the scores of a line of pair_gap keep their direction."""
    return bool(_option(spec, "score", "absolute") == "signed")


@dataclass(frozen=True)
class _Side:
    """Gaps of pairs before (I) and after (K by I), and the cluster of each."""

    before: Numbers
    after: Numbers
    clusters: list[str]


def _side(base: Scores, tables: Sequence[Scores], lines: Sequence[MetricSpec], notes: list[str]) -> _Side:
    found: dict[Key, tuple[float, list[float], str]] = {}
    for spec in lines:
        rows = paired(base, tables, spec.name)
        notes += _missing(spec.name, rows.missing)
        for at, row in enumerate(rows.base):
            after = [other[at].score for other in rows.tuned]
            found.setdefault((row.item_id, row.prompt_hash), (row.score, after, row.cluster))
    after_KI = np.array([after for _, after, _ in found.values()], dtype=np.float64).reshape(-1, len(tables)).T
    return _Side(np.array([b for b, _, _ in found.values()]), after_KI, [cluster for *_, cluster in found.values()])


def _selective(
    base: Scores,
    tables: Sequence[Scores],
    specs: Sequence[MetricSpec],
    kl_KI: Numbers,
    notes: list[str],
    resamples: int,
    seed: int,
) -> tuple[Selective | None, dict[str, Selective], Estimate | None]:
    attribute, controls = gap_lines(specs)
    if not attribute:
        return None, {}, None
    signed, controls_signed = is_signed(attribute[0]), all(map(is_signed, controls))
    if not signed:
        notes.append("pairs: only the size of their gaps was measured; add a line of pair_gap with score: signed")
    control = _side(base, tables, controls, notes)

    def measure(side: _Side) -> Selective:
        found = selective(
            side.before, side.after, control.before, control.after,
            clusters=side.clusters, control_clusters=control.clusters, resamples=resamples, seed=seed,
        )  # fmt: skip
        return found if signed and controls_signed else found.unsigned(controls_only=signed)

    everything = _side(base, tables, attribute, [])
    by_line = {spec.name: measure(_side(base, tables, [spec], notes)) for spec in attribute}
    ratio = None
    if kl_KI.size:
        ratio = selectivity(
            everything.before, everything.after, np.ones(len(everything.before)), kl_KI, clusters=everything.clusters,
            resamples=resamples, seed=seed,
        )  # fmt: skip
    return measure(everything), by_line, ratio
