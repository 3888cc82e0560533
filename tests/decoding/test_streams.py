"""The machinery of prefixed streams: every way of asking, every kind of model, what is refused, and what is left behind."""

import inspect

import by_hand
import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    DynamicCache,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

import tiny
from untax import methods, models, probes
from untax.decoding import common
from untax.decoding.common import next_logits
from untax.decoding.instructive import instructive
from untax.decoding.self_debias import self_debias
from untax.types import UserError

TOK = tiny.tokenizer()
TEXTS = ["rude: ", "The next is bad:\n"]
PROMPTS = ["She said that", "He", "the old man went to"]
SHAPE = {
    "vocab_size": 257, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.3,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
}  # fmt: skip


def debias(model, tokenizer=TOK):
    return self_debias(model, tokenizer, prefixes=TEXTS)


def instruct(model, tokenizer=TOK):
    return instructive(model, tokenizer, instruction=TEXTS[1], join="")


BLOCKS = {
    "self_debias": (debias, by_hand.self_debiased, TEXTS),
    "instructive": (instruct, by_hand.instructed, TEXTS[1:]),
}


@pytest.fixture(params=BLOCKS)
def method(request):
    return BLOCKS[request.param]


def mistral():
    torch.manual_seed(0)
    return MistralForCausalLM(
        MistralConfig(
            **SHAPE, intermediate_size=64, num_key_value_heads=2, sliding_window=8, max_position_embeddings=256
        )
    ).eval()


def bloom():
    torch.manual_seed(0)
    return BloomForCausalLM(BloomConfig(**SHAPE, n_layer=2, n_head=4)).eval()


def mamba():
    torch.manual_seed(0)
    return MambaForCausalLM(MambaConfig(**SHAPE)).eval()


def padded(prompts=PROMPTS):
    """Ids and mask padded on the left, as HF's generate wants them."""
    rows = [models.prompt_ids(TOK, prompt) for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def hf(model, given, **options):
    settings = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0, **options}
    return model.generate(**given, **settings)[:, given["input_ids"].shape[1] :].tolist()


# --------------------------------------------------------------------------- HF's generate


def until_end(rows):
    return [row[: row.index(0)] if 0 in row else row for row in rows]


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_greedy_by_hf_is_untaxs_own_and_the_slow_way(method, make):
    block, slowly, texts = method
    model = make()
    with block(model):
        theirs = until_end(hf(model, padded()))
        ours = [answer.text for answer in models.generate(model, TOK, PROMPTS, max_new_tokens=10)]
    slow = [by_hand.greedy(lambda r: slowly(model, TOK, texts, r), models.prompt_ids(TOK, p), 10) for p in PROMPTS]
    assert theirs == slow
    assert ours == [by_hand.text_of(TOK, ids) for ids in slow]


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "top_p": 0.8, "temperature": 0.7, "num_return_sequences": 2},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    ],
    ids=str,
)
def test_every_way_of_hf_with_a_cache_is_the_same_without(method, options):
    """Beams reorder the cache's rows, samples repeat them: the streams go with them. Without the method something else is written."""
    block, _, _ = method
    model, found = tiny.llama(), []
    for caching in (True, False):
        torch.manual_seed(0)
        with block(model):
            found.append(hf(model, padded(), **options, use_cache=caching))
    torch.manual_seed(0)
    assert found[0] == found[1]
    assert found[0] != hf(model, padded(), **options)


def test_a_prompt_that_is_read_in_chunks(method):
    """Chunks of 5 of a prompt of 13. Where the padding of another row fills a chunk, the row begins in none of the streams: refused."""
    block, _, _ = method
    model = tiny.llama()
    with block(model):
        assert hf(model, padded(PROMPTS[:1]), prefill_chunk_size=5) == hf(model, padded(PROMPTS[:1]))
        with pytest.raises(UserError, match="leave prefill_chunk_size out"):
            hf(model, padded(), prefill_chunk_size=5)


