"""More dropout while training: active, gone afterwards, unseen by everything that asks the model as it is used."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

import tiny
from untax import models, prefix, references
from untax.penalties.dropout import Dropout
from untax.penalties.kl_anchor import KLAnchor
from untax.prefix import Example, Target
from untax.train import loop
from untax.train.loop import Plugged
from untax.types import UserError

sys.path.insert(0, str(Path(__file__).parent.parent / "train"))
from training import furthest, go, weights

TEXTS = ["Max Stone sold 3 cars.", "Ada Brook has sold 4 cars.", "Eve Marsh sold 5 cars."]
IDS = torch.tensor([[5, 60, 61, 62, 63, 9]])
MADE = {"llama": tiny.llama, "gpt2": tiny.gpt2, "qwen3": tiny.qwen3}


def undropped(model):
    """A model whose own dropout is off, as the loop hands it over."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def logits(model):
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


def wrapped(model):
    """The modules whose output is dropped; transformers has hooks of its own."""
    return {
        name
        for name, module in model.named_modules()
        if any("Dropout._drop" in repr(hook) for hook in module._forward_hooks.values())
    }


def prepared(model, **options):
    penalty = Dropout({}, **options)
    penalty.prepare(model)
    return penalty


def dropout(rate, **options):
    return [Plugged("dropout", {"rate": rate, **options}, {})]


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("lora", [False, True])
def test_training_passes_differ_and_evaluation_passes_do_not(name, lora):
    model = undropped(MADE[name]())
    if lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(
            model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", fan_in_fan_out=name == "gpt2")
        )
    model.eval()
    plain = logits(model)
    before = dict(vars(model.get_base_model().config if lora else model.config))
    luck = torch.get_rng_state()
    penalty = prepared(model)
    assert torch.equal(luck, torch.get_rng_state())
    assert not any(module.training for module in model.modules())
    assert torch.equal(logits(model), plain)
    model.train()
    one, other = logits(model), logits(model)
    assert (one - other).abs().max() > 1e-3
    with references.still(model):
        assert torch.equal(logits(model), plain)
    assert penalty.penalty(model, 0).item() == 0
    assert not penalty.penalty(model, 0).requires_grad
    penalty.release()
    assert torch.equal(logits(model), plain)
    assert dict(vars(model.get_base_model().config if lora else model.config)) == before


def test_mean_of_dropped_ones():
    """100,000 ones at rate 0.15: 85 % stay as 1/0.85, the mean is 1 within 3 * sqrt(.1765 / 100,000) = 0.004."""
    model = tiny.llama()
    embedding = model.get_input_embeddings()
    with torch.no_grad():
        embedding.weight.fill_(1.0)
    prepared(model)
    model.train()
    torch.manual_seed(0)
    dropped = embedding(torch.zeros(3125, dtype=torch.long))
    assert dropped.numel() == 100_000
    assert dropped.mean().item() == pytest.approx(1, abs=0.004)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.15, abs=0.004)
    assert dropped.max().item() == pytest.approx(1 / 0.85)


def rates(model):
    return {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}


def test_gpt2_has_every_rate_itself():
    """Two layers of attention, residual and MLP dropout, and one behind the embeddings: 2 + 4 + 1."""
    model = tiny.gpt2()
    before = rates(model)
    assert set(before.values()) == {0.1}
    penalty = prepared(model, rate=0.3)
    assert set(rates(model).values()) == {0.3}
    assert penalty.told() == (
        "rate 0.3 while training; residual: 4 of the model's own rates raised; embedding: 1 of the model's own rates raised; "
        "attention: 2 of the model's own rates raised"
    )
    assert not wrapped(model)
    penalty.release()
    assert rates(model) == before
    without = prepared(model, rate=0.3, attention=False)
    assert rates(model)["transformer.h.0.attn.attn_dropout"] == 0.1
    assert rates(model)["transformer.h.0.attn.resid_dropout"] == 0.3
    without.release()
    assert rates(model) == before


