"""The shared pass equals one pass per target, in value and in gradient, or it is not taken."""

import random

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPTNeoConfig,
    MambaConfig,
    MistralConfig,
    T5Config,
    T5ForConditionalGeneration,
)

import tiny
from untax import prefix
from untax.prefix import Example, Pass, Target
from untax.types import UserError

SIZE = {"vocab_size": 257, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2}
GROUPED = {**SMALL, "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}


def made(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def examples(seed: int = 0, *, shapes=((9, (3, 7, 4, 1)), (17, (5, 2)), (1, (6, 6, 2)), (5, (4,)))) -> list[Example]:
    """Sources with prompts of 9, 17, 1 and 5 tokens, and 4, 2, 3 and 1 targets of different lengths."""
    draw = random.Random(seed)

    def ids(count):
        return tuple(draw.randrange(1, 257) for _ in range(count))

    return [
        Example(ids(length), tuple(Target(ids(n), positive=k < 2) for k, n in enumerate(targets)))
        for length, targets in shapes
    ]


def batch(**options):
    return prefix.collate(examples(**options))


def one_by_one(model, made_examples) -> list[torch.Tensor]:
    """Log-probabilities of every target from a forward pass of its own, without padding and without this module."""
    rows = []
    for example in made_examples:
        for target in example.targets:
            ids = torch.tensor([example.prompt + target.ids])
            logits = model(ids).logits[0, len(example.prompt) - 1 : -1]
            rows.append(logits.log_softmax(-1).gather(1, torch.tensor(target.ids)[:, None])[:, 0])
    return rows


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def curved(forward: Pass) -> torch.Tensor:
    """A loss that weighs every token and every state differently, so that no two gradients can be exchanged."""
    mask = forward.batch.mask_NT
    weights = torch.linspace(0.5, 1.5, int(mask.sum()))
    states = forward.states_NTH[mask]
    return (forward.logps()[mask] * weights).sum() / 10 + (states.tanh() * weights[:, None]).pow(2).mean()


ARCHITECTURES = {"llama": tiny.llama, "gpt2": tiny.gpt2, "qwen3": tiny.qwen3}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_shared_equals_one_by_one(name):
    model = ARCHITECTURES[name]()
    forward = Pass(prefix.decoder(model), batch())
    assert forward.is_shared
    mask = forward.batch.mask_NT
    expected = torch.cat(one_by_one(model, examples()))
    assert torch.allclose(forward.logps()[mask], expected, atol=1e-5)
    assert (forward.logps()[~mask] == 0).all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_equal_those_of_separate_passes(name):
    model = ARCHITECTURES[name]()
    shape = prefix.decoder(model)
    shared, separate = Pass(shape, batch()), Pass(shape, batch(), share=False)
    assert shared.is_shared
    assert not separate.is_shared
    loss, truth = curved(shared), curved(separate)
    assert abs(loss.item() - truth.item()) < 1e-5 * max(1, abs(truth.item()))
    found, expected = gradients(model, loss), gradients(model, truth)
    assert found.keys() == expected.keys()
    for key in expected:
        scale = max(1.0, float(expected[key].abs().max()))
        assert float((found[key] - expected[key]).abs().max()) < 1e-5 * scale, key


def test_gradients_reach_the_prompt():
    """The loss of a target moves the embedding of a token that stands in the prompt only."""
    model = tiny.gpt2()
    shape = prefix.decoder(model)
    only_prompt = Example((200, 201), (Target((5, 6), True), Target((7,), False)))
    forward = Pass(shape, prefix.collate([only_prompt]))
    assert forward.is_shared
    forward.states_NTH[forward.batch.mask_NT][:, 0].sum().backward()
    assert float(model.transformer.wte.weight.grad[200].abs().sum()) > 1e-4


def test_targets_do_not_see_each_other():
    model = tiny.llama()
    shape = prefix.decoder(model)
    first, second, third = Target((5, 6, 7), True), Target((8, 9), True), Target((90, 91, 92, 93), True)
    one = Pass(shape, prefix.collate([Example((1, 2, 3), (first, second))])).logps()[0, :3]
    other = Pass(shape, prefix.collate([Example((1, 2, 3), (first, third))])).logps()[0, :3]
    assert torch.allclose(one, other, atol=1e-6)


def test_only_keeps_what_is_chosen():
    shape = prefix.decoder(tiny.llama())
    full = batch()
    everything = Pass(shape, full)
    rows = torch.tensor([True, False, False, True, False, True, False, False, False, False])
    some = everything.only(rows)
    assert some.batch.sources == 2
    assert some.batch.source_N.tolist() == [0, 0, 1]
    assert some.batch.step == full.step
    width = some.batch.mask_NT.shape[1]
    assert torch.allclose(some.logps(), everything.logps()[rows][:, :width], atol=1e-5)


def test_one_target_a_source_is_not_shared():
    shape = prefix.decoder(tiny.llama())
    references = Pass(shape, batch()).only(batch().reference_N)
    assert not references.is_shared
    assert references.batch.sources == 4


def test_logits_are_made_for_the_asked_rows_only():
    model = tiny.llama()
    sizes = []
    model.lm_head.register_forward_hook(lambda _module, inputs, _out: sizes.append(inputs[0].shape[0]))
    shape = prefix.decoder(model)
    sizes.clear()
    forward = Pass(shape, batch())
    _ = forward.states_NTH
    assert sizes == []
    forward.logps(forward.batch.reference_N)
    assert sizes == [3 + 5 + 6 + 4]


def test_counts_are_what_a_loss_divides_by():
    counts = batch().step
    # references 3 + 5 + 6 + 4 tokens; contrasted: sources 0 and 2 (two positives, some negative); negatives 4 + 1 + 2 tokens
    assert (counts.sources, counts.reference_tokens, counts.contrasted) == (4, 18, 2)
    assert (counts.negatives, counts.negative_tokens) == (3, 7)
    assert (counts + counts).reference_tokens == 36


def test_a_lora_adapter_is_part_of_the_pass():
    base = tiny.llama()
    plain = Pass(prefix.decoder(base), batch()).logps().detach()
    model = tiny.with_adapter(base)
    forward = Pass(prefix.decoder(model), batch())
    assert forward.is_shared
    expected = torch.cat(one_by_one(model, examples()))
    assert torch.allclose(forward.logps()[forward.batch.mask_NT], expected, atol=1e-5)
    assert float((forward.logps() - plain).detach().abs().max()) > 0.01


FALLBACKS = {
    "sliding window": (MistralConfig(**SIZE, **GROUPED, sliding_window=6), ""),
    "sliding window that only long sequences outgrow": (MistralConfig(**SIZE, **GROUPED, sliding_window=12), ""),
    "layers without attention": (
        MambaConfig(**SIZE, hidden_size=32, num_hidden_layers=2, state_size=4, initializer_range=0.2),
        "forward does not take",
    ),
    "local attention without a word in the configuration": (
        GPTNeoConfig(
            **SIZE, hidden_size=32, num_layers=2, num_heads=4, window_size=4, max_position_embeddings=64,
            attention_types=[[["global", "local"], 1]], initializer_range=0.2,
        ),
        "cannot be shared",
    ),
    "soft-capped logits": (Gemma2Config(**SIZE, **GROUPED, sliding_window=64), "output layer"),
}  # fmt: skip


@pytest.mark.parametrize("name", FALLBACKS)
def test_what_cannot_be_shared_is_right_all_the_same(name):
    config, reason = FALLBACKS[name]
    model = made(config)
    shape = prefix.decoder(model)
    assert reason in shape.separate_because
    forward = Pass(shape, batch())
    assert not forward.is_shared
    expected = torch.cat(one_by_one(model, examples()))
    assert torch.allclose(forward.logps()[forward.batch.mask_NT], expected, atol=1e-5)


def test_soft_capping_that_an_untrained_model_does_not_show_is_seen():
    """Logits of 0.01 under a cap of 30 are what they would be without; after training they are not."""
    small = GROUPED | {"initializer_range": 0.001}
    assert prefix.decoder(made(Gemma2Config(**SIZE, **small, sliding_window=64))).head is None


def test_a_window_that_nothing_outgrows_does_no_harm():
    model = made(MistralConfig(**SIZE, **GROUPED, sliding_window=64))
    forward = Pass(prefix.decoder(model), batch())
    assert forward.is_shared
    expected = torch.cat(one_by_one(model, examples()))
    assert torch.allclose(forward.logps()[forward.batch.mask_NT], expected, atol=1e-5)


def test_rotary_scaling_that_depends_on_length_is_not_shared():
    model = tiny.llama()
    model.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    assert "rotary" in prefix.decoder(model).separate_because


def test_gradient_checkpointing_is_not_shared_and_right():
    model = tiny.llama()
    shape = prefix.decoder(model)
    expected = gradients(model, curved(Pass(shape, batch())))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    forward = Pass(shape, batch())
    assert not forward.is_shared
    found = gradients(model, curved(forward))
    assert all(torch.allclose(found[key], expected[key], atol=1e-4) for key in expected)


def test_the_probe_leaves_the_model_as_it_was():
    model = tiny.gpt2()
    model.train()
    model.transformer.h[0].eval()
    prefix.decoder(model)
    assert model.training
    assert not model.transformer.h[0].training


def test_an_encoder_decoder_is_refused():
    model = T5ForConditionalGeneration(T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    with pytest.raises(UserError, match="encoder-decoder"):
        prefix.decoder(model)


def test_score_equals_one_by_one_in_order():
    model = tiny.qwen3()
    asked = examples()
    expected = iter(float(row.sum()) for row in one_by_one(model, asked))
    for size in (16, 16384):
        found = prefix.score(
            prefix.decoder(model),
            [e.prompt for e in asked],
            [[t.ids for t in e.targets] for e in asked],
            batch_tokens=size,
        )
        assert [len(row) for row in found] == [4, 2, 3, 1]
        expected = iter(float(row.detach().sum()) for row in one_by_one(model, asked))
        assert all(abs(value - next(expected)) < 1e-4 for row in found for value in row)


def test_an_example_without_tokens_is_refused():
    with pytest.raises(ValueError, match="one token or more"):
        prefix.collate([Example((), (Target((1,), True),))])
    with pytest.raises(ValueError, match="one token or more"):
        prefix.collate([Example((1,), (Target((), True),))])


def test_targets_of_similar_length_run_together():
    """Lengths 2 and 10 four times each: one cut saves 4 * 8 of 80 tokens; equal lengths are never cut."""
    assert prefix._groups([10, 2, 2, 10, 10, 2, 2, 10]) == [[1, 2, 5, 6], [0, 3, 4, 7]]
    assert prefix._groups([5] * 8) == [list(range(8))]
    assert prefix._groups([5]) == [[0]]
    # the first cut saves about 50 * 50 of 99 * 99, a second one 25 * 25
    assert len(prefix._groups(list(range(1, 100)))) == 2
    assert len(prefix._groups(list(range(1, 100)), worth=0.0)) == 4


def test_groups_change_nothing(monkeypatch):
    model = tiny.gpt2()
    shape = prefix.decoder(model)
    grouped = Pass(shape, batch())
    assert len(prefix._groups(grouped.batch.mask_NT.sum(1).tolist())) > 1
    states, found = grouped.states_NTH, gradients(model, curved(grouped))
    monkeypatch.setattr(prefix, "_groups", lambda lengths: [list(range(len(lengths)))])
    together = Pass(shape, batch())
    mask = together.batch.mask_NT
    assert torch.allclose(together.states_NTH[mask], states[mask], atol=1e-5)
    expected = gradients(model, curved(together))
    assert all(torch.allclose(found[key], expected[key], atol=1e-4) for key in expected)
