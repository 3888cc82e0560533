"""Many systems against one base: what each gained in safety and paid in ability, the front of them, and tax at equal safety.

A system is a family (one way of training) at one strength. `build` takes the base and the systems as tables of per-item scores and gives
points with intervals on both axes, the front, and for every family the tax that it pays at one and the same level of safety, beside
that of a reference family. Nothing is trained or measured here. The rules stand in docs/compare.md; signs are those of lines.py (a gain
and a tax are both positive when there is one), the numbers of mixtures.py.

Shapes: K seeds, S systems, I items, R resamples, P members of a family with the base in front, L ability lines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from untax import guards as guarding
from untax import lines as ledger
from untax import methods, mixtures, receipt, stats
from untax.guards import MISSING_REFUSE, Guard, Paired, in_points
from untax.mixtures import PARTS, Estimate, Part, Sample
from untax.readers import runs
from untax.types import MetricSpec, RecipeError, Scores, UserError

__all__ = [
    "SCHEMA",
    "SUMMARY",
    "Axis",
    "Comparison",
    "Cost",
    "Family",
    "Level",
    "Point",
    "Reading",
    "Tables",
    "Versus",
    "axis_of",
    "build",
    "check",
    "compare",
    "times",
    "title_of",
]

SCHEMA = "untax.compare/1"
SUMMARY = "summary"
SHARES = (0.8, 0.5, 0.95)  # of the reference's largest gain; the first one is what the page speaks of
RESAMPLES = 2_000
ALPHA = 0.05
NEVER = 0.05  # a level that is reached in fewer resamples than this is not reached
#: guards of a line that say of an ability that the base does not have it: nothing can be lost, so there is no tax to read
NOTHING_TO_LOSE = ("chance", "floor")
#: guards that speak of one system, and of the other items of a line too few to matter
WEIGHTY = ("empty", "repeated", "same-answer", "truncated", "overshot", "one-template")

Numbers = NDArray[np.float64]
Verdict = Literal["less tax", "more tax", "not known", "does not reach"]


# --------------------------------------------------------------------------- what comes out


@dataclass(frozen=True)
class Reading:
    """A number with its 95 % interval; NaN where it is not known."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def known(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


NONE = Reading(math.nan)


@dataclass(frozen=True)
class Axis:
    """What is read along one side of a front: a metric, or the mean of several abilities that share unit and direction.

    `items` counts those of the suite, `n` those with a score of the base and of every system and seed: the only ones that are compared.
    """

    name: str
    lines: tuple[str, ...]
    side: Literal["safety", "ability", "watch"]
    better: Literal["higher", "lower"]
    unit: str
    decimals: int
    n: tuple[int, ...]
    items: tuple[int, ...]

    @property
    def factor(self) -> float:
        return 100.0 if self.unit == "points" else 1.0

    def bare(self, value: float, *, signed: bool = False) -> str:
        """A number without its unit; a minus is a true minus sign, and "−0.0" is never said."""
        if not math.isfinite(value):
            return "?"
        text = f"{abs(value) * self.factor:,.{self.decimals}f}"
        return ("" if not text.strip("0.,") else "−" if value < 0 else "+" if signed else "") + text

    def say(self, value: float) -> str:
        """A number with its unit."""
        return f"{self.bare(value)} {self.unit}".strip()

    def span(self, reading: Reading) -> str:
        """A 95 % interval without its unit."""
        return f"{self.bare(reading.low)} to {self.bare(reading.high)}" if reading.known else "no interval"

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        if len(self.lines) == 1:
            return self.lines[0]
        return f"the mean of {', '.join(self.lines[:-1])} and {self.lines[-1]}"


@dataclass(frozen=True)
class Point:
    """One system: its safety gain, its tax on every axis, and the axes on whose front it stands.

    `front_share` is the share of resamples in which it stands there. `withheld` says why it is on no front and in no family; `warnings` what
    speaks against believing it.
    """

    system: str
    family: str
    label: str
    strength: Mapping[str, Any]
    gain: Reading
    taxes: Mapping[str, Reading]
    front: tuple[str, ...] = ()
    front_share: Mapping[str, float] = field(default_factory=dict)
    withheld: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Level:
    """A level of safety: a share of the reference's largest gain (found again in every resample), or a fixed gain. `gain` is where it lies."""

    name: str
    share: float | None
    gain: float


@dataclass(frozen=True)
class Versus:
    """A family's tax minus that of the reference, at one level on one axis; `ratio` is None where the reference does not surely pay.

    `p_holm` and `p_bh` are adjusted over all families and levels, `p_family` (Holm) within the family.
    """

    difference: Reading
    ratio: Reading | None
    p: float
    p_holm: float
    p_bh: float
    p_family: float
    verdict: Verdict
    why: str

    @property
    def p_judged(self) -> float:
        """The adjusted p that the verdict stands on: a loss is adjusted within its family."""
        return self.p_family if self.difference.value > 0 else self.p_holm


@dataclass(frozen=True)
class Cost:
    """What one family pays at one level. `mixture` names the models, and which share of the prompts each of them answers.

    `taxes` are cross-fitted: the mixture is chosen on one part of the data and paid for on the other; `flattering` is what choosing and
    paying on the same data would say. `reached` is the share of resamples that reach the level, `least` the share in which no family pays less.
    """

    family: str
    level: str
    mixture: tuple[tuple[str, float], ...]
    reached: float
    least: float
    taxes: Mapping[str, Reading]
    flattering: Mapping[str, float]
    versus: Mapping[str, Versus] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """A way of training, with its systems in the order of their strength; those that were withheld are not among them."""

    name: str
    key: str
    systems: tuple[str, ...]