def test_llama_has_one_for_attention_and_the_rest_is_wrapped():
    model = tiny.llama()
    attention = [layer.self_attn for layer in model.model.layers]
    penalty = prepared(model)
    assert [part.attention_dropout for part in attention] == [0.15, 0.15]
    assert wrapped(model) == {
        "model.embed_tokens",
        *(f"model.layers.{i}.{part}" for i in (0, 1) for part in ("self_attn", "mlp")),
    }
    assert "4 outputs of attention and MLP wrapped" in penalty.told()
    assert "embedding: LlamaForCausalLM reads no rate, 1 output of the embedding wrapped" in penalty.told()
    penalty.release()
    assert [part.attention_dropout for part in attention] == [0.0, 0.0]
    assert not wrapped(model)


def test_a_rate_that_nothing_reads_is_not_believed():
    """A model with dropout modules that its forward pass leaves aside is wrapped as if it had none."""
    model = tiny.llama()
    for layer in model.model.layers:
        layer.idle_dropout = nn.Dropout(0.1)
    assert "4 outputs of attention and MLP wrapped" in prepared(model).told()


@pytest.mark.parametrize("lora", [False, True])
def test_every_wrapped_output_is_dropped(lora):
    """About 15 % of each are 0; as told, none of the attention's, the MLP's and the embedding's is left out."""
    model = tiny.with_adapter(tiny.llama()) if lora else tiny.llama()
    prepared(model)
    found = {}

    def see(name):
        def hook(module, given, output):
            found[name] = ((output[0] if isinstance(output, tuple) else output) == 0).float().mean().item()

        return hook

    for name in wrapped(model):
        model.get_submodule(name).register_forward_hook(see(name))
    model.train()
    torch.manual_seed(0)
    with torch.no_grad():
        model(torch.randint(257, (4, 60)), use_cache=False)
    assert len(found) == 5
    assert list(found.values()) == pytest.approx([0.15] * 5, abs=0.02)


def test_an_adapters_own_dropout_stays():
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM", fan_in_fan_out=True)
    adapted = get_peft_model(tiny.gpt2(), settings)
    own = {name for name in rates(adapted) if ".lora_" in name}
    prepared(adapted)
    found = rates(adapted)
    assert {found.pop(name) for name in own} == {0.05}
    assert set(found.values()) == {0.15}


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(UserError, match="rate is"):
        Dropout({}, rate=rate)


def test_it_has_to_be_prepared_and_needs_layers():
    with pytest.raises(UserError, match="prepare"):
        Dropout({}).penalty(tiny.llama(), 0)
    with pytest.raises(UserError, match="no layers"):
        Dropout({}).prepare(nn.Linear(2, 2))


def test_other_penalties_ask_the_model_without_it():
    """The anchor of an unmoved model is 0, and its gradient too: any dropout in that pass would show."""
    model = tiny.llama()
    anchor = KLAnchor({"general": references.read("general", TEXTS, tiny.tokenizer())})
    prepared(model)
    anchor.prepare(model)
    model.train()
    value = anchor.penalty(model, 0)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert max(float(weight.grad.abs().max()) for weight in model.parameters()) < 1e-5


# --------------------------------------------------------------------------- in our loop


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_rate_zero_is_plain_training_and_another_rate_is_not(tmp_path, name):
    """Step by step. A no-op would leave the last two runs equal."""
    plain = go(tmp_path / "plain", objective="sft", model=MADE[name]())
    zero = go(tmp_path / "zero", objective="sft", model=MADE[name](), penalties=dropout(0.0))
    assert [{k: v for k, v in row.items() if k != "penalty_dropout"} for row in zero.log] == plain.log
    assert furthest(plain, zero) == 0
    model = MADE[name]()
    before = rates(model)
    more = go(tmp_path / "more", objective="sft", model=model, penalties=dropout(0.15))
    assert furthest(plain, more) > 1e-4
    assert all(row["penalty_dropout"] == 0 for row in more.log)
    assert more.log[0]["loss"] != plain.log[0]["loss"]
    assert more.summary["penalties"]["dropout"].startswith("rate 0.15 while training")
    # afterwards all is as before, in the model and in what was saved
    assert rates(model) == before
    assert not wrapped(model)
    model.train()
    assert torch.equal(logits(undropped(model)), logits(model))
    assert not [key for key in weights(more) if "drop" in key]
    saved = [json.loads((run.model_dir / "config.json").read_text()) for run in (more, plain)]
    assert saved[0] == saved[1]


