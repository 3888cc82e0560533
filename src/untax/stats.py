"""Paired statistics on per-item differences: intervals, p values, power. Numbers in, numbers out; no torch.

Everything here works on *differences* (tuned minus base) of the same items. Where items are not independent, `clusters`
names for each item the group it belongs to, and whole groups are drawn, flipped and left out together. Where a system
was trained several times, the differences form a matrix of seeds by items, and the spread between seeds is a part of
every interval and every p value.

Shapes: K seeds, I items, C clusters, R resamples.

Sources: Efron, "Better Bootstrap Confidence Intervals", JASA 1987 (BCa); Owen, "The pigeonhole bootstrap", 2007, and
Satterthwaite 1946 (seeds by items); McNemar 1947, exact form; Holm 1979; Walker and Nowacki 2011 (non-inferiority).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as distributions

__all__ = [
    "Interval",
    "Spread",
    "bca_interval",
    "bca_limits",
    "flips",
    "holm",
    "items_needed",
    "mcnemar",
    "minimum_detectable",
    "non_inferior",
    "seeded_interval",
    "seeded_p",
    "sign_flip",
    "spread",
    "unseen_share",
]

Numbers = NDArray[np.float64]

_CHUNK = 4_000_000  # random draws held at once: 32 MB of indices, whatever n and R are
_EXACT_UNITS = 13  # up to here all 2^n sign patterns are fewer than 10,000 random ones


@dataclass(frozen=True)
class Interval:
    """Both ends of a confidence interval; NaN when there is too little data for one."""

    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low


@dataclass(frozen=True)
class Spread:
    """Standard error of a mean difference, and the degrees of freedom that it was estimated with."""

    standard_error: float
    degrees: float


@dataclass(frozen=True)
class _Units:
    """What is drawn together. Unit c adds `sums_C[c]` to the total and `sizes_C[c]` to the number of items."""

    sums_C: Numbers
    sizes_C: Numbers

    @property
    def mean(self) -> float:
        return float(self.sums_C.sum() / self.sizes_C.sum())

    @property
    def linear_C(self) -> Numbers:
        """One value per unit whose plain mean and spread stand for those of the ratio sum(sums) / sum(sizes)."""
        count, mean = len(self.sums_C), self.mean
        return mean + count * (self.sums_C - mean * self.sizes_C) / self.sizes_C.sum()


def _checked(differences: ArrayLike) -> Numbers:
    values = np.asarray(differences, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("differences must be finite: drop the pairs with a failed score first, and count them")
    return values


def _codes(clusters: Sequence[str] | None, count: int) -> NDArray[np.int64]:
    """A number for each item's cluster; an item with an empty cluster name stands alone."""
    if clusters is None:
        return np.arange(count)
    if len(clusters) != count:
        raise ValueError(f"{len(clusters)} cluster names for {count} items")
    seen: dict[tuple[str, int], int] = {}  # numbered as they appear, so that singletons draw what no clusters draw
    keys = [(name, 0) if name else ("", 1 + index) for index, name in enumerate(clusters)]
    return np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=np.int64)


def _units(values_I: Numbers, clusters: Sequence[str] | None) -> _Units:
    codes = _codes(clusters, len(values_I))
    sums_C = np.bincount(codes, weights=values_I).astype(np.float64)
    return _Units(sums_C, np.bincount(codes).astype(np.float64))


# --------------------------------------------------------------------------- intervals