def test_assisted_decoding_crops_the_streams_too(method):
    """An assistant that is wrong most of the time: its tokens are taken back, and what is written is the greedy answer."""
    block, _, _ = method
    model, assistant = tiny.llama(0), tiny.llama(5)
    given = padded(PROMPTS[:1])
    with block(model):
        assert hf(model, given, assistant_model=assistant) == hf(model, given)


def test_sampling_draws_from_q():
    """The same luck on the slow way's q: the token where the cumulated probability, likeliest first, passes the uniform number."""
    model, sampling = tiny.llama(), models._Sampling(0.9, 0.8, 3)
    with debias(model):
        found = models.generate(model, TOK, PROMPTS, max_new_tokens=6, temperature=0.9, top_p=0.8, seed=3)
    for prompt, answer in zip(PROMPTS, found, strict=True):
        row, luck = models.prompt_ids(TOK, prompt), sampling.luck([(prompt, 0)], 6)
        new = []
        for step in range(6):
            q = by_hand.self_debiased(model, TOK, TEXTS, [*row, *new])[-1:]
            new.append(int(sampling.pick(q, luck[:, step])))
        assert answer.text == by_hand.text_of(TOK, new[: new.index(0)] if 0 in new else new)


# --------------------------------------------------------------------------- models


@pytest.mark.parametrize("make", [mistral, bloom, tiny.qwen3])
def test_other_kinds_of_model(method, make):
    """A window of 8 tokens that a prefix falls out of, distances in place of positions: texts and answers as the slow way has them."""
    block, slowly, texts = method
    model = make()
    with block(model):
        found = [answer.text for answer in models.generate(model, TOK, PROMPTS, max_new_tokens=8)]
        scored = models.text_logprobs(model, TOK, PROMPTS)
    for prompt, text, answer in zip(PROMPTS, found, scored, strict=True):
        row = models.prompt_ids(TOK, prompt)
        assert text == by_hand.text_of(TOK, by_hand.greedy(lambda r: slowly(model, TOK, texts, r), row, 8))
        row = [0, *row]
        assert answer.logprobs[0] == pytest.approx(by_hand.total(slowly(model, TOK, texts, row), row), abs=2e-4)


def test_a_model_whose_memory_is_no_cache_is_scored_and_not_continued(method):
    block, slowly, texts = method
    model = mamba()
    with block(model):
        scored = models.text_logprobs(model, TOK, PROMPTS[:1])
        with pytest.raises(
            UserError, match=r"cannot be remembered between calls \(its forward takes no past_key_values"
        ):
            models.generate(model, TOK, PROMPTS, max_new_tokens=4)
    row = [0, *models.prompt_ids(TOK, PROMPTS[0])]
    assert scored[0].logprobs[0] == pytest.approx(by_hand.total(slowly(model, TOK, texts, row), row), abs=2e-4)


