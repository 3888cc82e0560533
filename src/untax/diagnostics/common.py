"""The arithmetic of forgetting: per-item numbers in, estimates with intervals out. Needs no model and imports no torch.

p0 is the model before, p1 the model after. All definitions are our own: arXiv 2509.21456 has the idea of overall and
selective forgetting, 2510.17776 that of counting right answers lost and won without those that guessing moves; neither
paper's exact formulas are used here. Natural logarithms, nats.

Shapes: K seeds, I items, U units that are drawn together (items, or clusters of them), C columns, M figures, R resamples.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from untax import power, stats

__all__ = [
    "Document",
    "Estimate",
    "Forgetting",
    "Gap",
    "Gaps",
    "Overall",
    "Pair",
    "Selective",
    "Text",
    "Transitions",
    "aligned",
    "joint",
    "mean",
    "of_tables",
    "overall",
    "selective",
    "selectivity",
    "share",
    "transitions",
    "unit_columns",
]

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: nats per token below which a model has not moved, and nothing can be divided by its movement
UNMOVED = 1e-4
#: documents from which on overall forgetting is worth a sentence
ENOUGH_DOCUMENTS = 200
RESAMPLES = 2000
FORMS = ("nested", "independent")


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval over `n` items; NaN where it is not defined, NaN ends where there is too little data."""

    value: float
    low: float
    high: float
    n: int


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True)
class Text:
    """A held-out document that no training has seen, and the kind of text that it is."""

    text: str
    domain: str = ""


@dataclass(frozen=True)
class Pair:
    """Two sentences that differ in little: the stereotyped one first. Both continue `prompt`, which may be empty."""

    first: str
    second: str
    prompt: str = ""
    cluster: str = ""


@dataclass(frozen=True)
class Document:
    """What one document says: mean KL(p0 || p1) and mean log p0 - log p1 of its tokens."""

    domain: str
    kl: float
    nll_change: float
    tokens: int


@dataclass(frozen=True)
class Gap:
    """What one pair says before and after: log p(first) - log p(second), of the shared tokens and of whole sentences.

    `shared` counts the tokens that both have after their first difference; where it is 0 the pair has no shared gap (NaN).
    """

    before: float
    after: float
    sentence_before: float
    sentence_after: float
    shared: int
    cluster: str = ""


@dataclass(frozen=True)
class Domain:
    """Overall forgetting on one kind of text."""

    kl: Estimate
    nll_change: Estimate


@dataclass(frozen=True)
class Overall:
    """How far the model moved on ordinary text, in nats per token, and whether it moved for the worse.

    `kl` is OF, the mean over documents of the mean KL(p0 || p1) of their tokens; `nll_change` the mean rise of the negative
    log-likelihood of the same tokens (below 0: the model reads them better than before). `missing` documents have no score.
    """

    kl: Estimate
    nll_change: Estimate
    by_domain: dict[str, Domain]
    missing: int = 0
    note: str = ""


@dataclass(frozen=True)
class Gaps:
    """Preference gaps g = log p(first) - log p(second) of minimal pairs, before (g0) and after (g1).

    `drop` is SF = mean(g0 - g1); `shrink` mean(|g0| - |g1|), which does not grow past zero; `overshoot` the share of pairs whose
    preference turned round; `relative_shrink` R = 1 - sum|g1| / sum|g0|; `first_before` and `first_after` the shares of pairs
    with g > 0. `excluded` pairs have no shared token after their difference, `missing` ones no score.
    """

    before: Estimate
    after: Estimate
    drop: Estimate
    shrink: Estimate
    relative_shrink: Estimate
    overshoot: Estimate
    first_before: Estimate
    first_after: Estimate
    pairs: int
    excluded: int = 0
    missing: int = 0


