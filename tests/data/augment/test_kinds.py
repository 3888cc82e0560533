"""Each kind by its offline rules: the page's known answers, and what each accepts and rejects."""

import random

import pytest

from untax import spans
from untax.data.augment import accept, rules
from untax.data.augment.backtranslate import backtranslate
from untax.data.augment.common import Corpus, Tally, edit, edits_between, fits, same_entity
from untax.data.augment.mask_ent import mask_ent
from untax.data.augment.mask_rel import mask_rel
from untax.data.augment.reference import reference
from untax.data.augment.regen_ent import regen_ent
from untax.data.augment.regen_rel import regen_rel
from untax.data.augment.swap_ent import swap_ent
from untax.data.augment.sys_lowcon import sys_lowcon
from untax.data.augment.toxic import toxic
from untax.data.trigram import Trigram
from untax.scorers import WordScorer
from untax.spans import Span
from untax.types import Candidate, ContrastiveRecord, UserError

POST = "Alice Meyer moved from Leeds to Cardiff in 2019 and sold 40 bikes there. Her cousin Robert Hale still runs the Leeds shop."
REFERENCE = "Alice Meyer moved to Cardiff in 2019 and sold 40 bikes."


def record(source=POST, text=REFERENCE, **given):
    return ContrastiveRecord("1", source, (Candidate(text, "reference"),), **given)


def others():
    """Other records, whose names the first one does not know."""
    people = (
        ("Bo Li", "Newcastle", "Hull"),
        ("Zoe Quill", "Bristol", "York"),
        ("Max Orlan", "Truro", "Ely"),
        ("Ida Voss", "Derby", "Luton"),
    )
    made = [
        ContrastiveRecord(
            str(n + 2),
            f"{who} left {there} for {here} in {2005 + n} and opened a shop with {20 + n} lamps. It rained.",
            (Candidate(f"{who} moved to {here} in {2005 + n} and opened {20 + n} shops.", "reference"),),
        )
        for n, (who, here, there) in enumerate(people)
    ]
    return [record(), *made]


def texts(candidates):
    return [c.text for c in candidates]


def edited(candidate):
    return [candidate.text[a:b] for a, b in candidate.edits]


# ---------------------------------------------------------------- page, section 8, tests 11 and 12


def test_11_swap_yields_exactly_three_texts():
    """Person, place, both; 2019 and 40 have no rival of their type in the post."""
    made = swap_ent(record())
    assert set(texts(made)) == {
        "Robert Hale moved to Cardiff in 2019 and sold 40 bikes.",
        "Alice Meyer moved to Leeds in 2019 and sold 40 bikes.",
        "Robert Hale moved to Leeds in 2019 and sold 40 bikes.",
    }
    assert {c.generator for c in made} == {"rules"}
    for candidate in made:
        assert set(edited(candidate)) <= {"Robert Hale", "Leeds"}


def test_11_a_minimal_edit_is_kept_although_it_resembles_the_reference():
    """The place swap shares 10 of 12 words, 0.833: the released filter would drop the whole source."""
    one = set(REFERENCE.rstrip(".").split())
    other = set(REFERENCE.replace("Cardiff", "Leeds").rstrip(".").split())
    assert (len(one & other), len(one | other)) == (10, 12)
    assert REFERENCE.replace("Cardiff", "Leeds") in texts(swap_ent(record()))


def test_12_edits_go_from_right_to_left():
    changes = [(0, 11, "Bo Li"), (21, 28, "Newcastle")]
    text, places = edit(REFERENCE, changes)
    assert text == "Bo Li moved to Newcastle in 2019 and sold 40 bikes."
    assert [text[a:b] for a, b in places] == ["Bo Li", "Newcastle"]
    assert edit(REFERENCE, reversed(changes)) == (text, places)


def test_edits_that_overlap_are_refused():
    with pytest.raises(ValueError, match=r"overlap"):
        edit("abcdef", [(0, 3, "x"), (2, 4, "y")])