def test_with_an_adapter(tmp_path):
    plain = go(tmp_path / "plain", objective="sft", lora={"r": 4}, arguments={"learning_rate": 1e-2})
    more = go(
        tmp_path / "more", objective="sft", lora={"r": 4}, arguments={"learning_rate": 1e-2}, penalties=dropout(0.15)
    )
    assert furthest(plain, more) > 1e-4
    settings = [json.loads((run.model_dir / "adapter_config.json").read_text()) for run in (more, plain)]
    assert settings[0] == settings[1]


class Stop(Exception):
    pass


class Die(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 7:
            raise Stop


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_run_that_died_ends_where_the_uninterrupted_one_does(tmp_path, checkpointing):
    """Bit for bit: the state of the random numbers is part of a checkpoint."""
    arguments = {
        "max_steps": 10,
        "save_steps": 4,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": checkpointing,
    }

    def train(out, **options):
        return go(out, arguments=arguments, penalties=dropout(0.15), **options)

    whole = train(tmp_path / "whole")
    model = tiny.llama(spread=0.1)
    with pytest.raises(Stop):
        train(tmp_path / "died", model=model, callbacks=[Die()])
    assert not wrapped(model)  # a run that fails cleans up as well
    resumed = train(tmp_path / "died")
    assert resumed.resumed_from == 4
    assert furthest(whole, resumed) == 0
    assert resumed.log == whole.log
    assert resumed.summary == whole.summary


def test_layers_that_are_run_again_drop_the_same(tmp_path):
    """Activations that are forgotten and made again see the same dropout: else the gradient belongs to another pass."""
    kept = go(tmp_path / "kept", objective="sft", penalties=dropout(0.3))
    again = go(tmp_path / "again", objective="sft", penalties=dropout(0.3), arguments={"gradient_checkpointing": True})
    assert furthest(kept, again) < 1e-5


@pytest.mark.parametrize("method", ["agem", "ogpsa"])
def test_gradient_methods_take_their_references_without_it(tmp_path, method):
    """What a method asks of its reference rows at the start is the same with dropout and without."""
    asked = []
    for rate in (0.0, 0.4):
        held = {"general": references.read("general", TEXTS, tiny.tokenizer())}
        gradients = Plugged(method, {"rows": 3} if method == "agem" else {"refresh_every": 5}, held)
        run = go(
            tmp_path / str(rate), objective="sft", arguments={"max_steps": 1}, gradients=gradients, penalties=dropout(rate),
        )  # fmt: skip
        asked.append({key: value for key, value in run.log[0].items() if key.startswith("reference")})
    assert asked[0] == asked[1]
    assert "reference_loss" in asked[0]


@pytest.mark.parametrize("lora", [False, True])
def test_the_frozen_model_of_dpo_has_none(lora):
    """The start that a policy is held to is asked as it is used, be it the base under an adapter or a copy."""
    model = tiny.llama()
    policy = tiny.with_adapter(model) if lora else model
    target = Target((70, 71, 0), positive=True)
    batch = prefix.collate([Example((5, 60, 61), (target, Target((80, 81, 82, 0), positive=False)))])
    before = model if not lora else policy.get_base_model()
    with models.adapter_off(policy) if lora else nullcontext():
        plain = prefix.Pass(prefix.decoder(policy), batch).logps().detach()
    frozen = loop._frozen(prefix.decoder(policy), None)
    prepared(policy)
    policy.train()
    assert torch.equal(frozen(batch), plain)
    assert frozen(batch).is_inference() is False
    assert policy.training
    assert before.model.layers[0].mlp.training
