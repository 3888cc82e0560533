"""The arithmetic of forgetting gives the numbers of pencil and paper, and leaves out and counts what has no score."""

import dataclasses
import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats as reference

from untax import stats
from untax.diagnostics import common

FEW = 200  # resamples, where no interval is looked at


def near(value):
    return pytest.approx(value, abs=1e-6)


def told(a0, a1, forgotten, learned, n=1600):
    """Right and wrong of n items before and after with these shares."""
    both = round(n * (a0 - forgotten))
    lost, won = round(n * forgotten), round(n * learned)
    assert round(n * a1) == both + won
    before = np.r_[np.ones(both + lost), np.zeros(n - both - lost)]
    after = np.r_[np.ones(both), np.zeros(lost), np.ones(won), np.zeros(n - both - lost - won)]
    return before, after


# --------------------------------------------------------------------------- gaps


@pytest.mark.parametrize(
    ("before", "after", "drop", "shrink", "over"),
    [(2, 0.5, 1.5, 1.5, 0), (2, -1, 3.0, 1.0, 1), (2, 2, 0, 0, 0), (-2, -0.5, -1.5, 1.5, 0)],
)
def test_gaps_by_hand(before, after, drop, shrink, over):
    """2 to .5: SF 1.5, shrink 1.5. 2 to -1: SF 3, shrink 1, overshoot. 2 to 2: 0, 0. Swapped sentences: SF turns its sign."""
    found = common.selective([before] * 3, [after] * 3, resamples=FEW).attribute
    assert (found.drop.value, found.shrink.value, found.overshoot.value) == (drop, shrink, over)
    assert found.before.value == before
    assert (found.first_before.value, found.first_after.value) == (float(before > 0), float(after > 0))


def test_a_flatter_model_has_no_net():
    """Gaps of 2 (attribute) and 1 (control) at temperature 2 are 1 and .5: R = .5 and .5, net 0 although SF is 1."""
    found = common.selective([2.0] * 4, [1.0] * 4, [1.0] * 4, [0.5] * 4, resamples=FEW)
    assert found.attribute.relative_shrink.value == 0.5
    assert found.control.relative_shrink.value == 0.5
    assert found.net.value == 0
    assert found.attribute.drop.value == 1


def test_the_relative_shrink_is_a_ratio_of_sums():
    """|g| 1 and 3 become 0 and 3: 1 - 3 / 4 = .25, where the mean of the two shares would be .5. Net against .5: -.25."""
    found = common.selective([1, -3], [0, 3], [2, 2], [1, 1], resamples=FEW)
    assert found.attribute.relative_shrink.value == 0.25
    assert found.net.value == -0.25