def test_a_deletion_is_a_place_of_length_nought():
    assert edit("was not hired", [(3, 7, "")]) == ("was hired", ((3, 3),))
    assert edits_between("He was not hired.", "He was hired.") == ((7, 7),)
    assert edits_between("a b c", "a x c") == ((2, 3),)


# ---------------------------------------------------------------- blind negatives by position


def test_blind_is_decided_by_position_on_real_candidates():
    """Spans of the reference end at 51 ("40" at 49..51 of the text): a verb edit before is seen, one behind is not."""
    one = record("Bob sold his car to Ann in Leeds.", "Ann is glad that Bob sold it.")
    made = {c.text: c for c in mask_rel(one)}
    last_verb = made["Ann is glad that Bob bought it."]
    assert spans.is_blind(spans.find(last_verb.text), last_verb.edits)
    first_verb = made.get("Ann is not glad that Bob sold it.")
    assert first_verb is None or not spans.is_blind(spans.find(first_verb.text), first_verb.edits)
    assert not any(spans.is_blind(spans.find(c.text), c.edits) for c in swap_ent(record()))


# ---------------------------------------------------------------- swap_ent


def test_two_of_a_type_change_places():
    made = swap_ent(record("Ann Bell beat Tom Hart at chess.", "Ann Bell beat Tom Hart."))
    assert texts(made) == ["Tom Hart beat Ann Bell."]
    assert edited(made[0]) == ["Tom Hart", "Ann Bell"]


def test_an_alias_is_no_swap():
    made = swap_ent(record("The United States and the US, said Robert Hale of Acme.", "He went to the US."))
    assert not any("United States" in text for text in texts(made))


def test_one_and_many_do_not_change_places():
    made = swap_ent(record("My boss told her cousins about it.", "My boss told it."))
    assert texts(made) == []


@pytest.mark.parametrize(
    ("kind", "one", "other", "ok"),
    [
        ("DATE", "2019", "1999", True), ("DATE", "2019", "3 May", False), ("DATE", "Monday", "3 May", True), ("NUMBER", "1", "40", False),
        ("NUMBER", "21", "40", True), ("MONEY", "$1", "$1.50", False), ("ROLE", "my boss", "her cousin", True), ("ROLE", "my boss", "her cousins", False),
    ],
)  # fmt: skip
def test_what_fits_the_place_of_another(kind, one, other, ok):
    a, b = Span(0, 0, kind, one), Span(0, 0, kind, other)
    assert fits(a, b) is fits(b, a) is ok


def test_a_role_keeps_the_case_of_its_place():
    made = swap_ent(record("My boss told her cousin about my aunt.", "My boss told her cousin."))
    assert "Her cousin told my boss." in texts(made)


def test_the_same_seed_gives_the_same_texts_and_another_others():
    post = POST + " " + "Then came Ann Bell, Tom Hart, Jo Fry and Lea Kent from Hull, York and Ely."
    assert swap_ent(record(post), seed=1) == swap_ent(record(post), seed=1)
    assert len({tuple(texts(swap_ent(record(post), seed=s))) for s in range(6)}) > 1


# ---------------------------------------------------------------- mask_ent


def test_mask_ent_takes_foreign_entities_of_the_same_type():
    made = mask_ent(record(), corpus=Corpus.of(others()))
    assert len(made) == 3
    assert [len(c.edits) for c in made] == [1, 2, 3]
    known = [span.text for text in (POST, REFERENCE) for span in spans.find(text)]
    for candidate in made:
        assert not any(same_entity(word, other) for word in edited(candidate) for other in known), candidate
        before = [s.type for s in spans.find(REFERENCE)]
        assert [s.type for s in spans.find(candidate.text)] == before


def test_mask_ent_without_source_of_names_says_so():
    with pytest.raises(UserError, match=r"mask_ent: without .*corpus"):
        mask_ent(record())


def test_mask_ent_of_a_text_without_entities_is_nothing():
    assert mask_ent(record("it rained", "it rained a lot"), corpus=Corpus.of(others())) == []


# ---------------------------------------------------------------- relations


