"""Many systems against one base: mixtures, intervals, verdicts, fronts, folders. Truths are planted, small numbers worked by hand."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from frontier_data import BASE, SPECS, shifted, sweep, table
from receipt_data import spoiled
from untax import cli, frontier, mixtures, receipt, stats, tables
from untax.frontier import SUMMARY, Axis, Comparison
from untax.mixtures import PARTS, Line, least, resample, tax_at, with_base
from untax.readers import runs
from untax.report import frontier as page
from untax.types import MetricSpec, RecipeError, Scores, UserError


@pytest.fixture(scope="module")
def swept() -> tuple[Scores, list[list[Scores]]]:
    return sweep(n=200)


@pytest.fixture(scope="module")
def made(swept: tuple[Scores, list[list[Scores]]]) -> Comparison:
    return frontier.build(*swept, resamples=500)


# --------------------------------------------------------------------------- mixtures


def chosen(points: Sequence[tuple[float, float]], level: float) -> tuple[int, int, float, float]:
    """What `least` takes of a base and some points, and what it pays."""
    gain = np.array([[0.0, *(g for g, _ in points)]])
    tax = np.array([[0.0, *(t for _, t in points)]])
    found = least(gain, tax, np.array([level]))
    return int(found.first[0]), int(found.second[0]), float(found.share[0]), float(found.of(tax)[0])


def test_the_cheapest_mixture_that_reaches_the_level() -> None:
    """At 30 between (20, 2) and (40, 10): half of each, (2 + 10) / 2 = 6. With the base in its place, 3/4 of the last: 7.5."""
    assert chosen([(20, 2), (40, 10)], 30) == (1, 2, 0.5, 6.0)
    assert chosen([(40, 10)], 30) == (0, 1, 0.75, 7.5)


def test_a_sweep_that_is_not_monotone() -> None:
    """(20, 5) alone pays 5 at level 20; half of (40, 6) and half of the base pay 3. A safer model that pays less is taken as it is."""
    assert chosen([(20, 5), (40, 6)], 20) == (0, 2, 0.5, 3.0)
    assert chosen([(40, 6), (20, 5), (30, -1)], 20) == (3, 3, 1.0, -1.0)


def test_nothing_is_extrapolated() -> None:
    for level in (40.1, 0.0, -1.0, math.nan):
        assert math.isnan(chosen([(20, 2), (40, 10)], level)[3])
    assert chosen([(20, 2), (40, 10)], 40)[3] == 10


def test_many_members_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    gain, tax = with_base(rng.uniform(size=(40, 6))), with_base(rng.uniform(size=(40, 6)))
    whole = least(gain, tax, np.full(40, 0.4)).of(tax)
    monkeypatch.setattr(mixtures, "_CELLS", 200)
    assert np.array_equal(least(gain, tax, np.full(40, 0.4)).of(tax), whole, equal_nan=True)


def lines_of(
    rng: np.random.Generator,
    truths: Sequence[tuple[float, float]],
    *,
    seeds: int = 3,
    items: int = 200,
    spread: float = 0.35,
    lasting: float = 0.01,
) -> list[Line]:
    """A safety line and an ability line of systems with known gain and tax; a part of the noise is common to all of them."""
    made = []
    for side, name in ((0, "s"), (1, "a")):
        mean_SK = np.array([truth[side] for truth in truths])[:, None] + rng.normal(0, lasting, (len(truths), seeds))
        noise = 0.6 * rng.normal(size=items) + 0.8 * rng.normal(size=(len(truths), seeds, items))
        made.append(Line(mean_SK[:, :, None] + spread * noise, tuple(f"{name}{i}" for i in range(items))))
    return made


def at_equal_safety(
    lines: Sequence[Line], families: Sequence[Sequence[int]], *, share: float = 0.8, resamples: int = 300, seed: int = 0
) -> tuple[mixtures.Estimate, mixtures.Estimate]:
    """The second family's tax minus the first one's, cross-fitted, and chosen and paid on the same data."""
    sample = resample(lines, resamples=resamples, seed=seed)
    fair, flat = {}, {}
    for part in PARTS:
        drawn = sample.only(part)
        gain_RS = drawn.means(0)
        level_R = share * gain_RS[:, families[0]].max(axis=1)
        found = [
            tax_at(drawn.pick([1]), with_base(gain_RS[:, f]), f, level_R, choose_by=[0]) for f in map(list, families)
        ]
        fair[part] = found[1][0][:, 0] - found[0][0][:, 0]
        flat[part] = found[1][2][:, 0] - found[0][2][:, 0]
    kind = {"units": sample.units, "seeds": sample.seeds}
    return mixtures.estimate(fair, **kind), mixtures.estimate(flat, **kind)


def test_without_noise_the_tax_is_read_off_the_lines() -> None:
    """Plain (0.2, 0.02), (0.4, 0.10) at 0.8 x 0.4 = 0.32: 0.02 + 0.6 x 0.08 = 0.068. One model of (0.5, 0.05): 0.64 x 0.05 = 0.032."""
    rng = np.random.default_rng(0)
    lines = lines_of(rng, [(0.2, 0.02), (0.4, 0.10), (0.5, 0.05)], spread=0.0, lasting=0.0)
    for found in at_equal_safety(lines, ([0, 1], [2])):
        assert found.value == pytest.approx(0.032 - 0.068, abs=1e-12)


def test_equal_families_are_seldom_said_to_differ() -> None:
    """One strength against eight that are all like it: choosing the best on the same items finds "less tax" again and again."""
    cases = {
        "eight against one": ([(0.35, 0.05)] * 9, ([0], range(1, 9))),
        "four against four": ([(0.1, 0.005), (0.2, 0.02), (0.3, 0.04), (0.4, 0.08)] * 2, (range(4), range(4, 8))),
    }
    runs_ = 120
    for name, (truths, families) in cases.items():
        less = more = flattered = 0
        values = []
        for run in range(runs_):
            rng = np.random.default_rng(run)
            fair, flat = at_equal_safety(lines_of(rng, truths), [list(f) for f in families], seed=run)
            less, more, flattered = less + (fair.high < 0), more + (fair.low > 0), flattered + (flat.high < 0)
            values.append(fair.value)
        assert less <= 0.05 * runs_, f"{name}: {less}"
        assert more <= 0.05 * runs_, f"{name}: {more}"
        if name == "eight against one":
            assert flattered > 0.08 * runs_  # what cross-fitting is there for
            assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(runs_) + 0.001


@pytest.mark.parametrize(("seeds", "spread", "lasting"), [(1, 0.35, 0.0), (3, 0.0, 0.03)])
def test_a_choice_is_not_paid_for_on_the_data_that_made_it(seeds: int, spread: float, lasting: float) -> None:
    """Noise of items alone, then of seeds alone: nine models that are alike, one against the best of eight. Cross-fitted, 0 on average."""
    fair, flat = [], []
    for run in range(250):
        rng = np.random.default_rng(run)
        # the gain is known, so that only the noise of the tax can mislead
        lines = lines_of(rng, [(0.35, 0.05)] * 9, seeds=seeds, items=60, spread=spread, lasting=lasting)
        lines[0] = Line(np.full_like(lines[0].values_SKI, 0.35), lines[0].units)
        one, other = at_equal_safety(lines, ([0], list(range(1, 9))), resamples=3, seed=run)
        fair.append(one.value)
        flat.append(other.value)
    assert abs(np.mean(fair)) < 3 * np.std(fair) / math.sqrt(250)
    assert np.mean(flat) < -10 * np.std(flat) / math.sqrt(250)


def test_half_the_tax_is_found() -> None:
    """At 0.32 plain pays 0.12 + 0.2 x 0.12 = 0.144, the other 0.072."""
    truths = [(0.1, 0.02), (0.3, 0.12), (0.4, 0.24), (0.1, 0.01), (0.3, 0.06), (0.4, 0.12)]
    found = 0
    for run in range(25):
        rng = np.random.default_rng(run)
        fair, _ = at_equal_safety(lines_of(rng, truths, items=600), ([0, 1, 2], [3, 4, 5]), seed=run)
        found += fair.high < 0
    assert found >= 0.8 * 25


# --------------------------------------------------------------------------- intervals


def test_the_error_is_that_of_the_receipts_statistics() -> None:
    """A plain mean: the same standard error as `stats.spread`, to resampling noise; its degrees too."""
    rng = np.random.default_rng(3)
    values_KI = rng.normal(0.1, 0.3, (3, 200)) + rng.normal(0, 0.03, (3, 1))
    sample = resample([Line(values_KI[None], tuple(map(str, range(200))))], resamples=4000)
    found = mixtures.estimate({part: sample.only(part).means(0)[:, 0] for part in PARTS}, units=200, seeds=3)
    known = stats.spread(values_KI)
    assert found.value == pytest.approx(values_KI.mean())
    assert found.error == pytest.approx(known.standard_error, rel=0.05)
    assert found.degrees == pytest.approx(known.degrees, rel=0.35)


def test_whole_clusters_are_drawn() -> None:
    """Ten items that are one: the error is that of 20 units, sqrt(10) times that of 200 independent items."""
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=20), 10)[None, None]
    apart = resample([Line(values, tuple(map(str, range(200))))], resamples=4000).means(0)[1:, 0].std()
    sample = resample([Line(values, tuple(f"c{i // 10}" for i in range(200)))], resamples=4000)
    assert sample.units == 20
    assert sample.means(0)[1:, 0].std() == pytest.approx(apart * math.sqrt(10), rel=0.1)


def test_metrics_of_the_same_prompts_are_drawn_together() -> None:
    """Two metrics with the same scores of the same items cannot differ in any resample; with items of their own they do."""
    values = np.random.default_rng(0).normal(size=(1, 1, 50))
    units = tuple(f"post {i}" for i in range(50))
    for other, same in ((units, True), (tuple(f"question {i}" for i in range(50)), False)):
        sample = resample([Line(values, units), Line(values, other)], resamples=200)
        assert np.allclose(sample.means(0), sample.means(1)) == same


def test_seeds_are_drawn_together() -> None:
    """A seed that is better on one metric is so in the same resamples on the other: the two move as one."""
    one = np.tile(np.array([0.0, 0.1, 0.4])[None, :, None], (1, 1, 30))
    sample = resample(
        [Line(one, tuple(f"a{i}" for i in range(30))), Line(2 * one, tuple(f"b{i}" for i in range(30)))], resamples=200
    )
    assert np.allclose(2 * sample.means(0), sample.means(1))
    assert sample.means(0)[1:].std() > 0.05
    assert sample.only("items").means(0)[1:].std() == pytest.approx(0, abs=1e-12)


def test_too_few_resamples_that_reach_give_no_interval() -> None:
    rows = {part: np.random.default_rng(0).normal(size=1001) for part in PARTS}
    assert math.isfinite(mixtures.estimate(rows, units=100, seeds=1).low)
    for count, known in ((20, True), (30, False)):
        gaps = {part: np.where(np.arange(1001) > 1000 - count, math.nan, values) for part, values in rows.items()}
        assert math.isfinite(mixtures.estimate(gaps, units=100, seeds=1).low) == known


def test_the_interval_of_a_ratio() -> None:
    """Errors of 0.1, no covariance, t = 2 (61 units): (2 -+ sqrt(4 - 3.96 x 0.96)) / 3.96 = 0.390 and 0.620."""
    rng = np.random.default_rng(0)

    def rows(value: float, error: float) -> dict[mixtures.Part, np.ndarray]:
        draws = rng.normal(size=100_000)
        draws = value + error * (draws - draws.mean()) / draws.std()
        return {part: np.concatenate([[value], draws]) for part in PARTS}

    ends = mixtures.ratio(rows(1, 0.1), rows(2, 0.1), units=61, seeds=1)
    assert (ends.low, ends.high) == (pytest.approx(0.390, abs=0.003), pytest.approx(0.620, abs=0.003))
    assert math.isnan(mixtures.ratio(rows(1, 0.1), rows(0.15, 0.1), units=61, seeds=1).low)


# --------------------------------------------------------------------------- the whole comparison


def test_the_truth_is_found(made: Comparison) -> None:
    assert [family.name for family in made.families] == ["plain", "replay", "weak", "worse"]
    assert made.families[1].systems == ("replay@0.03", "replay@0.12", "replay@0.25")
    words = {family: made.cost(family, "80 %").versus[SUMMARY].verdict for family in ("replay", "weak", "worse")}
    assert words == {"replay": "less tax", "weak": "does not reach", "worse": "more tax"}
    ratio = made.cost("replay", "80 %").versus[SUMMARY].ratio
    assert ratio is not None
    assert ratio.low < 0.2 < ratio.high
    assert made.sentence.startswith("At 80 % of plain's largest gain (40.9 points) on toxicity, replay pays least:")
    assert "3 training seeds" in made.sentence


def test_the_true_tax_lies_in_the_interval(made: Comparison) -> None:
    """Plain at 80 % of 0.50: 0.10 + (0.40 - 0.35) / 0.15 x 0.10 = 0.133; worse: 0.8 x 0.40 = 0.32; replay at 0.40: 0.02."""
    for family, tax in (("plain", 0.1333), ("worse", 0.32), ("replay", 0.02)):
        found = made.cost(family, "80 %").taxes[SUMMARY]
        assert found.low < tax < found.high, family


def test_a_mixture_names_its_models(made: Comparison) -> None:
    cost = made.cost("worse", "50 %")
    assert [name for name, _ in cost.mixture] == ["base", "worse"]
    assert sum(share for _, share in cost.mixture) == pytest.approx(1)
    assert made.cost("weak", "80 %").mixture == ()
    assert math.isnan(made.cost("weak", "80 %").taxes[SUMMARY].value)
    assert sum(cost.least for cost in made.costs if cost.level == "80 %") == pytest.approx(1)


def test_points_are_those_of_the_receipts(swept: tuple[Scores, list[list[Scores]]], made: Comparison) -> None:
    base, systems = swept
    told = receipt.make(base, systems[3], resamples=500)
    point = made.point(systems[3][0].system)
    line = told.of("facts")
    assert point.taxes["facts"].value == pytest.approx(line.tax)
    assert (point.taxes["facts"].low, point.taxes["facts"].high) == (-line.benefit.high, -line.benefit.low)
    assert (point.gain.low, point.gain.high) == (told.of("toxicity").low * -1, told.of("toxicity").high * -1)[::-1]
    mean = (point.taxes["facts"].value + point.taxes["copying"].value) / 2
    assert point.taxes[SUMMARY].value == pytest.approx(mean)


def test_only_lines_of_one_unit_are_averaged(made: Comparison) -> None:
    assert made.axis(SUMMARY).lines == ("facts", "copying")
    assert [axis.name for axis in made.abilities] == [SUMMARY, "facts", "copying", "perplexity"]
    assert made.axis("perplexity").unit == "nats per token"


def test_chosen_abilities(swept: tuple[Scores, list[list[Scores]]]) -> None:
    mixed = frontier.build(*swept, ability=["facts", "perplexity"], resamples=200)
    assert [axis.name for axis in mixed.abilities] == ["facts", "perplexity"]
    assert mixed.main == "facts"
    nats = frontier.build(*swept, ability=["perplexity"], resamples=200)
    assert (nats.main, nats.axis("perplexity").say(0.0123)) == ("perplexity", "0.012 nats per token")


def test_the_front_by_hand() -> None:
    """Gains 2, 4, 4, 1, 3 and taxes 1, 3, 2, 0, -1: the fifth beats the first, third beats second; base beats the fourth? No: 1 > 0 at tax 0, but the fifth does."""
    gain = np.array([[2.0, 4, 4, 1, 3], [-1, -1, -1, -1, -1]])
    tax = np.array([[1.0, 3, 2, 0, -1], [1, 1, 0, 0, 0]])
    front = frontier._front(gain, tax)
    assert front[0].tolist() == [False, False, True, False, True]
    assert front[1].tolist() == [False] * 5  # the base is safer, for no tax at all


def test_fronts_of_the_sweep(made: Comparison) -> None:
    on = {point.system for point in made.points if SUMMARY in point.front}
    assert {"plain@1", "replay@0.25"} <= on
    assert "worse" not in on
    assert "plain@0.3" not in on
    assert made.point("replay@0.25").front_share[SUMMARY] > 0.95
    assert made.point("plain@0.3").front_share[SUMMARY] < 0.05


def test_fixed_levels(swept: tuple[Scores, list[list[Scores]]]) -> None:
    found = frontier.build(*swept, at=["30", "80%", "70"], resamples=200)
    assert [(level.name, level.share) for level in found.levels] == [
        ("30 points", None),
        ("80 %", 0.8),
        ("70 points", None),
    ]
    assert found.levels[0].gain == pytest.approx(0.3)
    assert all(not cost.mixture for cost in found.costs if cost.level == "70 points")
    assert "a gain of 30.0 points" in found.sentence
    # the reference does not reach it either: nothing can be said of the difference
    assert {c.versus[SUMMARY].verdict for c in found.costs if c.level == "70 points" and c.versus} == {"does not reach"}


def test_another_reference(swept: tuple[Scores, list[list[Scores]]]) -> None:
    found = frontier.build(*swept, reference="replay", at=["80%"], resamples=300)
    assert found.reference == "replay"
    assert found.cost("plain", "80 %").versus[SUMMARY].verdict == "more tax"
    versus = found.cost("worse", "80 %").versus[SUMMARY]
    if not found.cost("replay", "80 %").taxes[SUMMARY].low > 0:
        assert versus.ratio is None  # the reference pays nothing for sure: no ratio
    assert "It is the reference" in found.sentence


def test_a_reference_that_gains_nothing() -> None:
    base, systems = sweep({"plain": ((None, -0.2, 0.1),), "other": ((None, 0.3, 0.1),)}, n=60)
    found = frontier.build(base, systems, resamples=200)
    assert "gains nothing on toxicity" in found.sentence
    assert not any(cost.mixture for cost in found.costs)
    assert frontier.build(base, systems, at=["20"], resamples=200).cost("other", "20 points").mixture


def test_single_seeds_and_models_without_one() -> None:
    for seeds in ((0,), (None,)):
        found = frontier.build(*sweep(seeds=seeds, n=150), resamples=300)
        assert found.cost("worse", "80 %").versus[SUMMARY].verdict == "more tax"
        assert any("One training seed" in note for note in found.notes)


def test_seeds_that_only_some_systems_have_are_not_used(swept: tuple[Scores, list[list[Scores]]]) -> None:
    base, systems = swept
    fewer = [seeds[:2] if place == 0 else seeds for place, seeds in enumerate(systems)]
    found = frontier.build(base, fewer, resamples=200)
    assert found.seeds == (0, 1)
    assert any("not used: 2" in note for note in found.notes)
    apart = [[replace(s, seed=7) for s in seeds[:1]] if place == 0 else seeds for place, seeds in enumerate(systems)]
    with pytest.raises(UserError, match="no training seed is common"):
        frontier.build(base, apart)


def test_strengths_that_are_no_numbers_or_several() -> None:
    base, systems = sweep({"plain": ((0.1, 0.3, 0.1), (1.0, 0.5, 0.2))}, n=100)
    words = [{"edits.kind": "early", "edits.rank": 4}, {"edits.kind": "late", "edits.rank": 16}]
    for place, strength in enumerate(words):
        systems.append(
            [
                table(f"edit@{place}", shifted(0.4, 0.02), seed=s, n=100, family="edit", strength=strength)
                for s in (0, 1, 2)
            ]
        )
    found = frontier.build(base, systems, resamples=200)
    assert found.point("edit@1").label == "kind late, rank 16"
    assert found.families[1].key == "edits.kind, edits.rank"
    assert runs.strength_order({"a": 2}) < runs.strength_order({"a": 10}) < runs.strength_order({"a": "x"})


def test_a_name_says_its_family_where_the_table_does_not() -> None:
    assert runs.place(table("sft@0.5", BASE, n=2)) == ("sft", {"strength": 0.5})
    assert runs.place(table("sft@late", BASE, n=2)) == ("sft@late", {})
    assert runs.place(table("sft", BASE, n=2)) == ("sft", {})


# --------------------------------------------------------------------------- many comparisons


def test_less_tax_is_adjusted_over_families_and_more_tax_within_one(made: Comparison) -> None:
    """Three families at three levels: where the tax is known, Holm runs over all of those p values; a loss over its own family's alone."""
    versus = {(cost.family, cost.level): cost.versus[SUMMARY] for cost in made.costs if cost.versus}
    known = [key for key, one in versus.items() if math.isfinite(one.p)]
    holm = stats.holm([versus[key].p for key in known])
    assert [versus[key].p_holm for key in known] == pytest.approx(holm)
    own = [key for key in known if key[0] == "worse"]
    assert [versus[key].p_family for key in own] == pytest.approx(stats.holm([versus[key].p for key in own]))
    assert versus["worse", "80 %"].p_judged == versus["worse", "80 %"].p_family
    assert versus["replay", "80 %"].p_judged == versus["replay", "80 %"].p_holm
    every = [(axis, one) for cost in made.costs for axis, one in cost.versus.items()]
    holm = stats.holm([one.p for _, one in every])
    for (axis, one), p in zip(every, holm, strict=True):
        if axis != SUMMARY and math.isfinite(one.p):
            assert one.p_holm == pytest.approx(p)


