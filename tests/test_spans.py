"""What the finders select: types by the rules, names by models, and when a negative is blind."""

import itertools

import pytest

from data.small_models import token_classifier
from untax import spans
from untax.spans import Span
from untax.types import UserError


def found(text, finder="rules"):
    return [(s.type, s.text) for s in spans.find(text, finder=finder)]


def test_the_page_example():
    assert found("Alice Meyer moved from Leeds to Cardiff in 2019 and sold 40 bikes there. Her cousin Robert Hale still runs the Leeds shop.") == [
        ("PERSON", "Alice Meyer"), ("PLACE", "Leeds"), ("PLACE", "Cardiff"), ("DATE", "2019"), ("NUMBER", "40"),
        ("ROLE", "Her cousin"), ("PERSON", "Robert Hale"), ("PLACE", "Leeds"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("it cost $1,200.50 or 40 euros", [("MONEY", "$1,200.50"), ("MONEY", "40 euros")]),
        ("a rent of 601 crowns for 60 people", [("MONEY", "601 crowns"), ("NUMBER", "60")]),
        ("up by 12.5% or three percent", [("PERCENT", "12.5%"), ("PERCENT", "three percent")]),
        ("we met at 3 pm, then at 15:30 and at noon", [("TIME", "3 pm"), ("TIME", "15:30"), ("TIME", "noon")]),
        ("on 10 June and on March 4th, 2019", [("DATE", "10 June"), ("DATE", "March 4th, 2019")]),
        ("it may rain in May, on Monday or next week", [("DATE", "May"), ("DATE", "Monday"), ("DATE", "next week")]),
        ("twenty-one dogs and two hundred cats, but one bird", [("NUMBER", "twenty-one"), ("NUMBER", "two hundred")]),
        (
            "my boss told the old teacher and our neighbours",
            [("ROLE", "my boss"), ("ROLE", "the old teacher"), ("ROLE", "our neighbours")],
        ),
        (
            "I asked Dr. Hale of Acme Inc in New Haven",
            [("PERSON", "Dr. Hale"), ("ORG", "Acme Inc"), ("PLACE", "New Haven")],
        ),
        ("she works for the University of Leeds", [("ORG", "University of Leeds")]),
        ("he lives near Zorvia with Ludwig van Beek", [("PLACE", "Zorvia"), ("PERSON", "Ludwig van Beek")]),
        ("Alice's dog bit Bo Li's cat", [("PERSON", "Alice"), ("PERSON", "Bo Li")]),
    ],
)
def test_types_of_the_rules(text, expected):
    assert found(text) == expected


def test_the_first_word_of_a_sentence_is_no_name_by_itself():
    assert found("Dogs bark. Running is fun. However, nobody came.") == []


def test_the_first_word_is_a_name_when_it_recurs_inside():
    assert found("Velmora closed. We left Velmora.") == [("PLACE", "Velmora")] * 2
    assert [text for _, text in found("Velmora closed. We left early.")] == []


def test_a_short_mention_takes_the_type_of_the_full_name():
    assert found("we met Alice Meyer and got a letter from Meyer") == [("PERSON", "Alice Meyer"), ("PERSON", "Meyer")]


def test_a_single_word_that_tells_nothing_is_a_name_of_no_type():
    assert found("they say Zorvia won") == [("NAME", "Zorvia")]
    assert found("I’m sure that I’ve met Zorvia’s king in Zorvia") == [("PLACE", "Zorvia")] * 2


def test_a_shouted_text_has_no_names():
    assert found("WHY DOES NOBODY EVER LISTEN TO ME") == []


def test_places_are_characters_of_the_text():
    text = "«Ærøskøbing» said Zoë Müller in Köln, 12 times"
    for span in spans.find(text):
        assert text[span.start : span.end] == span.text
    assert ("PERSON", "Zoë Müller") in found(text)
    assert ("PLACE", "Köln") in found(text)


def test_spans_never_overlap_and_are_in_order():
    text = "On Monday 4 March 2019 at 3 pm my boss Alice Meyer paid $40 to Acme Inc of Leeds."
    spans_here = spans.find(text)
    assert all(a.end <= b.start for a, b in itertools.pairwise(spans_here))


def test_the_mask_of_a_text_does_not_depend_on_what_stands_before():
    """Limit of the page's test 13: the spans of a text are its own."""
    text = "Alice Meyer moved to Cardiff in 2019."
    assert spans.find_all(["Something else.", text])[1] == spans.find(text)


def test_coverage_counts_texts_with_a_span():
    assert spans.coverage(["we saw Alice Meyer", "nothing here", "40 bikes", ""]) == 0.5
    assert spans.coverage([]) != spans.coverage([])


def test_blind_means_every_span_before_the_first_edit():
    """Last span ends at 11: an edit from 11 on is not seen, one at 10 is."""
    alice = [Span(0, 11, "PERSON", "Alice Meyer")]
    assert spans.is_blind(alice, [(12, 18)])
    assert spans.is_blind(alice, [(11, 11)])
    assert not spans.is_blind(alice, [(10, 18)])
    assert not spans.is_blind([*alice, Span(22, 29, "PLACE", "Cardiff")], [(12, 18)])
    assert not spans.is_blind([], [(0, 4)])
    assert not spans.is_blind(alice, [])


# ---------------------------------------------------------------- models


def test_a_token_classifier_finds_the_names_and_the_rules_the_rest(tmp_path):
    folder = token_classifier(
        tmp_path / "ner", {"Alice": "B-PER", "Meyer": "I-PER", "Cardiff": "B-LOC", "shop": "B-MISC"}
    )
    assert found("Alice Meyer moved to Cardiff in 2019 . Her cousin runs the shop", finder=f"hf:{folder}") == [
        ("PERSON", "Alice Meyer"), ("PLACE", "Cardiff"), ("DATE", "2019"), ("ROLE", "Her cousin"), ("NAME", "shop"),
    ]  # fmt: skip


def test_the_identity_of_a_tagger_is_its_weights(tmp_path):
    one = spans.load(f"hf:{token_classifier(tmp_path / 'a', {'Alice': 'B-PER'})}")
    same = spans.load(f"hf:{token_classifier(tmp_path / 'b', {'Alice': 'B-PER'})}")
    other = spans.load(f"hf:{token_classifier(tmp_path / 'c', {'Leeds': 'B-LOC'})}")
    assert one.identity == same.identity != other.identity


def test_a_missing_or_wrong_finder_says_what_exists(tmp_path):
    with pytest.raises(UserError, match=r"rules, spacy"):
        spans.find("x", finder="magic")
    with pytest.raises(UserError, match=r"no config.json"):
        spans.find("x", finder=f"hf:{tmp_path}")
    with pytest.raises(UserError, match=r"spacy|spaCy"):
        spans.find("x", finder="spacy:no_such_model")


def test_a_damaged_tagger_is_an_error_and_no_fall_back(tmp_path):
    folder = token_classifier(tmp_path / "ner", {"Alice": "B-PER"})
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"cannot load"):
        spans.find("Alice", finder=f"hf:{folder}")


def test_an_encoder_without_a_head_is_no_tagger(tmp_path):
    from data.small_models import encoder

    with pytest.raises(UserError, match=r"no token classifier"):
        spans.find("Alice", finder=f"hf:{encoder(tmp_path / 'bert')}")
