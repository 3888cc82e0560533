"""What safety costs at one and the same level: the least tax of any mixture of two of a family's models. Numbers in and out.

A family is one way of training at several strengths. At a level of safety its tax is read off by mixing two of its models: when
a share of the prompts is answered by one of them and the rest by the other, by lot, both the safety gain and the tax are exactly
the mixture of theirs, because both are means over items. So nothing is assumed of strengths that were not trained; nothing has
to be ordered; and the base, with gain 0 and tax 0, is a member of every family. The least tax of all mixtures that reach the level
is the lower edge of the convex hull of the family's points (Provost and Fawcett 2001 do this with ROC curves). A family whose safest
model stays below the level does not reach it: NaN, never extrapolated.

The least of several noisy numbers is too small, the more so the more strengths were tried. So the mixture is chosen on one part of the
data and paid for on the other: for each training seed and each half of the items, the mixture with the least tax on the *other* seeds
and the *other* half is taken, its tax is read on this seed and this half, and those numbers are averaged.

Every number is made again in R resamples: seeds are drawn, then items (whole clusters, and items that several metrics share are drawn together), the
same ones for all systems. Row 0 of every array with R + 1 rows is the data as they are.

Shapes: R resamples, S systems, K seeds, I items, C units, P members of one family with the base in front, L metrics.

Sources: Provost and Fawcett, "Robust Classification for Imprecise Environments", Machine Learning 2001; Owen, "The pigeonhole
bootstrap", 2007; Satterthwaite 1946; Fieller 1954 (ratios).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

from untax import stats

__all__ = [
    "Chosen",
    "Drawn",
    "Line",
    "Sample",
    "estimate",
    "least",
    "ratio",
    "reaches",
    "resample",
    "tax_at",
    "with_base",
]

Numbers = NDArray[np.float64]
Part = Literal["both", "items", "seeds"]
PARTS: tuple[Part, ...] = ("both", "items", "seeds")

_CELLS = 4_000_000  # numbers held at once while pairs of members are compared
#: more resamples than this share without reaching the level, and there is no interval
UNREACHED = 0.025


@dataclass(frozen=True)
class Line:
    """One metric of all systems: differences from the base, all scored; `units` names what is drawn together."""

    values_SKI: Numbers
    units: tuple[str, ...]


@dataclass(frozen=True)
class Drawn:
    """One metric in all resamples: means per seed and half, and how far drawing items moves the mean of all seeds."""

    mean_SK: Numbers
    half_SK2: Numbers
    share_2: Numbers
    moved_RS: Numbers
    moved_RS2: Numbers
    units: int


@dataclass(frozen=True)
class Sample:
    """All metrics in the same resamples. `counts_RK` says how often each seed was drawn; row 0 is the data."""

    lines: tuple[Drawn, ...]
    counts_RK: Numbers
    part: Part = "both"

    @property
    def seeds(self) -> int:
        return self.counts_RK.shape[1]

    def only(self, part: Part) -> Sample:
        """The same resamples in which only items, or only seeds, were drawn: what each adds to the spread."""
        return Sample(self.lines, self.counts_RK, part)

    @property
    def _drawn_RK(self) -> Numbers:
        return np.ones_like(self.counts_RK) if self.part == "items" else self.counts_RK

    def weights_RK(self) -> Numbers:
        """The share of each seed; deviations are scaled by sqrt(K / (K - 1)), because K of K see only (K - 1) / K of the variance."""
        seeds = self.seeds
        if seeds == 1:
            return np.ones_like(self.counts_RK)
        return np.asarray(1 / seeds + math.sqrt(seeds / (seeds - 1)) * (self._drawn_RK - 1) / seeds)

    def others_RK(self, seed: int) -> Numbers:
        """The shares of all other seeds than one, as they were drawn; of a single seed, that one."""
        if self.seeds == 1:
            return np.ones_like(self.counts_RK)
        shares_RK = self._drawn_RK.copy()
        shares_RK[:, seed] = 0
        empty_R = shares_RK.sum(axis=1) == 0
        shares_RK[empty_R] = 1
        shares_RK[empty_R, seed] = 0
        return np.asarray(shares_RK / shares_RK.sum(axis=1, keepdims=True))

    def pick(self, lines: Sequence[int]) -> Sample:
        """Some of the lines, in the same resamples."""
        return Sample(tuple(self.lines[line] for line in lines), self.counts_RK, self.part)

    def moved(self, line: int, half: int | None = None) -> Numbers:
        drawn = self.lines[line]
        moved = drawn.moved_RS if half is None else drawn.moved_RS2[:, :, half]
        return np.zeros_like(moved) if self.part == "seeds" else moved

    def means(self, line: int) -> Numbers:
        """The mean of every system in every resample, over all items and seeds. R + 1 by S."""
        return self.weights_RK() @ self.lines[line].mean_SK.T + self.moved(line)

    @property
    def units(self) -> int:
        """The fewest units of any line: what the spread of the items was estimated with."""
        return min(drawn.units for drawn in self.lines)


@dataclass(frozen=True)
class Chosen:
    """The mixture of two members: `share` of `second`, the rest of `first`; NaN where the level is not reached. All of them R + 1."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    share: Numbers

    def of(self, values_RP: Numbers) -> Numbers:
        """What the mixture has of something that its members have."""
        rows = np.arange(len(values_RP))
        return np.asarray((1 - self.share) * values_RP[rows, self.first] + self.share * values_RP[rows, self.second])