def verdict(
    low: float, high: float, p: float, *, reached: float = 1.0, reference: float = 1.0, mixture: bool = True
) -> str:
    def cost(share: float, there: bool) -> frontier.Cost:
        return frontier.Cost("f", "80 %", (("f", 1.0),) if there else (), share, 0.5, {}, {})

    axis = Axis("facts", ("facts",), "ability", "higher", "points", 1, (100,), (100,))
    apart = mixtures.Estimate((low + high) / 2, (high - low) / 4, 50, low, high)
    return frontier._verdict(cost(reached, mixture), cost(reference, True), apart, p, p, axis)[0]


def test_verdicts_in_order() -> None:
    assert verdict(-0.03, -0.01, 0.01) == "less tax"
    assert verdict(-0.03, -0.01, 0.06) == "not known"  # Holm
    assert verdict(0.01, 0.03, 0.01) == "more tax"
    assert verdict(-0.01, 0.01, 0.9) == "not known"
    assert verdict(-0.03, -0.01, 0.01, reached=0.97) == "not known"
    assert verdict(-0.03, -0.01, 0.01, reference=0.5) == "not known"
    assert verdict(math.nan, math.nan, math.nan, reached=0.04, mixture=False) == "does not reach"
    assert verdict(math.nan, math.nan, math.nan, reached=0.3, mixture=False) == "not known"
    assert verdict(0.0, 0.0, math.nan) == "not known"  # no item tells them apart


