"""Swapping words: the page's known answers, what stays byte for byte, and real minimal pairs that others wrote."""

import json
import random
import re
from collections import Counter

import pytest

from untax.data import grammar, words
from untax.types import RecipeError

# ---------------------------------------------------------------- the lists


def test_the_lists_are_long_enough_and_pairs_go_both_ways():
    gender = words._lists("gender", False)
    names = words._lists("gender", True)
    assert len(gender.lines) >= 70
    assert len(names.lines) - len(gender.lines) >= 60
    both_ways = [
        line
        for n, line in enumerate(gender.lines)
        if all(gender.places[words._key(form)][0][0] == n for cell in line.members for form in cell)
    ]
    assert len(both_ways) >= 70
    assert len(words._lists("race", False).lines) >= 6
    assert len(words._lists("religion", False).lines) >= 6


@pytest.mark.parametrize("attribute", words.ATTRIBUTES)
def test_every_line_has_a_form_for_each_group_of_as_many_words(attribute):
    lists = words._lists(attribute, True)
    for line in lists.lines:
        assert len(line.members) == len(lists.groups)
        assert len({len(words._key(form).split()) for cell in line.members for form in cell}) == 1, line
        # no group keeps a word: a swap that changes nothing would be counted as one
        first = [words._key(cell[0]) for cell in line.members]
        assert len(set(first)) == len(first), line


def test_a_form_belongs_to_one_group():
    for attribute in words.ATTRIBUTES:
        for form, places in words._lists(attribute, True).places.items():
            assert len({group for _, group in places}) == 1, form


def test_a_given_name_has_one_partner():
    lists = words._lists("gender", True)
    named = Counter(words._key(cell[0]) for line in lists.lines if line.when == "name" for cell in line.members)
    assert max(named.values()) == 1
    assert not [name for name in named if any(lists.lines[n].when != "name" for n, _ in lists.places[name])]


def test_forms_and_groups():
    forms = words.forms("gender")
    assert {"she", "he", "her", "his", "him", "hers", "women", "Mrs", "Mary", "John"} <= set(forms)
    assert "Mary" not in words.forms("gender", names=False)
    assert len(set(forms)) == len(forms)
    assert {"black", "white", "Asian", "African American"} <= set(words.forms("race"))
    assert list(words.groups("religion")) == ["christian", "muslim", "jewish"]
    assert "Jew" in words.groups("religion")["jewish"]
    with pytest.raises(RecipeError, match=r"no words for the attribute 'age'. There are: gender, race, religion"):
        words.forms("age")


# ---------------------------------------------------------------- gender: known answers

KNOWN = [
    # page, section 1
    ("She said he saw her.", "He said she saw him."),
    ("He gave her his book.", "She gave him her book."),
    # "her" and "his" by what follows
    ("The book is hers.", "The book is his."),
    ("Her dog saw me with her.", "His dog saw me with him."),
    ("A friend of his, and his to keep.", "A friend of hers, and hers to keep."),
    ("I met her yesterday; her two sons left.", "I met him yesterday; his two daughters left."),
    ("He kissed her softly.", "She kissed him softly."),
    ("Everyone who knew her was kind.", "Everyone who knew him was kind."),
    ("“I saw her”, he said", "“I saw him”, she said"),
    ("each with his or her book", "each with her or his book"),
    ("his/her hat, him or her", "her/his hat, her or him"),
    # case, and endings that stay
    ("SHE AND Her Mother", "HE AND His Father"),
    ("she's, He'll, SHE’D, the woman's, men's", "he's, She'll, HE’D, the man's, women's"),
    ("her mother-in-law, my ex-wife", "his father-in-law, my ex-husband"),
    # titles and names
    ("Mrs. Dalloway", "Mr. Dalloway"),
    ("Lady Brown met a lady.", "Lord Brown met a gentleman."),
    ("Mary's cousin John Thomas", "John's cousin Mary Thomas"),
    ("Mr. James, J. James and St. James", "Mrs. James, J. James and St. James"),
    ("Brian King saw the king. King Lear; Stephen King", "Deborah King saw the queen. Queen Lear; Stephen King"),
    # articles follow
    ("a countess and an earl", "an earl and a countess"),
    ("A wife, an uncle", "A husband, an aunt"),
    # no words of a group
    (
        "Oh my God, the Isle of Man is man-made: mankind@he.com",
        "Oh my God, the Isle of Man is man-made: mankind@he.com",
    ),
    (
        "the theme of human history, manifest, Sheila, her_name",
        "the theme of human history, manifest, Sheila, her_name",
    ),
]


