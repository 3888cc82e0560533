"""Forgetting and flips read from the score tables of a run: documents, pairs and answers find each other by item, never by row."""

import dataclasses
import json
import math

import pytest

from untax.diagnostics import common
from untax.diagnostics.flips import flips
from untax.diagnostics.scored import gap_lines, of_scores, options_of
from untax.types import MetricSpec, ScoreRow, Scores, UserError

NAN = math.nan


def spec(name, metric, side="ability", *, better="higher", binary=False, chance=None, request="generate", **settings):
    return MetricSpec(name, metric, request, side, better, 0.1, binary=binary, chance=chance, settings=settings)


def rows(line, scores, *, prefix="", answer="said", clusters=None):
    """One row for each item; a score of None leaves the row out."""
    return [
        ScoreRow(
            line.name,
            f"{prefix}{i}",
            f"h{i}",
            clusters[i] if clusters else f"c{i}",
            score,
            f"text {i}",
            f"{answer} {i}",
        )
        for i, score in enumerate(scores)
        if score is not None
    ]


def table(system, parts, seed=None):
    return Scores(system, tuple(line for line, _ in parts), tuple(row for _, some in parts for row in some), seed)


DRIFT = spec("drift", "drift", "watch", better="lower", request="drift")
WORDS = spec("perplexity", "perplexity", better="lower", request="text", options={})
SIGNED = spec("gap", "pair_gap", "watch", request="choices", options={"score": "signed"})
CONTROL = spec("control gap", "pair_gap", "watch", request="choices", options={"score": "signed", "control": True})
FOUR = spec("facts", "choice_accuracy", binary=True, chance=0.25, request="choices")
FREE = spec("counting", "exact_match", binary=True)


def both(*parts, seeds=1):
    """A base table and tuned ones from (line, base scores, tuned scores)."""
    base = table("base", [(line, rows(line, old)) for line, old, _ in parts])
    return base, [table("tuned", [(line, rows(line, new)) for line, _, new in parts], seed=k) for k in range(seeds)]


# --------------------------------------------------------------------------- lines of a suite


def test_overall_forgetting_of_a_run():
    """Drift .1 and .3: OF .2; perplexity 2 to 2.5 and 3 to 2.9: + .2 in the mean. The base may have no drift row at all."""
    base, tuned = both((DRIFT, [None, None], [0.1, 0.3]), (WORDS, [2.0, 3.0], [2.5, 2.9]))
    found = of_scores(base, tuned, resamples=50)
    assert found.overall.kl.value == pytest.approx(0.2)
    assert found.overall.nll_change.value == pytest.approx(0.2)
    assert found.overall.kl.n == 2
    assert found.selective is None
    assert found.selectivity is None
    per_byte = dataclasses.replace(WORDS, settings={"options": {"per": "byte"}})
    base, tuned = both((DRIFT, [0, 0], [0.1, 0.3]), (per_byte, [2.0, 3.0], [2.5, 2.9]))
    assert math.isnan(of_scores(base, tuned, resamples=50).overall.nll_change.value)


def test_a_document_in_two_lines_counts_once_and_has_its_domain():
    prose = dataclasses.replace(DRIFT, name="drift [prose]")
    base, tuned = both((DRIFT, [0, 0, 0], [0.1, 0.3, 0.8]), (prose, [0, 0], [0.1, 0.3]))
    found = of_scores(base, tuned, resamples=50).overall
    assert found.kl.n == 3
    assert found.kl.value == pytest.approx(0.4)
    assert found.by_domain["prose"].kl.value == pytest.approx(0.2)
    assert set(found.by_domain) == {"prose", "drift"}


def test_documents_of_several_files_have_the_file_as_domain():
    line = dataclasses.replace(DRIFT, settings={"data": ["heldout/*.jsonl"]})
    tuned = table("tuned", [(line, [*rows(line, [0.1, 0.1], prefix="code:"), *rows(line, [0.5], prefix="prose:")])])
    found = of_scores(table("base", [(line, [])]), tuned, resamples=50).overall
    assert {name: each.kl.value for name, each in found.by_domain.items()} == pytest.approx({"code": 0.1, "prose": 0.5})