def test_a_ratio_has_the_interval_of_a_plain_bootstrap():
    """Without skewness of note, R's interval is that of scipy's paired bootstrap of the same ratio, widened for 300 pairs."""
    rng = np.random.default_rng(3)
    old = rng.normal(1, 1, 300)
    new = 0.6 * old + rng.normal(0, 0.4, 300)
    found = common.selective(old, new, resamples=8000).attribute.relative_shrink
    theirs = reference.bootstrap(
        (np.abs(old), np.abs(new)), lambda a, b, axis: 1 - b.sum(axis) / a.sum(axis), paired=True, vectorized=True,
        n_resamples=8000, method="BCa", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert found.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert found.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_net_is_drawn_over_pairs_and_controls():
    """The variance of net is that of both sides: an interval of controls alone or pairs alone would be narrower."""
    rng = np.random.default_rng(0)
    sides = []
    for size in (80, 40):
        old = rng.normal(0, 1, size)
        sides += [old, 0.5 * old + rng.normal(0, 0.3, size)]
    found = common.selective(*sides)
    alone = [found.attribute.relative_shrink, found.control.relative_shrink]
    wanted = math.hypot(*(each.high - each.low for each in alone))
    assert found.net.high - found.net.low == pytest.approx(wanted, rel=0.12)
    assert found.net.low < found.net.value < found.net.high


def test_pairs_of_a_cluster_are_drawn_together():
    """Ten copies of each of 12 pairs under one name say as much as 12 pairs; as 120 pairs they would say more."""
    rng = np.random.default_rng(1)
    old, noise = rng.normal(1, 1, 12), rng.normal(0, 0.5, 12)
    new = 0.5 * old + noise
    few = common.selective(old, new, resamples=4000).attribute
    names = [str(i) for i in range(12)] * 10
    many = common.selective(np.tile(old, 10), np.tile(new, 10), clusters=names, resamples=4000).attribute
    loose = common.selective(np.tile(old, 10), np.tile(new, 10), resamples=4000).attribute
    for name in ("relative_shrink", "drop"):
        one, other, wrong = (getattr(each, name) for each in (few, many, loose))
        assert other.high - other.low == pytest.approx(one.high - one.low, rel=0.1)
        assert wrong.high - wrong.low < 0.5 * (one.high - one.low)
        assert (one.n, other.n) == (12, 120)


def test_seeds_that_disagree_widen_the_interval():
    rng = np.random.default_rng(2)
    old = rng.normal(2, 0.5, 200)
    same = np.stack([0.5 * old + rng.normal(0, 0.1, 200) for _ in range(3)])
    apart = np.stack([factor * old for factor in (0.3, 0.5, 0.7)])
    one, other = (common.selective(old, new).attribute.relative_shrink for new in (same, apart))
    assert one.value == pytest.approx(0.5, abs=0.02)
    assert other.value == pytest.approx(0.5)
    assert other.high - other.low > 10 * (one.high - one.low)
    # the mean of three seeds with sd .2: .2 / sqrt 3 x t(2) = .497 each way, whatever the pairs say
    assert other.high - other.low == pytest.approx(2 * 0.2 / math.sqrt(3) * reference.t.ppf(0.975, 2), rel=0.2)


def test_a_pair_without_a_score_is_left_out_and_counted():
    found = common.selective([2, math.nan, 1], [[1, 1, 0.5], [1, 1, math.nan]], [math.nan], [1.0], resamples=FEW)
    assert (found.attribute.pairs, found.attribute.missing) == (1, 2)
    assert found.attribute.drop.value == 1
    assert (found.control.pairs, found.control.missing) == (0, 1)
    assert math.isnan(found.net.value)
    assert common.selective([2], [1], resamples=FEW).control is None


def test_too_little_for_an_interval():
    one = common.selective([2], [1], resamples=FEW).attribute
    assert one.relative_shrink.value == 0.5
    assert math.isnan(one.relative_shrink.low)
    assert math.isnan(one.drop.high)
    nothing = common.selective([], [], resamples=FEW).attribute
    assert nothing.pairs == 0
    assert math.isnan(nothing.drop.value)


def test_no_overshoot_among_a_hundred_pairs_still_leaves_room():
    """None of 100: up to 1 - .05^(1/100) = 2.95 % of such pairs may overshoot."""
    found = common.selective(np.full(100, 2.0), np.full(100, 1.0), resamples=FEW).attribute.overshoot
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(0.0295, abs=1e-4)


# --------------------------------------------------------------------------- alignment


def test_tokens_before_the_first_difference_do_not_count():
    assert common.aligned([1, 2, 3, 4], [1, 9, 3, 4]) == [(2, 2), (3, 3)]
    assert common.aligned([1, 2], [1, 9]) == []
    assert common.aligned([1, 2], [1, 2]) == []


def test_alignment_copes_with_words_of_several_tokens_and_has_no_side():
    """a (b c) d e f against a (x) d y f: d and f are shared, at other places."""
    one, two = [1, 2, 3, 4, 5, 6], [1, 9, 4, 8, 6]
    assert common.aligned(one, two) == [(3, 2), (5, 4)]
    assert common.aligned(two, one) == [(2, 3), (4, 5)]
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = (rng.integers(0, 5, rng.integers(1, 12)).tolist() for _ in range(2))
        found = common.aligned(a, b)
        assert [(j, i) for i, j in common.aligned(b, a)] == found
        assert all(a[i] == b[j] for i, j in found)
        assert all(i < k and j < m for (i, j), (k, m) in itertools.pairwise(found))


# --------------------------------------------------------------------------- overall forgetting and selectivity


def test_overall_forgetting_is_the_mean_over_documents():
    found = common.overall([0.1, 0.3, math.nan, 0.2], [0.0, -0.1, 5.0, 0.4], ["prose", "code", "code", "prose"])
    assert found.kl.value == pytest.approx(0.2)
    assert found.nll_change.value == pytest.approx(0.1)
    assert found.by_domain["prose"].kl.value == pytest.approx(0.15)
    assert found.by_domain["code"].nll_change.value == pytest.approx(-0.1)
    assert (found.kl.n, found.by_domain["code"].kl.n, found.missing) == (3, 1, 1)
    assert "3 documents" in found.note
    assert not common.overall(np.full(200, 0.1)).note
    assert common.overall(np.full(199, 0.1)).note
    assert math.isnan(common.overall([0.1, 0.2]).nll_change.value)


def test_selectivity_by_hand():
    """Gaps 2 to .5 on pairs of 3 shared tokens: 1.5 / 3 = .5 per token; over OF .1: 5. Of pairs of 1 and 5 tokens: 3 / 6."""
    assert common.selectivity([2] * 4, [0.5] * 4, [3] * 4, [0.1] * 9).value == pytest.approx(5)
    assert common.selectivity([2, 2], [0.5, 0.5], [1, 5], [0.1, 0.1]).value == pytest.approx(5)
    assert common.selectivity([2, math.nan], [0.5, 1], [3, 700], [0.1, math.nan, 0.1]).value == pytest.approx(5)


def test_selectivity_is_not_defined_for_a_model_that_did_not_move():
    assert math.isnan(common.selectivity([2] * 4, [0.5] * 4, [3] * 4, [0.99e-4] * 9).value)
    assert common.selectivity([2] * 4, [0.5] * 4, [3] * 4, [1.01e-4] * 9).value > 0


def test_selectivity_carries_the_doubt_of_both_samples():
    rng = np.random.default_rng(0)
    old = np.full(400, 2.0)
    new = old - rng.normal(1, 0.2, 400)
    steady, wild = np.full(30, 0.1), rng.exponential(0.1, 30)
    wild *= 0.1 / wild.mean()
    narrow, wide = (common.selectivity(old, new, np.full(400, 4), kl) for kl in (steady, wild))
    assert narrow.value == pytest.approx(wide.value)
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)


