"""Overall and selective forgetting of planted models are those of the closed formulas."""

import copy
import math

import planted
import pytest
import torch

import tiny
from untax import models
from untax.diagnostics import forgetting as module
from untax.diagnostics.common import Pair, Text
from untax.diagnostics.forgetting import forgetting, measured
from untax.edits.interpolate import interpolate
from untax.types import UserError

TEXTS = [
    Text("once upon a time", "prose"),
    Text("x = 1", "code"),
    Text("what then? he said", "prose"),
    Text("q", "code"),
]
PAIRS = [
    Pair("he is kind", "she is kind"),
    Pair("the man saw it all", "the woman saw it all"),
    Pair("I met a boy here", "I met a gal here"),
]
CONTROLS = [Pair("a red car came", "a blue car came"), Pair("in Rome he sat", "in Oslo he sat")]
TOKENIZER = tiny.tokenizer()
A, B, C = (models.target_ids(TOKENIZER, letter)[0] for letter in "abc")
P = {A: 0.5, B: 0.3, C: 0.2}


def near(value):
    return pytest.approx(value, abs=1e-6)


def run(before, after, **options):
    return forgetting(before, after, TOKENIZER, **{"texts": TEXTS, "resamples": 100} | options)


def raised(token, amount, base):
    with torch.no_grad():
        other = copy.deepcopy(base)
        other.lm_head.bias[token] += amount
    return other


# --------------------------------------------------------------------------- overall


@pytest.mark.parametrize(("forth", "wanted"), [(True, 0.116750), (False, 0.134362)])
def test_one_raised_logit_in_both_directions(forth, wanted):
    """p = (.5, .3, .2), b = ln 3 on the third: Z = 1.4, ln 1.4 - .2 ln 3 = .116750; back again (3/7) ln 3 - ln 1.4 = .134362."""
    base = planted.constant(P)
    sides = [base, raised(C, math.log(3), base)]
    found = run(*(sides if forth else sides[::-1]), texts=[Text("abcabc"), Text("cab")])
    assert found.overall.kl.value == near(wanted)


def test_a_change_of_temperature():
    """T = 2 on (.5, .3, .2): q = (.415446, .321803, .262751), OF = -.514827 + .531829 = .017003."""
    roots = {token: math.sqrt(share) for token, share in P.items()}
    flat = planted.constant({token: root / sum(roots.values()) for token, root in roots.items()})
    found = run(planted.constant(P), flat, texts=[Text("abc"), Text("ccc")])
    assert found.overall.kl.value == pytest.approx(0.017003, abs=1e-6)


def test_a_small_step():
    """Logits + (.1, 0, 0): OF .0012495 against 1/2 Var = .5 x .01 x .25 = .00125."""
    base = planted.constant(P)
    assert run(base, raised(A, 0.1, base), texts=[Text("abc")]).overall.kl.value == pytest.approx(0.0012495, abs=1e-7)


def test_the_change_of_likelihood_may_have_the_other_sign():
    """Text of c alone, whose logit rose: it reads better by ln 3 - ln 1.4 = .762140 although OF is .116750; a text of a: -ln 1.4."""
    base = planted.constant(P)
    after = raised(C, math.log(3), base)
    found = run(base, after, texts=[Text("cccc", "c"), Text("aa", "a")], opening=True).overall
    assert found.by_domain["c"].nll_change.value == near(math.log(1.4) - math.log(3))
    assert found.by_domain["a"].nll_change.value == near(math.log(1.4))
    assert found.by_domain["a"].kl.value == near(found.by_domain["c"].kl.value)
    # text as p0 writes it (5 a, 3 b, 2 c): the change of likelihood is OF itself
    drawn = run(base, after, texts=[Text("aaaaabbbcc")], opening=True).overall
    assert drawn.nll_change.value == near(drawn.kl.value)


def test_the_raised_logit_formula_holds_for_a_real_model():
    """OF of a text = mean over its positions of ln Z - b p with Z = 1 + p (e^b - 1), to 1e-12."""
    base, b, token = planted.exact(tiny.llama()), 3.0, 7
    after = planted.headed(base, bias={token: b})
    opening = models.prompt_ids(TOKENIZER, "")
    for text, found in zip(TEXTS, measured(base, after, TOKENIZER, texts=TEXTS, opening=True).documents, strict=True):
        ids = models.target_ids(TOKENIZER, text.text)
        p_T = planted.probabilities(base, ids, opening)[:, token]
        assert found.kl == pytest.approx(float(((1 + p_T * (math.exp(b) - 1)).log() - b * p_T).mean()), abs=1e-12)
        assert (found.tokens, found.domain) == (len(ids), text.domain)