def test_copies_of_an_untrained_system_are_no_further_seeds():
    """Three copies of one table lose two answers, not six; three trainings that happen to agree lose six."""
    base, tuned = both((FOUR, [1, 1, 1, 0], [0, 0, 1, 0]), seeds=3)
    copies = [dataclasses.replace(one, about={"trained": False}) for one in tuned]
    for tables, lost, seeds in ((copies, 2, 1), (tuned, 6, 3)):
        found = of_scores(base, tables, resamples=50)
        assert (found.transitions["facts"].lost, len(found.seeds)) == (lost, seeds)


def test_lines_of_pairs_are_pooled_with_their_like():
    """Signed controls do not put absolute lines of the attribute aside, absolute controls serve signed lines, and centred gaps stand alone."""
    sizes = dataclasses.replace(SIGNED, name="size of gap", settings={"options": {}})
    centred = dataclasses.replace(SIGNED, name="groups", settings={"options": {"centre": "sentence"}})
    plain = dataclasses.replace(CONTROL, name="size of control", settings={"options": {"control": True}})
    assert gap_lines([sizes, CONTROL]) == ([sizes], [CONTROL])
    assert gap_lines([SIGNED, sizes, centred, plain]) == ([SIGNED], [plain])
    assert gap_lines([sizes, centred, CONTROL, plain]) == ([sizes], [CONTROL])
    assert gap_lines([centred, CONTROL]) == ([centred], [])
    assert gap_lines([CONTROL]) == ([], [])
    base, tuned = both((SIGNED, [2, 2], [1, -1]), (plain, [1, 1], [0.5, 0.5]))
    one = of_scores(base, tuned, resamples=50).selective
    assert one.net.value == 0  # both halve
    assert one.attribute.drop.value == 2
    assert math.isnan(one.control.drop.value)


def test_selective_forgetting_of_a_run():
    """Gaps 2, 2 to 1, -1 and control gaps 1, 1 to .5, .5: R .5 each, net 0, SF 2, overshoot 1/2; shrink 1 a pair over OF .2."""
    base, tuned = both((SIGNED, [2, 2], [1, -1]), (CONTROL, [1, 1], [0.5, 0.5]), (DRIFT, [0] * 3, [0.2] * 3))
    found = of_scores(base, tuned, resamples=50)
    one = found.selective
    assert (one.attribute.relative_shrink.value, one.control.relative_shrink.value, one.net.value) == (0.5, 0.5, 0)
    assert (one.attribute.drop.value, one.attribute.overshoot.value) == (2, 0.5)
    assert found.selectivity.value == pytest.approx(5)
    assert found.by_line["gap"] == one
    assert not found.notes


def test_signed_gaps_are_preferred_and_sizes_alone_say_less():
    sizes = dataclasses.replace(SIGNED, name="size of gap", settings={"options": {}})
    base, tuned = both((SIGNED, [2, 2], [1, -1]), (sizes, [2, 2], [1, 1]))
    found = of_scores(base, tuned, resamples=50)
    assert set(found.by_line) == {"gap"}
    assert found.selective.attribute.drop.value == 2
    alone = of_scores(*both((sizes, [2, 2], [1, 1])), resamples=50)
    assert alone.selective.attribute.relative_shrink.value == 0.5
    assert math.isnan(alone.selective.attribute.drop.value)
    assert math.isnan(alone.selective.attribute.overshoot.value)
    assert "score: signed" in alone.notes[0]


def test_several_attributes_are_pooled_and_shown_alone():
    race = dataclasses.replace(SIGNED, name="race")
    base = table("base", [(SIGNED, rows(SIGNED, [2, 2])), (race, rows(race, [4], prefix="r"))])
    tuned = table("tuned", [(SIGNED, rows(SIGNED, [1, 1])), (race, rows(race, [4], prefix="r"))])
    found = of_scores(base, tuned, resamples=50)
    assert found.by_line["gap"].attribute.relative_shrink.value == 0.5
    assert found.by_line["race"].attribute.relative_shrink.value == 0
    assert found.selective.attribute.relative_shrink.value == 1 - 6 / 8
    assert found.selective.control is None


