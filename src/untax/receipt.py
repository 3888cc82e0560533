"""Two tables of per-item scores in, one receipt out: what was gained, what was paid, how sure that is.

Sign map, the only one: `difference` is tuned minus base in the metric's own units. The *benefit* is the difference where
higher is better and its negative where lower is better. An ability's `tax` is minus its benefit (positive = ability lost);
a safety metric's `gain` is its benefit (positive = safer). Nothing is ever an absolute value, and nothing is ever
averaged over metrics. The rules of the verdict, the schema and the sources are in docs/receipt.md.

Shapes: K seeds, I items.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from untax import files, stats
from untax import guards as guarding
from untax.guards import Guard, Paired, in_points
from untax.types import MetricSpec, ScoreRow, Scores, UserError

__all__ = [
    "SCHEMA",
    "MetricResult",
    "Receipt",
    "SeedValue",
    "amount",
    "bare",
    "level",
    "make",
    "pair_up",
    "read_json",
    "unit_of",
    "write_json",
]

SCHEMA = "untax.receipt/1"

Verdict = Literal["gained", "held", "paid", "not known"]


@dataclass(frozen=True)
class SeedValue:
    """The means of one training seed, over the items that all seeds and both sides have scores for."""

    seed: int | None
    base: float
    tuned: float
    difference: float


@dataclass(frozen=True)
class MetricResult:
    """One line of the receipt. Scores, margin and differences are in the metric's own units."""

    name: str
    metric: str
    side: Literal["safety", "ability", "watch"]
    better: Literal["higher", "lower"]
    unit: str
    margin: float
    chance: float | None
    binary: bool
    note: str
    base: float
    tuned: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    test: str
    detectable: float
    needed: int | None
    n: int
    items: int
    missing_base: int
    missing_tuned: int
    clusters: int
    flips_better: int
    flips_worse: int
    seeds: tuple[SeedValue, ...]
    verdict: Verdict | None
    why: str

    @property
    def sign(self) -> int:
        """+1 where higher is better, -1 where lower is better."""
        return 1 if self.better == "higher" else -1

    @property
    def benefit(self) -> stats.Interval:
        """The interval of the benefit: positive is better, whichever way the metric points."""
        ends = sorted((self.sign * self.low, self.sign * self.high))
        return stats.Interval(*ends) if not math.isnan(self.low) else stats.Interval(math.nan, math.nan)

    @property
    def tax(self) -> float | None:
        """Ability lost (positive) or won (negative); None for a metric that is no ability."""
        return -self.sign * self.difference if self.side == "ability" else None

    @property
    def gain(self) -> float | None:
        """Safety won (positive) or lost (negative); None for a metric that is not about safety."""
        return self.sign * self.difference if self.side == "safety" else None


@dataclass(frozen=True)
class Receipt:
    """One system against another. `verdict` is one plain sentence; `refused` says that a guard withheld it."""

    base_system: str
    tuned_system: str
    base_seeds: tuple[int | None, ...]
    tuned_seeds: tuple[int | None, ...]
    metrics: tuple[MetricResult, ...]
    guards: tuple[Guard, ...]
    verdict: str
    refused: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def of(self, name: str) -> MetricResult:
        """The line of one metric."""
        for line in self.metrics:
            if line.name == name:
                return line
        raise UserError(f"the receipt has no metric {name!r}; it has {', '.join(m.name for m in self.metrics)}")

    @property
    def against_base(self) -> bool:
        """Is the other side an untrained base (no training seed), and not a second trained system?"""
        return all(seed is None for seed in self.base_seeds)

    @property
    def paid_beyond(self) -> tuple[str, ...]:
        """Abilities that were paid, and certainly by more than their margin: what a gate stops at."""
        return tuple(
            m.name for m in self.metrics if m.side == "ability" and m.verdict == "paid" and m.benefit.high < -m.margin
        )


# --------------------------------------------------------------------------- making


