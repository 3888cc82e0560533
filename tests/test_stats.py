"""stats.py against scipy, statsmodels, hand-worked numbers and simulation."""

from __future__ import annotations

import math
import time
import warnings

import numpy as np
import pytest
from scipy import stats as reference
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from untax import stats


def skewed(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).exponential(0.4, n) - 0.3


# --------------------------------------------------------------------------- intervals


def test_bca_limits_are_scipys_on_the_same_resamples() -> None:
    tuned, base = skewed(80), np.zeros(80)
    theirs = reference.bootstrap(
        (tuned, base),
        lambda x, y, axis=-1: (x - y).mean(axis=axis),
        paired=True, method="BCa", n_resamples=4000, rng=np.random.default_rng(3),
    )  # fmt: skip
    left_out = (tuned.sum() - tuned) / (len(tuned) - 1)
    ours = stats.bca_limits(tuned.mean(), theirs.bootstrap_distribution, left_out)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=1e-12)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=1e-12)


@pytest.mark.parametrize("kind", ["skewed", "flips"])
def test_bca_interval_is_scipys_up_to_resampling_noise(kind: str) -> None:
    n = 300
    values = skewed(n) if kind == "skewed" else np.random.default_rng(5).choice([-1.0, 0.0, 1.0], n, p=[0.1, 0.8, 0.1])
    theirs = reference.bootstrap(
        (values, np.zeros(n)),
        lambda x, y, axis=-1: (x - y).mean(axis=axis),
        paired=True, method="BCa", n_resamples=10_000, rng=np.random.default_rng(3),
    ).confidence_interval  # fmt: skip
    ours = stats.bca_interval(values)
    noise = 0.12 * values.std() / math.sqrt(n) + (1 / n if kind == "flips" else 0)
    assert ours.low == pytest.approx(theirs.low, abs=noise)
    assert ours.high == pytest.approx(theirs.high, abs=noise)


def test_drawing_by_count_follows_the_same_law_as_drawing_items() -> None:
    flips = np.repeat([-1.0, 0.0, 1.0], [20, 150, 30])
    by_count = stats.bca_interval(flips)
    by_item = stats.bca_interval(flips + np.linspace(0, 1e-9, 200))  # all distinct: the other branch
    assert by_count.low == pytest.approx(by_item.low, abs=0.006)
    assert by_count.high == pytest.approx(by_item.high, abs=0.006)


def test_equal_differences_give_a_point_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert stats.bca_interval([0.25] * 9) == stats.Interval(0.25, 0.25)
        assert stats.bca_interval([0.25]) == stats.Interval(0.25, 0.25)
        assert stats.seeded_interval(np.zeros((3, 7))) == stats.Interval(0.0, 0.0)
        assert math.isnan(stats.bca_interval([]).low)
        assert stats.sign_flip([0.0] * 20) == 1.0
        assert stats.seeded_p(np.full((2, 5), 0.5)) == 0.0
        one_differs = stats.bca_interval([0.0] * 99 + [1.0])
        assert np.isfinite([one_differs.low, one_differs.high]).all()
        assert 0 <= one_differs.low <= 0.01 <= one_differs.high < 0.1


def test_copies_of_an_item_in_one_cluster_add_nothing() -> None:
    values = skewed(60)
    names = [f"t{i}" for i in range(60)]
    alone = stats.bca_interval(values)
    copied = stats.bca_interval(np.repeat(values, 4), clusters=[name for name in names for _ in range(4)])
    naive = stats.bca_interval(np.repeat(values, 4))
    assert copied == alone
    assert naive.width == pytest.approx(alone.width / 2, rel=0.1)
    assert stats.spread(np.repeat(values, 4), clusters=[n for n in names for _ in range(4)]).standard_error == (
        pytest.approx(stats.spread(values).standard_error)
    )


def test_items_without_a_cluster_name_stand_alone() -> None:
    values = skewed(40)
    assert stats.bca_interval(values, clusters=[""] * 40) == stats.bca_interval(values)


def test_a_single_cluster_has_no_interval() -> None:
    assert math.isnan(stats.bca_interval(skewed(20), clusters=["all"] * 20).low)


def test_failed_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        stats.bca_interval([0.1, math.nan])


# --------------------------------------------------------------------------- seeds