# --------------------------------------------------------------------------- what may not be believed


def test_missing_scores_are_left_out_of_all_and_counted(swept: tuple[Scores, list[list[Scores]]]) -> None:
    base, systems = swept
    holed = [
        [spoiled(s, "facts", lambda i, r: replace(r, score=math.nan) if i < 10 else r) for s in systems[0]],
        *systems[1:],
    ]
    found = frontier.build(base, holed, resamples=200)
    assert found.axis("facts").n == (190,)
    assert found.axis("facts").items == (200,)
    assert any("facts: 190 of 200 items" in note for note in found.notes)
    assert not found.point("plain@0.1").withheld


def test_a_system_with_too_many_missing_scores_is_withheld(swept: tuple[Scores, list[list[Scores]]]) -> None:
    base, systems = swept
    holed = [
        [spoiled(s, "facts", lambda i, r: replace(r, score=math.nan) if i < 60 else r) for s in systems[0]],
        *systems[1:],
    ]
    found = frontier.build(base, holed, resamples=200)
    assert "facts" in found.point("plain@0.1").withheld
    assert found.axis("facts").n == (200,)  # the others keep their items
    assert found.families[0].systems == ("plain@0.3", "plain@1")
    assert found.point("plain@0.1").front == ()


def test_a_silent_model_is_not_safe(swept: tuple[Scores, list[list[Scores]]]) -> None:
    base, systems = swept
    silent = [[spoiled(s, "toxicity", lambda i, r: replace(r, answer="", score=0.0)) for s in systems[-1]]]
    found = frontier.build(base, systems[:-1] + silent, resamples=200)
    assert "empty" in found.point("worse").withheld
    assert "worse" not in {family.name for family in found.families}
    with pytest.raises(UserError, match="withheld"):
        frontier.build(base, systems[:-1] + silent, reference="worse")
    loud = frontier.build(
        base,
        [*systems[:-1], [spoiled(s, "facts", lambda i, r: replace(r, answer="")) for s in systems[-1]]],
        resamples=200,
    )
    assert not loud.point("worse").withheld  # an ability that falls silent can only look worse
    assert any("empty" in text for text in loud.point("worse").warnings)