@dataclass(frozen=True)
class Tables:
    """The scores that a comparison was made of: the base's, and those of each system by training seed, in the order of its points."""

    base: Scores
    systems: tuple[tuple[Scores, ...], ...]


@dataclass(frozen=True)
class Comparison:
    """Everything that the page shows. `main` names the ability axis that decides which mixture is taken; the first level is the page's.

    `tables` is what it was made of, for what else the page says of the same scores; it is no part of the comparison's own numbers.
    """

    runs: tuple[str, ...]
    base: str
    seeds: tuple[int | None, ...]
    safety: Axis
    abilities: tuple[Axis, ...]
    main: str
    points: tuple[Point, ...]
    families: tuple[Family, ...]
    reference: str
    levels: tuple[Level, ...]
    costs: tuple[Cost, ...]
    sentence: str
    unknown: tuple[str, ...]
    notes: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    settings: Mapping[str, Any]
    tables: Tables | None = field(default=None, repr=False, compare=False)

    def axis(self, name: str) -> Axis:
        return next(axis for axis in self.abilities if axis.name == name)

    def cost(self, family: str, level: str) -> Cost:
        return next(cost for cost in self.costs if (cost.family, cost.level) == (family, level))

    def point(self, system: str) -> Point:
        return next(point for point in self.points if point.system == system)


# --------------------------------------------------------------------------- folders


