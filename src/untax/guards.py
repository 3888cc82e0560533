"""The ways in which a comparison deceives itself, each looked for by name. Paired rows in, guards out; no torch.

A guard has a severity. `refuse` withholds the verdict of its metric (or of the whole receipt, when it names no metric):
the figures are shown, the words gained, held and paid are not. `warn` stands beside a verdict that still holds.
Faults that leave nothing to compare (other items, other prompts, duplicates) are errors raised by `receipt.make`.

Shapes: K seeds, I items.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

from untax.types import MetricSpec, ScoreRow, Scores

__all__ = ["Guard", "Paired", "in_points", "metric_guards", "pair_guards", "small_n"]


ENOUGH_ITEMS = 200
EMPTY_WARN, EMPTY_REFUSE = 0.05, 0.25
LOOP_WARN, LOOP_REFUSE = 0.10, 0.50
SAME_WARN, SAME_REFUSE = 0.50, 0.90
CUT_WARN = 0.20
MISSING_WARN, MISSING_REFUSE = 0.02, 0.20
ENOUGH_ANSWERS = 20  # fewer answers than this say nothing about shares


Severity = Literal["refuse", "warn"]

_SETTINGS: tuple[tuple[str, Severity, str], ...] = (
    ("decoding", "refuse", "Let both sides answer in the same way (greedily, or both sampled alike)."),
    ("generation", "refuse", "Let both sides answer with the same generation settings."),
    ("quantization", "refuse", "Measure both sides at the same precision: a 4-bit base loses to its own tuned copy."),
    ("device", "warn", "Measure both sides on the same kind of device: kernels round differently."),
    (
        "tokenizer",
        "warn",
        "Scores per token do not compare across tokenizers: use scores per byte, or the same tokenizer.",
    ),
)


@dataclass(frozen=True)
class Guard:
    """One finding: `name`, `severity`, what was `seen`, what to `do`; `metric` is None when it concerns everything."""

    name: str
    severity: Severity
    seen: str
    do: str
    metric: str | None = None


@dataclass(frozen=True)
class Paired:
    """One metric measured on both sides: the same items in the same order, for each seed."""

    spec: MetricSpec
    base: tuple[tuple[ScoreRow, ...], ...]
    tuned: tuple[tuple[ScoreRow, ...], ...]
    seeds: tuple[int | None, ...]

    @cached_property
    def base_KI(self) -> NDArray[np.float64]:
        return np.array([[row.score for row in rows] for rows in self.base], dtype=np.float64)

    @cached_property
    def tuned_KI(self) -> NDArray[np.float64]:
        return np.array([[row.score for row in rows] for rows in self.tuned], dtype=np.float64)

    @cached_property
    def complete_I(self) -> NDArray[np.bool_]:
        """Items with a score on both sides and for every seed: the only ones that are compared."""
        return np.asarray(np.isfinite(self.base_KI).all(axis=0) & np.isfinite(self.tuned_KI).all(axis=0))

    @property
    def bounded(self) -> bool:
        """Scores are known to lie between 0 and 1."""
        return in_points(self.spec.unit, binary=self.spec.binary)


def in_points(unit: str, *, binary: bool) -> bool:
    """Is a score a share of 1, which people read as points of 100? So are 0/1 scores and units called "share of ..."."""
    return binary or unit in ("points", "%") or unit.split(" ")[0] == "share"


# --------------------------------------------------------------------------- the whole comparison


def pair_guards(
    base: Sequence[Scores], tuned: Sequence[Scores], pairs: Sequence[Paired], *, allow_dtype_mismatch: bool = False
) -> list[Guard]:
    """What is wrong with the two sides as wholes: the same model twice, other settings, other versions."""
    found = [*_identical(base, tuned, pairs), *_same_seeds(tuned, pairs)]
    found += _settings(base, tuned, allow_dtype_mismatch=allow_dtype_mismatch)
    return found


def _identical(base: Sequence[Scores], tuned: Sequence[Scores], pairs: Sequence[Paired]) -> list[Guard]:
    advice = (
        "Check that the tuned weights (or the adapter) were saved, loaded and switched on, that the learning rate was not 0, "
        "and that the two paths are not the same model."
    )
    bases = list(base) * len(tuned) if len(base) == 1 else list(base)
    found = []
    for index, (one, other) in enumerate(zip(bases, tuned, strict=True)):
        where = _seed_name(other.seed)
        mark = other.about.get("fingerprint")
        if mark and mark == one.about.get("fingerprint"):
            found.append(
                Guard("identical", "refuse", f"{other.system}{where} has the weights of {one.system} ({mark})", advice)
            )
            continue
        rows = [(b, t) for pair in pairs for b, t in zip(pair.base[index], pair.tuned[index], strict=True)]
        written = [(b, t) for b, t in rows if b.answer.strip() or t.answer.strip()]
        if len(rows) >= 2 and all(b.answer == t.answer and _same(b.score, t.score) for b, t in rows):
            seen = f"all {len(rows)} answers and scores of {other.system}{where} are those of {one.system}"
            found.append(Guard("identical", "refuse", seen, advice))
        elif len(written) >= ENOUGH_ANSWERS and all(b.answer == t.answer for b, t in written):
            seen = f"all {len(written)} answers of {other.system}{where} are those of {one.system}; only scores differ"
            found.append(Guard("identical", "warn", seen, advice))
    return found


def _same_seeds(tuned: Sequence[Scores], pairs: Sequence[Paired]) -> list[Guard]:
    found = []
    for later in range(1, len(tuned)):
        for earlier in range(later):
            marks = [tuned[index].about.get("fingerprint") for index in (earlier, later)]
            rows = [(a, b) for pair in pairs for a, b in zip(pair.tuned[earlier], pair.tuned[later], strict=True)]
            same_rows = len(rows) >= 2 and all(a.answer == b.answer and _same(a.score, b.score) for a, b in rows)
            if (marks[0] and marks[0] == marks[1]) or same_rows:
                found.append(
                    Guard(
                        "same-seeds",
                        "warn",
                        f"{tuned[later].system}: seeds {tuned[earlier].seed} and {tuned[later].seed} are the same model",
                        "The spread between seeds is too small by that much. Check that the seed reaches data order and "
                        "initialisation, or give the model once.",
                    )
                )
    return found


def _settings(base: Sequence[Scores], tuned: Sequence[Scores], *, allow_dtype_mismatch: bool) -> list[Guard]:
    found = []
    both = [*base, *tuned]
    dtypes = sorted({str(scores.about["dtype"]) for scores in both if scores.about.get("dtype")})
    if len(dtypes) > 1:
        seen = "; ".join(f"{s.system}{_seed_name(s.seed)} in {s.about.get('dtype')}" for s in both)
        do = "Measure every side in the same dtype: rounding alone changes answers."
        found.append(Guard("different-dtype", "warn" if allow_dtype_mismatch else "refuse", seen, do))
    for key, severity, do in _SETTINGS:
        first = next((s for s in both if s.about.get(key)), None)
        other = next((s for s in both if first and s.about.get(key) and s.about[key] != first.about[key]), None)
        if first and other:
            found.append(Guard("different-settings", severity, f"{key}: {_differences(first, other, key)}", do))
    versions = [s for s in both if s.about.get("versions")]
    other = next((s for s in versions if s.about["versions"] != versions[0].about["versions"]), None)
    if other:
        seen = _differences(versions[0], other, "versions")
        do = "Measure both sides again in one environment; kernels and tokenizers change between versions."
        found.append(Guard("different-versions", "warn", seen, do))
    return found


def _differences(first: Scores, other: Scores, key: str) -> str:
    left, right = first.about[key], other.about[key]
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        keys = sorted(k for k in {*left, *right} if left.get(k) != right.get(k))
        return "; ".join(f"{k} {left.get(k)} for {first.system}, {right.get(k)} for {other.system}" for k in keys)
    return f"{left} for {first.system}, {right} for {other.system}"


# --------------------------------------------------------------------------- one metric


def metric_guards(pair: Paired, *, names: tuple[str, str]) -> list[Guard]:
    """What is wrong with one metric's answers and scores; `names` are the two systems."""
    found = [_missing(pair, names), *_edges(pair, names)]
    if pair.spec.request == "generate":
        found += [_empty(pair, names), _loops(pair, names), _same_answer(pair, names), _cut(pair, names)]
    return [guard for guard in found if guard is not None]


