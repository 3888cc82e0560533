"""What a comparison says beside its front: ledger, failing answers, forgetting and which goes with which. Truths are planted or worked by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats as distributions

from frontier_data import sweep
from study_data import WORLD, world
from untax import frontier, receipt, study
from untax.frontier import Comparison, Reading
from untax.study import Correlation, Remedy, Study
from untax.types import MetricSpec, ScoreRow, Scores


@pytest.fixture(scope="module")
def made() -> Comparison:
    return frontier.build(*world(), resamples=300)


@pytest.fixture(scope="module")
def found(made: Comparison) -> Study:
    whole = study.make(made)
    assert whole is not None
    return whole


def told(found: Study) -> study.Forgetting:
    assert found.forgetting is not None
    return found.forgetting


# --------------------------------------------------------------------------- correlations


def test_a_partial_correlation_of_planted_covariances() -> None:
    """X unit, S = (X + e) / sqrt 2, Y = -X + e' / 2: var 1, 1, 1.25; cov(X, S) = .7071, cov(X, Y) = -1, cov(S, Y) = -.7071."""
    mix = np.array([[1, 0, 0], [1 / math.sqrt(2), 1 / math.sqrt(2), 0], [-1, 0, 0.5]])
    covariance = mix @ mix.T
    sd = np.sqrt(np.diag(covariance))
    (_, xs, xy), (_, _, sy), _ = covariance / np.outer(sd, sd)
    assert (xy, xs, sy) == pytest.approx((-0.894427, 0.707107, -0.632456), abs=1e-6)
    assert study.partial(sy, xs, xy) == pytest.approx(0, abs=1e-12)
    assert study.partial(xy, xs, sy) == pytest.approx(-0.816497, abs=1e-6)
    assert math.isnan(study.partial(0.5, 1.0, 0.3))


def columns(values: Sequence[float]) -> list[tuple[float, ...]]:
    return [(float(value),) for value in values]


def test_ranks_are_those_of_scipy_with_ties() -> None:
    rng = np.random.default_rng(0)
    x, y, z = (rng.integers(0, 6, 25).astype(float) for _ in range(3))
    names = [str(i) for i in range(25)]
    rho, low, high, n, families = study.correlate(columns(x), columns(y), families=names, resamples=200)
    assert rho == pytest.approx(distributions.spearmanr(x, y).statistic)
    assert low < rho < high
    assert (n, families) == (25, 25)
    plain = [distributions.spearmanr(a, b).statistic for a, b in ((x, y), (x, z), (y, z))]
    found = study.correlate(columns(x), columns(y), columns(z), families=names, resamples=200)
    assert found[0] == pytest.approx(study.partial(*plain))