@dataclass(frozen=True)
class Selective:
    """Pairs of the attribute, pairs without any social attribute, and `net` = R(attribute) - R(control).

    A flatter model shrinks every gap; `net` takes that away. Without controls it is NaN.
    """

    attribute: Gaps
    control: Gaps | None
    net: Estimate

    def unsigned(self, *, controls_only: bool = False) -> Selective:
        """The same without what only signed gaps can say: for |g| alone SF, overshoot and shares are not known."""
        control = None if self.control is None else _unsigned(self.control)
        return Selective(self.attribute if controls_only else _unsigned(self.attribute), control, self.net)


def _unsigned(gaps: Gaps) -> Gaps:
    return replace(gaps, drop=NOTHING, overshoot=NOTHING, first_before=NOTHING, first_after=NOTHING)


@dataclass(frozen=True)
class Forgetting:
    """Overall and selective forgetting of one model; `sentences` is the second measure, by whole-sentence log-likelihood.

    `selectivity` is the shrink per shared token over OF, NaN ("not defined") where OF is below 1e-4 nats. Never rank by it
    alone: show OF and `net`.
    """

    overall: Overall
    selective: Selective | None
    sentences: Selective | None
    selectivity: Estimate


@dataclass(frozen=True)
class Transitions:
    """Right answers lost (`forgotten` F, 1 to 0) and won (`learned` B, 0 to 1), and what guessing explains of them.

    `guessed` is c, the share that redrawn guesses move each way; adjusted shares are max(0, F - c) and max(0, B - c), and
    `forgotten_known` is F_adj k / (k - 1), the share that was known and is not. Read [F_adj, F] as an interval: a model that repeats
    its guesses moves less than c. `lost` and `won` count raw answers (all seeds), `p` is that of `test` on them. `unparsed` shares of
    answers could not be read and count as wrong.
    """

    right_before: Estimate
    right_after: Estimate
    forgotten: Estimate
    learned: Estimate
    forgotten_adjusted: Estimate
    learned_adjusted: Estimate
    forgotten_known: Estimate
    guessed: float
    lost: int
    won: int
    p: float
    test: str
    n: int
    unparsed_before: float
    unparsed_after: float
    form: str
    by_options: dict[str, stats.Transitions] = field(default_factory=dict)


# --------------------------------------------------------------------------- intervals