def test_a_copy_of_the_base_is_withheld(swept: tuple[Scores, list[list[Scores]]]) -> None:
    base, systems = swept
    copies = [[replace(base, system="copy", seed=seed) for seed in (0, 1, 2)]]
    assert "identical" in frontier.build(base, systems + copies, resamples=200).point("copy").withheld


def test_an_ability_that_the_base_does_not_have_is_left_out(swept: tuple[Scores, list[list[Scores]]]) -> None:
    base, systems = swept

    def none(scores: Scores) -> Scores:
        return spoiled(scores, "copying", lambda i, r: replace(r, score=0.0))

    found = frontier.build(none(base), [[none(s) for s in seeds] for seeds in systems], resamples=200)
    assert [axis.name for axis in found.abilities] == ["facts", "perplexity"]
    assert any("copying is left out" in note for note in found.notes)


def test_clusters_of_the_suite_widen_the_interval() -> None:
    """Every item ten times in one cluster: the same means, and intervals that know of 40 units and not of 400."""
    base, systems = sweep({"plain": ((1.0, 0.4, 0.1),), "replay": ((1.0, 0.4, 0.05),)}, n=40)

    def tenfold(scores: Scores, name: str) -> Scores:
        rows = [
            replace(
                row, item_id=f"{row.item_id}.{i}", prompt_hash=f"{row.prompt_hash}.{i}", cluster=name and row.item_id
            )
            for row in scores.rows
            for i in range(10)
        ]
        return replace(scores, rows=tuple(rows))

    found = {
        name: frontier.build(
            tenfold(base, name), [[tenfold(s, name) for s in seeds] for seeds in systems], resamples=300
        )
        for name in ("", "yes")
    }
    widths = {}
    for name, made in found.items():
        cost = made.cost("plain", "80 %").taxes[SUMMARY]
        widths[name] = cost.high - cost.low
    assert widths["yes"] > 1.5 * widths[""]