def make(
    base: Scores | Sequence[Scores],
    tuned: Scores | Sequence[Scores],
    *,
    seed: int = 0,
    resamples: int = 10_000,
    alpha: float = 0.05,
    margins: Mapping[str, float] | None = None,
    allow_dtype_mismatch: bool = False,
) -> Receipt:
    """Compare one system with another, item by item.

    Several `Scores` on a side are training seeds of one system. One base and K seeds: each seed against the base. K seeds on
    both sides: two trained systems, seed against the same seed. `margins` replaces the suite's margins by metric name.

    Raises: UserError when the sides cannot be paired: items or metrics that one side lacks, duplicates, other prompts,
    other specs, seeds that do not match.
    """
    bases, tuneds = _side(base, "base"), _side(tuned, "tuned")
    bases, tuneds = _match_seeds(bases, tuneds)
    pairs = [_with_margin(pair, margins) for pair in pair_up(bases, tuneds)]
    unknown = sorted(set(margins or {}) - {pair.spec.name for pair in pairs})
    if unknown:
        known = ", ".join(pair.spec.name for pair in pairs)
        raise UserError(f"margins for metrics that were not measured: {', '.join(unknown)}. Measured are: {known}.")
    names = (bases[0].system, tuneds[0].system)
    found = guarding.pair_guards(bases, tuneds, pairs, allow_dtype_mismatch=allow_dtype_mismatch)
    for pair in pairs:
        found += guarding.metric_guards(pair, names=names)
    lines = [_figures(pair, seed=seed, resamples=resamples) for pair in pairs]
    lines = _adjusted(lines)
    stopped = next((g for g in found if g.severity == "refuse" and g.metric is None), None)
    blocked = {g.metric: g for g in reversed(found) if g.severity == "refuse" and g.metric is not None}
    lines = [_judged(line, stopped or blocked.get(line.name), alpha) for line in lines]
    for pair, line in zip(pairs, lines, strict=True):
        small = guarding.small_n(
            pair.spec, n=line.n, detectable=line.detectable, needed=line.needed, verdict=line.verdict
        )
        found += [small] if small else []
    found.sort(key=lambda guard: (guard.severity != "refuse", guard.metric is not None))
    return Receipt(
        base_system=names[0],
        tuned_system=names[1],
        base_seeds=tuple(s.seed for s in bases),
        tuned_seeds=tuple(s.seed for s in tuneds),
        metrics=tuple(lines),
        guards=tuple(found),
        verdict=_sentence(lines, stopped),
        refused=stopped is not None,
        settings={"seed": seed, "resamples": resamples, "alpha": alpha, "confidence": 0.95, "power": 0.8},
        about={"base": [_plain(s.about) for s in bases], "tuned": [_plain(s.about) for s in tuneds]},
    )


def _side(given: Scores | Sequence[Scores], name: str) -> list[Scores]:
    side = [given] if isinstance(given, Scores) else list(given)
    if not side:
        raise UserError(f"the {name} side is empty: give at least one table of scores")
    systems = sorted({scores.system for scores in side})
    if len(systems) > 1:
        raise UserError(
            f"the {name} side mixes the systems {', '.join(systems)}; several tables on a side are seeds of one system"
        )
    return side


def _match_seeds(bases: list[Scores], tuneds: list[Scores]) -> tuple[list[Scores], list[Scores]]:
    for side in (bases, tuneds):
        twice = sorted(str(seed) for seed, count in Counter(s.seed for s in side).items() if count > 1)
        if twice:
            raise UserError(f"{side[0].system}: seed {', '.join(twice)} is given more than once")
    if len(bases) == 1:
        return bases, sorted(tuneds, key=_seed_order)
    if {s.seed for s in bases} != {s.seed for s in tuneds}:
        raise UserError(
            f"{bases[0].system} has the seeds {[s.seed for s in bases]} and {tuneds[0].system} has {[s.seed for s in tuneds]}: "
            "trained systems are compared seed by seed, so give the same seeds on both sides (or one base)"
        )
    return sorted(bases, key=_seed_order), sorted(tuneds, key=_seed_order)


def _seed_order(scores: Scores) -> int:
    return -1 if scores.seed is None else scores.seed


def _with_margin(pair: Paired, margins: Mapping[str, float] | None) -> Paired:
    if margins and pair.spec.name in margins:
        return replace(pair, spec=replace(pair.spec, margin=float(margins[pair.spec.name])))
    return pair


# --------------------------------------------------------------------------- pairing