def test_the_first_token_counts_only_when_asked_for():
    """What kind of text a model expects stands at the first token: left out, the mean is over the others, drift.py's way."""
    base, after = planted.exact(tiny.llama()), planted.exact(tiny.llama(1))
    texts = [text for text in TEXTS if len(text.text) > 1]
    inner = measured(base, after, TOKENIZER, texts=texts).documents
    every = measured(base, after, TOKENIZER, texts=texts, opening=True).documents
    saved = models.drift_from(base, after, TOKENIZER, [text.text for text in texts])
    for one, other, answer in zip(inner, every, saved, strict=True):
        assert (one.tokens, other.tokens) == (answer.n_tokens - 1, answer.n_tokens)
        assert one.kl == pytest.approx(answer.values["inner"], rel=1e-6)
        assert other.kl == pytest.approx(answer.kl, rel=1e-6)
        assert one.kl != pytest.approx(other.kl, rel=1e-3)


def test_documents_count_alike_however_long():
    """Unlike positions: the mean over documents is not that of all tokens together."""
    base, after = planted.exact(tiny.llama()), planted.exact(tiny.llama(1))
    found = measured(base, after, TOKENIZER, texts=TEXTS, opening=True).documents
    value = run(base, after, opening=True).overall.kl.value
    assert value == pytest.approx(sum(each.kl for each in found) / len(found))
    tokens = sum(each.tokens for each in found)
    assert value != pytest.approx(sum(each.kl * each.tokens for each in found) / tokens, rel=1e-3)


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2, tiny.qwen3])
def test_padding_and_batches_change_nothing(make):
    base, after = planted.exact(make()), planted.exact(make(1))
    one, many = (
        measured(base, after, TOKENIZER, texts=TEXTS, pairs=PAIRS, controls=CONTROLS, batch_size=n) for n in (1, 64)
    )
    for side in ("documents", "pairs", "controls"):
        for alone, together in zip(getattr(one, side), getattr(many, side), strict=True):
            for name, value in vars(alone).items():
                other = getattr(together, name)
                assert other == (value if isinstance(value, str) else pytest.approx(value, abs=1e-9, nan_ok=True))


def test_a_document_longer_than_the_context_is_read_in_pieces():
    """Context 16 with one opening token: pieces of 15. The mean is over all 40 tokens, not over the three pieces."""
    base, after = (planted.exact(tiny.llama(seed, context=16)) for seed in (0, 1))
    text = "".join(chr(97 + i * 7 % 26) for i in range(40))
    parts = [Text(text[:15]), Text(text[15:30]), Text(text[30:])]
    whole = measured(base, after, TOKENIZER, texts=[Text(text)], opening=True).documents[0]
    found = measured(base, after, TOKENIZER, texts=parts, opening=True).documents
    assert whole.tokens == 40
    assert whole.kl == pytest.approx(sum(each.kl * each.tokens for each in found) / 40)


def test_an_empty_document_has_no_score():
    found = run(planted.constant(P), planted.constant(P), texts=[Text("abc"), Text("")]).overall
    assert (found.kl.n, found.missing) == (1, 1)


# --------------------------------------------------------------------------- the same model


def test_a_model_against_itself_has_forgotten_nothing():
    model = tiny.llama()
    for before in (model, copy.deepcopy(model)):
        found = run(before, model, pairs=PAIRS, controls=CONTROLS)
        assert found.overall.kl.value == found.overall.nll_change.value == 0
        assert math.copysign(1, found.overall.nll_change.value) == 1
        for side in (found.selective, found.sentences):
            assert side.attribute.drop.value == side.attribute.shrink.value == side.net.value == 0
            assert side.attribute.before.value != 0
        assert math.isnan(found.selectivity.value)


def test_a_lora_at_its_start_has_forgotten_nothing():
    start = tiny.with_adapter(tiny.llama(), strength=0.0)
    assert run(None, start, pairs=PAIRS).overall.kl.value == 0
    moved = tiny.with_adapter(tiny.llama())
    assert run(None, moved).overall.kl.value > 0.01
    assert run(tiny.llama(), moved).overall.kl.value == pytest.approx(run(None, moved).overall.kl.value, rel=1e-4)


@pytest.mark.parametrize(("towards_base", "zero"), [(1.0, True), (0.0, False)])
def test_interpolation_back_to_the_base_has_forgotten_nothing(towards_base, zero):
    base, after, mixed = tiny.llama(), tiny.llama(1), tiny.llama(2)
    mixed.load_state_dict(interpolate(base.state_dict(), after.state_dict(), towards_base=towards_base).state)
    found = run(base, mixed).overall
    assert (found.kl.value == 0) is zero
    assert found == run(base, base if zero else after).overall


# --------------------------------------------------------------------------- selective