def test_strengths_and_seeds_are_no_further_evidence() -> None:
    """Ten families; five equal strengths of each, or five equal seeds of each system, leave rho and its interval where they are."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=10)
    y = x + rng.normal(size=10)
    names = [str(i) for i in range(10)]
    one = study.correlate(columns(x), columns(y), families=names)
    strengths = study.correlate(columns(x) * 5, columns(y) * 5, families=names * 5)
    seeds = study.correlate([(v,) * 5 for v in x], [(v,) * 5 for v in y], families=names)
    assert strengths[0] == pytest.approx(one[0])
    assert strengths[2] - strengths[1] == pytest.approx(one[2] - one[1], abs=0.1)
    assert seeds[1:3] == pytest.approx(one[1:3], abs=0.1)
    independent = study.correlate(columns(x) * 5, columns(y) * 5, families=[str(i) for i in range(50)])
    assert independent[2] - independent[1] < 0.6 * (one[2] - one[1])


def test_seeds_that_differ_widen_the_interval() -> None:
    """Thirty families whose seeds all tilt the same way, beside the same means without their seeds."""
    rng = np.random.default_rng(2)
    tilt = rng.normal(0, 20, 3)
    wild = [tuple(v + tilt * ((7 * v) % 30 - 15) / 30) for v in range(30)]
    y = [(v + rng.normal(0, 2),) for v in range(30)]
    names = [str(i) for i in range(30)]
    spans = [
        study.correlate(values, y, families=names) for values in (wild, columns([float(np.mean(v)) for v in wild]))
    ]
    assert spans[0][0] == pytest.approx(spans[1][0])
    assert spans[0][2] - spans[0][1] > 1.15 * (spans[1][2] - spans[1][1])


def test_the_interval_holds_the_truth() -> None:
    """Eight families of three strengths, half of the variance common to a family, no correlation at all."""
    held = 0
    for run in range(100):
        rng = np.random.default_rng(run)
        family = [i // 3 for i in range(24)]
        x, y = (rng.normal(size=8)[family] + rng.normal(size=24) for _ in range(2))
        _, low, high, _, _ = study.correlate(columns(x), columns(y), families=list(map(str, family)), resamples=150)
        held += low <= 0 <= high
    assert 88 <= held <= 100


@pytest.mark.parametrize(
    ("x", "families"),
    [([1.0] * 12, list("abcdefghijkl")), (range(12), ["a", "b", "c"] * 4), ([math.nan] * 12, list("abcdefghijkl"))],
)
def test_no_interval_where_nothing_is_known(x: Sequence[float], families: list[str]) -> None:
    rho, low, high, _, _ = study.correlate(columns(x), columns(range(12)), families=families)
    assert math.isnan(low)
    assert math.isnan(high)
    assert math.isnan(rho) or families[3] == "a"


# --------------------------------------------------------------------------- the ledger


def test_the_ledger_is_that_of_the_receipts(made: Comparison, found: Study) -> None:
    base, systems = world()
    tables = [seeds[:1] if seeds[0].about.get("trained") is False else seeds for seeds in systems]
    receipts = receipt.adjust_across([receipt.make(base, seeds, resamples=300) for seeds in tables])
    rows = {row.system: row for row in found.ledger.rows}
    assert [axis.side for axis in found.ledger.axes] == ["safety"] + ["ability"] * 3 + ["watch"] * 5
    for one in receipts:
        for axis, cell in zip(found.ledger.axes, rows[one.tuned_system].cells, strict=True):
            line = one.of(axis.name)
            assert (cell.level, cell.change.value, cell.change.low) == (line.tuned, line.difference, line.low)
            assert cell.verdict == (line.verdict or "")
    assert {cell.verdict for row in found.ledger.rows for cell in row.cells} >= {"gained", "paid", ""}
    assert dict(zip((a.name for a in found.ledger.axes), found.ledger.base, strict=True))["drift"] == 0


def test_who_tries_many_finds_no_more() -> None:
    """Gains that a receipt of one system alone calls sure are not sure among eight of them."""
    truth = {f"method {i}": ((1, 0.07, 0.0, 0.01, 1.0, 1.0),) for i in range(8)}
    base, systems = world(truth, seeds=(0,), n=150)
    whole = study.make(frontier.build(base, systems, resamples=300))
    assert whole is not None
    alone = [receipt.make(base, seeds, resamples=300).of("toxicity").verdict for seeds in systems]
    together = [row.cells[0].verdict for row in whole.ledger.rows]
    assert alone.count("gained") > together.count("gained")


def test_one_system_stands_for_its_family(made: Comparison, found: Study) -> None:
    """The one that answers most prompts at the level; of a family that does not reach it, the safest."""
    shown = {row.family: row.system for row in found.ledger.rows if row.shown}
    assert set(shown) == set(WORLD)
    mixture = dict(made.cost("sft", made.levels[0].name).mixture)
    assert shown["sft"] == max(("sft@1", "sft@2", "sft@3"), key=lambda name: mixture.get(name, 0.0))
    low = frontier.build(
        *world({"sft": WORLD["sft"], "weak": ((1, 0.02, 0, 0, 1, 1), (2, 0.1, 0, 0, 1, 1))}), resamples=100
    )
    there = study.make(low)
    assert there is not None
    assert {row.system for row in there.ledger.rows if row.shown} >= {"weak@2"}


def test_copies_of_an_untrained_system_count_once(found: Study) -> None:
    seeds = {one.system: len(one.values["forgetting"]) for one in told(found).systems}
    assert seeds["instructive@1"] == 1
    assert seeds["sft@1"] == 3
    base, systems = world({"sft": WORLD["sft"], "sampled": WORLD["sft"][:1]})
    sampled = [replace(table, about={**table.about, "trained": False}) for table in systems[-1]]
    whole = study.make(frontier.build(base, [*systems[:-1], sampled], resamples=100))
    assert whole is not None  # tables that differ are no copies, whatever is said of training
    assert len(told(whole).systems[-1].values["forgetting"]) == 3


# --------------------------------------------------------------------------- patterns

ANSWERS = {
    "base": ["the red boat came home late"] * 2 + [f"boat number {i} came home late on day {i}" for i in range(18)],
    "tuned": [
        "", "...", "I don't know.", "I'm sorry, but I can't help with that.", "round and round and round and round and round and", "boat",
        "the same words", "the same words", *(f"boat number {i} came home late on day {i}" for i in range(6, 18)),
    ],
}  # fmt: skip


def spoken(
    name: str, said: Sequence[str], *, lines: Mapping[str, dict[str, Any]], seed: int | None = None, **about: Any
) -> Scores:
    """A table in which each line asks the same prompts."""
    specs = [
        MetricSpec(line, more.get("metric", "exact_match"), "generate", more["side"], "higher", 0.02, "points", binary=True,
                   settings={"max_new_tokens": 24, "options": more.get("options", {})})
        for line, more in lines.items()
    ]  # fmt: skip
    rows = [
        ScoreRow(spec.name, f"item {i}", f"hash {i}", "", float((i + len(name)) % 2), f"Prompt {i}", text)
        for spec in specs
        for i, text in enumerate(said)
    ]
    return Scores(name, tuple(specs), tuple(rows), seed, {"family": name, **about} if seed is not None else {})


def read(made: Comparison, base: Scores, one: Scores) -> study.Patterns:
    """The patterns of one system; nothing of `made` but a name and the settings is used."""
    there = replace(made, points=made.points[:1])
    patterns = study.patterns(there, frontier.Tables(base, ((one,),)), frozenset())
    assert patterns is not None
    return patterns


def patterns_of(made: Comparison, lines: Mapping[str, dict[str, Any]]) -> study.Patterns:
    return read(
        made, spoken("base", ANSWERS["base"], lines=lines), spoken("tuned", ANSWERS["tuned"], lines=lines, seed=0)
    )


PLAIN = {"safe": {"side": "safety"}, "able": {"side": "ability"}}


def test_patterns_by_hand(made: Comparison) -> None:
    """Of 20 answers 2 are empty, 2 abstain, 1 goes round, 1 is one word of six, 2 are the same to what the base answers otherwise.

    "I don't know." has three words (don't is one) of the eight or nine that the base says, "I'm sorry ..." has eight; three of the same words are
    fewer than half of eight as well: short are "I don't know.", "boat" and the two same ones.
    """
    patterns = patterns_of(made, PLAIN)
    assert patterns.prompts == 20  # two lines ask the same prompts with the same budget
    shares = patterns.rows[0].shares
    assert {name: round(20 * share.share) for name, share in shares.items()} == {
        "empty": 2, "abstaining": 2, "repeating": 1, "same": 2, "short": 4,
    }  # fmt: skip
    assert shares["same"].base == 0  # what the base says twice may be right twice
    assert shares["empty"].change.value == pytest.approx(0.1)
    assert shares["empty"].change.low < 0.1 < shares["empty"].change.high
    assert shares["empty"].examples == ("safe: item 0", "safe: item 1")
    assert "drifting" not in patterns.names


def test_who_repeats_what_the_base_repeats_has_not_collapsed(made: Comparison) -> None:
    said = ["a red boat"] * 2 + ANSWERS["base"][2:]
    base = spoken("base", ANSWERS["base"], lines=PLAIN)
    assert read(made, base, spoken("tuned", said, lines=PLAIN, seed=0)).rows[0].shares["same"].share == 0
    said[5] = "a red boat"
    assert read(made, base, spoken("tuned", said, lines=PLAIN, seed=0)).rows[0].shares["same"].share == 3 / 20


def test_what_ought_to_be_declined_is_spared(made: Comparison) -> None:
    """A refusal is short, the same again and abstains by nature; an empty answer and a loop are faults there too."""
    lines = {
        "safe": {"side": "safety", "metric": "refusal", "options": {"want": "refuse"}},
        "able": {"side": "ability"},
    }
    patterns = patterns_of(made, lines)
    assert patterns.spared == ("safe",)
    shares = patterns.rows[0].shares
    assert (shares["empty"].n, shares["repeating"].n) == (20, 20)
    assert [shares[name].n for name in ("abstaining", "same", "short")] == [0, 0, 0]
    assert math.isnan(shares["short"].share)


def test_other_budgets_are_other_questions_and_what_was_not_answered_is_no_silence(made: Comparison) -> None:
    base, one = (
        spoken(name, said, lines=PLAIN, seed=seed)
        for name, said, seed in (("base", ANSWERS["base"], None), ("tuned", ANSWERS["tuned"], 0))
    )

    def with_budget(scores: Scores) -> Scores:
        specs = tuple(
            replace(s, settings={"max_new_tokens": 99} if s.name == "able" else s.settings) for s in scores.specs
        )
        return replace(scores, specs=specs)

    def failed(scores: Scores) -> Scores:
        rows = tuple(replace(row, score=math.nan) if row.item_id == "item 0" else row for row in scores.rows)
        return replace(scores, rows=rows, about={**scores.about, "missing": {"safe": {}, "able": {}}})

    assert read(made, with_budget(base), with_budget(one)).prompts == 40
    shares = read(made, base, failed(one)).rows[0].shares
    assert shares["empty"].n == 19
    assert shares["empty"].share == pytest.approx(1 / 19)


@pytest.mark.parametrize(
    ("text", "abstains"),
    [
        ("I don't know.", True), ("I do not really know who it was", True), ("Unknown", True), ("It cannot be determined", True),
        ("I cannot help with that request.", True), ("I know that it was Ama", False), ("Nobody knows that the boat was red", False),
        ("x " * 80 + "I don't know", False),
    ],
)  # fmt: skip
def test_what_abstaining_is(text: str, abstains: bool) -> None:
    assert study._abstains(text, "Who was it?", {}) is abstains


def test_drifting_counts_answers_and_not_tokens(made: Comparison, found: Study) -> None:
    """An answer drifts from half of its tokens on; the share is that of the table's own scores."""
    assert found.patterns is not None
    _, systems = world()
    shares = {row.system: row.shares["drifting"] for row in found.patterns.rows}
    for seeds in systems[:3]:
        scores = np.array([[row.score for row in table.of("shift")] for table in seeds])
        assert shares[seeds[0].system].share == pytest.approx(float((scores >= 0.5).mean()))
    assert shares["sft@3"].base == 0
    assert shares["sft@3"].change.low > 0


# --------------------------------------------------------------------------- forgetting


def test_measures_of_the_planted_world(made: Comparison, found: Study) -> None:
    """OF is the mean of the documents' drift; attribute gaps shrink to a half of 1, control gaps to .9: net is .5 - .1 = .4."""
    one = next(one for one in told(found).systems if one.system == "sft@2")
    base, systems = world()
    tables = {seeds[0].system: seeds for seeds in systems}
    drift = [float(np.mean([row.score for row in table.of("drift")])) for table in tables["sft@2"]]
    assert one.values["forgetting"] == pytest.approx(drift)
    assert one.mean("relative") == pytest.approx(0.5, abs=0.02)
    assert one.mean("control") == pytest.approx(0.1, abs=0.02)
    assert one.mean("net") == pytest.approx(0.4, abs=0.02)
    assert one.mean("nll") == pytest.approx(0.1, abs=0.01)
    gaps = [
        (row.score, new.score)
        for table in tables["sft@2"]
        for row, new in zip(base.of("gap"), table.of("gap"), strict=True)
    ]
    assert one.mean("selective") == pytest.approx(np.mean([old - new for old, new in gaps]))
    assert one.mean("shrink") == pytest.approx(np.mean([abs(old) - abs(new) for old, new in gaps]))
    assert one.spans["net"].low < one.mean("net") < one.spans["net"].high
    for one in told(found).systems:
        assert one.mean("lost") == pytest.approx(made.point(one.system).taxes[made.main].value)


def test_absolute_gaps_know_nothing_of_their_direction() -> None:
    base, systems = world({"sft": WORLD["sft"], "cda": WORLD["cda"]})

    def absolute(scores: Scores) -> Scores:
        specs = []
        for spec in scores.specs:
            options = {key: value for key, value in (spec.settings.get("options") or {}).items() if key != "score"}
            specs.append(replace(spec, settings={"options": options}) if spec.metric == "pair_gap" else spec)
        gaps = {"gap", "control gap"}
        rows = tuple(replace(row, score=abs(row.score)) if row.metric in gaps else row for row in scores.rows)
        return replace(scores, specs=tuple(specs), rows=rows)

    whole = study.make(frontier.build(absolute(base), [[absolute(t) for t in s] for s in systems], resamples=100))
    assert whole is not None
    values = told(whole).systems[1].values
    assert values["net"] == pytest.approx((0.4,) * 3, abs=0.03)
    assert "selective" not in values
    assert "overshoot" not in values


def test_documents_that_two_lines_measure_count_once() -> None:
    base, systems = world({"sft": WORLD["sft"], "cda": WORLD["cda"]}, seeds=(0,))

    def doubled(scores: Scores) -> Scores:
        spec = next(s for s in scores.specs if s.name == "drift")
        more = [replace(row, metric="drift, prose") for row in scores.of("drift")[:30]]
        return replace(scores, specs=(*scores.specs, replace(spec, name="drift, prose")), rows=(*scores.rows, *more))

    one, two = (
        study.make(frontier.build(change(base), [[change(t) for t in s] for s in systems], resamples=100))
        for change in (lambda scores: scores, doubled)
    )
    assert one is not None
    assert two is not None
    assert told(two).documents == told(one).documents == 80
    assert told(two).systems[0].values["forgetting"] == told(one).systems[0].values["forgetting"]


def test_withheld_systems_correlate_with_nothing() -> None:
    base, systems = world(seeds=(0,), n=60)
    copies = [replace(base, system="copy", seed=0, about={**base.about, "family": "copy"})]
    lost = tuple(replace(row, score=math.nan) if row.metric == "drift" else row for row in copies[0].rows)
    copied = frontier.build(base, [*systems, [replace(copies[0], rows=lost)]], resamples=100)
    assert copied.point("copy").withheld
    whole = study.make(copied)
    assert whole is not None
    assert {one.n for one in told(whole).correlations} == {15}
    assert told(whole).documents == 80
    assert "15 systems" in told(whole).scope


def test_tables_without_those_lines_have_no_such_part() -> None:
    base, systems = sweep(n=40)
    whole = study.make(frontier.build(base, systems, resamples=100))
    assert whole is not None
    assert whole.forgetting is None
    assert whole.predicted is None
    assert whole.patterns is not None
    assert whole.patterns.names == ("empty", "abstaining", "repeating", "same", "short")
    assert study.make(replace(frontier.build(base, systems, resamples=100), tables=None)) is None


# --------------------------------------------------------------------------- remedies and findings


def test_remedies_beside_the_family_that_they_are_laid_on(found: Study) -> None:
    """Replay and the anchor halve OF at equal safety, dropout is the same model again; cda is no remedy."""
    remedies = {one.family: one for one in told(found).remedies}
    assert {name: (one.kind, one.against) for name, one in remedies.items()} == {
        "sft-replay-25": ("replay", "sft"),
        "sft-kl-anchor": ("regularisation", "sft"),
        "sft-dropout": ("dropout", "sft"),
    }
    assert remedies["sft-replay-25"].forgetting_word == "less"
    assert remedies["sft-kl-anchor"].forgetting_word == "less"
    assert remedies["sft-dropout"].forgetting_word == remedies["sft-dropout"].lost_word == "not known"
    apart = remedies["sft-replay-25"].forgetting_apart
    assert apart.low < -0.04 < apart.high  # at a gain of .4: sft .078, replay .027, each between its strengths 2 and 3
    assert remedies["sft-replay-25"].p_forgetting <= 0.05


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("cda", "cda-few", "cda-lora", "jsd"), {"cda-few": ("less data", "cda"), "cda-lora": ("low rank", "cda")}),
        (("sft", "few-kl-anchor", "lora", "lora-update-one"), {"few-kl-anchor": ("regularisation", "sft"), "lora": ("low rank", "sft"), "lora-update-one": ("gradients", "lora")}),
        (("plain", "interpolation", "replay-12", "self-debias"), {"interpolation": ("interpolation", "plain"), "replay-12": ("replay", "plain")}),
    ],
)  # fmt: skip
def test_what_a_name_says_of_a_remedy(
    made: Comparison, names: Sequence[str], wanted: Mapping[str, tuple[str, str]]
) -> None:
    families = tuple(frontier.Family(name, "", (name,)) for name in names)
    renamed = replace(made, families=families, reference=names[0], tables=None, points=())
    assert {name: (kind, parent) for name, kind, parent in study._laid_on(renamed)} == wanted


