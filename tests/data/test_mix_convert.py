"""Mixing keeps its proportions, and converting keeps the texts."""

from collections import Counter

import pytest

from untax.data import convert
from untax.data.mix import mix
from untax.types import Candidate, ContrastiveRecord, UserError


def records(name, n):
    return [
        ContrastiveRecord(f"{name}{i}", f"{name} post {i}", (Candidate(f"{name} summary {i}", "reference"),))
        for i in range(n)
    ]


def shares(mixed):
    return Counter(r.extra["mix"] for r in mixed)


def test_the_most_without_repetition_is_set_by_the_scarcest_part():
    """100 at 0.8 and 40 at 0.2: 100/0.8 = 125 in all, 25 of the other."""
    mixed = mix({"new": records("a", 100), "replay": records("b", 40)}, {"new": 0.8, "replay": 0.2}, seed=0)
    assert shares(mixed) == {"new": 100, "replay": 25}
    assert len({r.id for r in mixed}) == 125


def test_counts_add_up_to_the_total():
    """10 over 1:1:1: 4, 3, 3 by largest remainder."""
    parts = {n: records(n, 10) for n in "abc"}
    assert sorted(shares(mix(parts, dict.fromkeys("abc", 1.0), seed=0, total=10)).values()) == [3, 3, 4]


def test_the_seed_decides_and_nothing_else():
    parts = {"new": records("a", 50), "replay": records("b", 50)}
    first, second, other = (mix(parts, {"new": 3, "replay": 1}, seed=s, total=20) for s in (1, 1, 2))
    assert first == second != other
    assert [r.source for r in first] != sorted(r.source for r in first)


def test_an_id_that_comes_twice_is_told_apart():
    mixed = mix({"new": records("a", 2), "replay": records("a", 2)}, {"new": 1, "replay": 1}, seed=0)
    assert sorted(r.id for r in mixed) == ["a0", "a1", "replay/a0", "replay/a1"]


@pytest.mark.parametrize(
    ("parts", "proportions", "total", "message"),
    [
        ({"a": 3}, {"a": 1, "b": 1}, None, "they must be the same"),
        ({"a": 3, "b": 0}, {"a": 1, "b": 1}, None, "'b' holds no record"),
        ({"a": 3, "b": 3}, {"a": 1, "b": 0}, None, "must be above 0"),
        ({"a": 3, "b": 3}, {"a": 1, "b": float("nan")}, None, "must be above 0"),
        ({"a": 3, "b": 3}, {"a": 1, "b": 1}, 8, r"need 4 of '[ab]', which holds 3.*total=6"),
        ({"a": 3, "b": 3}, {"a": 1, "b": 1}, 0, "at least 1"),
    ],
)
def test_mixes_that_cannot_be(parts, proportions, total, message):
    with pytest.raises(UserError, match=message):
        mix({name: records(name, n) for name, n in parts.items()}, proportions, seed=0, total=total)


def test_preferences_become_contrast_and_back():
    rows = [{"prompt": "q", "chosen": " good", "rejected": " bad"}]
    (record,) = convert.from_preference(rows)
    assert (record.source, record.reference, record.negatives) == ("q", "good", (Candidate("bad", "rejected"),))
    assert convert.to_preference([record]) == rows
    assert convert.from_preference(rows)[0].id == record.id


def test_one_preference_for_every_negative():
    record = ContrastiveRecord("i", "s", (Candidate("r", "reference"),), (Candidate("m", "x"), Candidate("n", "x")))
    assert convert.to_preference([record], prompt="{source}\nSummary:") == [
        {"prompt": "s\nSummary:", "chosen": " r", "rejected": " m"},
        {"prompt": "s\nSummary:", "chosen": " r", "rejected": " n"},
    ]
    assert convert.to_prompt_completion([record]) == [{"prompt": "s", "completion": " r"}]


def test_prompt_completion_becomes_a_record_with_one_positive():
    (record,) = convert.from_prompt_completion([{"id": 7, "prompt": "s", "completion": " r"}])
    assert (record.id, record.source, record.reference, record.negatives) == ("7", "s", "r", ())


def test_messages_need_someone_who_makes_a_text_of_them():
    row = {
        "prompt": [{"role": "user", "content": "q"}],
        "chosen": [{"role": "assistant", "content": "g"}],
        "rejected": [{"role": "assistant", "content": "b"}],
    }
    with pytest.raises(UserError, match=r"'prompt' holds messages.*render"):
        convert.from_preference([row])
    (record,) = convert.from_preference([row], render=lambda messages: "".join(m["content"] for m in messages))
    assert (record.source, record.reference, record.negatives[0].text) == ("q", "g", "b")
    with pytest.raises(UserError, match=r"row 1: without 'prompt'"):
        convert.from_preference([{"chosen": "a", "rejected": "b"}])


def test_what_was_read_becomes_records_by_its_kind():
    """TRL's rows in, contrastive records out: the chosen text is the reference; text without a prompt has none."""
    preference = convert.as_records([{"prompt": "Say hi.", "chosen": " Hi.", "rejected": " Go."}], "preference")
    assert (preference[0].source, preference[0].reference, preference[0].negatives[0].text) == ("Say hi.", "Hi.", "Go.")
    completion = convert.as_records([{"prompt": "Say hi.", "completion": " Hi."}], "prompt-completion")
    assert (completion[0].reference, completion[0].negatives) == ("Hi.", ())
    assert convert.as_records(preference, "contrastive") == preference
    with pytest.raises(UserError, match="'language-modeling' cannot become"):
        convert.as_records([{"text": "Hi."}], "language-modeling")
