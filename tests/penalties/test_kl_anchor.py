"""The KL anchor: numbers worked by hand, the start of full training and under an adapter, and what it must leave alone."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import tiny
from untax.penalties.kl_anchor import KLAnchor
from untax.references import References, Row
from untax.types import UserError


class Table(nn.Module):
    """A language model whose logits depend on the last token alone: one row of a table each."""

    def __init__(self, *rows):
        super().__init__()
        self.table = nn.Parameter(torch.tensor(rows, dtype=torch.float32))

    def forward(self, input_ids, attention_mask=None, use_cache=False):
        return SimpleNamespace(logits=self.table[input_ids])


ONE = {"general": References("general", (Row((0, 1), 1),))}


def anchored(old, new, **options):
    """The penalty with weight 1 of a model that said `old` and says `new` at the one token that counts."""
    model = Table(old, old)
    anchor = KLAnchor(ONE, weight=1.0, **options)
    anchor.prepare(model)
    with torch.no_grad():
        model.table.copy_(torch.tensor([new, new]))
    return anchor.penalty(model, 0), model


@pytest.mark.parametrize(
    ("old", "new", "options", "expected"),
    [
        # p = softmax(1,1) = (1/2, 1/2), q = softmax(2,1) = (.731059, .268941): ln(1/2) - (ln q1 + ln q2) / 2
        ((2, 1, 0), (1, 1, 0), {"k": 2, "lump": False}, 0.120115),
        ((2, 1, 0), (1, 1, 0), {}, 0.123292),
        ((2, 1, 0), (1, 1, 0), {"k": 3}, 0.123292),
        ((2, 1, 0), (1, 1, 0), {"k": 2}, 0.123292),  # one token outside k: the bin is that token
        ((2, 1, 0), (2, 1, 10), {"k": 2, "lump": False}, 0.0),  # mass left the k, and nobody saw it
        ((2, 1, 0), (2, 1, 10), {"k": 2}, 2.402561),
        ((2, 1, 0, 0), (2, 1, 1, -1), {"k": 2, "lump": False}, 0.0),
        ((2, 1, 0, 0), (2, 1, 1, -1), {"k": 2}, 0.015555),
        ((2, 1, 0, 0), (2, 1, 1, -1), {}, 0.092236),
    ],
)
def test_numbers_by_hand(old, new, options, expected):
    value, _ = anchored(tuple(map(float, old)), tuple(map(float, new)), **options)
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_weight_scales_and_nothing_moved_costs_nothing():
    value, model = anchored((2.0, 1.0, 0.0), (2.0, 1.0, 0.0), k=2)
    assert value.item() == 0
    value.backward()
    assert model.table.grad.abs().max() < 1e-7
    anchor = KLAnchor(ONE, weight=0.25)
    anchor.prepare(Table((2.0, 1.0, 0.0), (0.0, 0.0, 0.0)))
    moved = Table((1.0, 1.0, 0.0), (0.0, 0.0, 0.0))
    assert anchor.penalty(moved, 0).item() == pytest.approx(0.25 * 0.123292, abs=1e-6)


def test_the_gradient_by_hand():
    """d KL / d logit_v = p_v (log p_v / q_v - KL). p = (1/2, 1/2) of 2 tokens, q = (3/4, 1/4): log ratios -.405465, .693147,
    KL = .143841, gradient of the first 1/2 (-.405465 - .143841) = -.274653."""
    value, model = anchored((math.log(3.0), 0.0), (0.0, 0.0))
    value.backward()
    assert model.table.grad[0].tolist() == pytest.approx([-0.274653, 0.274653], abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"k": 2}, {"k": 3}, {"k": 2, "lump": False}])
def test_tokens_that_can_never_be_said(options):
    """Logits of -inf (a padded vocabulary) on both sides: 0 log 0 is 0, in the value and in the gradient."""
    never = -math.inf
    value, model = anchored((2.0, 1.0, 0.0, never), (1.0, 1.0, 0.0, never), **options)
    assert 0.12 < value.item() < 0.1233
    value.backward()
    assert torch.isfinite(model.table.grad).all()
    # with k=3 nothing is left for the last bin; and here the model drops a token that the start knew
    value, model = anchored((2.0, 1.0, 0.0, 0.0), (1.0, 1.0, never, never), **options)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(model.table.grad).all()


def test_never_below_zero_and_the_bin_never_above_the_exact():
    luck = torch.Generator().manual_seed(3)
    for _ in range(50):
        old, new = (3 * torch.randn(7, generator=luck)).tolist(), (3 * torch.randn(7, generator=luck)).tolist()
        exact = anchored(old, new)[0].item()
        for k in range(1, 7):
            assert -1e-6 <= anchored(old, new, k=k)[0].item() <= exact * (1 + 1e-6) + 1e-6
            assert anchored(old, new, k=k, lump=False)[0].item() >= -1e-6


ROWS = {
    "one": References("one", (Row((0, 70, 71, 72, 73), 2), Row((0, 80, 81), 1))),
    "two": References("two", (Row((0, 90, 91, 92), 1), Row((0, 40, 50, 60, 70, 80), 4), Row((0, 33, 34), 2))),
}


def by_hand(model, start, rows):
    """KL(model || start) per token, one row and one token at a time, from the definition."""
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            p, q = (m(input_ids=ids).logits[0].double().softmax(-1) for m in (model, start))
        for t in range(row.start, len(row.ids)):
            total += float((p[t - 1] * (p[t - 1] / q[t - 1]).log()).sum())
            count += 1
    return total / count


def test_full_training_remembers_what_the_model_was():
    start = tiny.llama()
    model = copy.deepcopy(start)
    anchor = KLAnchor(ROWS, weight=1.0, rows_per_step=5)
    anchor.prepare(model)
    assert anchor.penalty(model, 0).item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    expected = by_hand(model, start, anchor.rows)
    assert expected > 0.01
    assert anchor.penalty(model, 0).item() == pytest.approx(expected, rel=1e-4)


def test_under_an_adapter_the_start_is_the_model_without_it():
    start = tiny.llama()
    model = tiny.with_adapter(copy.deepcopy(start))
    anchor = KLAnchor(ROWS, weight=1.0, rows_per_step=5)
    anchor.prepare(model)
    assert anchor.start.kept == {}
    value = anchor.penalty(model, 0)
    assert value.item() == pytest.approx(by_hand(model, start, anchor.rows), rel=1e-4)
    value.backward()
    assert all(w.grad is not None and w.grad.abs().sum() > 0 for n, w in model.named_parameters() if "lora_" in n)


def test_rows_come_in_turn_by_the_step_alone():
    model = tiny.llama()
    anchor = KLAnchor(ROWS, rows_per_step=2, seed=4)
    anchor.prepare(model)
    seen = []
    anchor.start.kl = lambda _, rows: (seen.extend(rows), (torch.zeros(()), 1))[1]
    for step in range(5):
        anchor.penalty(model, step)
    assert len(seen) == 10
    assert all(seen.count(row) == 2 for held in ROWS.values() for row in held.rows)
    again = KLAnchor(dict(ROWS), rows_per_step=2, seed=4)
    again.prepare(model)
    assert again.rows == anchor.rows
    seen.clear()
    anchor.penalty(model, 3)
    assert seen == [anchor.rows[1], anchor.rows[2]]  # step 3: rows 6 and 7 of the turn, modulo 5
    other = KLAnchor(ROWS, seed=5)
    other.prepare(model)
    assert other.rows != anchor.rows


def test_fewer_rows_than_a_step_wants_are_looked_at_once():
    anchor = KLAnchor(ONE, weight=1.0, rows_per_step=8)
    model = Table((2.0, 1.0, 0.0), (0.0, 0.0, 0.0))
    anchor.prepare(model)
    seen = []
    anchor.start.kl = lambda _, rows: (seen.extend(rows), (torch.zeros(()), 1))[1]
    anchor.penalty(model, 7)
    assert len(seen) == 1


@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_and_luck_stay_out(checkpointing):
    """While the model trains with dropout, value and gradient are those of the still model, and no random number is drawn."""
    model = tiny.llama()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    anchor = KLAnchor(ROWS, weight=1.0, rows_per_step=5)
    anchor.prepare(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.05)
    expected = anchor.penalty(model, 0)
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    before = torch.get_rng_state()
    value = anchor.penalty(model, 0)
    value.backward()
    assert torch.equal(before, torch.get_rng_state())
    assert all(module.training for module in model.modules())
    assert value.item() == expected.item()
    for weight, gradient in zip(model.parameters(), wanted, strict=True):
        assert torch.allclose(weight.grad, gradient, atol=1e-6)


def test_preparing_again_forgets_the_first_start():
    first, second = Table((2.0, 1.0, 0.0), (0.0, 0.0, 0.0)), Table((1.0, 1.0, 0.0), (0.0, 0.0, 0.0))
    anchor = KLAnchor(ONE)
    anchor.prepare(first)
    anchor.prepare(second)
    assert anchor.penalty(second, 0).item() == 0


def test_what_cannot_be_used_is_said():
    with pytest.raises(UserError, match="rows_per_step is 0"):
        KLAnchor({}, rows_per_step=0)
    with pytest.raises(UserError, match="weight is -1"):
        KLAnchor({}, weight=-1)
    with pytest.raises(UserError, match="k is 0"):
        KLAnchor({}, k=0)
    with pytest.raises(UserError, match="'kl_anchor' needs reference rows"):
        KLAnchor({}).prepare(tiny.llama())
    with pytest.raises(UserError, match=r"references 'general'.*references.read"):
        KLAnchor({"general": ["a text"]}).prepare(tiny.llama())
    with pytest.raises(UserError, match="call prepare"):
        KLAnchor(ONE).penalty(tiny.llama(), 0)