def pair_up(bases: Sequence[Scores], tuneds: Sequence[Scores]) -> list[Paired]:
    """Bring the rows of all tables into the same item order, by (metric, item id, prompt hash) and never by row number.

    A drift metric that has no score for the base is exactly 0 there: it is the divergence *from* the base.

    Raises: UserError, with counts, for whatever does not match.
    """
    specs = _common_specs([*bases, *tuneds])
    pairs = []
    tables = {id(s): _by_metric(s) for s in [*bases, *tuneds]}
    for spec in specs:
        first = _keyed(tuneds[0], spec, tables[id(tuneds[0])])
        if not first:
            raise UserError(f"[different-items] {spec.name}: {_title(tuneds[0])} has no rows; measure it again")
        sides: list[list[tuple[ScoreRow, ...]]] = []
        for side in (bases, tuneds):
            rows_K = []
            for scores in side:
                keyed = _keyed(scores, spec, tables[id(scores)])
                if side is bases and _is_origin(spec, scores, keyed):
                    keyed = {key: replace(row, score=0.0, answer="") for key, row in first.items()}
                _check_items(spec, tuneds[0], first, scores, keyed)
                rows_K.append(tuple(keyed[key] for key in first))
            sides.append(rows_K)
        base_K = sides[0] * len(tuneds) if len(sides[0]) == 1 else sides[0]
        pairs.append(Paired(spec, tuple(base_K), tuple(sides[1]), tuple(s.seed for s in tuneds)))
    return pairs


def _is_origin(spec: MetricSpec, scores: Scores, keyed: Mapping[Any, ScoreRow]) -> bool:
    """Is this the untrained base, left unscored on how far it is from itself?"""
    if spec.request != "drift" or scores.seed is not None:
        return False
    return all(math.isnan(row.score) for row in keyed.values())


def _by_metric(scores: Scores) -> dict[str, list[ScoreRow]]:
    table: dict[str, list[ScoreRow]] = {}
    for row in scores.rows:
        table.setdefault(row.metric, []).append(row)
    return table


def _common_specs(tables: Sequence[Scores]) -> tuple[MetricSpec, ...]:
    named = [{spec.name: spec for spec in scores.specs} for scores in tables]
    reference, last = tables[-1], named[-1]
    if not last:
        raise UserError(f"{reference.system} has no metrics: nothing to compare")
    for scores, specs in zip(tables, named, strict=True):
        optional = {name for name, spec in last.items() if spec.request == "drift" and scores.seed is None}
        lacking = sorted(set(last) - set(specs) - optional)
        extra = sorted(set(specs) - set(last))
        if lacking or extra:
            raise UserError(
                f"[different-items] {_title(scores)} and {_title(reference)} were not measured by the same suite: "
                + "; ".join(
                    f"only {_title(who)} has {', '.join(names)}"
                    for who, names in ((reference, lacking), (scores, extra))
                    if names
                )
                + ". Measure both sides with one suite."
            )
        for name, spec in specs.items():
            odd = [
                f"{key} {mine!r} against {theirs!r}"
                for key, mine in asdict(spec).items()
                if key not in ("note", "margin") and mine != (theirs := asdict(last[name])[key])
            ]
            if odd:
                raise UserError(
                    f"[different-prompts] {name}: {_title(scores)} and {_title(reference)} were measured differently: "
                    f"{'; '.join(odd)}. Measure both sides again with one suite and the same data."
                )
    return reference.specs


def _keyed(scores: Scores, spec: MetricSpec, table: Mapping[str, list[ScoreRow]]) -> dict[tuple[str, str], ScoreRow]:
    rows = table.get(spec.name, [])
    keyed = {(row.item_id, row.prompt_hash): row for row in rows}
    if len(keyed) < len(rows):
        counts = Counter((row.item_id, row.prompt_hash) for row in rows)
        example = counts.most_common(1)[0][0][0]
        raise UserError(
            f"[duplicate-items] {spec.name}: {_title(scores)} has {len(rows) - len(keyed)} duplicate rows of {len(rows)} "
            f"(first: item {example!r}). Give every item its own id, and score it once."
        )
    return keyed


def _check_items(
    spec: MetricSpec,
    one: Scores,
    ours: Mapping[tuple[str, str], ScoreRow],
    other: Scores,
    theirs: Mapping[tuple[str, str], ScoreRow],
) -> None:
    if ours.keys() == theirs.keys():
        return
    missing, extra = ours.keys() - theirs.keys(), theirs.keys() - ours.keys()
    reworded = {item for item, _ in missing} & {item for item, _ in extra}
    if reworded:
        raise UserError(
            f"[different-prompts] {spec.name}: {len(reworded)} of {len(ours)} items were asked in other words on the two sides "
            f"({_title(other)} and {_title(one)}; first: item {min(reworded)!r}). Measure both sides with the same prompts."
        )
    raise UserError(
        f"[different-items] {spec.name}: {len(missing)} of the {len(ours)} items of {_title(one)} are missing from "
        f"{_title(other)}, and {len(extra)} of its {len(theirs)} are not in {_title(one)}. Measure both sides on the same items "
        "(an interrupted measurement goes on where it stood when the same command is run again)."
    )