def test_mask_rel_turns_relations_round():
    made = texts(mask_rel(record(), n_variants=6))
    assert "Alice Meyer moved to Cardiff in 2019 and bought 40 bikes." in made
    assert "Alice Meyer moved to Cardiff in 2019 and did not sell 40 bikes." in made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("She has given more than he took before noon.", {"She has taken more than he took before noon.", "She has given less than he took before noon.", "She has given more than he took after noon."}),
        ("He buys it.", {"He sells it."}),
        ("They are opening it.", {"They are closing it."}),
        ("Ann Bell beat Tom Hart.", {"Ann Bell lost to Tom Hart."}),
        ("The open shop is near.", set()),
    ],
)  # fmt: skip
def test_opposites_keep_the_tense(text, expected):
    made = {text[:a] + new + text[b:] for a, b, new in rules.opposites(text)}
    assert expected <= made
    if not expected:
        assert not made


def test_negations_come_and_go():
    made = {t[:a] + new + t[b:] for t in ("He was not hired and did not buy it.",) for a, b, new in rules.negated(t)}
    assert {"He was hired and did not buy it.", "He was not hired and bought it."} <= made


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("stop", ("stops", "stopped", "stopped", "stopping")),
        ("carry", ("carries", "carried", "carried", "carrying")),
        ("give", ("gives", "gave", "given", "giving")),
        ("agree", ("agrees", "agreed", "agreed", "agreeing")),
        ("die", ("dies", "died", "died", "dying")),
        ("push", ("pushes", "pushed", "pushed", "pushing")),
        ("quit", ("quits", "quit", "quit", "quitting")),
    ],
)
def test_inflections(base, expected):
    verb = rules.forms(base)
    assert (verb.present, verb.past, verb.participle, verb.progressive) == expected


# ---------------------------------------------------------------- regeneration


def test_regen_ent_keeps_a_beginning_and_brings_something_new():
    made = regen_ent(record(), corpus=Corpus.of(others()))
    assert made
    for candidate in made:
        assert accept.new_facts(record(), candidate.text)
        assert candidate.text.endswith(".")
    kept = [next((i for i, (a, b) in enumerate(zip(c.text, REFERENCE, strict=False)) if a != b), 0) for c in made]
    assert all(
        k in {s.start for s in spans.find(REFERENCE)} or c.text[:k].rstrip() for k, c in zip(kept, made, strict=True)
    )


def test_regen_rel_brings_another_verb():
    made = regen_rel(record(), corpus=Corpus.of(others()))
    assert made
    assert all("opened" in text for text in texts(made))


def test_regen_without_source_of_words_says_so():
    for kind in (regen_ent, regen_rel):
        with pytest.raises(UserError, match=r"without .*corpus"):
            kind(record())


def test_sys_lowcon_by_rules_writes_one_text_of_the_post():
    (made,) = sys_lowcon(record())
    assert made.kind == "sys_lowcon"
    words = set(Trigram.tokens(made.text))
    assert {w.lower() for w in words} <= {w.lower() for w in Trigram.tokens(POST)}


# ---------------------------------------------------------------- the trigram model


def test_trigram_probability_by_hand():
    """Texts "a b" and "a c": p(a)=1, p(b|a)=1/2, p(end|b)=1; mean of log = log(1/2)/3."""
    model = Trigram()
    model.add(["a", "b"])
    model.add(["a", "c"])
    assert model.log_probability(["a", "b"]) == pytest.approx(-0.693147 / 3, abs=1e-6)


def test_trigram_continues_what_it_has_seen():
    model = Trigram()
    model.add(["<PERSON>", "moved", "to", "<PLACE>", "."])
    assert model.continue_from(["<PERSON>"], random.Random(0), longest=9) == ["moved", "to", "<PLACE>", "."]
    assert Trigram.text(["he", "came", ",", "saw", "(", "us", ")", "."]) == "he came, saw (us)."
    assert Trigram().continue_from(["x"], random.Random(0), longest=3) == []


# ---------------------------------------------------------------- toxic


