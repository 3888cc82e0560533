"""A linear model read from JSON gives the number that its formula gives, and is no better than it was said to be."""

import json
import math

import pytest

from untax import scorers
from untax.types import UserError

MODEL = {
    "vocabulary": {"clown": 0, "kind": 1},
    "token_pattern": r"(?u)\b\w\w+\b",
    "lowercase": True,
    "folds": [
        {"coef": [2.0, -1.0], "intercept": 0.5, "a": -1.0, "b": 0.0},
        {"coef": [0.0, 0.0], "intercept": 0.0, "a": -2.0, "b": 1.0},
    ],
}


def load(tmp_path, model=MODEL):
    path = tmp_path / "linear.json"
    path.write_text(model if isinstance(model, str) else json.dumps(model))
    return scorers.load(f"linear:{path}")


def test_score_by_hand(tmp_path):
    """ "A Clown, clown!": m = 0.5 + 2 + 2 = 4.5, 1/(1+e^-4.5) = 0.989013; second fold 1/(1+e^1) = 0.268941; mean 0.628977."""
    scorer = load(tmp_path)
    found = scorer.score(["A Clown, clown!", "kind", "", "nothing known"])
    assert found[0] == pytest.approx(0.628977, abs=1e-6)
    assert found[1] == pytest.approx((1 / (1 + math.exp(0.5)) + 0.268941) / 2, abs=1e-6)
    assert math.isnan(found[2])
    assert found[3] == pytest.approx((1 / (1 + math.exp(-0.5)) + 0.268941) / 2, abs=1e-6)
    assert scorer.name == "linear:linear.json"


def test_identity_follows_the_content(tmp_path):
    first = load(tmp_path).identity
    assert load(tmp_path).identity == first
    assert load(tmp_path, {**MODEL, "lowercase": False}).identity != first


@pytest.mark.parametrize(
    "model",
    [
        "{",
        "[]",
        {},
        {**MODEL, "vocabulary": {"clown": 2}},
        {**MODEL, "vocabulary": ["clown"]},
        {**MODEL, "folds": []},
        {**MODEL, "folds": [{"coef": [1, 2], "intercept": 0, "a": "x", "b": 0}]},
        {**MODEL, "folds": [MODEL["folds"][0], {"coef": [1], "intercept": 0, "a": 1, "b": 0}]},
        {**MODEL, "folds": [{"coef": [1, None], "intercept": 0, "a": 1, "b": 0}]},
        {**MODEL, "folds": [{"coef": [1, math.nan], "intercept": 0, "a": 1, "b": 0}]},
        {**MODEL, "token_pattern": "("},
    ],
    ids=str,
)
def test_what_is_no_model_is_a_clear_error(tmp_path, model):
    with pytest.raises(UserError, match="linear model"):
        load(tmp_path, model)


def test_separates_toxic_from_clean_as_well_as_was_measured(shared):
    """DATA.md: AUC 0.83 on surge."""
    from sklearn.metrics import roc_auc_score

    rows = [json.loads(line) for line in (shared / "data/toxicity/surge.jsonl").read_text().splitlines()]
    scorer = scorers.load(f"linear:{shared / 'data/lexicon/profanity_check_linear.json'}")
    found = scorer.score([row["text"] for row in rows])
    assert roc_auc_score([row["toxic"] for row in rows], found) == pytest.approx(0.83, abs=0.01)