def _title(scores: Scores) -> str:
    return scores.system if scores.seed is None else f"{scores.system} (seed {scores.seed})"


# --------------------------------------------------------------------------- figures


def _figures(pair: Paired, *, seed: int, resamples: int) -> MetricResult:
    """Everything about one metric but the Holm adjustment and the verdict."""
    spec, keep_I = pair.spec, pair.complete_I
    base_KI, tuned_KI = pair.base_KI[:, keep_I], pair.tuned_KI[:, keep_I]
    difference_KI = tuned_KI - base_KI
    n = int(keep_I.sum())
    names = [row.cluster for row, kept in zip(pair.tuned[0], keep_I, strict=True) if kept]
    clusters = _clusters(names)
    count = len(set(clusters)) if clusters else n
    interval = stats.seeded_interval(difference_KI, clusters=clusters, resamples=resamples, seed=seed)
    error = stats.spread(difference_KI, clusters=clusters) if n else stats.Spread(math.nan, math.nan)
    up, down = stats.flips(base_KI, tuned_KI)
    better, worse = (up, down) if spec.better == "higher" else (down, up)
    p, test = _p_value(pair, difference_KI, clusters, (up, down), seed=seed, resamples=resamples)
    detectable = stats.minimum_detectable(error)
    if pair.bounded and n and error.standard_error == 0:
        detectable = stats.unseen_share(count)
    missing_base = int((~np.isfinite(pair.base_KI)).any(axis=0).sum())
    missing_tuned = int((~np.isfinite(pair.tuned_KI)).any(axis=0).sum())
    return MetricResult(
        name=spec.name, metric=spec.metric, side=spec.side, better=spec.better, unit=spec.unit,
        margin=spec.margin, chance=spec.chance, binary=spec.binary, note=spec.note,
        base=_mean(base_KI), tuned=_mean(tuned_KI), difference=_mean(difference_KI),
        low=_number(interval.low), high=_number(interval.high), p=_number(p), p_holm=math.nan, test=test,
        detectable=_number(detectable), needed=stats.items_needed(n, detectable, spec.margin),
        n=n, items=len(keep_I), missing_base=missing_base, missing_tuned=missing_tuned, clusters=count,
        flips_better=better, flips_worse=worse,
        seeds=tuple(
            SeedValue(s, _mean(base_KI[k]), _mean(tuned_KI[k]), _mean(difference_KI[k]))
            for k, s in enumerate(pair.seeds)
        ),
        verdict=None, why="",
    )  # fmt: skip


def _p_value(
    pair: Paired, difference_KI: Any, clusters: list[str] | None, flips: tuple[int, int], *, seed: int, resamples: int
) -> tuple[float, str]:
    if difference_KI.shape[1] < 2:
        return math.nan, "none: fewer than two items"
    if len(difference_KI) > 1:
        return stats.seeded_p(difference_KI, clusters=clusters), "t over seeds and items"
    if pair.spec.binary and clusters is None:
        return stats.mcnemar(*flips), "exact McNemar"
    return stats.sign_flip(difference_KI[0], clusters=clusters, resamples=resamples, seed=seed), "sign flips"


def _clusters(names: list[str]) -> list[str] | None:
    """None when every item stands alone, so that the tests for independent items apply."""
    used = [name for name in names if name]
    if len(set(used)) == len(used):
        return None
    return [name or f"item {index}" for index, name in enumerate(names)]


def _adjusted(lines: list[MetricResult]) -> list[MetricResult]:
    """Holm over the metrics that get a verdict; what is only watched neither costs nor gains significance."""
    adjusted = iter(stats.holm([line.p for line in lines if line.side != "watch"]))
    return [replace(line, p_holm=_number(next(adjusted)) if line.side != "watch" else math.nan) for line in lines]


def _judged(line: MetricResult, refusal: Guard | None, alpha: float) -> MetricResult:
    if line.side == "watch":
        return replace(line, why="shown for information: no verdict")
    if refusal is not None:
        return replace(line, verdict="not known", why=f"withheld by the guard {refusal.name}: {refusal.seen}")
    verdict, why = _verdict(line, alpha)
    return replace(line, verdict=verdict, why=why)