# --------------------------------------------------------------------------- drawing


def resample(lines: Sequence[Line], *, resamples: int, seed: int = 0) -> Sample:
    """Draw seeds and units once for all systems and metrics.

    Metrics that share a unit (several scores of one prompt) are drawn together. Deviations of items are scaled by sqrt(C / (C - 1)),
    as in `stats.bootstrap`, and are those of the mean over all seeds: what seeds and items do together is counted twice, which
    errs on the wide side.
    """
    rng = np.random.default_rng(seed)
    seeds = lines[0].values_SKI.shape[1]
    counts_RK = np.ones((resamples + 1, seeds))
    counts_RK[1:] = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    made: dict[int, Drawn] = {}
    for group in _groups(lines):
        names = list(dict.fromkeys(name for line in group for name in lines[line].units))
        codes = {name: code for code, name in enumerate(names)}
        half_U = np.zeros(len(names), dtype=bool)
        half_U[rng.permutation(len(names))[: len(names) // 2]] = True
        drawn_RU = np.ones((resamples + 1, len(names)))
        drawn_RU[1:] = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
        for line in group:
            made[line] = _drawn(lines[line], codes, half_U, drawn_RU)
    return Sample(tuple(made[line] for line in range(len(lines))), counts_RK)


def _groups(lines: Sequence[Line]) -> list[list[int]]:
    """Lines that share a unit, directly or through others."""
    groups: list[tuple[set[str], list[int]]] = []
    for place, line in enumerate(lines):
        names, members = set(line.units), [place]
        apart = []
        for other in groups:
            if other[0] & names:
                names, members = names | other[0], other[1] + members
            else:
                apart.append(other)
        groups = [*apart, (names, members)]
    return [sorted(members) for _, members in groups]


def _drawn(line: Line, codes: dict[str, int], half_U: NDArray[np.bool_], drawn_RU: Numbers) -> Drawn:
    at_I = np.array([codes[name] for name in line.units])
    used_C, unit_I = np.unique(at_I, return_inverse=True)
    systems, seeds, _ = line.values_SKI.shape
    sums_SKC = np.zeros((systems, seeds, len(used_C)))
    for s in range(systems):
        for k in range(seeds):
            sums_SKC[s, k] = np.bincount(unit_I, weights=line.values_SKI[s, k], minlength=len(used_C))
    sizes_C = np.bincount(unit_I).astype(np.float64)
    drawn_RC, half_C = drawn_RU[:, used_C], half_U[used_C]
    if half_C.all() or not half_C.any():  # a line of two units whose halves fell together
        half_C = np.arange(len(used_C)) % 2 == 0
    whole = _moves(sums_SKC, sizes_C, drawn_RC)
    halves = [_moves(sums_SKC[..., keep], sizes_C[keep], drawn_RC[:, keep]) for keep in (half_C, ~half_C)]
    sizes_2 = np.array([sizes_C[half_C].sum(), sizes_C[~half_C].sum()])
    return Drawn(
        mean_SK=whole[0],
        half_SK2=np.stack([halves[0][0], halves[1][0]], axis=2),
        share_2=sizes_2 / sizes_2.sum(),
        moved_RS=whole[1],
        moved_RS2=np.stack([halves[0][1], halves[1][1]], axis=2),
        units=len(used_C),
    )


def _moves(sums_SKC: Numbers, sizes_C: Numbers, drawn_RC: Numbers) -> tuple[Numbers, Numbers]:
    """Means per system and seed, and how far each resample moves the mean over seeds."""
    mean_SK = sums_SKC.sum(axis=2) / sizes_C.sum()
    center_S = mean_SK.mean(axis=1)
    count = len(sizes_C)
    residual_SC = sums_SKC.mean(axis=1) - center_S[:, None] * sizes_C
    sizes_R = drawn_RC @ sizes_C
    moved_RS = (drawn_RC @ residual_SC.T) / np.where(sizes_R > 0, sizes_R, math.inf)[:, None]
    return mean_SK, moved_RS * (math.sqrt(count / (count - 1)) if count > 1 else 1.0)


# --------------------------------------------------------------------------- one family at one level


def least(gain_RP: Numbers, tax_RP: Numbers, level_R: Numbers) -> Chosen:
    """The mixture of at most two members with the least tax whose gain reaches the level. The base is member 0, with gain and tax 0.

    By hand: base (0, 0), members (20, 5) and (40, 6), level 20: the second member alone pays 5, half of the third and half of the base
    pay 3. With members (20, 2) and (40, 10) and level 30 it is half of each: 6.
    """
    rows, members = gain_RP.shape
    first, second, share = np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.int64), np.full(rows, math.nan)
    step = max(1, _CELLS // members**2)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        gain, tax, level = gain_RP[part], tax_RP[part], level_R[part, None, None]
        low, high = gain[:, :, None], gain[:, None, :]
        alone = np.eye(members, dtype=bool)[None] & (high >= level)
        mixed = (low < level) & (high >= level)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(alone, 1.0, (level - low) / (high - low))
            cost = (1 - shares) * tax[:, :, None] + shares * tax[:, None, :]
        cost = np.where(alone | mixed, cost, math.inf).reshape(len(gain), -1)
        best = cost.argmin(axis=1)
        found = np.isfinite(cost[np.arange(len(gain)), best]) & (level[:, 0, 0] > 0)
        first[part], second[part] = best // members, best % members
        share[part] = np.where(found, shares.reshape(len(gain), -1)[np.arange(len(gain)), best], math.nan)
    return Chosen(first, second, share)


def reaches(gain_RP: Numbers, level_R: Numbers) -> NDArray[np.bool_]:
    """Does a family's safest member reach the level? The share of the resamples is how sure that is."""
    return np.asarray((gain_RP.max(axis=1) >= level_R) & (level_R > 0))


def tax_at(
    sample: Sample, gain_RP: Numbers, members: Sequence[int], level_R: Numbers, *, choose_by: Sequence[int]
) -> tuple[Numbers, Chosen, Numbers]:
    """A family's tax at a level on every line, R + 1 by L; the mixture that all data together choose; and what that one would say.

    `members` are the systems of the family, `gain_RP` their gains behind that of the base, `choose_by` the lines whose mean decides which
    mixture pays least. The first of the returned numbers is cross-fitted (see above), the last is not, and too small where there was a choice.
    """
    rows = len(level_R)
    reached_R = reaches(gain_RP, level_R)
    tax_RL = np.zeros((rows, len(sample.lines)))
    weights_RK = sample.weights_RK()
    for seed in range(sample.seeds):
        others_RK = sample.others_RK(seed)
        for half in (0, 1):
            shown = np.mean([_fold(sample, line, members, others_RK, 1 - half) for line in choose_by], axis=0)
            chosen = least(gain_RP, shown, level_R)
            for line, drawn in enumerate(sample.lines):
                own_RP = with_base(drawn.half_SK2[members, seed, half] + sample.moved(line, half)[:, members])
                tax_RL[:, line] += weights_RK[:, seed] * drawn.share_2[half] * chosen.of(own_RP)
    whole = [with_base(sample.means(line)[:, members]) for line in range(len(sample.lines))]
    chosen = least(gain_RP, np.mean([whole[line] for line in choose_by], axis=0), level_R)
    flat_RL = np.stack([chosen.of(tax_RP) for tax_RP in whole], axis=1)
    return np.where(reached_R[:, None], tax_RL, math.nan), chosen, flat_RL


def _fold(sample: Sample, line: int, members: Sequence[int], shares_RK: Numbers, half: int) -> Numbers:
    drawn = sample.lines[line]
    return with_base(shares_RK @ drawn.half_SK2[members, :, half].T + sample.moved(line, half)[:, members])


def with_base(values_RS: Numbers) -> Numbers:
    """The base, with gain and tax 0, in front of other members."""
    return np.concatenate([np.zeros((len(values_RS), 1)), values_RS], axis=1)


# --------------------------------------------------------------------------- what is known of a number


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error, degrees of freedom and 95 % interval; NaN where there is none."""

    value: float
    error: float
    degrees: float
    low: float
    high: float

    @property
    def p(self) -> float:
        """Two-sided p of the number being 0: t = value / error."""
        if not self.error > 0:
            return math.nan
        return float(2 * distributions.t.sf(abs(self.value / self.error), self.degrees))


def estimate(rows: dict[Part, Numbers], *, units: int, seeds: int) -> Estimate:
    """Turn a number in all resamples (row 0: the data) into value, error and interval.

    The error is the standard deviation over resamples; its degrees of freedom are Satterthwaite's, from the resamples in which only
    items (C - 1 degrees) and only seeds (K - 1) were drawn. Where more than 2.5 % of the resamples have no number, there is no interval.
    """
    values_R = rows["both"]
    value, draws = float(values_R[0]), values_R[1:]
    known = np.isfinite(draws)
    none = Estimate(value, math.nan, math.nan, math.nan, math.nan)
    if not math.isfinite(value) or len(draws) < 2 or known.mean() < 1 - UNREACHED:
        return none
    error = float(draws[known].std(ddof=1))
    parts = {part: float(np.nanvar(rows[part][1:])) for part in PARTS[1:]}
    spread = parts["items"] + parts["seeds"]
    degrees = units - 1.0
    if seeds > 1 and spread > 0:
        degrees = spread**2 / (parts["items"] ** 2 / max(1, units - 1) + parts["seeds"] ** 2 / (seeds - 1))
    reach = float(distributions.t.ppf(0.975, degrees)) * error
    return Estimate(value, error, degrees, value - reach, value + reach)


def ratio(above: dict[Part, Numbers], below: dict[Part, Numbers], *, units: int, seeds: int) -> stats.Interval:
    """The 95 % interval of a ratio of two numbers (Fieller 1954); NaN where the one below is not safely different from 0.

    All r for which `above` - r `below` is not certainly different from 0. By hand, with errors 0.1 and 0.1, no covariance and a t of 2:
    1 / 2 gives (2 -+ sqrt(4 - (4 - .04) (1 - .04))) / (4 - .04) = 0.390 and 0.620.
    """
    one, two = above["both"], below["both"]
    known = np.isfinite(one[1:]) & np.isfinite(two[1:])
    if not (math.isfinite(one[0]) and math.isfinite(two[0])) or known.mean() < 1 - UNREACHED:
        return stats.Interval(math.nan, math.nan)
    degrees = estimate(
        {part: above[part] - float(one[0] / two[0]) * below[part] for part in PARTS}, units=units, seeds=seeds
    ).degrees
    t = float(distributions.t.ppf(0.975, degrees))
    (v11, v12), (_, v22) = np.cov(one[1:][known], two[1:][known])
    a, b, c = two[0] ** 2 - t**2 * v22, one[0] * two[0] - t**2 * v12, one[0] ** 2 - t**2 * v11
    inside = b**2 - a * c
    if a <= 0 or inside < 0:
        return stats.Interval(math.nan, math.nan)
    root = math.sqrt(inside)
    return stats.Interval(float((b - root) / a), float((b + root) / a))