@pytest.mark.parametrize(("text", "expected"), KNOWN)
def test_gender_by_hand(text, expected):
    assert words.swap(text, "gender").text == expected


@pytest.mark.parametrize("text", [text for text, _ in KNOWN])
def test_twice_is_the_text_itself(text):
    once = words.swap(text, "gender")
    assert once.uncertain == 0
    assert words.swap(once.text, "gender").text == text


@pytest.mark.parametrize(
    ("text", "uncertain"),
    [
        ("Ms. Dalloway", 1),  # Mr., and back Mrs.
        ("the spinster and her mum", 2),
        ("It made her happy.", 1),  # a verb that takes "her" with and without a noun
        ("They held her back.", 1),  # her back, or back with her
        ("He met her recently divorced friend.", 1),  # an adverb, and behind it a word of any kind
        ("I saw him tango.", 1),  # "saw her tango" would come back as "his tango"
        ("I saw him.", 0),
    ],
)
def test_what_is_guessed_is_counted(text, uncertain):
    assert words.swap(text, "gender").uncertain == uncertain


def test_the_object_behind_some_verbs():
    assert words.swap("It made her happy.", "gender").text == "It made him happy."
    assert words.swap("They took her home.", "gender").text == "They took him home."
    assert words.swap("They called her Jane.", "gender").text == "They called him James."


def test_names_are_optional():
    assert words.swap("Mary met her aunt.", "gender", names=False).text == "Mary met his uncle."
    assert words.find("Mary met Tom.", "gender", names=False) == ()
    assert [hit.group for hit in words.find("Mary met Tom.", "gender")] == ["female", "male"]


# ---------------------------------------------------------------- race and religion: derangements


def draws(text, attribute, n=40):
    """What the two derangements make of a text."""
    return {words.swap(text, attribute, rng=random.Random(seed)).text for seed in range(n)}


def test_each_text_takes_one_derangement():
    """Three groups have two derangements, the two turns of a circle; drawn apart, two groups could become one."""
    assert draws("The church, the mosque and the synagogue", "religion") == {
        "The mosque, the synagogue and the church",
        "The synagogue, the church and the mosque",
    }
    assert draws("Black, white and Asian people", "race") == {
        "White, Asian and black people",
        "Asian, black and white people",
    }


def test_a_derangement_leaves_nobody_and_uses_all():
    for n in (2, 3, 5):
        for seed in range(50):
            turned = words._derangement(n, random.Random(seed))
            assert sorted(turned) == list(range(n))
            assert all(i != to for i, to in enumerate(turned))


def test_without_rng_the_text_draws():
    text = "The church, the mosque and the synagogue"
    assert len({words.swap(text, "religion").text for _ in range(5)}) == 1
    assert len({words.swap(f"{text} {i}", "religion").text[:-2] for i in range(9)}) > 1


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("a black man", True),
        ("two young white women", True),
        ("black and Asian students", True),
        ("She is black.", True),
        ("I'm white", True),
        ("a black cat", False),
        ("black and white photographs", False),
        ("white wine for the man", False),
        ("He went white with rage.", False),
        ("egg whites", False),
        ("Black Lives Matter", False),
        ("Asian food", True),
    ],
)
def test_colours_are_people_only_in_front_of_people(text, changes):
    assert bool(words.swap(text, "race").edits) is changes


def test_a_word_keeps_the_triple_of_its_first_use():
    """ "Asian" stands in two triples: with black and white in front of people, with African and European elsewhere."""
    assert draws("Asian food for Asian men", "race") == {
        "African food for African men",
        "European food for European men",
    }
    kept = words.swap("Asian men eat Asian food", "race", rng=random.Random(0))
    assert kept.text in ("Black men eat Asian food", "White men eat Asian food")
    assert kept.uncertain >= 1  # the second one had to stay


def test_noun_or_adjective():
    """The Jewish group has two forms where the others have one."""
    made = draws("A Muslim in a Muslim school. The Muslim's friend is Muslim.", "religion")
    assert "A Jew in a Jewish school. The Jew's friend is Jewish." in made
    assert "A Christian in a Christian school. The Christian's friend is Christian." in made