def _verdict(line: MetricResult, alpha: float) -> tuple[Verdict, str]:
    """The four words, in order; the table with the reasons is in docs/receipt.md."""
    benefit, margin = line.benefit, line.margin
    if line.n < 2 or math.isnan(benefit.low):
        return "not known", "too few scored items for an interval"
    significant = line.p_holm < alpha
    if benefit.low > 0 and significant:
        return "gained", "the whole interval is better than the base, also after Holm's correction"
    unseen = _unseen_loss(line)
    if unseen > margin:
        return "not known", f"no item got worse, but among {line.n} items a loss of {amount(line, unseen)} can hide"
    if stats.non_inferior(benefit, margin):
        if benefit.high < 0 and significant:
            return "held", f"a small loss, and certainly within the margin of {amount(line, margin)}"
        return "held", f"the whole interval is within the margin of {amount(line, margin)}"
    if benefit.high < 0 and significant:
        if benefit.high < -margin:
            return "paid", f"lost, and certainly more than the margin of {amount(line, margin)}"
        return "paid", f"lost, and possibly more than the margin of {amount(line, margin)}"
    if benefit.high < 0:
        return "not known", "a loss is seen that does not stand up to Holm's correction over all metrics"
    return "not known", f"the interval reaches beyond the margin of {amount(line, margin)}: a loss is not ruled out"


def _unseen_loss(line: MetricResult) -> float:
    """The largest net loss that items like these can hide, where none of them got worse; 0 where some did.

    A bootstrap draws from the losses that were seen: where none was, it says that there are none, however few the items. By
    hand: of 50 items 1 got better and none worse; up to 5.8 % of all such items could get worse, so 0.058 - 0.02 can hide.
    """
    if not _in_points(line) or line.flips_worse:
        return 0.0
    return stats.unseen_share(line.clusters) - line.sign * line.difference


# --------------------------------------------------------------------------- words


def level(line: MetricResult, value: float) -> str:
    """A score as people read it: "31.2 %" for a score from 0 to 1, "2.31 nats" otherwise, "none" for NaN."""
    if math.isnan(value):
        return "none"
    return f"{bare(line, value)} {'%' if _in_points(line) else unit_of(line)}".strip()


def amount(line: MetricResult, value: float, *, signed: bool = False) -> str:
    """A difference as people read it: "3.1 points" or "0.042 nats", with a plus sign when asked."""
    if math.isnan(value):
        return "unknown"
    return f"{bare(line, value, signed=signed)} {unit_of(line)}".strip()


def bare(line: MetricResult, value: float, *, signed: bool = False) -> str:
    """A number without its unit: 0.031 of a share is "3.1"; otherwise two figures finer than the margin.

    By hand: with margin 0.05 nats, 0.01234 is "0.012"; a minus is a true minus sign, and "−0.0" is never said.
    """
    if math.isnan(value):
        return "?"
    size = abs(value)
    if _in_points(line):
        text = f"{100 * size:.1f}"
    elif 1e-6 < line.margin < 1e6:
        text = f"{size:,.{max(0, 1 - math.floor(math.log10(line.margin)))}f}"
    elif size == 0 or 1e-3 <= size < 1e6:
        digits = 2 - math.floor(math.log10(size)) if size else 0
        text = f"{size:,.{min(max(digits, 0), 5)}f}"
    else:
        text = f"{size:.2e}"
    zero = not text.strip("0.,")
    return ("" if zero else "−" if value < 0 else "+" if signed else "") + text


def unit_of(line: MetricResult) -> str:
    """What a difference is counted in: "points" for shares, else the first words of the unit."""
    return "points" if _in_points(line) else line.unit.split(",")[0].strip()


def _in_points(line: MetricResult) -> bool:
    return in_points(line.unit, binary=line.binary)


def _moved(line: MetricResult) -> str:
    """ "Toxicity fell by 31.2 points (95 % interval 27.8 to 34.6)"."""
    ends = sorted(abs(end) for end in (line.low, line.high))
    verb = "rose" if line.difference > 0 else "fell"
    span = f"{bare(line, ends[0])} to {bare(line, ends[1])}"
    return f"{_spoken(line)} {verb} by {amount(line, abs(line.difference))} (95 % interval {span})"


def _spoken(line: MetricResult) -> str:
    return line.name.replace("_", " ")