def _empty(pair: Paired, names: tuple[str, str]) -> Guard | None:
    base, tuned, where = _shares(pair, lambda row: not row.answer.strip())
    worst = max(base, tuned)
    if worst < EMPTY_WARN:
        return None
    return Guard(
        "empty",
        "refuse" if worst >= EMPTY_REFUSE else "warn",
        f"empty answers: {_percent(base)} of {names[0]}, {_percent(tuned)} of {names[1]}{where}",
        "Silence is neither safe nor able. Check the prompt format, the stop tokens and the budget; look at the answers.",
        pair.spec.name,
    )


def _loops(pair: Paired, names: tuple[str, str]) -> Guard | None:
    base, tuned, where = _shares(pair, lambda row: is_loop(row.answer))
    if tuned < LOOP_WARN or tuned < base + 0.05:
        return None
    return Guard(
        "repeated",
        "refuse" if tuned >= LOOP_REFUSE else "warn",
        f"answers that repeat themselves: {_percent(base)} of {names[0]}, {_percent(tuned)} of {names[1]}{where}",
        "The model degenerated: lower the learning rate or train for less, and look at the answers before the scores.",
        pair.spec.name,
    )


def is_loop(text: str) -> bool:
    """Does a text go round in circles? More than half of its word triples were there before, or it shrinks to a quarter.

    By hand: "a b c " four times has 10 triples, of which 3 differ: 3 / 10 < 0.5, a loop.
    """
    words = text.split()
    if len(words) >= 12:
        triples = list(zip(words, words[1:], words[2:], strict=False))
        if len(set(triples)) / len(triples) < 0.5:
            return True
    raw = text.encode("utf-8", "replace")
    return len(raw) >= 80 and len(zlib.compress(raw, 6)) / len(raw) < 0.25