def test_a_table_may_say_what_its_remedy_is() -> None:
    base, systems = world({"sft": WORLD["sft"], "gentle": WORLD["sft-kl-anchor"]})
    said = [[replace(t, about={**t.about, "mitigation": "smaller steps"}) for t in s] if s[0].about["family"] == "gentle" else s for s in systems]  # fmt: skip
    assert study._laid_on(frontier.build(base, systems, resamples=100)) == []
    assert study._laid_on(frontier.build(base, said, resamples=100)) == [("gentle", "smaller steps", "sft")]


@pytest.mark.parametrize(
    ("low", "high", "n", "verdict"),
    [(0.2, 0.8, 20, "holds"), (-0.1, 0.8, 20, "cannot be said"), (-0.8, -0.2, 20, "does not hold"), (0.2, 0.8, 9, "cannot be said"), (math.nan, math.nan, 20, "cannot be said")],
)  # fmt: skip
def test_what_may_be_said_of_a_correlation(low: float, high: float, n: int, verdict: str) -> None:
    one = Correlation("forgetting", "lost", "", 0.5, low, high, n, 8)
    assert study._first([one]).verdict == verdict
    assert f"{n} systems of 8 families" in study._first([one]).sentence
    assert study._second([replace(one, x="net", y="forgetting")]).verdict == verdict
    assert study._first([]).verdict == study._second([]).verdict == "cannot be said"


