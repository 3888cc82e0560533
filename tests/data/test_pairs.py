"""Parallel texts become records whose source is what they share."""

import pytest

from untax.data.formats import BadRow
from untax.data.load import load
from untax.data.pairs import pair_from
from untax.types import UserError

ROW = {"positives": ["you are so very wrong", "you are so mistaken", "quite wrong"], "negatives": "you are so dumb"}


def test_the_source_is_the_common_beginning():
    record = pair_from(ROW, default_id="r")
    assert record.source == "you are so"
    assert [c.text for c in record.positives] == ["very wrong", "mistaken"]
    assert record.reference == "very wrong"
    assert [(c.text, c.kind) for c in record.negatives] == [("dumb", "data")]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"negatives": "they are dumb"}, "share 0 words"),
        ({"negatives": "you were dumb"}, "share 1 words"),
        ({"positives": []}, "positives"),
        ({"positives": 3}, "positives"),
        ({"negatives": ["you are so", " "]}, "negatives"),
        ({"negatives": "you are so"}, "nothing is left"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(change, says):
    with pytest.raises(BadRow, match=says):
        pair_from(ROW | change, default_id="r")


def test_pairs_are_read_from_a_file_and_counted(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        '{"t": "this is a bad one", "n": ["this is a good one"]}\n{"t": "x y", "n": ["a b"]}\n', encoding="utf-8"
    )
    loaded = load(path, kind="pairs", columns={"positives": "n", "negatives": "t"}, on_error="skip")
    assert [r.source for r in loaded.records] == ["this is a"]
    assert len(loaded.skipped) == 1
    with pytest.raises(UserError, match=r"pairs.jsonl:2.*share 0 words"):
        load(path, kind="pairs", columns={"positives": "n", "negatives": "t"})


def test_the_real_pairs_give_thousands_of_records(shared):
    path = shared / "data" / "contrast" / "paradetox_train.jsonl"
    loaded = load(path, kind="pairs", columns={"positives": "neutral", "negatives": "toxic"}, on_error="skip")
    assert len(loaded.records) > 2000
    assert len(loaded.records) + len(loaded.skipped) == 9857