def test_a_system_without_any_score_is_withheld(swept: tuple[Scores, list[list[Scores]]]) -> None:
    base, systems = swept
    none = [spoiled(s, "facts", lambda i, r: replace(r, score=math.nan)) for s in systems[0]]
    found = frontier.build(base, [none, *systems[1:]], resamples=200)
    assert found.point("plain@0.1").withheld
    assert math.isnan(found.point("plain@0.1").taxes["facts"].value)


def test_a_bias_counts_how_much_nearer_it_comes() -> None:
    """From 75 % to 30 % of stereotypes with an even split at 50 %: 25 away, then 20: 5 points nearer, as the receipt says; to 55 %: 20."""
    spec = MetricSpec("stereotype", "stereotype", "choices", "safety", "lower", 0.02, "points", chance=0.5, binary=True)
    specs = (spec, *SPECS[1:2])

    def model(name: str, rate: float, seed: int | None) -> Scores:
        made = table(name, {"stereotype": rate, "facts": 0.9}, seed=seed, specs=specs, noise=0.02, n=400)
        return spoiled(made, "stereotype", lambda i, r: replace(r, answer=str(r.score)))

    base = model("base", 0.75, None)
    systems = [[model(name, rate, seed) for seed in (0, 1)] for name, rate in (("over", 0.30), ("right", 0.55))]
    found = frontier.build(base, systems, resamples=300)
    told = receipt.make(base, systems[0], resamples=300).of("stereotype")
    assert told.toward is not None
    assert found.point("over").gain.value == pytest.approx(told.toward.gain)
    assert found.point("right").gain.value > 0.15
    assert found.levels[0].gain == pytest.approx(0.8 * told.toward.gain)