def test_toxic_slots_hold_the_reference_and_a_word_of_the_list():
    made = toxic(record(), lexicon=["gleeb"], scorer=WordScorer(["gleeb"]), n_variants=3)
    assert len(made) == 3
    for candidate in made:
        assert "gleeb" in candidate.text
        assert "Cardiff" in candidate.text
        assert any("gleeb" in part for part in edited(candidate))


def test_toxic_slots_before_the_text_only_are_never_blind():
    for seed in range(8):
        for c in toxic(record(), seed=seed, lexicon=["gleeb"], behind=False):
            assert not spans.is_blind(spans.find(c.text), c.edits), c
    assert any(
        spans.is_blind(spans.find(c.text), c.edits)
        for seed in range(8)
        for c in toxic(record(), seed=seed, lexicon=["gleeb"])
    )


def test_toxic_below_the_limit_is_rejected_with_its_reason():
    tally = Tally()
    assert toxic(record(), lexicon=["gleeb"], scorer=WordScorer(["frob"]), tally=tally) == []
    assert tally.rejected == {"toxicity below 0.4": tally.made}


def test_toxic_goes_on_to_slots_that_the_scorer_knows():
    """A scorer that only sees "What a gleeb!" leaves that slot alone, whatever the order."""

    class Narrow(WordScorer):
        def score(self, texts):
            return [float("What a" in text) for text in texts]

    for seed in range(6):
        (made,) = toxic(record(), seed=seed, lexicon=["gleeb"], scorer=Narrow(["gleeb"]))
        assert made.text == f"{REFERENCE} What a gleeb!"


def test_toxic_needs_a_list_or_a_model():
    with pytest.raises(UserError, match=r"toxic: without .*lexicon"):
        toxic(record())


# ---------------------------------------------------------------- positives


def test_the_reference_is_the_first_positive():
    assert reference(record()) == [Candidate(REFERENCE, "reference", "data")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ann Bell sold the shop in 2019.", "In 2019, Ann Bell sold the shop."),
        ("In Leeds, my boss sold it.", "My boss sold it in Leeds."),
        ("Ann Bell does not like it.", "Ann Bell doesn't like it."),
        ("We saw Ann, Tom and Lea there.", "We saw Tom, Ann and Lea there."),
        ("Ann Bell won, and Tom Hart lost.", "Ann Bell won. Tom Hart lost."),
    ],
)
def test_backtranslate_by_rules(text, expected):
    made = {t for seed in range(12) for t in texts(backtranslate(record(text, text), seed=seed))}
    assert expected in made


def test_backtranslate_keeps_entities_numbers_and_negations():
    for seed in range(10):
        for candidate in backtranslate(record(), seed=seed):
            assert "Cardiff" in candidate.text
            assert "2019" in candidate.text
            assert "40" in candidate.text
            assert len(backtranslate(record(), seed=seed)) <= 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("alice meyer MOVED to Cardiff in 2019, and sold 40 bikes!", "identical to the reference"),
        ("Alice Meyer went to Cardiff in 2018 and sold 40 bikes.", "other numbers"),
        ("Bo Li moved to Cardiff in 2019 and sold 40 bikes.", "other entities"),
        ("Alice Meyer moved to Cardiff in 2019 and did not sell 40 bikes.", "other parity of negations"),
        ('Alice Meyer "moved" to Cardiff in 2019 and sold 40 bikes.', "identical to the reference"),
        ('"Alice Meyer went to Cardiff in 2019" and sold 40 bikes.', "a new quotation"),
        ("Alice Meyer 2019 40.", "length ratio outside 0.5 to 2"),
        ("Cardiff in 2019: 40 got rid of by Alice Meyer, who had relocated there", ""),
        ("In 2019, Alice Meyer moved to Cardiff and sold 40 bikes.", ""),
    ],
)
def test_what_is_accepted_as_a_positive(text, reason):
    tally = Tally()
    kept = accept.positives(record(), [Candidate(text, "backtranslate")], tally=tally)
    assert list(tally.rejected) == ([reason] if reason else [])
    assert len(kept) == (0 if reason else 1)
    assert tally.made == 1