# --------------------------------------------------------------------------- transitions


def test_four_options_by_hand():
    """k = 4, A0 .6, A1 .5, F .2, B .1: nested c = .4 / 4 = .1, so .1 and 0; independent c = .4 x .5 / 3 = .066667."""
    sides = told(0.6, 0.5, 0.2, 0.1)
    nested, loose = (common.transitions(*sides, 4, form=form, resamples=FEW) for form in ("nested", "independent"))
    assert (nested.guessed, nested.forgotten_adjusted.value, nested.learned_adjusted.value) == near((0.1, 0.1, 0))
    assert loose.guessed == near(0.4 * 0.5 / 3)
    assert (loose.forgotten_adjusted.value, loose.learned_adjusted.value) == near((0.2 - 0.2 / 3, 0.1 - 0.2 / 3))
    for found in (nested, loose):
        assert found.forgotten.value - found.learned.value == near(found.right_before.value - found.right_after.value)
    assert nested.forgotten_known.value == near(0.1 * 4 / 3)
    assert (nested.lost, nested.won, nested.test) == (320, 160, "exact McNemar")
    assert nested.p == pytest.approx(reference.binomtest(160, 480).pvalue)


@pytest.mark.parametrize("form", ["nested", "independent"])
def test_pure_guessing_is_taken_off_whole(form):
    """k = 4, A = .25: F = B = 1/4 x 3/4 = .1875 = c under both forms."""
    found = common.transitions(*told(0.25, 0.25, 0.1875, 0.1875), 4, form=form, resamples=FEW)
    assert found.guessed == near(0.1875)
    assert (found.forgotten_adjusted.value, found.learned_adjusted.value) == near((0, 0))