def test_spread_of_seeds_by_hand() -> None:
    assert stats.spread([1, 2, 3]).standard_error == pytest.approx(1 / math.sqrt(3))
    error = stats.spread([[0, 2], [2, 4]])
    assert (error.standard_error, error.degrees) == (pytest.approx(math.sqrt(2)), pytest.approx(2))
    assert stats.seeded_p([[0, 2], [2, 4]]) == pytest.approx(0.29289, abs=1e-5)


def test_one_row_is_the_paired_t_test() -> None:
    values = skewed(50)
    assert stats.seeded_p(values) == pytest.approx(reference.ttest_1samp(values, 0).pvalue)


def test_seeds_that_agree_give_the_interval_of_one() -> None:
    values = skewed(100)
    one = stats.bca_interval(values)
    three = stats.seeded_interval(np.stack([values] * 3))
    assert three.low == pytest.approx(one.low, abs=1e-9)
    assert three.high == pytest.approx(one.high, abs=1e-9)
    assert stats.seeded_interval(values[None]) == one


def test_seeds_that_differ_widen_the_interval() -> None:
    values = skewed(400)
    shifted = np.stack([values - 0.1, values, values + 0.1])
    assert stats.seeded_interval(shifted).width > 3 * stats.bca_interval(values).width


def test_three_seeds_and_no_item_noise_by_hand() -> None:
    """Seeds at -0.1, 0, 0.1. All three draws are -0.1 in 1/27 = 3.7 % of resamples, so the 2.5 % quantile is -0.1; times
    sqrt(3 / 2) it is -0.1225. The error rests on 2 degrees: stretched by t(2) / t(49) = 4.3027 / 2.0096, it is -0.2622."""
    interval = stats.seeded_interval(np.repeat([[-0.1], [0.0], [0.1]], 50, axis=1))
    assert interval.low == pytest.approx(-0.2622, abs=1e-3)
    assert interval.high == pytest.approx(0.2622, abs=1e-3)


def test_seeded_intervals_cover_the_truth() -> None:
    """Of 95 % intervals for the mean over seeds and items, about 95 % hold it; averaging the seeds away holds 65 %."""
    rng = np.random.default_rng(11)
    held = averaged = 0
    for trial in range(400):
        values = 0.06 * rng.standard_normal((3, 1)) + 0.2 * rng.standard_normal((1, 200))
        values = values + 0.3 * rng.standard_normal((3, 200))
        interval = stats.seeded_interval(values, resamples=800, seed=trial)
        held += interval.low <= 0 <= interval.high
        interval = stats.bca_interval(values.mean(axis=0), resamples=800, seed=trial)
        averaged += interval.low <= 0 <= interval.high
    assert 0.90 <= held / 400 <= 0.985
    assert averaged / 400 < 0.75


# --------------------------------------------------------------------------- p values


@pytest.mark.parametrize(("up", "down"), [(1, 7), (0, 5), (12, 9), (0, 0), (30, 11)])
def test_mcnemar_is_statsmodels(up: int, down: int) -> None:
    theirs = statsmodels_mcnemar([[50, up], [down, 40]], exact=True).pvalue if up + down else 1.0
    assert stats.mcnemar(up, down) == pytest.approx(min(1.0, theirs))


def test_mcnemar_by_hand() -> None:
    assert stats.mcnemar(1, 7) == pytest.approx(18 / 256)


def test_flips_count_both_ways() -> None:
    assert stats.flips([0, 1, 1, 0, 0], [1, 1, 0, 0, 1]) == (2, 1)


def test_sign_flip_by_hand_and_against_scipy() -> None:
    assert stats.sign_flip([1, 2, 3]) == 0.25
    values = skewed(11)
    theirs = reference.permutation_test(
        (values,), lambda x, axis: x.mean(axis=axis), permutation_type="samples", vectorized=True, n_resamples=np.inf
    ).pvalue
    assert stats.sign_flip(values) == pytest.approx(theirs, abs=1e-9)


def test_sign_flip_by_sampling_agrees_with_t() -> None:
    values = skewed(200) - 0.05
    assert stats.sign_flip(values) == pytest.approx(reference.ttest_1samp(values, 0).pvalue, abs=0.02)
    few = np.repeat([-1.0, 0.0, 1.0], [20, 150, 33])
    assert stats.sign_flip(few) == pytest.approx(stats.mcnemar(33, 20), abs=0.015)
    assert stats.sign_flip(np.full(100, 1.0)) == pytest.approx(1 / 10_001)