def test_a_gain_that_hides_a_loss_is_said() -> None:
    gains = {"toxicity": 0.3, "facts": 0.6, "copying": 0.99, "perplexity": 2.0}
    systems = [[table(n, gains, seed=s, n=200, family=n, strength={}) for s in (0, 1, 2)] for n in ("one", "two")]
    found = frontier.build(table("base", BASE, n=200), systems, resamples=200)
    assert any("copying, on which most systems gain" in note and "--ability facts" in note for note in found.notes)


# --------------------------------------------------------------------------- what cannot be used


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"safety": "toxicty"}, "Did you mean 'toxicity'"),
        ({"safety": "facts"}, "stands on the side ability"),
        ({"ability": ["facts", "toxicity"]}, "stands on the side safety"),
        ({"ability": ["facts", "facts"]}, "more than once"),
        ({"at": ["much"]}, "write a share"),
        ({"at": ["0"]}, "above 0"),
        ({"at": ["101%"]}, "not above 100"),
        ({"at": ["nan"]}, "above 0"),
        ({"reference": "replai"}, "Did you mean 'replay'"),
        ({"resamples": 10}, "fewer than 100"),
    ],
)
def test_wishes_that_cannot_be_met(
    swept: tuple[Scores, list[list[Scores]]], options: dict[str, object], words: str
) -> None:
    with pytest.raises(RecipeError, match=words):
        frontier.build(*swept, **options)  # type: ignore[arg-type]


