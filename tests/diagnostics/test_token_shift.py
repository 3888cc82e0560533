"""Token shift by position: what was planted is found, at its place, and nothing else."""

import copy
import dataclasses
import json
import math

import planted
import pytest
import torch

import tiny
from untax import models, probes
from untax.diagnostics import shifts
from untax.diagnostics.token_shift import _inside, token_shift
from untax.types import UserError

PROMPTS = ["ab", "once upon a time", "x" * 30, "Hello", "what then?", "q"]
TOKENIZER = tiny.tokenizer()


def run(base, tuned, **options):
    return token_shift(base, tuned, TOKENIZER, PROMPTS, **{"max_new_tokens": 12, "resamples": 100} | options)


def test_a_model_against_itself_is_unshifted():
    model = tiny.llama()
    for base in (model, copy.deepcopy(model)):
        found = run(base, model)
        assert found.unshifted.value == 1
        assert found.shifted.value == found.kl_tuned_base.value == found.kl_base_tuned.value == found.drop.value == 0
        assert all(token.kl == token.shifted == token.share == 0 for token in found.tokens)
        assert found.positions == sum(token.count for token in found.tokens)


def test_a_planted_offset_is_the_token_that_moved():
    """One output bias of 3 on token 7: all that the base would have written otherwise is 7, and it has the largest KL."""
    base, b = planted.exact(tiny.llama()), 3.0
    found = run(base, planted.headed(base, bias={7: b}))
    assert 0 < found.unshifted.value < 1
    assert found.tokens[0].token == 7
    assert found.tokens[0].text == models.decoded(TOKENIZER, [7])
    assert {token.token for token in found.tokens if token.shifted} == {7}
    assert found.tokens[0].shifted == round(found.shifted.value * found.positions)
    assert sum(token.share for token in found.tokens) == pytest.approx(1)
    assert found.unshifted.value + found.marginal.value + found.shifted.value == pytest.approx(1)


def test_divergences_are_those_of_the_formula():
    """KL(tuned || base) = b q - ln Z, KL(base || tuned) = ln Z - b p, Z = 1 + p (e^b - 1), q = p e^b / Z. On paper p = .1, b = 3:
    Z 2.908554, q .690568, KL 1.004048."""
    p, b = 0.1, 3.0
    z = 1 + p * (math.exp(b) - 1)
    assert b * p * math.exp(b) / z - math.log(z) == pytest.approx(1.004048, abs=1e-6)
    a, c = (models.target_ids(TOKENIZER, letter)[0] for letter in "ac")
    base = planted.constant({a: 0.9, c: p})
    tuned = planted.headed(base)
    with torch.no_grad():
        tuned.lm_head.bias.copy_(base.lm_head.bias)
        tuned.lm_head.bias[c] += b
    found = run(base, tuned)
    assert found.kl_tuned_base.value == pytest.approx(1.004048, abs=1e-6)
    assert found.kl_base_tuned.value == pytest.approx(math.log(z) - b * p, abs=1e-6)
    assert found.base_probability.value == pytest.approx(p)
    assert found.drop.value == pytest.approx(b - math.log(z), abs=1e-6)
    assert found.marginal.value == 1  # c is the base's second choice everywhere
    assert [token.token for token in found.tokens] == [c]


def test_a_change_of_temperature_moves_no_class():
    base = planted.exact(tiny.llama())
    found = run(base, planted.headed(base, scale=0.5))
    assert found.unshifted.value == 1
    assert found.kl_tuned_base.value > 0.001


def test_all_logits_equal_and_token_five_has_rank_five():
    """A strict count would say 0, unshifted."""
    base = planted.headed(planted.exact(tiny.llama()), scale=0.0)
    found = run(base, planted.headed(base, bias={5: 9.0}))
    assert found.shifted.value == 1
    assert [(token.token, token.shifted) for token in found.tokens] == [(5, found.positions)]