def _sentence(lines: Sequence[MetricResult], stopped: Guard | None) -> str:
    if stopped is not None:
        return f"No verdict: {stopped.seen} (guard {stopped.name})."
    words = []
    for line in lines:
        if line.side != "safety":
            continue
        if line.verdict in ("gained", "paid"):
            words.append(_moved(line) + ("" if line.verdict == "gained" else ", a loss of safety"))
        else:
            words.append(f"{_spoken(line)} {'held within its margin' if line.verdict == 'held' else 'is not known'}")
    words.append(_abilities([line for line in lines if line.side == "ability"]))
    whole = "; ".join(words) + "."
    return whole[:1].upper() + whole[1:]


def _abilities(lines: Sequence[MetricResult]) -> str:
    if not lines:
        return "no ability was measured"
    of = {word: [line for line in lines if line.verdict == word] for word in ("gained", "held", "paid", "not known")}
    parts = [f"{len(of['gained'])} gained ({_names(of['gained'])})"] if of["gained"] else []
    parts.append(f"{len(of['held'])} held within {'its' if len(of['held']) == 1 else 'their'} margin")
    costs = "; ".join(f"{_spoken(line)}, {amount(line, line.tax or 0.0)}" for line in of["paid"])
    was = "was" if len(of["paid"]) == 1 else "were"
    parts.append(f"{len(of['paid'])} {was} paid ({costs})" if of["paid"] else "0 were paid")
    unknown = f"{len(of['not known'])} {'is' if len(of['not known']) == 1 else 'are'} not known"
    if of["not known"]:
        unknown += f" ({_names(of['not known'])})"
    return f"of {len(lines)} {'ability' if len(lines) == 1 else 'abilities'} {', '.join(parts)}; {unknown}"


def _names(lines: Sequence[MetricResult]) -> str:
    return ", ".join(map(_spoken, lines))


# --------------------------------------------------------------------------- numbers and files


def _number(value: float) -> float:
    """A Python float, with the one NaN that compares equal to itself inside a dataclass."""
    return math.nan if math.isnan(value) else float(value)


def _mean(values: Any) -> float:
    return float(values.mean()) if values.size else math.nan


def _plain(value: Any) -> Any:
    """A value as JSON holds it: objects, lists, strings, finite numbers, booleans and null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int | str) or value is None else str(value)


def to_dict(receipt: Receipt) -> dict[str, Any]:
    """A receipt as JSON holds it, with `tax`, `gain` and the benefit's interval written out for other readers."""
    whole = _plain(asdict(receipt))
    for line, written in zip(receipt.metrics, whole["metrics"], strict=True):
        written |= _plain({"tax": line.tax, "gain": line.gain, "benefit": [line.benefit.low, line.benefit.high]})
    return dict(whole)


def write_json(receipts: Receipt | Sequence[Receipt], path: Path) -> Path:
    """Write one or several receipts as one file of the schema `untax.receipt/1`; NaN becomes null."""
    several = [receipts] if isinstance(receipts, Receipt) else list(receipts)
    document = {"schema": SCHEMA, "receipts": [to_dict(receipt) for receipt in several]}
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    files.write(path, text.encode("utf-8", errors="replace"))
    return path


def read_json(path: Path) -> tuple[Receipt, ...]:
    """Read what `write_json` wrote, equal in every field.

    Raises: UserError when the file is missing, no JSON, or of another schema.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"there is no receipt at {path}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no receipt: it cannot be read as JSON ({error})") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise UserError(f"{path} has the schema {schema!r}; this version of untax reads {SCHEMA!r}")
    try:
        return tuple(_from_dict(entry) for entry in document["receipts"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} says that it is a {SCHEMA} and is not: {error!r} is missing or of a wrong type"
        ) from error


_MAYBE_NAN = ("base", "tuned", "difference", "low", "high", "p", "p_holm", "detectable")
_DERIVED = ("tax", "gain", "benefit")


def _from_dict(entry: Mapping[str, Any]) -> Receipt:
    given = dict(entry)
    given["metrics"] = tuple(_line(line) for line in given["metrics"])
    given["guards"] = tuple(Guard(**guard) for guard in given["guards"])
    given["base_seeds"], given["tuned_seeds"] = tuple(given["base_seeds"]), tuple(given["tuned_seeds"])
    return Receipt(**given)


def _line(entry: Mapping[str, Any]) -> MetricResult:
    given = {key: value for key, value in entry.items() if key not in _DERIVED}
    for key in _MAYBE_NAN:
        given[key] = math.nan if given[key] is None else given[key]
    given["seeds"] = tuple(
        SeedValue(s["seed"], *(math.nan if s[k] is None else s[k] for k in ("base", "tuned", "difference")))
        for s in given["seeds"]
    )
    return MetricResult(**given)
