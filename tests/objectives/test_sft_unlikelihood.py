"""Likelihood on the reference, and unlikelihood on the negatives: numbers worked by hand."""

import math

import pytest
import torch

import tiny
from untax import prefix
from untax.objectives.sft import sft
from untax.objectives.unlikelihood import unlikelihood
from untax.prefix import Example, Pass, Target
from untax.types import RecipeError


class Given(Pass):
    """A pass whose token log-probabilities are given."""

    def __init__(self, batch, logps_NT):
        self.batch, self.given = batch, logps_NT

    def only(self, rows_N):
        smaller = self.batch.only(rows_N)
        return Given(smaller, self.given[rows_N][:, : smaller.mask_NT.shape[1]])

    def logps(self, rows_N=None):
        rows = self.given if rows_N is None else self.given[rows_N]
        mask = self.batch.mask_NT if rows_N is None else self.batch.mask_NT[rows_N]
        return rows * mask


def test_unlikelihood_at_four_fifths():
    """One negative token at p = 0.8: -log(1 - 0.8) = 1.609438, derivative with respect to log p = 0.8 / 0.2 = 4."""
    logps = torch.tensor([[math.log(0.5)], [math.log(0.8)]], requires_grad=True)
    batch = prefix.collate([Example((1,), (Target((5,), True), Target((6,), False)))])
    loss = unlikelihood(Given(batch, logps))
    assert loss.logs["L_ul"] == pytest.approx(1.609438, abs=1e-5)
    assert loss.logs["L_ce"] == pytest.approx(math.log(2), abs=1e-6)
    assert loss.value.item() == pytest.approx(1.609438 + math.log(2), abs=1e-5)
    loss.value.backward()
    assert logps.grad[1, 0].item() == pytest.approx(4.0, abs=1e-4)
    assert logps.grad[0, 0].item() == pytest.approx(-1.0, abs=1e-6)


def test_only_edited_tokens():
    """Negative tokens at p = 0.8, 0.5, 0.8 of which the middle one was edited: -log(1 - 0.5) = 0.693147."""
    logps = torch.tensor([[math.log(0.5)] * 3, [math.log(0.8), math.log(0.5), math.log(0.8)]])
    bad = Target((6, 7, 8), False, edited=(False, True, False))
    batch = prefix.collate([Example((1,), (Target((5, 5, 5), True), bad))])
    assert unlikelihood(Given(batch, logps), tokens="edited").logs["L_ul"] == pytest.approx(0.693147, abs=1e-6)
    expected = (2 * 1.609438 + 0.693147) / 3
    assert unlikelihood(Given(batch, logps)).logs["L_ul"] == pytest.approx(expected, abs=1e-5)


def test_a_certain_negative_costs_much_and_stays_finite():
    logps = torch.tensor([[math.log(0.5)], [0.0]], requires_grad=True)
    batch = prefix.collate([Example((1,), (Target((5,), True), Target((6,), False)))])
    loss = unlikelihood(Given(batch, logps))
    assert 13 < loss.logs["L_ul"] < 14
    loss.value.backward()
    assert torch.isfinite(logps.grad).all()


def test_unlikelihood_with_weight_zero_is_sft():
    model = tiny.llama()
    shape = prefix.decoder(model)
    targets = (Target((5, 6, 0), True), Target((7, 8, 0), True), Target((9, 0), False))
    batch = prefix.collate([Example((1, 2), targets)])
    plain = sft(Pass(shape, batch)).value
    assert unlikelihood(Pass(shape, batch), alpha=0.0).value.item() == plain.item()
    assert unlikelihood(Pass(shape, batch)).value.item() > plain.item()


def test_sft_is_the_models_own_loss_over_first_token_and_eos():
    """Two references of 3 and 2 tokens (EOS included): the sum of five negative log-probabilities over five."""
    model = tiny.gpt2()
    examples = [
        Example((1, 2, 3), (Target((5, 6, 0), True), Target((7, 0), False))),
        Example((4,), (Target((8, 0), True),)),
    ]
    total = 0.0
    for example in examples:
        ids = torch.tensor([example.prompt + example.targets[0].ids])
        labels = ids.clone()
        labels[:, : len(example.prompt)] = -100
        total += model(ids, labels=labels).loss.item() * len(example.targets[0].ids)
    loss = sft(Pass(prefix.decoder(model), prefix.collate(examples)))
    assert loss.value.item() == pytest.approx(total / 5, abs=1e-5)


def test_unknown_tokens_are_refused():
    with pytest.raises(RecipeError, match="edited"):
        unlikelihood(Given(None, None), tokens="some")