def test_transitions_of_every_binary_ability():
    """Facts: k 4, so c = (1 - .5) / 4 = .125 of F .25; counting is free text: nothing is taken off."""
    quiet = dataclasses.replace(FOUR, name="quiet", side="watch")
    base, tuned = both(
        (FOUR, [1, 1, 0, 0], [1, 0, 0, 0]), (FREE, [1, 1, 0, 0], [1, 0, 1, NAN]), (quiet, [1, 1], [0, 0])
    )
    found = of_scores(base, tuned, resamples=50).transitions
    assert set(found) == {"facts", "counting"}
    assert (found["facts"].guessed, found["facts"].forgotten_adjusted.value) == (0.125, 0.125)
    assert (found["counting"].guessed, found["counting"].forgotten_adjusted.value) == (0, 0.25)
    assert (found["counting"].lost, found["counting"].won, found["counting"].unparsed_after) == (1, 1, 0.25)


def test_an_ability_that_is_better_when_lower_is_right_at_zero():
    line = spec("copied", "copied", better="lower", binary=True)
    found = of_scores(*both((line, [0, 0, 1, 0], [1, 1, 0, 0])), resamples=50).transitions["copied"]
    assert (found.lost, found.won) == (2, 1)
    assert found.right_before.value == 0.75


def test_scores_that_are_no_yes_or_no_are_named_and_left_out():
    found = of_scores(*both((FOUR, [0.5, 1], [1, 0])), resamples=50)
    assert found.transitions == {}
    assert "facts: no transitions" in found.notes[0]


@pytest.mark.parametrize(
    ("line", "k"),
    [
        (FOUR, 4), (FREE, math.inf), (dataclasses.replace(FOUR, chance=0.333), 3), (dataclasses.replace(FOUR, chance=0.5), 2),
        (dataclasses.replace(FOUR, chance=0.0), math.inf), (dataclasses.replace(FOUR, chance=0.7), math.inf),
        (dataclasses.replace(FOUR, chance=None, settings={"choices": ["a", "b", "c"]}), 3),
        (dataclasses.replace(FOUR, chance=None), math.inf),
    ],
)  # fmt: skip
def test_how_many_options_there_are(line, k):
    found, why = options_of(line)
    assert found == k
    assert bool(why) == (line.chance == 0.7 or (line.chance is None and line.request == "choices" and k == math.inf))


def test_rows_find_each_other_by_item_and_what_is_alone_is_counted():
    base = table("base", [(FOUR, rows(FOUR, [1, 0, 1, None]))])
    one = table("tuned", [(FOUR, rows(FOUR, [1, 0, 0, 1])[::-1])], seed=1)
    two = table("tuned", [(FOUR, rows(FOUR, [0, 0, None, 1]))], seed=2)
    found = of_scores(base, [one, two], resamples=50)
    assert found.transitions["facts"].n == 2
    assert found.transitions["facts"].forgotten.value == 0.25  # item 0, lost in one of two seeds
    assert found.notes == ("facts: 2 items are not in every table and were left out",)
    assert found.seeds == (1, 2)


def test_several_seeds_are_means_over_seeds():
    base = table("base", [(SIGNED, rows(SIGNED, [2, 2])), (DRIFT, [])])
    tuned = [
        table("tuned", [(SIGNED, rows(SIGNED, [gap, gap])), (DRIFT, rows(DRIFT, [kl, kl]))], seed=k)
        for k, (gap, kl) in enumerate([(1.0, 0.1), (2.0, 0.3)])
    ]
    found = of_scores(base, tuned, resamples=50)
    assert found.selective.attribute.relative_shrink.value == pytest.approx((0.5 + 0) / 2)
    assert found.overall.kl.value == pytest.approx(0.2)
    assert found.selectivity.value == pytest.approx((1 / 0.1 + 0) / 2)