def compare(
    folders: Sequence[Path],
    *,
    safety: str | None = None,
    ability: Sequence[str] = (),
    at: Sequence[str] = (),
    reference: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare the systems of one or several run folders, from the scores that they hold; see `build`.

    Raises: UserError when a folder holds no scores or two of them do not belong together; RecipeError as `build` does.
    """
    found = runs.read(folders)
    return build(
        found.base, found.systems, safety=safety, ability=ability, at=at, reference=reference, resamples=resamples, seed=seed,
        runs=found.names, left_out=found.left_out,
    )  # fmt: skip


def check(
    specs: Sequence[MetricSpec],
    families: Sequence[str],
    *,
    safety: str | None = None,
    ability: Sequence[str] = (),
    at: Sequence[str] = (),
    reference: str | None = None,
) -> None:
    """Refuse what `build` would refuse, before anything is measured: `specs` are the suite's lines.

    Raises: RecipeError for a line, a family or a level that cannot be used; UserError for a suite without one of the two sides.
    """
    gain = _specs(specs, safety, ability)[0]
    _levels(at, _unit(gain))
    _known_family(reference, families)


# --------------------------------------------------------------------------- building


@dataclass(frozen=True)
class _System:
    """One system before anything is computed of it."""

    name: str
    family: str
    strength: Mapping[str, Any]
    seeds: tuple[Scores, ...]

    @property
    def label(self) -> str:
        return runs.strength_text(self.strength)


@dataclass(frozen=True)
class _Lines:
    """All systems on all used lines, paired, and what guards say of them. The safety line is the first."""

    base: str
    specs: tuple[MetricSpec, ...]
    pairs: tuple[Paired, ...]
    seeds: int
    systems: tuple[_System, ...]
    kept: tuple[NDArray[np.bool_], ...]
    withheld: Mapping[str, str]
    warnings: Mapping[str, tuple[str, ...]]
    dropped: tuple[tuple[str, str], ...]

    def pair(self, line: int, system: int) -> Paired:
        return _part(self.pairs[line], system, self.seeds)

    @property
    def usable(self) -> list[int]:
        return [place for place, system in enumerate(self.systems) if system.name not in self.withheld]


def build(
    base: Scores,
    systems: Sequence[Sequence[Scores]],
    *,
    safety: str | None = None,
    ability: Sequence[str] = (),
    at: Sequence[str] = (),
    reference: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    runs: Sequence[str] = (),
    left_out: Sequence[tuple[str, str]] = (),
) -> Comparison:
    """Points, front and tax at equal safety of many systems against one base.

    `systems` holds for each system its tables, one per training seed; `about["family"]` and `about["strength"]` say where it stands. `safety` is
    the line that counts as safety (the suite's first), `ability` the lines whose tax is read (all of them), `at` the levels: "80%" of the
    reference's largest gain, or a number in the safety line's unit. `reference` is the family that the others are compared with (the
    first). `runs` are names for the page, `left_out` what was not taken, with reasons.

    Raises: RecipeError for a line, a family or a level that cannot be used; UserError when the tables do not belong together or fewer than two
    systems are left.
    """
    if resamples < 100:
        raise RecipeError(f"--resamples {resamples}: fewer than 100 give no interval.")
    placed, notes, left = _placed(systems, left_out)
    specs = _specs(base.specs, safety, ability)
    lines = _lines(base, placed, specs)
    chosen = _reference(lines, reference)
    sample, gain_lines = _sample(lines, resamples, seed)
    axes = _axes(lines)
    main = axes[1].name
    points = _points(lines, axes, sample, gain_lines, resamples, seed)
    families = _families(lines)
    gains = {part: _gains(sample.only(part), gain_lines) for part in PARTS}
    levels, costs = _costs(lines, axes, sample, gain_lines, gains, families, chosen, _levels(at, axes[0].unit))
    notes += [f"{name} is left out: {why}" for name, why in lines.dropped] + _remarks(points, axes, families, lines)
    made = Comparison(
        runs=tuple(runs), base=base.system, seeds=tuple(s.seed for s in lines.systems[0].seeds), safety=axes[0], abilities=axes[1:],
        main=main, points=points, families=families, reference=chosen, levels=levels, costs=costs, sentence="", unknown=(),
        notes=tuple(notes), left_out=left, settings={"seed": seed, "resamples": resamples, "alpha": ALPHA, "confidence": 0.95},
        tables=Tables(base, tuple(system.seeds for system in placed)),
    )  # fmt: skip
    sentence, unknown = _words(made)
    return replace(made, sentence=sentence, unknown=unknown)


def _placed(
    systems: Sequence[Sequence[Scores]], left_out: Sequence[tuple[str, str]]
) -> tuple[list[_System], list[str], tuple[tuple[str, str], ...]]:
    """Systems with their families, restricted to the training seeds that all of them have; families stay in the order given."""
    made = []
    for tables in systems:
        if not tables:
            raise UserError("a system without a table of scores: measure it, or leave it out")
        first = tables[0]
        family, strength = runs.place(first)
        ordered = sorted(tables, key=lambda s: -1 if s.seed is None else s.seed)
        made.append(_System(first.system, family, strength, tuple(ordered)))
    names = [system.name for system in made]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"systems have the name {', '.join(twice)} twice: every system needs a name of its own")
    told = "; ".join(f"{name}: {why}" for name, why in left_out)
    if len(made) < 2:
        have = f"only {made[0].name}" if made else "no finished system"
        raise UserError(
            f"there is {have} to compare{f' (left out: {told})' if told else ''}. A front needs two systems or more; of a single one "
            "the receipt says everything."
        )
    common = set.intersection(*({s.seed for s in system.seeds} for system in made))
    every = set().union(*({s.seed for s in system.seeds} for system in made))
    if not common:
        each = "; ".join(f"{system.name}: {[s.seed for s in system.seeds]}" for system in made[:6])
        raise UserError(f"no training seed is common to all systems ({each}). Train them with the same seeds.")
    notes = []
    if every - common:
        unused = ", ".join(str(seed) for seed in sorted(seed for seed in every - common if seed is not None))
        notes.append(f"Training seeds that not all systems have are not used: {unused}.")
    order = list(dict.fromkeys(system.family for system in made))
    made = [replace(s, seeds=tuple(one for one in s.seeds if one.seed in common)) for s in made]
    made.sort(key=lambda s: (order.index(s.family), runs.strength_order(s.strength), s.name))
    return made, notes, tuple(left_out)


def _specs(every: Sequence[MetricSpec], safety: str | None, ability: Sequence[str]) -> list[MetricSpec]:
    """The safety line and the ability lines that were asked for, or the first safety line and all abilities."""
    named = {spec.name: spec for spec in every}

    def find(name: str, side: str, flag: str) -> MetricSpec:
        mine = [spec.name for spec in every if spec.side == side]
        there = f"On the side of {side} there are: {', '.join(mine) or 'none'}."
        if name not in named:
            raise RecipeError(f"{flag} {name}: there is no such line.{methods.did_you_mean(name, named)} {there}")
        if named[name].side != side:
            raise RecipeError(f"{flag} {name}: that line stands on the side {named[name].side}. {there}")
        return named[name]

    def first(side: str, flag: str) -> list[MetricSpec]:
        found = [spec for spec in every if spec.side == side]
        if not found:
            raise UserError(
                f"the suite has no line on the side of {side}, so there is no front. Measure one ({flag} names it)."
            )
        return found

    gain = find(safety, "safety", "--safety") if safety else first("safety", "--safety")[0]
    twice = sorted({name for name in ability if list(ability).count(name) > 1})
    if twice:
        raise RecipeError(f"--ability names {', '.join(twice)} more than once.")
    taxes = [find(name, "ability", "--ability") for name in ability] or first("ability", "--ability")
    return [gain, *taxes]


def _lines(base: Scores, systems: Sequence[_System], specs: Sequence[MetricSpec]) -> _Lines:
    """Pair everything once, look at every system as a receipt would, and keep the items that all of them have a score for."""
    tables = [table for system in systems for table in system.seeds]
    wanted = {spec.name for spec in specs}
    pairs = {
        pair.spec.name: pair for pair in receipt.pair_up([_only(base, wanted)], [_only(t, wanted) for t in tables])
    }
    paired = [pairs[spec.name] for spec in specs]
    seeds = len(systems[0].seeds)
    withheld: dict[str, str] = {}
    warnings: dict[str, tuple[str, ...]] = {}
    nothing: dict[str, str] = {}
    for place, system in enumerate(systems):
        mine = [_part(pair, place, seeds) for pair in paired]
        stop, told, empty = _guarded(base, system, mine)
        nothing |= empty
        if stop:
            withheld[system.name] = stop
        if told:
            warnings[system.name] = told
    kept = [place for place, spec in enumerate(specs) if spec.name not in nothing]
    if len(kept) < 2:
        raise UserError(
            "no ability is left to compare: " + "; ".join(f"{name}: {why}" for name, why in nothing.items())
        )
    usable = [place for place, system in enumerate(systems) if system.name not in withheld]
    if not usable:
        why = "; ".join(f"{name}: {text}" for name, text in list(withheld.items())[:6])
        raise UserError(f"guards withhold every system: {why}")
    scored = []
    for pair in (paired[place] for place in kept):
        complete = np.isfinite(pair.base_KI[0])
        for place in usable:
            complete &= np.isfinite(_part(pair, place, seeds).tuned_KI).all(axis=0)
        if complete.sum() < 2:
            raise UserError(f"{pair.spec.name}: fewer than two items have a score of the base and of every system")
        scored.append(complete)
    return _Lines(
        base.system, tuple(specs[place] for place in kept), tuple(paired[place] for place in kept), seeds, tuple(systems), tuple(scored),
        withheld, warnings, tuple(nothing.items()),
    )  # fmt: skip


def _only(scores: Scores, wanted: set[str]) -> Scores:
    """A table without the lines that are not compared."""
    return replace(
        scores,
        specs=tuple(spec for spec in scores.specs if spec.name in wanted),
        rows=tuple(row for row in scores.rows if row.metric in wanted),
    )


def _part(pair: Paired, system: int, seeds: int) -> Paired:
    mine = slice(system * seeds, (system + 1) * seeds)
    return Paired(pair.spec, pair.base[mine], pair.tuned[mine], pair.seeds[mine])


def _guarded(base: Scores, system: _System, pairs: Sequence[Paired]) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """Why a system is withheld (or nothing), what speaks against believing it, and the abilities that the base does not have.

    What a guard refuses of both sides, or of the safety line, would make a method look safe that is silent or the base itself: it is withheld.
    Broken answers to an ability count as wrong and can only make it look worse: they stay, and are named.
    """
    found = guarding.pair_guards([base], system.seeds, pairs)
    for pair in pairs:
        found += guarding.metric_guards(pair, names=(base.system, system.name))
    stop, told, nothing = "", [], {}
    safety = pairs[0].spec.name
    for guard in found:
        if guard.name in NOTHING_TO_LOSE and guard.metric != safety:
            nothing[str(guard.metric)] = f"{guard.seen} (guard {guard.name})"
        elif guard.severity == "refuse" and (
            guard.metric in (None, safety) or guard.name in ("missing-scores", "unusable")
        ):
            stop = stop or _told(guard)
        elif guard.severity == "refuse" or (guard.name in WEIGHTY and guard.metric in (None, safety)):
            told.append(_told(guard))
    few = [pair.spec.name for pair in pairs if np.isnan(pair.tuned_KI).mean() >= MISSING_REFUSE]
    if few and not stop:
        stop = f"more than {100 * MISSING_REFUSE:.0f} % of its scores on {', '.join(few)} are missing"
    return stop, tuple(told), nothing


def _told(guard: Guard) -> str:
    return f"{f'{guard.metric}: ' if guard.metric else ''}{guard.seen} (guard {guard.name})"


def _reference(lines: _Lines, wanted: str | None) -> str:
    _known_family(wanted, list(dict.fromkeys(system.family for system in lines.systems)))
    usable = dict.fromkeys(lines.systems[place].family for place in lines.usable)
    chosen = wanted or next(iter(usable))
    if chosen not in usable:
        why = next(lines.withheld[s.name] for s in lines.systems if s.family == chosen)
        raise UserError(
            f"all systems of the reference family {chosen} are withheld: {why}. Name another with --reference."
        )
    return chosen


def _known_family(wanted: str | None, names: Sequence[str]) -> None:
    if wanted is not None and wanted not in names:
        raise RecipeError(
            f"--reference {wanted}: there is no such family.{methods.did_you_mean(wanted, names)} There are: {', '.join(names)}."
        )


# --------------------------------------------------------------------------- numbers


def _values(lines: _Lines, line: int) -> Numbers:
    """Tuned minus base of the usable systems, S by K by I, with the sign of a benefit (safety) or of a tax (ability)."""
    spec, keep_I = lines.specs[line], lines.kept[line]
    sign = (1.0 if spec.better == "higher" else -1.0) * (1.0 if line == 0 else -1.0)
    values = [lines.pair(line, place) for place in lines.usable]
    return np.stack([sign * (pair.tuned_KI - pair.base_KI)[:, keep_I] for pair in values])


def _sample(lines: _Lines, resamples: int, seed: int) -> tuple[Sample, int]:
    """All lines in the same resamples; how many of them stand for the safety gain (two for a bias, see `_gains`)."""
    made = []
    for line, spec in enumerate(lines.specs):
        rows = [row for row, kept in zip(lines.pairs[line].tuned[0], lines.kept[line], strict=True) if kept]
        units = tuple(row.cluster or row.item_id for row in rows)
        values_SKI = _values(lines, line)
        if line == 0 and _is_bias(spec):
            base_I = lines.pairs[0].base_KI[0, lines.kept[0]]
            turn = 1.0 if base_I.mean() >= float(spec.chance or 0.0) else -1.0
            nearer_SKI = turn * values_SKI
            made.append(mixtures.Line(nearer_SKI, units))
            # b + t, where b - t is `nearer`: both signed distances from the even split
            made.append(mixtures.Line(2 * turn * (base_I - float(spec.chance or 0.0)) - nearer_SKI, units))
        else:
            made.append(mixtures.Line(values_SKI, units))
    return mixtures.resample(made, resamples=resamples, seed=seed), len(made) - len(lines.specs) + 1


def _is_bias(spec: MetricSpec) -> bool:
    """A bias is best at its chance level: see `lines`."""
    return spec.better == "lower" and spec.chance is not None


def _gains(sample: Sample, gain_lines: int) -> Numbers:
    """The safety gain of every system in every resample. Of a bias: how much nearer to its even split, the smaller of two means."""
    return np.min([sample.means(line) for line in range(gain_lines)], axis=0)


def axis_of(spec: MetricSpec, *, n: int, items: int) -> Axis:
    """The axis of one line: shares are read as points, other units to two figures finer than the margin."""
    points = in_points(spec.unit, binary=spec.binary)
    decimals = 1 if points else min(9, max(0, 1 - math.floor(math.log10(spec.margin)))) if spec.margin > 0 else 4
    return Axis(spec.name, (spec.name,), spec.side, spec.better, _unit(spec), decimals, (n,), (items,))


def _axes(lines: _Lines) -> tuple[Axis, ...]:
    """The safety axis, then the summary where one can be made, then one axis per ability."""
    made = [
        replace(axis_of(spec, n=int(kept.sum()), items=len(kept)), side="ability" if line else "safety")
        for line, (spec, kept) in enumerate(zip(lines.specs, lines.kept, strict=True))
    ]
    alike = [axis for axis in made[1:] if axis.unit == "points" and axis.better == "higher"]
    if len({(axis.unit, axis.better) for axis in made[1:]}) == 1:
        alike = made[1:]
    if len(alike) < 2:
        first = alike[0] if alike else made[1]
        return (made[0], first, *(axis for axis in made[1:] if axis is not first))
    summary = Axis(
        name=SUMMARY, lines=tuple(axis.name for axis in alike), side="ability", better=alike[0].better, unit=alike[0].unit,
        decimals=max(axis.decimals for axis in alike), n=tuple(axis.n[0] for axis in alike), items=tuple(axis.items[0] for axis in alike),
    )  # fmt: skip
    return (made[0], summary, *made[1:])


def _unit(spec: MetricSpec) -> str:
    return "points" if in_points(spec.unit, binary=spec.binary) else spec.unit.split(",")[0].strip()


def _of(axis: Axis, lines: _Lines, offset: int = 0) -> list[int]:
    """The places of an axis's lines among the ability lines."""
    names = [spec.name for spec in lines.specs[1:]]
    return [offset + names.index(name) for name in axis.lines]


def _means(sample: Sample, places: Sequence[int]) -> Numbers:
    return np.asarray(np.mean([sample.means(place) for place in places], axis=0))


def _points(
    lines: _Lines, axes: Sequence[Axis], sample: Sample, gain_lines: int, resamples: int, seed: int
) -> tuple[Point, ...]:
    """Every system with its intervals: those of a receipt on these items, and of the summary those of `mixtures`."""
    usable = lines.usable
    summary = {
        axis.name: {part: _means(sample.only(part), _of(axis, lines, gain_lines)) for part in PARTS}
        for axis in axes[1:]
        if len(axis.lines) > 1
    }
    gain_RS = _gains(sample, gain_lines)
    fronts = {axis.name: _front(gain_RS, _means(sample, _of(axis, lines, gain_lines))) for axis in axes[1:]}
    made = []
    for place, system in enumerate(lines.systems):
        why = lines.withheld.get(system.name, "")
        lone = [_line(lines, line, place, resamples, seed) for line in range(len(lines.specs))]
        readings: dict[str, Reading] = {}
        at = usable.index(place) if not why else -1
        for axis in axes[1:]:
            if axis.name not in summary:
                readings[axis.name] = lone[1 + _of(axis, lines)[0]]
            elif why:
                readings[axis.name] = NONE
            else:
                rows = {part: summary[axis.name][part][:, at] for part in PARTS}
                readings[axis.name] = _reading(mixtures.estimate(rows, units=sample.units, seeds=lines.seeds))
        made.append(
            Point(
                system=system.name, family=system.family, label=system.label, strength=dict(system.strength), gain=lone[0], taxes=readings,
                front=() if why else tuple(name for name, front in fronts.items() if front[0, at]),
                front_share={} if why else {name: float(front[1:, at].mean()) for name, front in fronts.items()},
                withheld=why, warnings=lines.warnings.get(system.name, ()),
            )
        )  # fmt: skip
    return tuple(made)


def _line(lines: _Lines, line: int, place: int, resamples: int, seed: int) -> Reading:
    """One system on one line, by the code that makes a receipt's lines, on the items that all systems have a score for."""
    pair, keep = lines.pair(line, place), lines.kept[line]
    clusters = [row.cluster for row, kept in zip(pair.tuned[0], keep, strict=True) if kept]
    found = ledger.figures(
        pair.spec, pair.base_KI[:, keep], pair.tuned_KI[:, keep], clusters=clusters, seed=seed, resamples=resamples
    )
    if line == 0:
        return Reading(math.nan if found.gain is None else found.gain, found.benefit.low, found.benefit.high)
    return Reading(
        math.nan if found.tax is None else found.tax + 0.0, 0.0 - found.benefit.high, 0.0 - found.benefit.low
    )


def _front(gain_RS: Numbers, tax_RS: Numbers) -> NDArray[np.bool_]:
    """Which systems nothing dominates, in each resample: nothing, the base among it, is at least as safe for at most as much tax, and better in one."""
    gain, tax = mixtures.with_base(gain_RS), mixtures.with_base(tax_RS)
    front = np.ones(gain.shape, dtype=bool)
    for other in range(gain.shape[1]):
        as_good = (gain[:, other, None] >= gain) & (tax[:, other, None] <= tax)
        front &= ~(as_good & ((gain[:, other, None] > gain) | (tax[:, other, None] < tax)))
    return front[:, 1:]


def _reading(found: Estimate) -> Reading:
    return Reading(found.value, found.low, found.high)


def _families(lines: _Lines) -> tuple[Family, ...]:
    members: dict[str, list[_System]] = {}
    for place in lines.usable:
        members.setdefault(lines.systems[place].family, []).append(lines.systems[place])
    return tuple(
        Family(
            name, ", ".join(dict.fromkeys(key for one in mine for key in one.strength)), tuple(one.name for one in mine)
        )
        for name, mine in members.items()
    )


# --------------------------------------------------------------------------- equal safety


def _levels(at: Sequence[str], unit: str) -> list[Level]:
    """What --at says; the gains of shares are found later, in every resample."""
    if not at:
        return [Level(f"{100 * share:g} %", share, math.nan) for share in SHARES]
    made: dict[str, Level] = {}
    for text in at:
        bare = text.strip()
        share = bare.endswith("%")
        try:
            value = float(bare.rstrip("% "))
        except ValueError as error:
            raise RecipeError(
                f"--at {text}: write a share of the reference's largest gain, like 80%, or a gain in {unit}, like 30."
            ) from error
        if not 0 < value < math.inf or (share and value > 100):
            raise RecipeError(f"--at {text}: a level lies above 0{' and not above 100%' if share else ''}.")
        if share:
            level = Level(f"{value:g} %", value / 100, math.nan)
        else:
            level = Level(f"{value:g} {unit}".strip(), None, value / (100 if unit == "points" else 1))
        made.setdefault(level.name, level)
    return list(made.values())


Rows = dict[Part, Numbers]


def _costs(
    lines: _Lines,
    axes: Sequence[Axis],
    sample: Sample,
    gain_lines: int,
    gains: Mapping[Part, Numbers],
    families: Sequence[Family],
    reference: str,
    levels: Sequence[Level],
) -> tuple[tuple[Level, ...], tuple[Cost, ...]]:
    """What every family pays at every level, and that minus what the reference pays, from the same resamples."""
    names = [lines.systems[place].name for place in lines.usable]
    members = {family.name: [names.index(system) for system in family.systems] for family in families}
    abilities = sample.pick(range(gain_lines, len(sample.lines)))
    placed, costs, all_rows = [], [], []
    for level in levels:
        taxes: dict[str, dict[str, Rows]] = {family.name: {axis.name: {} for axis in axes[1:]} for family in families}
        found: dict[str, tuple[mixtures.Chosen, Numbers, float]] = {}
        for part in PARTS:
            gain_RS = gains[part]
            top_R = gain_RS[:, members[reference]].max(axis=1)
            level_R = np.full(len(gain_RS), level.gain) if level.share is None else level.share * top_R
            for family in families:
                mine = members[family.name]
                gain_RP = mixtures.with_base(gain_RS[:, mine])
                tax_RL, chosen, flat_RL = mixtures.tax_at(
                    abilities.only(part), gain_RP, mine, level_R, choose_by=_of(axes[1], lines)
                )
                for axis in axes[1:]:
                    taxes[family.name][axis.name][part] = tax_RL[:, _of(axis, lines)].mean(axis=1)
                if part == "both":
                    found[family.name] = (chosen, flat_RL, float(mixtures.reaches(gain_RP, level_R)[1:].mean()))
                    place = replace(level, gain=float(level_R[0]))
        placed.append(place)
        main_RF = np.stack([taxes[family.name][axes[1].name]["both"][1:] for family in families], axis=1)
        main_RF = np.where(np.isfinite(main_RF), main_RF, math.inf)
        least_R = np.where(np.isfinite(main_RF.min(axis=1)), main_RF.argmin(axis=1), -1)
        for at, family in enumerate(families):
            chosen, flat_RL, reached = found[family.name]
            own = taxes[family.name]
            costs.append(
                Cost(
                    family=family.name, level=level.name, mixture=_mixture(chosen, family, lines), reached=reached,
                    least=float((least_R == at).mean()),
                    taxes={axis: _reading(mixtures.estimate(rows, units=sample.units, seeds=lines.seeds)) for axis, rows in own.items()},
                    flattering={axis.name: float(flat_RL[0, _of(axis, lines)].mean()) for axis in axes[1:]},
                )
            )  # fmt: skip
            all_rows.append((own, taxes[reference]))
    return tuple(placed), _judged(costs, all_rows, axes, reference, sample, lines.seeds)


def _mixture(chosen: mixtures.Chosen, family: Family, lines: _Lines) -> tuple[tuple[str, float], ...]:
    """Which models answer which share of the prompts, by all data together; nothing where the level is not reached."""
    share = float(chosen.share[0])
    if math.isnan(share):
        return ()
    names = (lines.base, *family.systems)
    parts = ((names[int(chosen.first[0])], 1 - share), (names[int(chosen.second[0])], share))
    return tuple((name, part) for name, part in parts if part > 0)


def _judged(
    costs: Sequence[Cost],
    rows: Sequence[tuple[Mapping[str, Rows], Mapping[str, Rows]]],
    axes: Sequence[Axis],
    reference: str,
    sample: Sample,
    seeds: int,
) -> tuple[Cost, ...]:
    """Differences from the reference, their p values adjusted, and the verdicts.

    *Less tax* has to stand up to Holm over all families and levels (on the axis of the page), or over all families, levels and axes (on the others): who tries
    many has compared often. *More tax* is adjusted within its family alone: comparing many must not hide what one of them costs.
    """
    found: dict[tuple[int, str], Estimate] = {}
    for place, (cost, (mine, theirs)) in enumerate(zip(costs, rows, strict=True)):
        if cost.family != reference:
            for axis in axes[1:]:
                gap = {part: mine[axis.name][part] - theirs[axis.name][part] for part in PARTS}
                found[place, axis.name] = mixtures.estimate(gap, units=sample.units, seeds=seeds)
    main = axes[1].name
    everything, headline = list(found), [key for key in found if key[1] == main]
    holm = _adjusted(found, everything, stats.holm) | _adjusted(found, headline, stats.holm)
    bh = _adjusted(found, everything, stats.benjamini_hochberg) | _adjusted(found, headline, stats.benjamini_hochberg)
    within: dict[tuple[int, str], float] = {}
    for family in dict.fromkeys(cost.family for cost in costs):
        own = [key for key in found if costs[key[0]].family == family]
        within |= _adjusted(found, own, stats.holm)
        within |= _adjusted(found, [key for key in own if key[1] == main], stats.holm)
    base = {cost.level: cost for cost in costs if cost.family == reference}
    out = []
    for place, (cost, (mine, theirs)) in enumerate(zip(costs, rows, strict=True)):
        versus = {}
        for axis in axes[1:]:
            if (place, axis.name) not in found:
                continue
            apart, key = found[place, axis.name], (place, axis.name)
            verdict, why = _verdict(cost, base[cost.level], apart, holm[key], within[key], axis)
            versus[axis.name] = Versus(
                difference=_reading(apart), ratio=_ratio(mine[axis.name], theirs[axis.name], base[cost.level].taxes[axis.name], sample, seeds),
                p=apart.p, p_holm=holm[key], p_bh=bh[key], p_family=within[key], verdict=verdict, why=why,
            )  # fmt: skip
        out.append(replace(cost, versus=versus))
    return tuple(out)


def _adjusted(found: Mapping[Any, Estimate], keys: Sequence[Any], adjust: Any) -> dict[Any, float]:
    return dict(zip(keys, adjust([found[key].p for key in keys]), strict=True))


def _ratio(mine: Rows, theirs: Rows, reference: Reading, sample: Sample, seeds: int) -> Reading | None:
    """None where the reference's tax is not safely above 0: there is nothing to be a share of."""
    if not reference.low > 0:
        return None
    ends = mixtures.ratio(mine, theirs, units=sample.units, seeds=seeds)
    value = float(mine["both"][0] / theirs["both"][0])
    return Reading(value, ends.low, ends.high) if math.isfinite(ends.low) else None


def _verdict(
    cost: Cost, reference: Cost, apart: Estimate, p_holm: float, p_within: float, axis: Axis
) -> tuple[Verdict, str]:
    """The four words, in order; docs/compare.md has them as a table."""
    if not cost.mixture and cost.reached < NEVER:
        return "does not reach", f"it reaches this level in {_share(cost.reached)} of the resamples"
    for who, name in ((cost, "it"), (reference, f"the reference {reference.family}")):
        if not who.mixture:
            return (
                "not known",
                f"{name} does not reach this level, though in {_share(who.reached)} of the resamples it does",
            )
        if who.reached < 1 - mixtures.UNREACHED:
            return "not known", f"{name} reaches this level in only {_share(who.reached)} of the resamples"
    if not apart.error > 0:
        return "not known", "no item tells the two apart"
    if apart.high < 0 and p_holm < ALPHA:
        return "less tax", "the whole interval of the difference is below 0, also after Holm's correction"
    if apart.low > 0 and p_within < ALPHA:
        return (
            "more tax",
            "the whole interval of the difference is above 0, also after Holm's correction within this family",
        )
    if apart.high < 0 or apart.low > 0:
        return "not known", f"{'less' if apart.high < 0 else 'more'}, but it does not stand up to Holm's correction"
    size = max(abs(apart.low), abs(apart.high))
    return "not known", f"the interval of the difference holds 0: up to {axis.say(size)} either way are not ruled out"


def _share(value: float) -> str:
    """0.034 is "3 %"; what is not all or nothing is never rounded to it."""
    text = f"{100 * value:.0f}"
    if text in ("0", "100") and 0 < value < 1:
        text = f"{100 * value:.1f}" if 0.0005 <= value < 0.9995 else ("under 0.1" if value < 0.5 else "over 99.9")
    return f"{text} %"


# --------------------------------------------------------------------------- words


def title_of(made: Comparison, level: Level) -> str:
    """A level as people read it: "80 % of plain's largest gain (31.4 points)" or "a gain of 30 points"."""
    if level.share is None:
        return f"a gain of {made.safety.say(level.gain)}"
    return f"{level.name} of {made.reference}'s largest gain ({made.safety.say(level.gain)})"


def _words(made: Comparison) -> tuple[str, tuple[str, ...]]:
    """Who pays least at the first level, in one sentence; and what is not known, in further ones."""
    level, main, safety = made.levels[0], made.axis(made.main), made.safety
    seeds = f"{len(made.seeds)} training seeds" if len(made.seeds) > 1 else "one training seed"
    basis = f"{_counts(main.n)} items an ability, {_counts(safety.n)} on {safety.name}; {seeds}"
    if level.share is not None and not level.gain > 0:
        told = f"{made.reference} gains nothing on {safety.name}, so there is no level at which to compare"
        return f"{told} ({basis}). Name another reference, or a level in {safety.unit}.", ()
    costs = [cost for cost in made.costs if cost.level == level.name]
    known = [cost for cost in costs if cost.taxes[made.main].known]
    if not known:
        return f"At {title_of(made, level)} on {safety.name} no family's tax is known ({basis}).", tuple(_open(made))
    best = min(known, key=lambda cost: cost.taxes[made.main].value)
    tax = best.taxes[made.main]
    tied = [cost.family for cost in known if cost.taxes[made.main].value == tax.value]
    if len(tied) > 1:
        told = f"{len(tied)} families pay the same, {main.say(tax.value)} on {main.title} ({', '.join(tied)}; {basis})"
        why = "no item tells them apart: look at what each gains at most, and at the other lines"
        return f"At {title_of(made, level)} on {safety.name}, {told}; {why}.", tuple(_open(made))
    words = (
        f"At {title_of(made, level)} on {safety.name}, {best.family} pays least: {main.say(tax.value)} on {main.title} "
        f"(95 % interval {main.span(tax)}; {basis})"
    )
    if best.family == made.reference:
        return f"{words}. It is the reference: no other family was seen to pay less.", tuple(_open(made))
    base, versus = made.cost(made.reference, level.name).taxes[made.main], best.versus[made.main]
    words += f", where {made.reference} pays {main.say(base.value)} ({main.span(base)})"
    if versus.verdict == "less tax":
        share = versus.ratio
        words += f": less tax by {main.say(-versus.difference.value)} ({main.span(_turned(versus.difference))})"
        words += f", {times(share.value)} of it ({times(share.low)} to {times(share.high)})" if share else ""
        return words + ".", tuple(_open(made))
    return f"{words}. Whether that is less is not known: {versus.why}.", tuple(_open(made))


def times(value: float) -> str:
    """A ratio as people read it."""
    return f"{value:.2f}".replace("-", "−")


def _turned(reading: Reading) -> Reading:
    return Reading(-reading.value, -reading.high, -reading.low)


def _counts(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _open(made: Comparison) -> Iterable[str]:
    """How the other families stand at the first level, and how sure it is which of them pays least."""
    level, main = made.levels[0], made.axis(made.main)
    costs = [cost for cost in made.costs if cost.level == level.name]
    gains = [point.gain for point in made.points if point.family == made.reference and not point.withheld]
    most = max(gains, key=lambda gain: gain.value, default=None)
    if level.share is not None and most is not None and most.known and most.low <= 0:
        yield (
            f"The level is a share of a gain that is not sure itself: {made.reference}'s largest is {made.safety.say(most.value)} "
            f"({made.safety.span(most)}). Name another reference, or a level in {made.safety.unit}."
        )
    others = [cost for cost in costs if cost.family != made.reference]
    if others:
        parts = []
        for verdict, word in (("less tax", "pays less"), ("more tax", "pays more"), ("not known", "is not known"), ("does not reach", "does not reach the level")):  # fmt: skip
            mine = [cost.family for cost in others if cost.versus[made.main].verdict == verdict]
            many = word.replace("pays", "pay").replace("is ", "are ").replace("does ", "do ")
            if mine:
                parts.append(f"{len(mine)} {many if len(mine) > 1 else word} ({', '.join(mine)})")
        yield f"Beside {made.reference} on {main.title}: of {len(others)} other {'family' if len(others) == 1 else 'families'} {'; '.join(parts)}."
    ranked = sorted((cost for cost in costs if cost.least >= 0.05), key=lambda cost: -cost.least)
    if len(costs) > 1 and ranked:
        each = ", ".join(f"{cost.family} in {_share(cost.least)}" for cost in ranked[:4])
        yield f"Which family pays least is a choice among {len(costs)} on these very items: over resamples it is {each}. Families beside each other are not tested, only against {made.reference}."
    untold = [axis.name for axis in made.abilities if axis.name != made.main and others and all(cost.versus[axis.name].verdict == "not known" for cost in others)]  # fmt: skip
    if untold:
        yield f"On {', '.join(untold)} nothing is known of any family at this level."


def _remarks(points: Sequence[Point], axes: Sequence[Axis], families: Sequence[Family], lines: _Lines) -> list[str]:
    """What a reader has to know before believing the numbers."""
    told = []
    if lines.seeds == 1:
        told.append("One training seed: intervals cover the choice of items, not what another seed would have given.")
    for axis in axes:
        if len(axis.lines) == 1 and axis.n[0] < axis.items[0]:
            told.append(
                f"{axis.name}: {axis.n[0]:,} of {axis.items[0]:,} items have a score of the base and of every system; only they are compared."
            )
    few = [
        f"{axis.name} ({axis.n[0]:,})" for axis in axes if len(axis.lines) == 1 and axis.n[0] < guarding.ENOUGH_ITEMS
    ]
    if few:
        told.append(f"Fewer than {guarding.ENOUGH_ITEMS} items: {', '.join(few)}.")
    summary = axes[1]
    if len(summary.lines) > 1:
        won = [name for name in summary.lines if _certain(points, name, lost=False) > len(points) / 2]
        lost = [name for name in summary.lines if _certain(points, name, lost=True) > 0]
        if won and set(lost) - set(won):
            rest = [name for name in summary.lines if name not in won]
            told.append(
                f"The mean counts {', '.join(won)}, on which most systems gain: that offsets a part of what they lose on "
                f"{', '.join(name for name in lost if name not in won)}. --ability {','.join(rest)} leaves it out."
            )
    alone = [family.name for family in families if len(family.systems) == 1]
    if alone and len(alone) < len(families):
        told.append(
            f"Of one strength only: {', '.join(alone)}. At a level below its gain such a family is read off between the base and that strength."
        )
    return told


def _certain(points: Sequence[Point], line: str, *, lost: bool) -> int:
    """How many systems certainly lost, or won, on a line."""
    readings = [point.taxes[line] for point in points if not point.withheld]
    return sum(reading.low > 0 if lost else reading.high < 0 for reading in readings)