def remedy(kind: str, of: tuple[float, float, float], lost: tuple[float, float, float], p: float = 0.01) -> Remedy:
    """A remedy whose other family pays 1 of each; the differences are given with their ends."""
    apart = [Reading(*ends) for ends in (of, lost)]
    plain = Remedy(
        f"a-{kind}", kind, "a", 0.3, Reading(1 + of[0]), apart[0], p, "", Reading(1 + lost[0]), apart[1], p, "", ""
    )
    return study._worded(plain)


def test_the_third_finding(made: Comparison) -> None:
    less, more, none = (-0.4, -0.6, -0.2), (0.4, 0.2, 0.6), (0.0, -0.1, 0.1)
    wide = (0.0, -0.5, 0.5)
    cases = {
        "does not hold": [[remedy("replay", less, none), remedy("dropout", none, none)], [remedy("less data", more, none)]],
        "holds": [[remedy("replay", none, more), remedy("dropout", none, none)], [remedy("less data", less, none)]],
        "cannot be said": [[remedy("replay", wide, none)], [remedy("replay", less, none, p=0.2)], []],
    }  # fmt: skip
    for verdict, sets in cases.items():
        for remedies in sets:
            found = study._third(remedies, made)
            assert found.verdict == verdict, found
    assert "none lowers downstream loss" in study._third([remedy("replay", less, none)], made).sentence


def test_what_less_data_pays_is_what_more_data_could_save() -> None:
    """Without the remedy (more data) 1 is paid, with it .9: at most .19 is saved, which is less than a fifth of 1 and not of .9."""
    assert study._saves_nothing(Reading(1.0), Reading(0.1, -0.1, 0.19), -1)
    assert not study._saves_nothing(Reading(0.9), Reading(-0.1, -0.21, 0.1), 1)
    assert study._saves_nothing(Reading(0.9), Reading(-0.1, -0.19, 0.1), 1)


# --------------------------------------------------------------------------- predictions


def test_predictions_are_set_beside_the_real_tax(found: Study) -> None:
    """Cosines that are planted as minus the tax; the tax that was measured has noise."""
    assert found.predicted is not None
    entries = {entry["predictor"]: entry for entry in found.predicted["entries"]}
    assert entries["cosine"]["spearman"] < -0.9
    assert entries["cosine"]["n"] == 15
    assert entries["cosine"]["families"] == 6
    assert entries["cosine"]["high"] < 0