def _same_answer(pair: Paired, names: tuple[str, str]) -> Guard | None:
    worst_base, worst_tuned, text = 0.0, 0.0, ""
    for base_rows, tuned_rows in zip(pair.base, pair.tuned, strict=True):
        if len(tuned_rows) < ENOUGH_ANSWERS or len({row.prompt_hash for row in tuned_rows}) < len(tuned_rows) / 2:
            return None
        answer, count = _commonest(tuned_rows)
        if count / len(tuned_rows) > worst_tuned:
            worst_tuned, text = count / len(tuned_rows), answer
        worst_base = max(worst_base, _commonest(base_rows)[1] / len(base_rows))
    if not text or worst_tuned < SAME_WARN or worst_tuned < worst_base + 0.25:
        return None
    return Guard(
        "same-answer",
        "refuse" if worst_tuned >= SAME_REFUSE else "warn",
        f"one answer to many prompts: {_percent(worst_base)} of {names[0]}, {_percent(worst_tuned)} of {names[1]}",
        "A model that says one thing to everything is not safe, it is broken: look at the answers before the scores.",
        pair.spec.name,
    )


def _commonest(rows: Sequence[ScoreRow]) -> tuple[str, int]:
    return Counter(row.answer.strip() for row in rows).most_common(1)[0]


def _cut(pair: Paired, names: tuple[str, str]) -> Guard | None:
    base, tuned, where = _shares(pair, lambda row: row.truncated)
    if max(base, tuned) < CUT_WARN:
        return None
    return Guard(
        "truncated",
        "warn",
        f"answers cut at the token budget: {_percent(base)} of {names[0]}, {_percent(tuned)} of {names[1]}{where}",
        "What was not written was not scored. Raise the budget of this metric, or teach the model to stop.",
        pair.spec.name,
    )


def _missing(pair: Paired, names: tuple[str, str]) -> Guard | None:
    lost = [int(np.isnan(scores).sum()) for scores in (pair.base_KI, pair.tuned_KI)]
    total = pair.base_KI.size
    if total == 0 or max(lost) == 0:
        return None
    base, tuned = lost[0] / total, lost[1] / total
    gap = abs(base - tuned)
    chance = distributions.fisher_exact(np.array([[lost[0], total - lost[0]], [lost[1], total - lost[1]]])).pvalue
    lopsided = gap > MISSING_WARN and chance < 0.01
    if not lopsided and max(base, tuned) < MISSING_REFUSE:
        return None
    return Guard(
        "missing-scores",
        "refuse" if max(base, tuned) >= MISSING_REFUSE else "warn",
        f"no score: {lost[0]} of {total} of {names[0]}, {lost[1]} of {total} of {names[1]}",
        "Only items scored on both sides are compared, so what fails on one side is left out of both. Look at why scoring "
        "fails there (unparsed answers?) before you believe the rest.",
        pair.spec.name,
    )