def mean(
    values: ArrayLike, *, clusters: Sequence[str] | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """The mean of a row, or of a matrix of seeds by items, with the interval of `stats.bootstrap`; finite numbers only."""
    values_KI = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if not values_KI.size:
        return NOTHING
    ends = stats.Interval(math.nan, math.nan)
    if len(stats.unit_sums(values_KI[0], clusters)) > 1:
        ends = stats.bootstrap(values_KI, clusters=clusters, resamples=resamples, seed=seed).interval()
    return Estimate(float(values_KI.mean()), ends.low, ends.high, values_KI.shape[1])


def share(
    flags: ArrayLike, *, clusters: Sequence[str] | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """A share of items. Where none, or all, of them have it, the interval says how many such items can still hide."""
    flags_KI = np.atleast_2d(np.asarray(flags, dtype=np.float64))
    found = mean(flags_KI, clusters=clusters, resamples=resamples, seed=seed)
    if not flags_KI.size:
        return found
    if np.ptp(flags_KI):
        return Estimate(found.value, max(0.0, found.low), min(1.0, found.high), found.n)
    hidden = power.unseen_share(len(stats.unit_sums(flags_KI[0], clusters)))
    low, high = (0.0, hidden) if not found.value else (1 - hidden, 1.0)
    return Estimate(found.value, low, high, found.n)


def _scored(values_KI: Numbers) -> Flags:
    """Items that have a score for every seed."""
    return np.asarray(np.isfinite(values_KI).all(axis=0), dtype=np.bool_)


def unit_columns(columns: Sequence[ArrayLike], clusters: Sequence[str] | None = None) -> Numbers:
    """Columns of items (each I, or K by I) as sums of what is drawn together: K by U by C, a sample for `joint`."""
    rows = [np.atleast_2d(np.asarray(column, dtype=np.float64)) for column in columns]
    seeds = max(len(row) for row in rows)
    return np.stack(
        [
            np.stack([stats.unit_sums(row_I, clusters) for row_I in np.broadcast_to(row, (seeds, row.shape[1]))])
            for row in rows
        ],
        axis=-1,
    )


def joint(
    samples: Sequence[Numbers],
    figures: Callable[[Sequence[Numbers]], Numbers],
    *,
    n: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Estimate]:
    """Figures that are made of sums over several independent samples, each with an interval from the same draws.

    A sample is K by U by C (see `unit_columns`); `figures` gets the column sums of every sample (... by C) and returns ... by M.
    Units are drawn within each sample, the same for all seeds, and seeds as in `stats.bootstrap`; draws are widened by
    sqrt(U / (U - 1)) of the smallest sample. A resample in which a figure is not defined is left out of its interval.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        totals = [sample.sum(axis=1) for sample in samples]
        value_KM = figures(totals)
        units, seeds = min(sample.shape[1] for sample in samples), len(value_KM)
        value_M = value_KM.mean(axis=0)
        if units < 2:
            return [Estimate(float(value), math.nan, math.nan, n) for value in value_M]
        rng = np.random.default_rng(seed)
        draws_RM = figures([_resampled(sample, resamples, rng) for sample in samples]).mean(axis=1)
        left_out = [
            figures([total - np.moveaxis(sample, 0, 1) if i == at else other for i, other in enumerate(totals)])
            for at, (sample, total) in enumerate(zip(samples, totals, strict=True))
        ]
    drawn_RK = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    return [
        _estimate(value_KM[:, m], draws_RM[:, m], [each[..., m].mean(axis=1) for each in left_out], drawn_RK, units, n)
        for m in range(len(value_M))
    ]


def _resampled(sample: Numbers, resamples: int, rng: np.random.Generator) -> Numbers:
    """Column sums (R, K, C) of U units drawn from U; equal units are drawn by count."""
    seeds, units, columns = sample.shape
    distinct, counts = np.unique(np.moveaxis(sample, 0, 1).reshape(units, -1), axis=0, return_counts=True)
    drawn = rng.multinomial(units, counts / units, size=resamples).astype(np.float64)
    return (drawn @ distinct).reshape(resamples, seeds, columns)


def _estimate(
    value_K: Numbers, draws_R: Numbers, left_out: Sequence[Numbers], drawn_RK: Numbers, units: int, n: int
) -> Estimate:
    value, seeds, defined_R = float(value_K.mean()), len(value_K), np.isfinite(draws_R)
    if not math.isfinite(value) or not defined_R.any():
        return Estimate(value, math.nan, math.nan, n)
    draws_R = value + math.sqrt(units / (units - 1)) * (draws_R[defined_R] - value)
    items, between, degrees = float(draws_R.var()), 0.0, float(units - 1)
    if seeds > 1:
        moved_R = math.sqrt(seeds / (seeds - 1)) * (drawn_RK[defined_R] @ (value_K - value))
        draws_R, between = draws_R + moved_R, float(moved_R.var())
    if np.ptp(draws_R) <= 1e-12 * max(1.0, abs(value)):
        return Estimate(value, value, value, n)
    if between:
        degrees = (items + between) ** 2 / (items**2 / (units - 1) + between**2 / (seeds - 1))
    # the jackknife of each sample about its own mean: pooled, that is the acceleration of a statistic of several samples
    centred = np.concatenate([np.where(np.isfinite(each), each - np.nanmean(each), 0.0) for each in left_out])
    ends = stats.Bootstrap(value, draws_R, centred, degrees).interval()
    return Estimate(value, ends.low, ends.high, n)


# --------------------------------------------------------------------------- overall forgetting


def overall(
    kl: ArrayLike,
    nll_change: ArrayLike | None = None,
    domains: Sequence[str] = (),
    *,
    clusters: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Overall:
    """OF from the drift of each document (a row, or seeds by documents), and beside it the change of its likelihood.

    Documents without a score, for any seed, are left out and counted.
    """
    kl_KI = np.atleast_2d(np.asarray(kl, dtype=np.float64))
    nll_KI = np.full_like(kl_KI, np.nan) if nll_change is None else np.atleast_2d(np.asarray(nll_change, np.float64))
    named = list(domains) or [""] * kl_KI.shape[1]
    if nll_KI.shape != kl_KI.shape or len(named) != kl_KI.shape[1]:
        raise ValueError(f"{kl_KI.shape} drifts, {nll_KI.shape} changes of likelihood and {len(named)} domains")

    def figure(values_KI: Numbers, chosen_I: Flags) -> Estimate:
        keep_I = chosen_I & _scored(values_KI)
        names = None if clusters is None else [name for name, kept in zip(clusters, keep_I, strict=True) if kept]
        return mean(values_KI[:, keep_I], clusters=names, resamples=resamples, seed=seed)

    scored_I, of_I = _scored(kl_KI), np.array(named)
    count = int(scored_I.sum())
    few = f"{count} documents: fewer than {ENOUGH_DOCUMENTS} say little about text in general"
    return Overall(
        kl=figure(kl_KI, scored_I),
        nll_change=figure(nll_KI, scored_I),
        by_domain={
            name: Domain(figure(kl_KI, scored_I & (of_I == name)), figure(nll_KI, scored_I & (of_I == name)))
            for name in sorted(set(named))
        },
        missing=len(named) - count,
        note=few if count < ENOUGH_DOCUMENTS else "",
    )


# --------------------------------------------------------------------------- selective forgetting


def aligned(first: Sequence[int], second: Sequence[int]) -> list[tuple[int, int]]:
    """Positions of the tokens that two sentences share after their first difference, by id and in order.

    Up to the first difference a causal model reads the same, so those tokens cancel. By hand: a b c d and a x c d share
    c and d, (2, 2) and (3, 3); a b and a x share nothing that counts. Swapping the two sentences swaps the positions.
    """
    if tuple(second) < tuple(first):
        return [(one, two) for two, one in aligned(second, first)]
    one, two = list(first), list(second)
    start = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    room = min(len(one), len(two)) - start
    end = next((i for i in range(room) if one[-1 - i] != two[-1 - i]), room)
    middle_one, middle_two = one[start : len(one) - end], two[start : len(two) - end]
    blocks = difflib.SequenceMatcher(None, middle_one, middle_two, autojunk=False).get_matching_blocks()
    inside = [(start + b.a + i, start + b.b + i) for b in blocks for i in range(b.size)]
    return inside + [(len(one) - i, len(two) - i) for i in range(end, 0, -1)]


@dataclass(frozen=True)
class _Pairs:
    """Scored pairs, K by I, and how many have no score."""

    before_KI: Numbers
    after_KI: Numbers
    clusters: list[str] | None
    keep_I: Flags

    def sample(self) -> Numbers:
        """Sums of |g0| and |g1| by unit."""
        return unit_columns([np.abs(self.before_KI), np.abs(self.after_KI)], self.clusters)


def _pairs(before: ArrayLike, after: ArrayLike, clusters: Sequence[str] | None) -> _Pairs:
    after_KI = np.atleast_2d(np.asarray(after, dtype=np.float64))
    before_KI = np.atleast_2d(np.asarray(before, dtype=np.float64))
    if before_KI.shape[1] != after_KI.shape[1] or len(before_KI) not in (1, len(after_KI)):
        raise ValueError(f"{before_KI.shape} gaps before and {after_KI.shape} after: give one of each pair")
    before_KI = np.broadcast_to(before_KI, after_KI.shape)
    keep_I = _scored(before_KI) & _scored(after_KI)
    names = None if clusters is None else [name for name, kept in zip(clusters, keep_I, strict=True) if kept]
    return _Pairs(before_KI[:, keep_I], after_KI[:, keep_I], names, keep_I)


def _relative(sums: Numbers) -> Numbers:
    """R = 1 - sum|g1| / sum|g0|."""
    return np.asarray(1 - sums[..., 1] / sums[..., 0])


def _gaps(pairs: _Pairs, excluded: int, resamples: int, seed: int) -> Gaps:
    old, new = pairs.before_KI, pairs.after_KI

    def figure(values_KI: Numbers) -> Estimate:
        return mean(values_KI, clusters=pairs.clusters, resamples=resamples, seed=seed)

    def part(flags: ArrayLike) -> Estimate:
        return share(flags, clusters=pairs.clusters, resamples=resamples, seed=seed)

    count = old.shape[1]
    relative = NOTHING
    if count:
        relative = joint(
            [pairs.sample()], lambda sums: _relative(sums[0])[..., None], n=count, resamples=resamples, seed=seed
        )[0]
    return Gaps(
        before=figure(old),
        after=figure(new),
        drop=figure(old - new),
        shrink=figure(np.abs(old) - np.abs(new)),
        relative_shrink=relative,
        overshoot=part(old * new < 0),
        first_before=part(old > 0),
        first_after=part(new > 0),
        pairs=count,
        excluded=excluded,
        missing=int((~pairs.keep_I).sum()),
    )


def selective(
    before: ArrayLike,
    after: ArrayLike,
    control_before: ArrayLike = (),
    control_after: ArrayLike = (),
    *,
    clusters: Sequence[str] | None = None,
    control_clusters: Sequence[str] | None = None,
    excluded: tuple[int, int] = (0, 0),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Selective:
    """Selective forgetting from the gaps of pairs, before and after (a row, or seeds by pairs), and those of control pairs.

    `excluded` counts pairs, and control pairs, that were left out beforehand because they carry no signal. By hand: gaps of 2
    (attribute) and 1 (control) that become 1 and .5 have R = .5 both, so net is 0 although SF is 1.
    """
    pairs = _pairs(before, after, clusters)
    attribute = _gaps(pairs, excluded[0], resamples, seed)
    control = _pairs(control_before, control_after, control_clusters)
    if not len(control.keep_I) and not excluded[1]:
        return Selective(attribute, None, NOTHING)
    net = NOTHING
    if pairs.keep_I.any() and control.keep_I.any():
        net = joint(
            [pairs.sample(), control.sample()], lambda sums: (_relative(sums[0]) - _relative(sums[1]))[..., None],
            n=attribute.pairs, resamples=resamples, seed=seed,
        )[0]  # fmt: skip
    return Selective(attribute, _gaps(control, excluded[1], resamples, seed), net)


def selectivity(
    before: ArrayLike,
    after: ArrayLike,
    shared: ArrayLike,
    kl: ArrayLike,
    *,
    clusters: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """(shrink per shared token) / OF, pairs and documents drawn together; NaN where OF is below 1e-4 nats.

    Shrink per shared token is the sum of |g0| - |g1| over the sum of `shared`. By hand: gaps 2 to .5 on pairs of 3 shared
    tokens and OF .1: (1.5 / 3) / .1 = 5.
    """
    kl_KI = np.atleast_2d(np.asarray(kl, dtype=np.float64))
    kl_KI = kl_KI[:, _scored(kl_KI)]
    pairs = _pairs(before, after, clusters)
    shared_I = np.asarray(shared, dtype=np.float64)[pairs.keep_I]
    if not kl_KI.size or not shared_I.sum() or kl_KI.mean() < UNMOVED:
        return Estimate(math.nan, math.nan, math.nan, len(shared_I))
    samples = [
        unit_columns([np.abs(pairs.before_KI) - np.abs(pairs.after_KI), shared_I], pairs.clusters),
        unit_columns([kl_KI, np.ones(kl_KI.shape[1])]),
    ]

    def ratio(sums: Sequence[Numbers]) -> Numbers:
        shrink, moved = (each[..., 0] / each[..., 1] for each in sums)
        return np.asarray(shrink / moved)[..., None]

    return joint(samples, ratio, n=len(shared_I), resamples=resamples, seed=seed)[0]


def of_tables(
    documents: Sequence[Document],
    pairs: Sequence[Gap] = (),
    controls: Sequence[Gap] = (),
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Forgetting:
    """Everything of one model from the numbers of its documents and pairs, as `forgetting` saves them."""

    def measure(whole: bool) -> Selective | None:
        if not pairs:
            return None
        sides = [[gap for gap in side if whole or gap.shared] for side in (pairs, controls)]
        told = [
            [(g.sentence_before, g.sentence_after) if whole else (g.before, g.after) for g in side] for side in sides
        ]
        (old, new), (control_old, control_new) = (([one for one, _ in side], [two for _, two in side]) for side in told)
        names = [[gap.cluster for gap in side] for side in sides]
        return selective(
            old, new, control_old, control_new, clusters=names[0], control_clusters=names[1],
            excluded=(len(pairs) - len(sides[0]), len(controls) - len(sides[1])), resamples=resamples, seed=seed,
        )  # fmt: skip

    kl = [document.kl for document in documents]
    scored = [gap for gap in pairs if gap.shared]
    return Forgetting(
        overall=overall(
            kl, [document.nll_change for document in documents], [document.domain for document in documents],
            resamples=resamples, seed=seed,
        ),
        selective=measure(whole=False),
        sentences=measure(whole=True),
        selectivity=selectivity(
            [gap.before for gap in scored], [gap.after for gap in scored], [gap.shared for gap in scored], kl,
            clusters=[gap.cluster for gap in scored], resamples=resamples, seed=seed,
        ),
    )  # fmt: skip


# --------------------------------------------------------------------------- right answers lost and won


def _guessed(right_before: Numbers, right_after: Numbers, k: Numbers, nested: bool) -> Numbers:
    """c: the share of answers that redrawn guesses move each way; 0 where nothing can be guessed (k infinite)."""
    if nested:
        return np.asarray((1 - np.maximum(right_before, right_after)) / k)
    return np.asarray((1 - right_before) * (1 - right_after) / (k - 1))


def transitions(
    before: ArrayLike,
    after: ArrayLike,
    k: ArrayLike,
    *,
    form: Literal["nested", "independent"] = "nested",
    clusters: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Transitions:
    """Right answers lost and won among items of k options (math.inf: nothing to guess), one k or one per item.

    `before` and `after` hold 1, 0, or NaN for an answer that could not be read, which counts as wrong; a row, or seeds by items.
    Figures are means over seeds. "nested" is for a model that was trained from the other, "independent" for unrelated ones. Items of different k are counted
    apart, then averaged. By hand (k = 4, A0 = .6, A1 = .5, F = .2, B = .1): nested c = .4 / 4 = .1, so .1 and 0;
    independent c = .4 x .5 / 3 = .0667, so .1333 and .0333.
    Raises: ValueError for other scores, fewer than 2 options, or rows of different length.
    """
    after_KI = np.atleast_2d(np.asarray(after, dtype=np.float64))
    before_KI = np.broadcast_to(np.atleast_2d(np.asarray(before, dtype=np.float64)), after_KI.shape)
    k_I = np.broadcast_to(np.asarray(k, dtype=np.float64), after_KI.shape[1:])
    unparsed = [float(np.isnan(side).mean()) if side.size else math.nan for side in (before_KI, after_KI)]
    old, new = np.nan_to_num(before_KI), np.nan_to_num(after_KI)
    if not (np.isin(old, (0, 1)).all() and np.isin(new, (0, 1)).all() and (k_I >= 2).all() and form in FORMS):
        raise ValueError(
            "scores must be 0, 1 or NaN, questions must have at least 2 options, and the form must be known"
        )
    nested, strata = form == "nested", np.unique(k_I)
    adjusted, guessed = [NOTHING] * 3, math.nan
    raw = [
        share(flags, clusters=clusters, resamples=resamples, seed=seed) for flags in (old, new, old > new, new > old)
    ]
    if old.size:
        columns = [part * (k_I == k) for k in strata for part in (np.ones_like(k_I), old, new, old > new, new > old)]
        sample = unit_columns(columns, clusters)
        adjusted = joint(
            [sample], lambda sums: _adjusted(sums[0], strata, nested)[..., :3], n=old.shape[1], resamples=resamples, seed=seed
        )  # fmt: skip
        guessed = float(_adjusted(sample.sum(axis=1), strata, nested)[..., 3].mean())
    won, lost = stats.flips(old, new)
    p, test = _p(new - old, clusters, won, lost)
    return Transitions(
        right_before=raw[0],
        right_after=raw[1],
        forgotten=raw[2],
        learned=raw[3],
        forgotten_adjusted=_within(adjusted[0], raw[2]),
        learned_adjusted=_within(adjusted[1], raw[3]),
        forgotten_known=_within(adjusted[2], raw[2]),
        guessed=guessed,
        lost=lost,
        won=won,
        p=p,
        test=test,
        n=old.shape[1],
        unparsed_before=unparsed[0],
        unparsed_after=unparsed[1],
        form=form,
        by_options={
            f"{k:g}": _mean_of(
                [
                    stats.transitions(*each, options=k, nested=nested)
                    for each in zip(old[:, k_I == k], new[:, k_I == k], strict=True)
                ]
            )
            for k in strata
            if math.isfinite(k)
        },
    )


def _mean_of(seeds: Sequence[stats.Transitions]) -> stats.Transitions:
    means = np.mean([astuple(one)[1:] for one in seeds], axis=0)
    return stats.Transitions(seeds[0].n, *(float(value) for value in means))


def _within(found: Estimate, raw: Estimate) -> Estimate:
    """A share's interval within 0 and 1; where no item at all moved, what can still hide of the raw share can of this one."""
    if math.isnan(found.value):
        return found
    if raw.value == 0:
        return Estimate(found.value, 0.0, raw.high, found.n)
    return Estimate(found.value, max(0.0, found.low), min(1.0, found.high), found.n)


def _adjusted(sums: Numbers, strata: Numbers, nested: bool) -> Numbers:
    """F_adj, B_adj, F_know and c from the sums of every stratum: ... by 5 S in, ... by 4 out."""
    parts = sums.reshape(*sums.shape[:-1], len(strata), 5)
    count = parts[..., 0]
    right_before, right_after, lost, won = (parts[..., i] / np.where(count, count, 1.0) for i in range(1, 5))
    c = _guessed(right_before, right_after, strata, nested)
    kept = np.maximum(0.0, lost - c)
    each = np.stack([kept, np.maximum(0.0, won - c), kept / (1 - 1 / strata), c], axis=-1)
    return np.asarray((each * count[..., None]).sum(axis=-2) / count.sum(axis=-1)[..., None])


def _p(change_KI: Numbers, clusters: Sequence[str] | None, won: int, lost: int) -> tuple[float, str]:
    if change_KI.shape[1] < 2:
        return math.nan, "none: fewer than two items"
    if len(change_KI) > 1:
        return stats.seeded_p(change_KI, clusters=clusters), "t over seeds and items"
    if clusters is not None and len(stats.unit_sums(change_KI[0], clusters)) < change_KI.shape[1]:
        return stats.sign_flip(change_KI[0], clusters=clusters), "sign flips of clusters"
    return stats.mcnemar(won, lost).either, "exact McNemar"