def test_too_little_to_compare(swept: tuple[Scores, list[list[Scores]]]) -> None:
    base, systems = swept
    with pytest.raises(UserError, match=r"only plain@0\.1"):
        frontier.build(base, systems[:1])
    with pytest.raises(UserError, match=r"no finished system.*x: unfinished"):
        frontier.build(base, [], left_out=[("x", "unfinished")])
    with pytest.raises(UserError, match=r"the name plain@0\.1 twice"):
        frontier.build(base, [systems[0], systems[0]])
    lone = [spec for spec in SPECS if spec.side == "ability"]
    with pytest.raises(UserError, match="no line on the side of safety"):
        frontier.build(*sweep(n=20, specs=lone))


# --------------------------------------------------------------------------- folders


def store(folder: Path, base: Scores, systems: Sequence[Sequence[Scores]]) -> Path:
    tables.write(base, folder / "scores" / "base")
    for seeds in systems:
        for scores in seeds:
            tables.write(scores, folder / "scores" / f"{scores.system}-seed{scores.seed}")
    return folder


@pytest.fixture(scope="module")
def small() -> tuple[Scores, list[list[Scores]]]:
    return sweep(n=40)


@pytest.fixture
def run(small: tuple[Scores, list[list[Scores]]], tmp_path: Path) -> Path:
    return store(tmp_path / "runs" / "first", *small)


def test_the_page_of_a_folder_is_that_of_its_tables(
    run: Path, small: tuple[Scores, list[list[Scores]]], tmp_path: Path
) -> None:
    """From the folder, twice, and from the tables in memory: the same bytes; nothing but the scores is read."""
    page.write(frontier.compare([run], resamples=200), tmp_path / "a")
    page.write(frontier.compare([run.parent], resamples=200), tmp_path / "b")
    page.write(frontier.build(*small, runs=["first"], resamples=200), tmp_path / "c")
    for name in ("compare.json", "compare.md", "compare.html"):
        bytes_ = [(tmp_path / place / name).read_bytes() for place in "abc"]
        assert bytes_[0] == bytes_[1] == bytes_[2], name


def test_systems_stand_in_the_order_of_the_receipts(run: Path) -> None:
    assert frontier.compare([run], resamples=200).reference == "plain"
    listed = [{"tuned_system": name} for name in ("replay@0.03", "worse", "plain@1")]
    (run / "receipt.json").write_text(json.dumps({"receipts": listed}), encoding="utf-8")
    assert [f.name for f in frontier.compare([run], resamples=200).families] == ["replay", "worse", "plain", "weak"]


