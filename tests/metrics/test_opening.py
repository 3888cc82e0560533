"""The first token of a text, before which nothing has been said, can be left out of perplexity and drift."""

import math

import pytest
import torch
from tests import tiny

from untax import models
from untax.metrics.drift import drift
from untax.metrics.perplexity import perplexity
from untax.types import Answer, Item

TEXT = "abcd"
ITEM = Item("a", "", text=TEXT)


def by_hand(model, tokenizer):
    """Log-probabilities of all tokens of TEXT behind the opening token, position by position (T, V)."""
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(TEXT)["input_ids"]]])
    with torch.no_grad():
        return ids[0, 1:], model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)


def test_perplexity_without_the_first_token_is_the_mean_of_the_others():
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    ids, logps = by_hand(model, tokenizer)
    each = -logps.gather(-1, ids[:, None])[:, 0]
    answers = models.text_logprobs(model, tokenizer, [TEXT])
    assert perplexity([ITEM], answers) == [pytest.approx(float(each.mean()), abs=1e-5)]
    assert perplexity([ITEM], answers, opening=False) == [pytest.approx(float(each[1:].mean()), abs=1e-5)]


def test_drift_without_the_first_token_is_the_mean_of_the_others():
    base, model, tokenizer = tiny.llama(0), tiny.llama(1), tiny.tokenizer()
    _, old = by_hand(base, tokenizer)
    _, new = by_hand(model, tokenizer)
    kl = (old.exp() * (old - new)).sum(-1)
    answers = models.drift_from(base, model, tokenizer, [TEXT])
    assert drift([ITEM], answers) == [pytest.approx(float(kl.mean()), rel=1e-5)]
    assert drift([ITEM], answers, opening=False) == [pytest.approx(float(kl[1:].mean()), rel=1e-5)]
    assert drift([ITEM], models.drift_from(base, base, tokenizer, [TEXT]), opening=False) == [0.0]


def test_what_has_one_token_or_was_asked_elsewhere_has_no_score_without_its_first():
    base, model, tokenizer = tiny.llama(0), tiny.llama(1), tiny.tokenizer()
    one = Item("a", "", text="a")
    assert math.isnan(drift([one], models.drift_from(base, model, tokenizer, ["a"]), opening=False)[0])
    assert math.isnan(perplexity([one], models.text_logprobs(model, tokenizer, ["a"]), opening=False)[0])
    # an address gives the sum alone
    assert math.isnan(perplexity([one], [Answer(logprobs=(-3.0,), n_tokens=2)], opening=False)[0])