def test_permuting_the_vocabulary_leaves_every_class():
    base, tuned = planted.exact(tiny.llama()), planted.exact(tiny.llama(1))
    order = torch.randperm(257, generator=torch.Generator().manual_seed(0))
    rows = [models.prompt_ids(TOKENIZER, prompt) for prompt in PROMPTS]
    said = [ids for ids, _ in probes._greedy(tuned, TOKENIZER, rows, 12, ())]

    def permuted(model):
        other = copy.deepcopy(model)
        with torch.no_grad():
            other.get_input_embeddings().weight[order] = model.get_input_embeddings().weight.clone()
        return other

    moved = [[[int(order[token]) for token in row] for row in many] for many in (rows, said)]
    one, two = (
        shifts.Table.of(found, probes.SHIFTED_FROM)
        for found in (probes.read(base, tuned, rows, said), probes.read(permuted(base), permuted(tuned), *moved))
    )
    for name in ("unshifted", "marginal", "shifted"):
        assert (getattr(one, name) == getattr(two, name)).all()
    assert one.shifted.any()
    assert one.marginal.any()


def test_padding_and_batches_change_nothing():
    base, tuned = planted.exact(tiny.llama()), planted.exact(tiny.llama(1))
    alone, together = (run(base, tuned, batch_size=n, words=["a"]) for n in (1, 64))
    assert [(t.token, t.count, t.shifted) for t in alone.tokens] == [
        (t.token, t.count, t.shifted) for t in together.tokens
    ]
    assert together.kl_tuned_base.value == pytest.approx(alone.kl_tuned_base.value, abs=1e-9)
    assert [point.shifted.value for point in alone.by_position] == [
        point.shifted.value for point in together.by_position
    ]


def test_end_tokens_are_not_counted():
    base, tuned = tiny.llama(3), tiny.ending_llama()
    found = run(base, tuned, max_new_tokens=40)
    assert 0 not in {token.token for token in found.tokens}
    assert found.positions < 40 * len(PROMPTS)


def test_curves_are_means_by_place():
    """Two answers of 2 and 1 tokens: place 0 has two entries, place 1 one; tenths .5 and 1 for the first, 1 for the second."""
    one = probes.Positions((1, 2), (0, 5), (0.0, 1.0), (0.0, 2.0), (0.0, 0.5), (True, True), (-1.0, -2.0))
    two = probes.Positions((3,), (1,), (0.5,), (0.4,), (0.1,), (True,), (-3.0,))
    table = shifts.Table.of([one, two], probes.SHIFTED_FROM)
    assert table.at.tolist() == [0, 1, 0]
    assert table.tenth.tolist() == [0.5, 1.0, 1.0]
    assert table.owners.tolist() == ["0", "0", "1"]
    assert [each.tolist() for each in (table.unshifted, table.marginal, table.shifted)] == [
        [1, 0, 0],
        [0, 0, 1],
        [0, 1, 0],
    ]
    found = run(planted.exact(tiny.llama()), planted.exact(tiny.llama(1)))
    assert [point.at for point in found.by_position] == list(range(12))
    assert sum(point.shifted.value * point.shifted.n for point in found.by_position) == pytest.approx(
        found.shifted.value * found.positions
    )
    assert found.by_share[-1].at == 1
    assert sum(point.kl.value * point.kl.n for point in found.by_share) == pytest.approx(
        found.kl_tuned_base.value * found.positions
    )


def test_a_token_that_the_base_does_not_have_is_in_no_class():
    one = probes.Positions((1, 9), (4, None), (0.0, 1.0), (0.0, 2.0), (0.0, math.nan), (True, True), (-1.0, math.nan))
    table = shifts.Table.of([one], probes.SHIFTED_FROM)
    assert table.shifted[0] == 1
    assert all(math.isnan(each[1]) for each in (table.unshifted, table.marginal, table.shifted))


# --------------------------------------------------------------------------- words


def test_words_are_whole_and_of_any_case():
    ids = models.target_ids(TOKENIZER, "She shed, he the")
    assert "".join("x" if inside else "." for inside in _inside(TOKENIZER, ids, ["she", "he"])) == "xxx.......xx...."
    assert not _inside(TOKENIZER, ids, []).any()
    phrase = models.target_ids(TOKENIZER, "an old man sat")
    assert _inside(TOKENIZER, phrase, ["old man", "man"]).sum() == len("old man")


def test_concentration_by_hand():
    """KL 3 and 1 on two positions, the first on a word: 3/4 of the KL on 1/2 of the positions, 1.5 times its share."""
    one = probes.Positions((1, 2), (0, 5), (0.0, 1.0), (3.0, 1.0), (0.0, 0.5), (True, True), (-1.0, -2.0))
    table = shifts.Table.of([one] * 3, probes.SHIFTED_FROM)
    found = shifts.concentration(table, torch.tensor([1.0, 0.0] * 3).numpy(), resamples=50)
    assert (found.kl_share.value, found.position_share.value, found.ratio.value) == pytest.approx((0.75, 0.5, 1.5))
    assert found.ratio.n == 6