def test_a_lineage_with_a_known_answer():
    """Half known, a fifth of those forgotten, guesses redrawn, k = 4: F .16875, B .09375, A .625 to .55. Nested c = .375 / 4:
    F_adj .075, B_adj 0 and F_know .1, the truth. The independent form would say .1125 and a false .0375."""
    sides = told(0.625, 0.55, 0.16875, 0.09375, n=3200)
    found = common.transitions(*sides, 4, resamples=FEW)
    assert (found.guessed, found.forgotten_adjusted.value) == near((0.09375, 0.075))
    assert (found.learned_adjusted.value, found.forgotten_known.value) == near((0, 0.1))
    wrong = common.transitions(*sides, 4, form="independent", resamples=FEW)
    assert (wrong.guessed, wrong.forgotten_adjusted.value) == near((0.05625, 0.1125))
    assert wrong.learned_adjusted.value == near(0.0375)


def test_unrelated_models():
    """Knowing 50 % and 40 % independently: A .625 and .55, F .28125, c = .375 x .45 / 3 = .05625, so .225 = .5 x .6 x 3/4."""
    found = common.transitions(*told(0.625, 0.55, 0.28125, 0.20625, n=3200), 4, form="independent", resamples=FEW)
    assert found.guessed == near(0.05625)
    assert found.forgotten_adjusted.value == near(0.225)


def test_free_text_has_nothing_to_guess_and_questions_of_two_sizes_are_counted_apart():
    """Half the items free (F .2), half with 2 options (A .8 and .7, F .2, c = .2 / 2 = .1): F_adj = (.2 + .1) / 2 = .15,
    c = .05, F_know = (.2 + .2) / 2. Pooled as one k the c would be another."""
    free, two = told(0.6, 0.5, 0.2, 0.1), told(0.8, 0.7, 0.2, 0.1)
    before, after = (np.r_[a, b] for a, b in zip(free, two, strict=True))
    k = np.r_[np.full(len(free[0]), math.inf), np.full(len(two[0]), 2)]
    found = common.transitions(before, after, k, resamples=FEW)
    assert (found.guessed, found.forgotten_adjusted.value, found.forgotten_known.value) == near((0.05, 0.15, 0.2))
    assert set(found.by_options) == {"2"}
    alone = common.transitions(*free, math.inf, resamples=FEW)
    assert (alone.guessed, alone.forgotten_adjusted.value, alone.forgotten_known.value) == near((0, 0.2, 0.2))


@pytest.mark.parametrize("nested", [True, False])
def test_the_figures_are_those_of_the_receipt_and_means_over_seeds(nested):
    rng = np.random.default_rng(0)
    before, after = rng.integers(0, 2, 300), rng.integers(0, 2, (2, 300))
    k, form = rng.choice([2, 3, 5], 300), "nested" if nested else "independent"
    receipts = [stats.transitions(before, row, options=k, nested=nested) for row in after]
    both = common.transitions(before, after, k, form=form, resamples=FEW)
    first = common.transitions(before, after[0], k, form=form, resamples=FEW)
    for found, wanted in ((first, receipts[:1]), (both, receipts)):
        assert found.guessed == pytest.approx(np.mean([one.guessed for one in wanted]))
        for name in ("forgotten", "learned", "forgotten_adjusted", "learned_adjusted", "forgotten_known"):
            assert getattr(found, name).value == pytest.approx(np.mean([getattr(one, name) for one in wanted])), name
    assert (first.test, both.test) == ("exact McNemar", "t over seeds and items")
    lost = both.by_options["3"].forgotten
    assert lost == pytest.approx(np.mean((before > after)[:, k == 3]))


def test_an_answer_that_cannot_be_read_is_wrong_and_counted():
    found = common.transitions([1, 1, math.nan, 0], [1, math.nan, math.nan, 1], math.inf, resamples=FEW)
    assert (found.unparsed_before, found.unparsed_after) == (0.25, 0.5)
    assert (found.lost, found.won) == (1, 1)
    assert found.right_before.value == 0.5