def test_too_few_words_in_common():
    """Content words {the, only, names}: 0 of the rest shared: the Jaccard is below 0.3."""
    one = record("They argued loudly about money yesterday evening.", "They argued loudly about money.")
    tally = Tally()
    accept.positives(one, [Candidate("Finances caused heated words.", "backtranslate")], tally=tally)
    assert tally.rejected == {"too few words in common": 1}


# ---------------------------------------------------------------- negatives


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("ALICE MEYER moved to Cardiff in 2019 and sold 40 bikes", "swap_ent", "same as a positive"),
        ("Given already.", "swap_ent", "repeats another negative"),
        ("...", "swap_ent", "empty"),
        ("Bo Li moved.", "swap_ent", "length ratio outside 0.5 to 2"),
        ("Meyer moved to Cardiff in 2019 and sold 40 bikes.", "swap_ent", ""),
        ("Bo Li moved to Cardiff in 2019 and sold 40 bikes.", "swap_ent", ""),
        ("Bo Li " * 15, "swap_ent", "length ratio outside 0.5 to 2"),
        ("Bo Li " * 15, "toxic", ""),
        ("Bo Li " * 30, "toxic", "length ratio outside 0.5 to 4"),
    ],
)
def test_what_is_accepted_as_a_negative(text, kind, reason):
    tally = Tally()
    one = record(negatives=(Candidate("Given already!", "x"),))
    kept = accept.negatives(one, [Candidate(text, kind)], tally=tally)
    assert list(tally.rejected) == ([reason] if reason else [])
    assert len(kept) == (0 if reason else 1)


def test_another_name_of_the_same_is_no_fault():
    one = record("x", "He left the US in 2019.")
    tally = Tally()
    accept.negatives(one, [Candidate("He left the United States in 2019.", "swap_ent")], tally=tally)
    assert tally.rejected == {"only another name of the same": 1}


def test_a_kinds_own_check_counts_with_its_reason():
    tally = Tally()
    accept.negatives(
        record(),
        [Candidate("Bo Li moved to Cardiff in 2019, with bikes.", "x")],
        check=lambda c: "not liked",
        tally=tally,
    )
    assert tally.rejected == {"not liked": 1}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("US", "United States", True), ("U.S.", "US", True), ("USA", "United States of America", True), ("Meyer", "Alice Meyer", True),
        ("the Leeds", "Leeds", True), ("Leeds", "Cardiff", False), ("40", "4", False), ("my boss", "her boss", False), ("A", "Alice", False),
    ],
)  # fmt: skip
def test_aliases(one, other, same):
    assert same_entity(one, other) is same
    assert same_entity(other, one) is same


@pytest.mark.parametrize(
    ("kind", "score", "positive", "ok"),
    [
        ("toxic", 0.4, False, True), ("toxic", 0.39, False, False), ("swap_ent", 0.49, False, True), ("swap_ent", 0.5, False, False),
        ("backtranslate", 0.5, True, False), ("toxic", float("nan"), False, False), ("swap_ent", None, False, True),
    ],
)  # fmt: skip
def test_toxicity_limits(kind, score, positive, ok):
    assert (accept.toxicity_reason(kind, score, positive=positive) == "") is ok


def test_sources_are_kept_by_toxicity_and_relevance():
    limits = {"max_toxicity": 0.5, "min_relevance": 0.1}
    assert accept.source_reason(0.5, 0.1, **limits) == ""
    assert "toxicity" in accept.source_reason(0.51, 0.9, **limits)
    assert "relevance" in accept.source_reason(0.1, 0.09, **limits)
    assert "toxicity" in accept.source_reason(float("nan"), 0.9, **limits)


def test_relevance_is_one_for_a_copy_and_nought_for_strangers():
    copy, stranger = accept.relevance([record("Ann sold bikes", "Ann sold bikes"), record("it rained", "Zoe flew off")])
    assert copy == pytest.approx(1.0)
    assert stranger == pytest.approx(0.0)