def test_a_sum_of_many_streams_is_cut_into_parts(monkeypatch):
    """With room for one stream's logits at a time, one row is run at a time: the same numbers, and each is still given every prefix."""
    model, rows_run = tiny.llama(), []
    model.model.register_forward_pre_hook(lambda _, args, kw: rows_run.append(len(kw["input_ids"])), with_kwargs=True)
    with debias(model) as applied:
        whole = models.text_logprobs(model, TOK, PROMPTS)
        rows = applied.asked([[0, 5, 6], [7, 8]], stream=1)
        assert max(rows_run) == len(PROMPTS) * len(TEXTS)
        monkeypatch.setattr(models, "LOGITS_AT_ONCE", 1)
        rows_run.clear()
        parts = models.text_logprobs(model, TOK, PROMPTS)
        assert max(rows_run) == 1
        assert applied.asked([[0, 5, 6], [7, 8]], stream=1) == rows
    ids = models.target_ids(TOK, TEXTS[1])
    assert rows == [[0, *ids, 5, 6], [*ids, 7, 8]]
    for one, other in zip(whole, parts, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_the_prefix_goes_behind_the_opening_token():
    """A tokenizer that opens every text: the prompt's own opening token is not read a second time."""
    model, tokenizer = tiny.llama(), tiny.tokenizer(adds_end_in_front=True)
    with instruct(model, tokenizer) as applied:
        row = models.prompt_ids(tokenizer, "He")
        assert row[0] == 0
        assert applied.opening == (0,)
        assert applied.asked([row]) == [[0, *applied.prefix_ids, *row[1:]]]
        found = next_logits(model, tokenizer, ["He"])[0]
    assert found == pytest.approx(by_hand.behind(model, tokenizer, TEXTS[1], row)[-1].numpy(), abs=1e-4)


def test_an_opening_of_two_tokens(method, monkeypatch):
    """Prefix behind both of them; rows with one of the two only do not begin with it."""
    block, slowly, texts = method
    model = tiny.gpt2()
    monkeypatch.setattr(models, "opening_ids", lambda tokenizer: [9, 0])
    rows = [[9, 0, 30, 31, 32, 33, 34], [9, 30, 31], [0, 30]]
    with block(model) as applied:
        ids = models.target_ids(TOK, texts[-1])
        assert applied.asked(rows, stream=len(texts) - 1) == [[9, 0, *ids, 30, 31, 32, 33, 34], [*ids, 9, 30, 31], [*ids, 0, 30]]  # fmt: skip
        sizes = [len(row) for row in rows]
        with models.asking(model):
            found = common._last_logits(model, rows).double().log_softmax(-1)
            told = models._right_padded(rows, "cpu")
            scored = model(input_ids=told[0], attention_mask=told[1], use_cache=False).logits.double().log_softmax(-1)
    for line, (row, size) in enumerate(zip(rows, sizes, strict=True)):
        want = slowly(model, TOK, texts, row, opening=(9, 0))
        start = 1 if line == 0 else 0
        assert torch.allclose(scored[line, start:size], want[start:], atol=1e-4)
        assert torch.allclose(found[line], want[-1], atol=1e-4)


def test_a_tokenizer_without_an_opening_token():
    tokenizer = tiny.tokenizer()
    tokenizer.bos_token = tokenizer.eos_token = None
    with instruct(tiny.llama(), tokenizer) as applied:
        assert applied.opening == ()
        assert applied.asked([[0, 5]]) == [[*applied.prefix_ids, 0, 5]]


# --------------------------------------------------------------------------- caches by hand


def test_rows_of_a_cache_that_are_selected_and_cropped_go_on_right(method):
    """Three left-padded rows, the middle one dropped, then one token taken back and another written: logits of the slow way."""
    block, slowly, texts = method
    model = tiny.llama()
    given = padded()
    with block(model), torch.no_grad():
        out = model(**given, use_cache=True)
        cache = out.past_key_values
        assert cache.get_seq_length() == given["input_ids"].shape[1]
        cache.batch_select_indices(torch.tensor([0, 2]))
        mask = given["attention_mask"][[0, 2]]
        mask = torch.cat([mask, mask.new_ones(2, 1)], 1)
        model(input_ids=torch.tensor([[7], [7]]), attention_mask=mask, past_key_values=cache, use_cache=True)
        cache.crop(-1)
        new = torch.tensor([[8, 10], [9, 10]])
        last = torch.cat([mask, mask.new_ones(2, 1)], 1)
        out = model(input_ids=new, attention_mask=last, past_key_values=cache, use_cache=True)
    for line, (prompt, more) in enumerate(((PROMPTS[0], [8, 10]), (PROMPTS[2], [9, 10]))):
        want = slowly(model, TOK, texts, [*models.prompt_ids(TOK, prompt), *more])[-2:]
        assert torch.allclose(out.logits[line].double().log_softmax(-1), want, atol=1e-4)


def test_two_answers_that_share_a_beginning_do_not_write_over_each_other(method):
    """One prompt read once; two copies of its cache continued in turn: the room behind the tokens is not theirs both."""
    import copy

    block, slowly, texts = method
    model, row = tiny.llama(), models.prompt_ids(TOK, PROMPTS[0])

    def step(cache, token):
        return model(input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True).logits[0, -1]

    with block(model), torch.no_grad():
        one = model(input_ids=torch.tensor([row]), use_cache=True).past_key_values
        step(one, 40)
        two = copy.copy(one)
        two.layers = [copy.copy(layer) for layer in one.layers]
        step(one, 41)
        step(two, 42)
        found = [step(one, 43), step(two, 43)]
    for token, got in zip((41, 42), found, strict=True):
        want = slowly(model, TOK, texts, [*row, 40, token, 43])[-1]
        assert torch.allclose(got.double().log_softmax(-1), want, atol=1e-4)


def test_a_cache_begun_in_inference_mode_goes_on_outside_of_it(method):
    """Such tensors may not be written to later: they are copied."""
    block, slowly, texts = method
    model, row = tiny.llama(), models.prompt_ids(TOK, PROMPTS[0])
    with block(model):
        with torch.inference_mode():
            cache = model(input_ids=torch.tensor([row]), use_cache=True).past_key_values
        got = model(input_ids=torch.tensor([[40]]), past_key_values=cache, use_cache=True).logits[0, -1]
    assert torch.allclose(got.double().log_softmax(-1), slowly(model, TOK, texts, [*row, 40])[-1], atol=1e-4)


def test_a_cache_begun_elsewhere_is_refused(method):
    block, _, _ = method
    model = tiny.llama()
    token = torch.tensor([[7]])
    with torch.no_grad():
        outside = model(input_ids=torch.tensor([[5, 6]]), use_cache=True).past_key_values
        with block(model):
            first = model(input_ids=torch.tensor([[5, 6]]), use_cache=True).past_key_values
            with pytest.raises(UserError, match="begun outside of the block"):
                model(input_ids=token, past_key_values=outside, use_cache=True)
            with pytest.raises(UserError, match="one of 1 rows, and 2 are asked"):
                model(input_ids=torch.tensor([[7], [7]]), past_key_values=first, use_cache=True)
            with pytest.raises(UserError, match="is a tuple; a transformers Cache is needed"):
                model(input_ids=token, past_key_values=((token, token),), use_cache=True)
        with block(model), pytest.raises(UserError, match="begun outside of the block"):
            model(input_ids=token, past_key_values=first, use_cache=True)


# --------------------------------------------------------------------------- the block


def test_the_model_is_left_as_it_was(method):
    """No attribute is left, the weights are the same, after a block, after an exception in it, and after a refusal to enter."""
    block, _, _ = method
    model = tiny.llama()
    before, keys, mark = next_logits(model, TOK, PROMPTS), set(model.__dict__), models.fingerprint(model)
    with block(model):
        assert "forward" in model.__dict__
        assert models.fingerprint(model) == mark
    with pytest.raises(KeyError), block(model):
        raise KeyError("on the way")
    with pytest.raises(UserError, match="leaves no room"), instructive(model, TOK, instruction="x" * 300):
        pass
    assert set(model.__dict__) == keys
    assert models.fingerprint(model) == mark
    assert np.array_equal(next_logits(model, TOK, PROMPTS), before)


def test_a_forward_that_was_laid_there_before_comes_back(method):
    """Others patch models too (accelerate's hooks do): what stood there is called inside, and stands there again."""
    block, _, _ = method
    model, calls = tiny.llama(), []
    own = model.forward

    def hooked(*args, **kwargs):
        calls.append(1)
        return own(*args, **kwargs)

    model.forward = hooked
    with block(model):
        calls.clear()
        next_logits(model, TOK, PROMPTS[:1])
        assert calls
    assert model.forward is hooked


def test_one_method_at_a_time(method):
    block, _, _ = method
    model = tiny.llama()
    with block(model) as applied:
        with pytest.raises(UserError, match=f"under '{applied.name}' already"), instruct(model):
            pass
        inside = next_logits(model, TOK, PROMPTS)
    with block(model):
        assert np.array_equal(next_logits(model, TOK, PROMPTS), inside)


def test_a_block_that_is_not_called_shows(method, monkeypatch):
    """What broke the comparison of 2025: a wrapper that nobody asks. Effect 0, no prefix among the ids, no call counted."""
    block, _, _ = method
    model = tiny.llama()
    monkeypatch.setattr(common._Streams, "as_forward", lambda streams: streams.original)
    with block(model) as applied:
        assert np.array_equal(next_logits(model, TOK, PROMPTS), next_logits(applied.plain, TOK, PROMPTS))
        assert applied.asked([[0, 5, 6]]) == [[0, 5, 6]]
        assert applied.cost["calls"] == 0


def test_hf_still_reads_the_signature(method):
    block, _, _ = method
    model = tiny.llama()
    before = list(inspect.signature(model.forward).parameters)
    with block(model):
        assert list(inspect.signature(model.forward).parameters) == before
        ids = torch.tensor([[0, 5, 6]])
        one, two = model(ids, torch.ones_like(ids)).logits, model(ids, return_dict=False)[0]
        assert torch.equal(one, two)


def test_what_is_refused(method):
    block, _, _ = method
    model = tiny.llama()
    ids = torch.tensor([[0, 5, 6]])
    with block(model):
        for match, given in (
            ("without labels", {"input_ids": ids, "labels": ids}),
            ("input_ids", {"inputs_embeds": torch.zeros(1, 3, 32)}),
            ("cache_implementation", {"input_ids": ids, "attention_mask": torch.ones(1, 1, 3, 3)}),
            ("what token_type_ids would be", {"input_ids": ids, "token_type_ids": ids}),
        ):
            with pytest.raises(UserError, match=match):
                model(**given)
        with pytest.raises(UserError, match="evaluation mode"):
            model.train()(input_ids=ids)
        model.eval()
    model.train()
    with pytest.raises(UserError, match="evaluation mode"), block(model):
        pass
    assert model.training


def test_a_cache_of_fixed_size_is_refused_in_plain_words(method):
    block, _, _ = method
    model = tiny.llama()
    with block(model), pytest.raises(UserError, match="leave cache_implementation out"):
        hf(model, padded(), cache_implementation="static")


def test_a_text_that_fits_only_without_the_prefix(method):
    """Context 40, the longest prefix 17: 23 tokens fit. What asks in pieces makes shorter ones, whoever asks for more is told."""
    block, _, _ = method
    model = tiny.llama(context=40)
    with block(model) as applied:
        assert applied.reserved == 17
        assert models.context_length(model) == 23
        assert [one.n_tokens for one in models.text_logprobs(model, TOK, ["x" * 22, "x" * 23, "x" * 60])] == [
            22,
            23,
            60,
        ]
        with pytest.raises(UserError, match="context of 23"):
            models.generate(model, TOK, ["x" * 20], max_new_tokens=4)
        with pytest.raises(UserError, match=r"41 tokens; the model's context is 40.*at most 23"):
            model(input_ids=torch.full((1, 24), 9))
        with pytest.raises(UserError, match="41 tokens; the model's context is 40"):
            hf(
                model,
                {"input_ids": torch.full((1, 20), 9), "attention_mask": torch.ones(1, 20).long()},
                eos_token_id=None,
            )
    assert models.context_length(model) == 40


# --------------------------------------------------------------------------- adapters, drift and what looks inside


def test_drift_is_measured_from_the_base_without_the_method(method):
    """KL(base || system) by hand: the base is the model with its adapter off, asked as it is; the system is adapter and method."""
    block, slowly, texts = method
    model = tiny.with_adapter(tiny.llama())
    row = [0, *models.target_ids(TOK, "She said that")]
    with models.adapter_off(model):
        old = by_hand.logits(model, row).double().log_softmax(-1)
    new = slowly(model, TOK, texts, row)
    want = float((old.exp() * (old - new)).sum(-1)[:-1].mean())
    with block(model) as applied:
        found = models.drift_from(None, model, TOK, ["She said that"])[0].kl
        shift = models.drift_from(applied.plain, model, TOK, ["She said that"])[0].kl
    assert found == pytest.approx(want, abs=1e-4)
    adapted = by_hand.logits(model, row).double().log_softmax(-1)
    assert shift == pytest.approx(float((adapted.exp() * (adapted - new)).sum(-1)[:-1].mean()), abs=1e-4)


def test_an_adapter_switched_off_before_the_block_stays_off(method):
    block, _, _ = method
    model = tiny.with_adapter(tiny.llama())
    with block(tiny_base := tiny.llama()):
        want = next_logits(tiny_base, TOK, PROMPTS)
    with models.adapter_off(model), block(model):
        found = next_logits(model, TOK, PROMPTS)
    assert abs(found - want).max() < 1e-4
    with models.adapter_off(model), block(model):
        model.enable_adapter_layers()
        with pytest.raises(UserError, match="adapter changed inside the block"):
            next_logits(model, TOK, PROMPTS)


def test_token_shift_of_a_method_against_its_own_model():
    """Base = the plain model beside the block: what Self-Debias writes is its greedy answer, and some of it is not the base's choice."""
    model = tiny.llama()
    with debias(model) as applied:
        found = probes.shift(applied.plain, model, TOK, PROMPTS, max_new_tokens=8)
        same = probes.shift(applied.plain, applied.plain, TOK, PROMPTS, max_new_tokens=8)
    assert any(answer.values["unshifted"] < 1 for answer in found)
    assert all(answer.values["unshifted"] == 1 for answer in same)


def test_attention_and_states_are_of_the_tokens_asked(method):
    """Under an instruction the columns of the text itself, at the places where they would stand without it."""
    block, _, _ = method
    model = tiny.llama()
    model.set_attn_implementation("eager")
    ids = torch.tensor([[0, 5, 6, 7]])
    with block(model) as applied, torch.no_grad():
        out = model(input_ids=ids, use_cache=False, output_attentions=True, output_hidden_states=True)
        if applied.prefix_ids:
            whole = torch.tensor([[0, *applied.prefix_ids, 5, 6, 7]])
            want = applied.plain(input_ids=whole, output_attentions=True, output_hidden_states=True)
            assert torch.allclose(out.attentions[1], want.attentions[1][:, :, -4:, -4:], atol=1e-5)
            assert torch.allclose(out.hidden_states[1], want.hidden_states[1][:, -4:], atol=1e-4)
    assert out.attentions[0].shape == (1, 4, 4, 4)
    assert out.hidden_states[-1].shape == (1, 4, 32)


def test_both_methods_are_listed_and_their_options_are_checked():
    assert [method.name for method in methods.listing("decoding")] == ["instructive", "self_debias"]
    methods.check_options("decoding", "instructive", {"control": "reversed"}, where="here")
    methods.check_options("decoding", "self_debias", {"decay": 10, "epsilon": 0.1, "prefixes": ["a"]}, where="here")
    with pytest.raises(UserError, match="Did you mean 'decay'"):
        methods.check_options("decoding", "self_debias", {"decai": 10.0}, where="here")


def test_a_cache_that_is_handed_in_empty_is_the_one_that_is_filled(method):
    block, _, _ = method
    model, cache = tiny.llama(), DynamicCache()
    with block(model), torch.no_grad():
        out = model(input_ids=torch.tensor([[0, 5, 6]]), past_key_values=cache, use_cache=True)
    assert out.past_key_values is cache
    assert cache.get_seq_length() == 3