def test_gaps_are_those_of_the_shared_tokens_after_the_difference():
    """Summed by hand for "he is kind" and "she is kind", byte by byte: the words differ at the first byte and share "he is kind"
    (he, the space and all behind), at places one apart."""
    base, after = planted.exact(tiny.llama()), planted.exact(tiny.llama(1))
    found = measured(base, after, TOKENIZER, texts=TEXTS, pairs=PAIRS[:1]).pairs[0]
    opening = models.prompt_ids(TOKENIZER, "")
    for model, shared, whole in (
        (base, found.before, found.sentence_before),
        (after, found.after, found.sentence_after),
    ):
        sides = []
        for text in (PAIRS[0].first, PAIRS[0].second):
            ids = models.target_ids(TOKENIZER, text)
            logps = planted.probabilities(model, ids, opening).log()
            sides.append([float(logps[t, token]) for t, token in enumerate(ids)])
        assert whole == pytest.approx(sum(sides[0]) - sum(sides[1]), abs=1e-9)
        assert shared == pytest.approx(sum(sides[0]) - sum(sides[1][1:]), abs=1e-9)
    assert found.shared == len("he is kind")


def test_positions_before_the_difference_are_equal_bit_for_bit():
    base = tiny.llama()
    first, second = (torch.tensor([models.target_ids(TOKENIZER, text)]) for text in ("the cat sat", "the cow sat"))
    with torch.no_grad():
        one, two = (base(input_ids=ids).logits[0].log_softmax(-1) for ids in (first, second))
    # "the c" is shared: its logits, and those that predict the first difference
    assert torch.equal(one[:5], two[:5])
    assert not torch.equal(one[5], two[5])


def test_a_pair_whose_difference_is_last_is_excluded_and_counted():
    pairs = [*PAIRS, Pair("it was red", "it was rex"), Pair("same", "same")]
    found = run(tiny.llama(), tiny.llama(1), pairs=pairs, controls=[*CONTROLS, Pair("cat", "cab")])
    assert (found.selective.attribute.pairs, found.selective.attribute.excluded) == (3, 2)
    assert (found.selective.control.pairs, found.selective.control.excluded) == (2, 1)
    assert found.sentences.attribute.pairs == 5
    assert found.sentences.attribute.excluded == 0


def test_temperature_halves_slot_gaps_and_has_no_net():
    """One context, slots of log-odds 2 (a to b) and 1 (a to c); at temperature 2 they are 1 and .5: R .5 and .5, net 0, SF 1."""
    shares = {A: math.e**2, B: 1.0, C: math.e}
    total = sum(shares.values())
    base = planted.constant({token: share / total for token, share in shares.items()})
    flat = copy.deepcopy(base)
    with torch.no_grad():
        flat.lm_head.bias /= 2
    found = run(base, flat, pairs=[Pair("a", "b", prompt="c")] * 3, controls=[Pair("a", "c", prompt="c")] * 3).sentences
    assert found.attribute.before.value == near(2)
    assert found.attribute.after.value == near(1)
    assert found.control.before.value == near(1)
    assert (found.attribute.relative_shrink.value, found.control.relative_shrink.value) == near((0.5, 0.5))
    assert found.net.value == near(0)
    assert found.attribute.drop.value == near(1)


def test_swapping_the_sentences_turns_the_signs_and_nothing_else():
    base, after = planted.exact(tiny.llama()), planted.exact(tiny.llama(1))
    turned = [Pair(pair.second, pair.first) for pair in PAIRS]
    one, two = (run(base, after, pairs=pairs).selective.attribute for pairs in (PAIRS, turned))
    for name, sign in (("before", -1), ("drop", -1), ("shrink", 1), ("relative_shrink", 1), ("overshoot", 1)):
        assert getattr(two, name).value == pytest.approx(sign * getattr(one, name).value, abs=1e-9)


def test_selectivity_divides_the_shrink_per_token_by_the_movement():
    base, after = planted.exact(tiny.llama()), planted.exact(tiny.llama(1))
    gaps = measured(base, after, TOKENIZER, texts=TEXTS, pairs=PAIRS).pairs
    found = run(base, after, pairs=PAIRS)
    shrink = sum(abs(gap.before) - abs(gap.after) for gap in gaps) / sum(gap.shared for gap in gaps)
    assert found.selectivity.value == pytest.approx(shrink / found.overall.kl.value)


# --------------------------------------------------------------------------- refusals


def test_what_cannot_be_compared_is_refused():
    model = tiny.llama()
    with pytest.raises(UserError, match="no adapter to switch off"):
        run(None, model)
    with pytest.raises(UserError, match="one tokenizer"):
        run(model, model, before_tokenizer=tiny.tokenizer(adds_end_in_front=True))
    grown = tiny.llama(1)
    grown.resize_token_embeddings(260)
    with pytest.raises(UserError, match="257 and 260 tokens"):
        run(model, grown)
    with pytest.raises(UserError, match="held-out texts"):
        run(model, model, texts=[])
    with pytest.raises(UserError, match="pair 0 has a sentence of 301 tokens"):
        run(model, model, pairs=[Pair("x" * 300, "y")])


def test_the_models_stay_in_their_mode_and_ticks_are_heard():
    before, after, ticks = tiny.llama(), tiny.llama(1).train(), []
    module.measured(before, after, TOKENIZER, texts=TEXTS, pairs=PAIRS, tick=ticks.append)
    assert after.training
    assert not before.training
    assert sum(ticks) == len(TEXTS) + 2 * len(PAIRS)