def _resampled_means(units: _Units, resamples: int, rng: np.random.Generator) -> Numbers:
    """R bootstrap means. Units with equal contributions are drawn by count: the same law, a hundred times less work."""
    pairs = np.stack([units.sums_C, units.sizes_C], axis=1)
    distinct, counts = np.unique(pairs, axis=0, return_counts=True)
    total = len(pairs)
    if 10 * len(distinct) <= total:
        drawn = rng.multinomial(total, counts / total, size=resamples).astype(np.float64)
        return (drawn @ distinct[:, 0]) / (drawn @ distinct[:, 1])
    means = np.empty(resamples)
    rows = max(1, _CHUNK // total)
    equal_sizes = bool((units.sizes_C == 1).all())
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        index = rng.integers(0, total, size=(stop - start, total), dtype=np.int32)
        sums = units.sums_C[index].sum(axis=1)
        means[start:stop] = sums / (total if equal_sizes else units.sizes_C[index].sum(axis=1))
    return means


def bca_limits(estimate: float, resampled: ArrayLike, left_out: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Turn a bootstrap distribution into a BCa interval (Efron 1987, eq. 2.3 and 6.6).

    `left_out` holds the estimate with one unit left out, for each unit. The end points are the quantiles of `resampled`
    at Phi(z0 + (z0 + z) / (1 - a (z0 + z))): z0 from the share of resamples below the estimate (half of the ties), a from
    the skewness of `left_out`. By hand: with half of the resamples below and symmetric `left_out`, z0 = a = 0, and the
    interval is the plain 2.5 % and 97.5 % quantiles.
    """
    draws, jack = np.asarray(resampled, dtype=np.float64), np.asarray(left_out, dtype=np.float64)
    tie = 1e-12 * max(1.0, float(np.abs(draws).max()))
    below = (np.mean(draws < estimate - tie) + np.mean(draws <= estimate + tie)) / 2
    # a share of exactly 0 or 1 would make z0 infinite
    z0 = float(distributions.norm.ppf(np.clip(below, 0.5 / len(draws), 1 - 0.5 / len(draws))))
    pull = jack.mean() - jack
    scale = float((pull**2).sum())
    acceleration = float((pull**3).sum() / (6 * scale**1.5)) if scale > 0 else 0.0
    tail = (1 - confidence) / 2
    z_2 = distributions.norm.ppf([tail, 1 - tail])
    shares_2 = distributions.norm.cdf(z0 + (z0 + z_2) / (1 - acceleration * (z0 + z_2)))
    ends_2 = np.asarray(np.quantile(draws, shares_2))
    return Interval(float(ends_2[0]), float(ends_2[1]))


def bca_interval(
    differences: ArrayLike,
    *,
    clusters: Sequence[str] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Interval of the mean difference, as `scipy.stats.bootstrap((base, tuned), paired=True, method="BCa")` gives it.

    With `clusters`, whole clusters are drawn and the mean is sum / count of what was drawn. When all differences are the
    same number d the interval is [d, d] (see `unseen_share` for what that hides). Fewer than two units: NaN.
    """
    values_I = _checked(differences)
    if len(values_I) == 0:
        return Interval(math.nan, math.nan)
    if np.ptp(values_I) == 0:
        return Interval(float(values_I[0]), float(values_I[0]))
    units = _units(values_I, clusters)
    if len(units.sums_C) < 2:
        return Interval(math.nan, math.nan)
    draws = _resampled_means(units, resamples, np.random.default_rng(seed))
    return bca_limits(units.mean, draws, _left_out(units), confidence=confidence)


def _left_out(units: _Units) -> Numbers:
    return (units.sums_C.sum() - units.sums_C) / (units.sizes_C.sum() - units.sizes_C)


def spread(differences: ArrayLike, *, clusters: Sequence[str] | None = None) -> Spread:
    """Standard error of the mean of a row of differences, or of a matrix of seeds by items.

    A row: sd / sqrt(C) over its units, C - 1 degrees. A matrix: seeds and items are both a sample, so the variance is
    (MS_seeds + MS_items) / (K C), with Satterthwaite's degrees; MS are the mean squares of the two-way table of units.
    It errs on the wide side by MS_residual / (K C), which keeps two or three seeds honest.

    By hand, one row 1, 2, 3: sd 1, so 1 / sqrt(3) = 0.5774 with 2 degrees. Two seeds [[0, 2], [2, 4]]: MS_seeds =
    2 (1 + 1) / 1 = 4, MS_items = 2 (1 + 1) / 1 = 4, so the error is sqrt(8 / 4) = 1.4142 with (4 + 4)^2 / (16 + 16) = 2.
    """
    values_KI = np.atleast_2d(_checked(differences))
    linear_KC = np.stack([_units(row_I, clusters).linear_C for row_I in values_KI])
    seeds, count = linear_KC.shape
    if count < 2:
        return Spread(math.nan, math.nan)
    mean = linear_KC.mean()
    square_items = seeds * float(((linear_KC.mean(axis=0) - mean) ** 2).sum()) / (count - 1)
    if seeds == 1:
        return Spread(math.sqrt(square_items / count), count - 1)
    square_seeds = count * float(((linear_KC.mean(axis=1) - mean) ** 2).sum()) / (seeds - 1)
    total = square_seeds + square_items
    if total == 0:
        return Spread(0.0, count - 1)
    degrees = total**2 / (square_seeds**2 / (seeds - 1) + square_items**2 / (count - 1))
    return Spread(math.sqrt(total / (seeds * count)), degrees)


def seeded_interval(
    differences_KI: ArrayLike,
    *,
    clusters: Sequence[str] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Interval of the mean difference over training seeds *and* items: what to expect of a new seed on new items.

    Each resample draws the seeds, then the items (the same for all seeds: all of them answered the same items). Two
    corrections make up for there being few seeds. Deviations of the seed means are scaled by sqrt(K / (K - 1)), because
    drawing K of K seeds sees only (K - 1) / K of their variance. And the ends are stretched by t(df) / t(C - 1), with the
    Satterthwaite df of `spread`, because the spread of three seeds is itself barely known: without it an interval
    that is mostly seed variance covers 85 % instead of 95 % (3 seeds; with it 93 %). One seed, or seeds that agree
    exactly, give `bca_interval`.
    """
    values_KI = np.atleast_2d(_checked(differences_KI))
    count_seeds, count = values_KI.shape
    if count_seeds == 1 or count == 0:
        return bca_interval(values_KI[0], clusters=clusters, resamples=resamples, seed=seed, confidence=confidence)
    if np.ptp(values_KI) == 0:
        return Interval(float(values_KI[0, 0]), float(values_KI[0, 0]))
    units = _units(values_KI.mean(axis=0), clusters)
    if len(units.sums_C) < 2:
        return Interval(math.nan, math.nan)
    rng = np.random.default_rng(seed)
    deviations_K = values_KI.mean(axis=1) - values_KI.mean()
    draws_R = _resampled_means(units, resamples, rng)
    drawn_RK = rng.multinomial(count_seeds, np.full(count_seeds, 1 / count_seeds), size=resamples) / count_seeds
    draws_R = draws_R + math.sqrt(count_seeds / (count_seeds - 1)) * (drawn_RK @ deviations_K)
    ends = bca_limits(units.mean, draws_R, _left_out(units), confidence=confidence)
    level = (1 + confidence) / 2
    degrees = spread(values_KI, clusters=clusters).degrees
    stretch = distributions.t.ppf(level, degrees) / distributions.t.ppf(level, len(units.sums_C) - 1)
    stretch = max(1.0, float(stretch))
    return Interval(units.mean + (ends.low - units.mean) * stretch, units.mean + (ends.high - units.mean) * stretch)


# --------------------------------------------------------------------------- p values


def flips(base: ArrayLike, tuned: ArrayLike) -> tuple[int, int]:
    """How many scores went up and how many went down. By hand: 0 1 1 0 to 1 1 0 0 gives (1, 1)."""
    change = np.asarray(tuned, dtype=np.float64) - np.asarray(base, dtype=np.float64)
    return int((change > 0).sum()), int((change < 0).sum())


def mcnemar(up: int, down: int) -> float:
    """Exact two-sided McNemar p for 0/1 scores: is a flip as likely up as down?

    By hand: 1 up and 7 down is 2 (C(8,0) + C(8,1)) / 2^8 = 18 / 256 = 0.0703.
    """
    if up + down == 0:
        return 1.0
    return float(distributions.binomtest(up, up + down, 0.5).pvalue)


def sign_flip(
    differences: ArrayLike, *, clusters: Sequence[str] | None = None, resamples: int = 10_000, seed: int = 0
) -> float:
    """Two-sided permutation p of paired differences: how often do random signs give as large a sum?

    Exact (all 2^C signs) up to 13 units, else (hits + 1) / (R + 1). By hand: differences 1, 2, 3 have sum 6; of the 8
    sign patterns two reach |6|, so p = 2 / 8 = 0.25.
    """
    sums_C = _units(_checked(differences), clusters).sums_C
    seen = abs(float(sums_C.sum()))
    if len(sums_C) == 0 or not np.any(sums_C):
        return 1.0
    reach = seen - 1e-12 * max(1.0, float(np.abs(sums_C).sum()))
    if len(sums_C) <= _EXACT_UNITS:
        patterns = np.arange(2 ** len(sums_C))[:, None] >> np.arange(len(sums_C)) & 1
        return float(np.mean(np.abs((2.0 * patterns - 1) @ sums_C) >= reach))
    rng = np.random.default_rng(seed)
    sizes, counts = np.unique(np.abs(sums_C), return_counts=True)
    if 10 * len(sizes) <= len(sums_C):
        positive_RU = rng.binomial(counts, 0.5, size=(resamples, len(sizes)))
        hits = int((np.abs((2.0 * positive_RU - counts) @ sizes) >= reach).sum())
        return (hits + 1) / (resamples + 1)
    hits, rows = 0, max(1, _CHUNK // len(sums_C))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        bits = np.unpackbits(rng.integers(0, 256, size=(count, -(-len(sums_C) // 8)), dtype=np.uint8), axis=1)
        totals = 2.0 * (bits[:, : len(sums_C)].astype(np.float32) @ sums_C.astype(np.float32)) - sums_C.sum()
        hits += int((np.abs(totals) >= reach).sum())
    return (hits + 1) / (resamples + 1)


def seeded_p(differences_KI: ArrayLike, *, clusters: Sequence[str] | None = None) -> float:
    """Two-sided p of the mean difference over seeds and items: t = mean / error, with the error and df of `spread`.

    By hand, [[0, 2], [2, 4]]: mean 2, error 1.4142, t = 1.4142 with 2 degrees, p = 0.2929.
    """
    values_KI = np.atleast_2d(_checked(differences_KI))
    error = spread(values_KI, clusters=clusters)
    mean = float(values_KI.mean())
    if math.isnan(error.standard_error):
        return math.nan
    if error.standard_error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * distributions.t.sf(abs(mean) / error.standard_error, error.degrees))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the given order; NaN stays NaN and is not counted.

    By hand: .01, .04, .03 become 3 x .01 = .03, then .03 x 2 = .06, then max(.06, .04) = .06.
    """
    known = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    adjusted, floor = [math.nan] * len(p_values), 0.0
    for rank, (p, index) in enumerate(known):
        floor = max(floor, min(1.0, (len(known) - rank) * p))
        adjusted[index] = floor
    return adjusted


# --------------------------------------------------------------------------- margins and power


def non_inferior(benefit: Interval, margin: float) -> bool:
    """Is the whole interval of the benefit (positive = better) above minus the margin?

    By hand: [-0.013, 0.004] with margin 0.02 is; [-0.021, 0.030] is not; NaN is not.
    """
    return benefit.low >= -margin


def minimum_detectable(error: Spread, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest true difference that a two-sided test with this standard error finds with this power.

    (z(.975) + z(.8)) x error; t instead of z when the degrees are few. By hand: sd 0.5, n = 400: error 0.025, and
    (1.96 + 0.8416) x 0.025 = 0.0700.
    """
    if math.isnan(error.standard_error):
        return math.nan
    degrees = max(error.degrees, 1.0)
    quantiles = distributions.t.ppf(1 - alpha / 2, degrees) + distributions.t.ppf(power, degrees)
    return float(quantiles) * error.standard_error


def items_needed(count: int, detectable: float, margin: float) -> int | None:
    """Items for the detectable difference to shrink to the margin: it falls with the square root of their number.

    By hand: 200 items that detect 0.06 need 200 x (0.06 / 0.02)^2 = 1,800 for 0.02. None when nothing can be said.
    """
    if not count or margin <= 0 or not math.isfinite(detectable):
        return None
    return max(2, math.ceil(round(count * (detectable / margin) ** 2, 6)))


def unseen_share(count: int, *, confidence: float = 0.95) -> float:
    """Upper bound of the share of items that would change, when none of `count` did (the "rule of three").

    By hand: 1 - 0.05^(1/100) = 0.0295, close to 3 / 100.
    """
    return 1.0 if count == 0 else 1 - (1 - confidence) ** (1 / count)