def test_unfinished_systems_are_named(run: Path) -> None:
    shutil.rmtree(run / "scores" / "weak@0.9-seed2")
    (run / "scores" / "plain@1-seed0" / "about.json").unlink()
    found = frontier.compare([run], resamples=200)
    assert dict(found.left_out) == {
        "plain@1-seed0": "its measurement was not finished",
        "plain@1": "unfinished: no scores of the training seed 0",
        "weak@0.9": "unfinished: no scores of the training seed 2",
    }
    assert "weak@0.9" not in {point.system for point in found.points}


def test_seeds_that_the_recipe_asks_for_are_waited_for(run: Path) -> None:
    (run / "recipe.resolved.yaml").write_text("seeds: [0, 1, 2, 3]\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"no finished system.*training seed 3"):
        frontier.compare([run])


def test_two_folders_of_one_base(run: Path, small: tuple[Scores, list[list[Scores]]]) -> None:
    base, systems = small
    other = store(run.parent / "second", base, systems[:2])
    third = [
        [
            table("plain@3", shifted(0.55, 0.3), seed=s, n=40, family="plain", strength={"train.learning_rate": 3.0})
            for s in (0, 1, 2)
        ]
    ]
    store(other, base, third)
    found = frontier.compare([run, other], resamples=200)
    assert found.runs == ("first", "second")
    assert found.families[0].systems == ("plain@0.1", "plain@0.3", "plain@1", "plain@3")


def test_folders_that_do_not_belong_together(run: Path, small: tuple[Scores, list[list[Scores]]]) -> None:
    base, systems = small
    changed = [[spoiled(s, "facts", lambda i, r: replace(r, score=1 - r.score) if i == 3 else r) for s in systems[0]]]
    other = store(run.parent / "second", base, changed)
    with pytest.raises(UserError, match=r"both hold plain 0\.1"):
        frontier.compare([run, other])
    for spoil, words in (
        (lambda b: replace(b, about={**b.about, "fingerprint": "x"}), "weights differ"),
        (
            lambda b: spoiled(b, "facts", lambda i, r: replace(r, score=1 - r.score) if i == 3 else r),
            "1 of 160 scores differ.*facts-3",
        ),
        (
            lambda b: spoiled(b, "facts", lambda i, r: replace(r, prompt_hash="y") if i == 3 else r),
            "2 items were asked of one only",
        ),
        (
            lambda b: replace(b, specs=b.specs[:3], rows=tuple(r for r in b.rows if r.metric != "perplexity")),
            "perplexity",
        ),
    ):
        shutil.rmtree(other)
        store(other, spoil(base), [])
        with pytest.raises(UserError, match=words):
            frontier.compare([run, other])


def test_folders_without_scores(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no scores"):
        frontier.compare([tmp_path / "empty"])
    with pytest.raises(UserError, match="there is no folder"):
        frontier.compare([tmp_path / "nowhere"])
    shutil.rmtree(run / "scores" / "base")
    with pytest.raises(UserError, match="no finished scores of the base"):
        frontier.compare([run])


def test_the_command(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cli.app(
        ["compare", str(run), "--resamples", "200", "--ability", "facts,copying", "--at", "50%"], standalone_mode=False
    )
    told = capsys.readouterr().out
    assert "At 50 % of plain's largest gain" in told
    assert (run / "compare.html").is_file()
    found = json.loads((run / "compare.json").read_text(encoding="utf-8"))
    assert found["schema"] == "untax.compare/1"
    assert [axis["name"] for axis in found["abilities"]] == ["summary", "facts", "copying"]
    with pytest.raises(RecipeError, match="--out"):
        cli.app(["compare", str(run), str(run)], standalone_mode=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="is a file"):
        cli.app(["compare", str(run), "--out", str(tmp_path / "file")], standalone_mode=False)


def test_families_that_pay_the_very_same_share_the_sentence(made: Comparison) -> None:
    """No item tells them apart: the reference is not the winner because it stands first."""
    level = made.levels[0]
    known = [cost for cost in made.costs if cost.level == level.name and cost.taxes[made.main].known]
    least = min(known, key=lambda cost: cost.taxes[made.main].value).taxes[made.main]
    costs = [
        replace(cost, taxes={**cost.taxes, made.main: least}) if cost in known[:2] else cost for cost in made.costs
    ]
    sentence, _ = frontier._words(replace(made, costs=tuple(costs)))
    names = [cost.family for cost in costs if cost.level == level.name and cost.taxes[made.main] == least]
    assert f"{len(names)} families pay the same" in sentence
    assert all(name in sentence for name in names)


def test_a_level_of_a_gain_that_may_be_none_is_said(made: Comparison) -> None:
    unsure = [
        replace(point, gain=replace(point.gain, low=-0.01)) if point.family == made.reference else point
        for point in made.points
    ]
    told = " ".join(frontier._open(replace(made, points=tuple(unsure))))
    assert "a gain that is not sure itself" in told
    assert "a gain that is not sure itself" not in " ".join(frontier._open(made))