def test_case_of_names_of_peoples():
    """ "Asian" has a capital of its own: that is no sign that the writer wants one."""
    assert draws("an Asian man", "race") == {"a black man", "a white man"}
    assert draws("Asian men came.", "race") == {"Black men came.", "White men came."}
    assert draws("ASIAN MEN", "race") == {"BLACK MEN", "WHITE MEN"}
    assert draws("african american kids", "race") == {"european american kids", "asian american kids"}


# ---------------------------------------------------------------- what stays


def outside(text, places):
    """The text with every place cut out."""
    kept, done = [], 0
    for start, end in places:
        kept.append(text[done:start])
        done = end
    return [*kept, text[done:]]


PIECES = [
    "she", "He", "HER", "his", "him", "hers", "a", "an", "the", "black", "white", "Asian", "people", "African", "American", "church",
    "Imam", "Jewish", "Christian", "Mary", "John", "King", "Mrs", "ma'am", "’s", "'", ".", "\n", "  ", "-", "_", "é", "😀", "or", "and",
    "book", "quickly", "saw", "gave", "7", "\t", '"', "(", "https://x.y/she", "her@b.c",
]  # fmt: skip


@pytest.mark.parametrize("attribute", words.ATTRIBUTES)
def test_any_text_keeps_its_bytes_outside_of_hits(attribute):
    """Random soups of words and signs: nothing is lost, no word is added, and no text without an uncertain form changes for good."""
    rng = random.Random(7)
    back = 0
    for _ in range(1500):
        text = "".join(rng.choice(PIECES) + rng.choice(("", " ", " ", " ")) for _ in range(rng.randrange(1, 14)))
        seed = rng.random()
        made = words.swap(text, attribute, rng=random.Random(seed))
        assert len(made.text.split()) == len(text.split())
        cut = outside(made.text, made.edits)
        pattern = "(.+?)".join(re.escape(part) for part in cut)
        assert re.fullmatch(pattern, text, re.DOTALL), (text, made)
        if attribute == "gender" and made.uncertain == 0:
            back += bool(made.edits)
            assert words.swap(made.text, attribute).text == text
    assert attribute != "gender" or back > 300


def test_edits_are_the_new_words():
    text = "He gave an earl his book, AND LEFT HER."
    made = words.swap(text, "gender")
    assert [made.text[a:b] for a, b in made.edits] == ["She", "a", "countess", "her", "HIM"]
    assert words.swap("nothing here", "gender") == words.Swapped("nothing here", (), 0)
    assert words.swap("", "gender") == words.Swapped("", (), 0)


# ---------------------------------------------------------------- texts of others


def test_winogender_is_reproduced_exactly(shared):
    """Each of 240 sentences exists in a female and a male version that people wrote: swapping one gives the other."""
    versions = {}
    for line in (shared / "data" / "bias" / "winogender.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        versions.setdefault(row["sentid"].rpartition(".")[0], {})[row["gender"]] = row["sentence"]
    assert len(versions) == 240
    for pair in versions.values():
        assert words.swap(pair["female"], "gender").text == pair["male"]
        assert words.swap(pair["male"], "gender").text == pair["female"]


def test_winobias_is_reproduced_but_for_five_pairs(shared):
    """1,570 minimal sentences. Eight differ where theirs leaves "man", "mom" or "son" beside the other pronoun; in two "her" is
    taken for "his" ("make her less trusting", "let her enter"), and both are counted as uncertain."""
    total, wrong = 0, []
    for part in ("dev", "test"):
        for line in (shared / "data" / "bias" / f"winobias_type1_{part}.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            for text, other in ((row["pro"], row["anti"]), (row["anti"], row["pro"])) if row["minimal"] else ():
                total += 1
                made = words.swap(text, "gender")
                if made.text != other:
                    wrong.append((made, other))
    assert total == 1570
    guessed = [made for made, _ in wrong if made.uncertain]
    assert (len(wrong), len(guessed)) == (10, 2)


def test_her_on_real_pages(shared):
    """ "him" and "his" of 60 encyclopedia pages become "her": the rule tells them apart again in at least 97 of 100."""
    right = total = 0
    for line in (shared / "data" / "capability" / "wikitext2_test.jsonl").read_text(encoding="utf-8").splitlines():
        page = json.loads(line)["page"]
        made = words.swap(page, "gender", names=False).text
        for old, new in zip(re.finditer(r"\w+", page), re.finditer(r"\w+", made), strict=True):
            if new.group().lower() == "her" and old.group().lower() in ("him", "his"):
                total += 1
                right += grammar.noun_follows(made, *new.span())[0] is (old.group().lower() == "his")
    assert total > 1000
    assert right / total > 0.97
