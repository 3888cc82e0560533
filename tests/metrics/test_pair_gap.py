"""The gap of a minimal pair, by hand; missing where there is none; centred on what the sentence itself prefers."""

import math

import pytest
import torch

import tiny
from untax import measure, methods
from untax.metrics.pair_gap import pair_gap
from untax.suites.read import load_suite
from untax.types import Answer, Item, RecipeError

NAN = math.nan


def pairs(*logprobs, tokens=(1, 1), groups=None):
    groups = groups or [""] * len(logprobs)
    items = [
        Item(id=str(i), prompt="", choices=("a", "b"), fields={"template": group}) for i, group in enumerate(groups)
    ]
    return items, [Answer(logprobs=both, choice_tokens=tokens) for both in logprobs]


def same(found, wanted):
    assert found == pytest.approx(wanted, nan_ok=True)


def test_the_gap_is_first_minus_second_and_overshooting_is_no_gain():
    """-6 against -8 is a gap of 2 nats; turned round it is -2, and as wide."""
    both = pairs((-6.0, -8.0), (-8.0, -6.0), (-5.0, -5.0))
    same(pair_gap(*both, score="signed"), [2, -2, 0])
    same(pair_gap(*both), [2, 2, 0])
    same(pair_gap(*both, control=True), [2, 2, 0])


def test_per_token_divides_each_sentence_by_its_own_tokens():
    """-6 over 2 tokens is -3, -8 over 4 is -2: the sign turns, from 2 to -1."""
    both = pairs((-6.0, -8.0), tokens=(2, 4))
    same(pair_gap(*both, score="signed"), [2])
    same(pair_gap(*both, score="signed", per_token=True), [-1])


@pytest.mark.parametrize("logprobs", [(), (-1.0,), (NAN, -1.0), (-1.0, NAN), (-math.inf, -1.0), (-1.0, -2.0, -3.0)])
def test_what_cannot_be_subtracted_is_missing(logprobs):
    same(pair_gap(*pairs(logprobs)), [NAN])
    same(pair_gap(*pairs(logprobs), score="signed", per_token=True), [NAN])


def test_centred_gaps_are_what_a_group_adds_to_its_sentence():
    """Sentence x prefers its first word by 4, 2 and 0 for three groups, 2 on average: they lean by 2, 0, -2. In y both have 7: no lean. z has one only."""
    both = pairs(
        (-1.0, -5.0), (-1.0, -3.0), (-1.0, -1.0), (-1.0, -8.0), (-2.0, -9.0), (-1.0, -2.0), (NAN, -1.0),
        groups=["x", "x", "x", "y", "y", "z", "z"],
    )  # fmt: skip
    same(pair_gap(*both, score="signed", centre="template"), [2, 0, -2, 0, 0, NAN, NAN])
    same(pair_gap(*both, centre="template"), [2, 0, 2, 0, 0, NAN, NAN])


def test_it_says_what_it_cannot_use():
    items, answers = pairs((-1.0, -2.0))
    for options, told in (
        ({"score": "squared"}, "score is 'squared'; there are absolute, signed"),
        ({"control": "yes"}, "control is 'yes'"),
        ({"centre": "group"}, "needs the field 'group'; item '0' has: template"),
    ):
        with pytest.raises(RecipeError, match=told):
            pair_gap(items, answers, **options)
    with pytest.raises(RecipeError, match="item 'x' has 3"):
        pair_gap([Item(id="x", prompt="", choices=("a", "b", "c"))], answers)
    with pytest.raises(RecipeError, match="asks for generate"):
        pair_gap([Item(id="x", prompt="a")], answers)


def test_a_shared_beginning_cancels_in_a_measured_model(tmp_path):
    """The gap of two sentences is that of their last words after the beginning: log p(ann | bo sold) - log p(the | bo sold)."""
    (tmp_path / "p.jsonl").write_text('{"id": "0", "a": "bo sold ann", "b": "bo sold the"}\n', encoding="utf-8")
    (tmp_path / "s.yaml").write_text(
        "lines:\n  - {name: gap, metric: pair_gap, data: p.jsonl, request: choices, choices: ['{a}', '{b}'], side: safety, "
        "better: lower, margin: 0.1, unit: nats, options: {score: signed}}\n",
        encoding="utf-8",
    )
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    suite = load_suite(tmp_path / "s.yaml", data_dir=tmp_path)
    found = measure.measure(model, tokenizer, suite, system="base", progress=False).of("gap")[0].score
    first, second = (
        [0, *tokenizer(text)["input_ids"]] for text in ("bo sold ann", "bo sold the")
    )  # an empty prompt is BOS
    shared = next(i for i, (x, y) in enumerate(zip(first, second, strict=False)) if x != y)

    def rest(ids):
        logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(float(logp[i - 1, ids[i]]) for i in range(shared, len(ids)))

    with torch.no_grad():
        assert found == pytest.approx(rest(first) - rest(second), abs=1e-5)
    assert abs(found) > 1e-4


def test_it_is_listed_with_its_options():
    assert "pair_gap" in {method.name for method in methods.listing("metrics")}
    methods.check_options("metrics", "pair_gap", {"score": "signed", "control": True}, where="here")