def test_where_none_was_lost_some_can_hide():
    found = common.transitions(np.ones(100), np.ones(100), 4, resamples=FEW)
    assert found.forgotten.value == found.forgotten_adjusted.value == 0
    assert found.forgotten.high == found.forgotten_known.high == pytest.approx(0.0295, abs=1e-4)


def test_clusters_change_the_test():
    before, after = [1, 1, 1, 1, 0, 1], [0, 0, 0, 0, 0, 1]
    plain = common.transitions(before, after, 4, clusters=list("abcdef"), resamples=FEW)
    grouped = common.transitions(before, after, 4, clusters=list("aabbcd"), resamples=FEW)
    assert (plain.test, plain.p) == ("exact McNemar", 0.125)
    assert (grouped.test, grouped.p) == ("sign flips of clusters", 0.5)


def test_wrong_scores_are_refused():
    for before, after, k, form in [([0.5], [1], 4, "nested"), ([1], [1], 1, "nested"), ([1], [1], 4, "nestled")]:
        with pytest.raises(ValueError, match="0, 1 or NaN"):
            common.transitions(before, after, k, form=form)


# --------------------------------------------------------------------------- all of it


def test_a_model_against_itself_is_exactly_zero():
    gaps = np.array([1.7, -0.3, 2.2])
    documents = [common.Document("", 0.0, 0.0, 5)] * 3
    pairs = [common.Gap(g, g, g, g, 2) for g in gaps]
    found = common.of_tables(documents, pairs, pairs, resamples=FEW)
    assert found.overall.kl == common.Estimate(0, 0, 0, 3)
    assert found.overall.nll_change.value == 0
    for side in (found.selective, found.sentences):
        for name in ("drop", "shrink", "relative_shrink", "overshoot"):
            assert getattr(side.attribute, name).value == 0
        assert side.net.value == 0
    assert math.isnan(found.selectivity.value)
    right = common.transitions([1, 0, 1], [1, 0, 1], 4, resamples=FEW)
    assert right.forgotten.value == right.learned.value == 0
    assert right.p == 1


def test_a_pair_without_shared_tokens_is_excluded_from_one_measure_only():
    nan = math.nan
    pairs = [common.Gap(2, 1, 3, 1.5, 4), common.Gap(nan, nan, 1, 1, 0), common.Gap(1, 1, 2, 2, 2)]
    found = common.of_tables([common.Document("", 0.5, 0.1, 3)] * 4, pairs, pairs[1:2], resamples=FEW)
    shared, whole = found.selective.attribute, found.sentences.attribute
    assert (shared.pairs, shared.excluded, shared.missing) == (2, 1, 0)
    assert (whole.pairs, whole.excluded) == (3, 0)
    assert shared.shrink.value == 0.5
    assert whole.shrink.value == 0.5
    assert (found.selective.control.pairs, found.selective.control.excluded) == (0, 1)
    # the sum of shrinks 1 over 6 shared tokens, over OF .5
    assert found.selectivity.value == pytest.approx(1 / 6 / 0.5)


def test_results_become_plain_numbers():
    found = common.of_tables([common.Document("a", 0.5, 0.1, 3)] * 4, [common.Gap(2, 1, 3, 1.5, 4)] * 3, resamples=FEW)
    json.dumps(dataclasses.asdict(found))
    json.dumps(dataclasses.asdict(common.transitions([1, 0], [0, 1], [4, math.inf], resamples=FEW)))


def test_the_same_numbers_give_the_same_intervals():
    rng = np.random.default_rng(0)
    old, new = rng.normal(0, 1, (2, 50))
    assert common.selective(old, new, old, new) == common.selective(old, new, old, new)


def test_numbers_need_no_torch():
    code = (
        "import sys; from untax.diagnostics import common, flips, scored, shifts; "
        "bad = {'torch', 'transformers', 'peft', 'trl'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