def test_scores_that_are_missing_are_left_out_and_counted():
    base, tuned = both((DRIFT, [0, 0, 0], [0.1, NAN, 0.3]), (SIGNED, [2, NAN, 2], [1, 1, NAN]))
    found = of_scores(base, tuned, resamples=50)
    assert (found.overall.kl.value, found.overall.missing) == (pytest.approx(0.2), 1)
    assert (found.selective.attribute.pairs, found.selective.attribute.missing) == (1, 2)


def test_a_run_without_any_such_line_says_nothing():
    found = of_scores(table("base", []), [table("tuned", [])])
    assert (found.overall, found.selective, found.transitions, found.by_line) == (None, None, {}, {})
    with pytest.raises(UserError, match="at least one tuned model"):
        of_scores(table("base", []), [])


def test_a_base_against_itself_is_exactly_zero():
    parts = (DRIFT, [0.0] * 4, [0.0] * 4), (SIGNED, [2, -1, 1], [2, -1, 1]), (FOUR, [1, 0, 1], [1, 0, 1])
    found = of_scores(*both(*parts), resamples=50)
    assert found.overall.kl == common.Estimate(0, 0, 0, 4)
    assert found.selective.attribute.drop.value == found.selective.attribute.shrink.value == 0
    assert found.transitions["facts"].forgotten.value == found.transitions["facts"].learned.value == 0
    assert math.isnan(found.selectivity.value)
    json.dumps(dataclasses.asdict(found))


# --------------------------------------------------------------------------- flips


def test_items_lost_and_won_with_both_answers():
    base = table("base", [(FOUR, rows(FOUR, [1, 1, 0, 0, 1], answer="old"))])
    tuned = table("tuned", [(FOUR, rows(FOUR, [1, 0, 1, 0, NAN], answer="new"))])
    found = flips(base, tuned, "facts")
    assert [(flip.item_id, flip.prompt, flip.before, flip.after) for flip in found.lost] == [
        ("1", "text 1", "old 1", "new 1")
    ]
    assert [flip.item_id for flip in found.won] == ["2"]
    assert (found.items, found.missing, found.seeds) == (4, 1, 1)
    assert (found.lost_share, found.won_share) == (0.25, 0.25)


def test_flips_over_seeds_are_sorted_by_the_share_of_seeds():
    """Item 0 is lost in 1 of 3 seeds, item 1 in 3 of 3, item 2 in 1 of 2 (no score in one): 1, then 1/2, then 1/3."""
    base = table("base", [(FOUR, rows(FOUR, [1, 1, 1, 0]))])
    scores = [[1, 0, NAN, 0], [0, 0, 0, 0], [1, 0, 1, 1]]
    tuned = [table("tuned", [(FOUR, rows(FOUR, row, answer=f"seed {k}"))], seed=k) for k, row in enumerate(scores)]
    found = flips(base, tuned, "facts")
    assert [(flip.item_id, flip.share, flip.seeds) for flip in found.lost] == [
        ("1", 1, 3), ("2", 0.5, 1), ("0", pytest.approx(1 / 3), 1)
    ]  # fmt: skip
    assert [flip.after for flip in found.lost] == ["seed 0 1", "seed 1 2", "seed 1 0"]
    assert found.lost_share == pytest.approx((1 / 3 + 3 / 4 + 1 / 4) / 3)


def test_where_lower_is_better_one_is_the_loss():
    line = spec("copied", "copied", better="lower", binary=True)
    found = flips(*both((line, [0, 1], [1, 0])), "copied")
    assert [flip.item_id for flip in found.lost] == ["0"]
    assert [flip.item_id for flip in found.won] == ["1"]


def test_flips_refuse_what_has_none():
    base, tuned = both((FOUR, [1], [1]), (WORDS, [2.0], [3.0]))
    with pytest.raises(UserError, match="Did you mean 'facts'"):
        flips(base, tuned, "fact")
    with pytest.raises(UserError, match="other than 0 and 1"):
        flips(base, tuned, "perplexity")
    json.dumps(dataclasses.asdict(flips(base, tuned, "facts")))