def test_a_method_that_moves_one_word_is_seen_to():
    """The tuned model of a constant base adds 4 to "e", so that it writes e e e; words of e alone have all the KL."""
    e, t = (models.target_ids(TOKENIZER, letter)[0] for letter in "et")
    base = planted.constant({e: 0.3, t: 0.7})
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned.lm_head.bias[e] += 4
    found = run(base, tuned, words=["e" * 12])
    assert found.words.kl_share.value == pytest.approx(1)
    assert found.function_words.kl_share.value == 0
    assert run(base, tuned).words is None


# --------------------------------------------------------------------------- sides, refusals


def test_the_base_may_read_another_prompt():
    """Prompts without their last letter: the tuned model's answers are the same, the base sees them from elsewhere."""
    base, tuned = planted.exact(tiny.llama()), planted.exact(tiny.llama(1))
    same, other = run(base, tuned), run(base, tuned, base_prompts=[prompt[:-1] for prompt in PROMPTS])
    assert run(base, tuned, base_prompts=PROMPTS).kl_tuned_base == same.kl_tuned_base
    assert other.kl_tuned_base.value != pytest.approx(same.kl_tuned_base.value, rel=1e-3)
    assert [t.count for t in sorted(same.tokens, key=lambda t: t.token)] == [
        t.count for t in sorted(other.tokens, key=lambda t: t.token)
    ]
    assert (same.base_prompt, other.base_prompt) == ("the same text", "its own prompts")
    assert run(tuned, tuned, base_prompts=["z"] * 6).kl_tuned_base.value > 0
    with pytest.raises(UserError, match="2 prompts for the base and 6"):
        run(base, tuned, base_prompts=["a", "b"])


def test_an_adapter_switched_off_is_its_base():
    adapted = tiny.with_adapter(tiny.llama())
    one, two = run(None, adapted), run(tiny.llama(), adapted)
    assert one.shifted.value == pytest.approx(two.shifted.value)
    assert one.shifted.value > 0


def test_an_answer_that_is_not_the_models_own_stops_it(monkeypatch):
    honest = probes._greedy

    def sampled(*args):
        told = honest(*args)
        told[0][0][4] = 1 + told[0][0][4] % 256
        return told

    monkeypatch.setattr(probes, "_greedy", sampled)
    with pytest.raises(UserError, match="would write the same token at"):
        run(tiny.llama(), tiny.llama(1))


def test_what_cannot_be_compared_is_refused():
    model = tiny.llama()
    with pytest.raises(UserError, match="none were given"):
        token_shift(model, model, TOKENIZER, [], max_new_tokens=4)
    with pytest.raises(UserError, match="one tokenizer"):
        run(model, model, base_tokenizer=tiny.tokenizer(adds_end_in_front=True))


def test_answers_without_a_token_leave_nothing_to_say():
    found = run(tiny.llama(), planted.headed(tiny.llama(), bias={0: 1e4}))
    assert (found.positions, found.empty, found.answers) == (0, 6, 6)
    assert math.isnan(found.shifted.value)
    assert found.tokens == found.by_position == ()


def test_results_become_plain_numbers():
    json.dumps(dataclasses.asdict(run(tiny.llama(), tiny.llama(1), words=["he"])))


def test_intervals_are_over_prompts():
    """12 tokens of one answer are not 12 answers: with two prompts of opposite fate the interval is as wide as it gets."""
    one = probes.Positions(*[(1,) * 12, (0,) * 12, *[(0.0,) * 12] * 3, (True,) * 12, (0.0,) * 12])
    two = dataclasses.replace(one, ranks=(9,) * 12)
    table = shifts.Table.of([one, two] * 5, probes.SHIFTED_FROM)
    from untax.diagnostics.common import share

    found = share(table.shifted, clusters=table.owners.tolist(), resamples=500)
    assert found.value == 0.5
    assert found.high - found.low > 0.5
    loose = share(table.shifted, resamples=500)
    assert loose.high - loose.low < 0.25