def test_clusters_flip_together() -> None:
    assert stats.sign_flip([1, 1, 2, 3], clusters=["a", "a", "b", "c"]) == stats.sign_flip([2, 2, 3]) == 0.25


def test_holm_by_hand_and_statsmodels() -> None:
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    p_values = list(np.random.default_rng(2).uniform(0, 0.2, 12))
    assert stats.holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    with_failure = stats.holm([0.01, math.nan, 0.04])
    assert with_failure[0] == 0.02
    assert math.isnan(with_failure[1])


# --------------------------------------------------------------------------- power


def test_minimum_detectable_by_hand_and_statsmodels() -> None:
    assert stats.minimum_detectable(stats.Spread(0.025, math.inf)) == pytest.approx(0.0700, abs=5e-5)
    theirs = TTestPower().solve_power(effect_size=None, nobs=400, alpha=0.05, power=0.8) * 0.5
    assert stats.minimum_detectable(stats.Spread(0.025, 399)) == pytest.approx(theirs, rel=2e-3)
    theirs = TTestPower().solve_power(effect_size=None, nobs=25, alpha=0.05, power=0.8)
    assert stats.minimum_detectable(stats.Spread(1 / 5, 24)) == pytest.approx(theirs, rel=1e-2)


def test_a_loss_of_the_detectable_size_is_found_four_times_of_five() -> None:
    rng = np.random.default_rng(4)
    found = 0
    size = stats.minimum_detectable(stats.Spread(0.3 / math.sqrt(200), 199))
    for trial in range(400):
        values = rng.normal(-size, 0.3, 200)
        found += stats.sign_flip(values, resamples=999, seed=trial) < 0.05
    assert 0.74 <= found / 400 <= 0.86


def test_items_needed_by_hand() -> None:
    assert stats.items_needed(200, 0.06, 0.02) == 1800
    assert stats.items_needed(200, 0.06, 0.0) is None
    assert stats.items_needed(0, math.nan, 0.1) is None


def test_nothing_seen_is_not_nothing_there() -> None:
    assert stats.unseen_share(100) == pytest.approx(0.0295, abs=1e-4)
    assert stats.unseen_share(100) == pytest.approx(
        reference.binomtest(0, 100).proportion_ci(confidence_level=0.90, method="exact").high
    )


def test_non_inferiority_is_the_end_of_the_interval() -> None:
    assert stats.non_inferior(stats.Interval(-0.013, 0.004), 0.02)
    assert not stats.non_inferior(stats.Interval(-0.021, 0.030), 0.02)
    assert not stats.non_inferior(stats.Interval(math.nan, math.nan), 0.02)


# --------------------------------------------------------------------------- simulation and speed


def test_null_comparisons_rarely_look_real() -> None:
    """400 comparisons of a model with an equal one, half 0/1 and half continuous: 95 % intervals miss 0 in about 5 %."""
    rng = np.random.default_rng(7)
    missed = significant = 0
    for trial in range(400):
        values = rng.normal(0, 0.2, 200) if trial % 2 else rng.choice([-1.0, 0.0, 1.0], 200, p=[0.1, 0.8, 0.1])
        interval = stats.bca_interval(values, resamples=1000, seed=trial)
        missed += not interval.low <= 0 <= interval.high
        p = (
            stats.sign_flip(values, resamples=999, seed=trial)
            if trial % 2
            else stats.mcnemar(*stats.flips(0 * values, values))
        )
        significant += p < 0.05
    assert 0.025 <= missed / 400 <= 0.085
    assert 0.01 <= significant / 400 <= 0.07


def test_a_full_receipt_of_statistics_is_quick() -> None:
    """15 metrics x 3 systems, 500 items, 10,000 resamples."""
    rng = np.random.default_rng(0)
    start = time.process_time()
    for index in range(45):
        values = rng.normal(0, 1, 500) if index % 2 else rng.choice([-1.0, 0.0, 1.0], 500)
        stats.bca_interval(values)
        stats.sign_flip(values)
    assert time.process_time() - start < 10