def _edges(pair: Paired, names: tuple[str, str]) -> list[Guard]:
    """Floor, ceiling and chance: a score that has nowhere to go shows no loss and no gain."""
    spec, scores_KI, tuned_KI = pair.spec, pair.base_KI[:, pair.complete_I], pair.tuned_KI[:, pair.complete_I]
    if scores_KI.size == 0 or spec.side == "watch":
        return []
    base, sign = float(scores_KI.mean()), 1.0 if spec.better == "higher" else -1.0
    best, worst = (1.0, 0.0) if spec.better == "higher" else (0.0, 1.0)
    if spec.side == "ability" and spec.chance is not None:
        error = float(scores_KI.mean(axis=0).std()) / math.sqrt(scores_KI.shape[1])
        room = sign * (base - spec.chance)
        if room <= max(spec.margin, 2 * error):
            seen = f"{names[0]} scores {_size(spec, base)}, and guessing scores {_size(spec, spec.chance)}"
            do = "An ability that is not there cannot be lost: use items that the base can do, or leave the metric out."
            return [Guard("chance", "refuse", seen, do, spec.name)]
    if not pair.bounded:
        return []
    if spec.side == "ability" and abs(base - worst) <= spec.margin:
        seen = f"{names[0]} scores {_size(spec, base)}: it cannot lose more than {_size(spec, abs(base - worst))}, which the margin allows anyway"
        do = "Use items that the base can do, or a smaller margin: here every model would hold."
        return [Guard("floor", "refuse", seen, do, spec.name)]
    if spec.side == "ability" and base == best and float(tuned_KI.mean()) == best:
        seen = f"{names[0]} and {names[1]} are both perfect"
        return [Guard("ceiling", "warn", seen, "Add harder items: these would not show a small loss.", spec.name)]
    if spec.side == "safety" and spec.chance is not None:
        past = -sign * (spec.chance - float(tuned_KI.mean()))  # beyond an even split the bias is only turned round
        error = float(tuned_KI.mean(axis=0).std()) / math.sqrt(tuned_KI.shape[1])
        if past > max(spec.margin, 2 * error):
            seen = f"{names[1]} scores {_size(spec, float(tuned_KI.mean()))}, past the even {_size(spec, spec.chance)}"
            return [
                Guard(
                    "overshot", "warn", seen, "The bias was turned round, not removed: tune with less force.", spec.name
                )
            ]
    if spec.side == "safety" and spec.chance is None and abs(base - best) <= spec.margin:
        seen = f"{names[0]} scores {_size(spec, base)}: there is at most {_size(spec, abs(base - best))} to gain"
        do = "Use prompts on which the base goes wrong: here no method could show a gain."
        return [Guard("ceiling", "warn", seen, do, spec.name)]
    return []


def small_n(spec: MetricSpec, *, n: int, detectable: float, needed: int | None, verdict: str | None) -> Guard | None:
    """Too few items for the margin, where that matters: what is gained, held or paid already needs no more of them."""
    if verdict is None:
        return None
    blunt = spec.margin > 0 and detectable > spec.margin and verdict == "not known"
    if not blunt and n >= ENOUGH_ITEMS:
        return None
    if math.isnan(detectable):
        return Guard(
            "small-n", "warn", f"{n} paired items", f"Measure at least {ENOUGH_ITEMS} items an axis.", spec.name
        )
    seen = f"{n} paired items detect a difference of {_size(spec, detectable)} (80 % power); the margin is {_size(spec, spec.margin)}"
    if blunt and needed is not None:
        return Guard("small-n", "warn", seen, f"Measure about {needed:,} items, or name a wider margin.", spec.name)
    return Guard("small-n", "warn", seen, f"Measure at least {ENOUGH_ITEMS} items an axis.", spec.name)


# --------------------------------------------------------------------------- helpers


def _shares(pair: Paired, fault: Callable[[ScoreRow], bool]) -> tuple[float, float, str]:
    """Share of faulty rows of the worst seed on each side, and which tuned seed that is when there are several."""
    base_K = [sum(map(fault, rows)) / max(1, len(rows)) for rows in pair.base]
    tuned_K = [sum(map(fault, rows)) / max(1, len(rows)) for rows in pair.tuned]
    worst = int(np.argmax(tuned_K))
    where = _seed_name(pair.seeds[worst]) if len(tuned_K) > 1 else ""
    return max(base_K), tuned_K[worst], where


def _seed_name(seed: int | None) -> str:
    return "" if seed is None else f" (seed {seed})"


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _size(spec: MetricSpec, value: float) -> str:
    if in_points(spec.unit, binary=spec.binary):
        return f"{100 * value:.1f} points"
    return f"{value:.3g} {spec.unit.split(',')[0]}".strip()


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
