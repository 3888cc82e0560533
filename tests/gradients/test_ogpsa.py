"""The projection under real trainers: the known answers of its specification, and everything a user can switch on."""

import logging
import shutil
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from projecting import (
    CODES,
    LENGTH,
    OTHERS,
    REFERENCES,
    Spy,
    completions,
    furthest,
    logged,
    losses,
    preferences,
    reference_gradients,
    reference_loss,
    rows,
    train,
    trainer,
    weights,
)
from torch import nn

import tiny
from untax import references
from untax.gradients.common import Parameters, check_trainer, read_sets, reference_gradient
from untax.gradients.ogpsa import OrthogonalProjection
from untax.types import UnsupportedTrainer, UserError

BOTH = {"animals": REFERENCES, "places": OTHERS}


def projection(sets=None, **options):
    return OrthogonalProjection(sets or {"animals": REFERENCES}, **({"refresh_every": 2} | options))


def lora(model=None, **options):
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **options)
    return get_peft_model(tiny.llama(spread=0.1) if model is None else model, config)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return train(tmp_path_factory.mktemp("plain"))


# --------------------------------------------------------------------------- known answers 4 to 10 (1 to 3: test_subspace)


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adafactor"])
def test_4_no_update_moves_along_a_reference(optim, tmp_path):
    """abs(<d, ref>) / (|d| |ref|) < 1e-5 per tensor; a large step keeps the rounding of the weights small beside it."""
    spy = Spy(REFERENCES, OTHERS)
    rate = 1.0 if optim == "sgd" else 0.02
    train(tmp_path, [projection(BOTH, side="two", refresh_every=1), spy], optim=optim, learning_rate=rate, max_steps=3)
    assert spy.cosines().abs().max() < 1e-5


def test_4_a_projected_gradient_still_moves_along_it_under_adamw(tmp_path):
    spy = Spy(REFERENCES)
    options = {"side": "two", "target": "gradient", "refresh_every": 1}
    train(tmp_path, [projection(**options), spy], learning_rate=0.02, max_steps=3)
    assert spy.cosines().abs().max() > 0.05
    spy = Spy(REFERENCES)
    train(tmp_path, [projection(**options), spy], learning_rate=0.5, max_steps=3, optim="sgd")
    assert spy.cosines().abs().max() < 1e-5


def test_4_one_sided_raises_no_set_and_keeps_what_agrees(tmp_path):
    spy, free = Spy(REFERENCES, OTHERS), Spy(REFERENCES, OTHERS)
    train(tmp_path, [projection(BOTH, refresh_every=1), spy], learning_rate=0.02, max_steps=3)
    train(tmp_path, [free], learning_rate=0.02, max_steps=3)
    assert free.cosines().max() > 0.05
    assert spy.cosines().max() < 1e-5
    assert spy.cosines().min() < -0.05


def test_5_references_leak_nothing_into_the_losses(plain, tmp_path):
    """Bit for bit, with a dropout that would notice a random number drawn, and after a backward that left gradients."""
    watched = train(tmp_path, [projection(BOTH, strength=0, refresh_every=1, refresh_when=2.0)])
    assert losses(watched) == losses(plain)
    assert furthest(weights(watched), weights(plain)) == 0
    assert logged(watched, "conflict_rate")[0] > 0
    assert logged(watched, "removed_energy") == [0] * 4
    dropped = [
        losses(train(tmp_path, found, model=lora(lora_dropout=0.3)))
        for found in ([], [projection(BOTH, strength=0, refresh_every=1)])
    ]
    assert dropped[0] == dropped[1] != losses(plain)


def test_5_the_leak_of_the_released_code_moves_the_next_step_by_the_reference_gradient_over_accumulation(tmp_path):
    """SGD, rate 0.1, accumulation 2, strength 0 so that only the leak differs: the first step is longer by -0.1 * g_ref / 2."""
    settings = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 1, "gradient_accumulation_steps": 2}
    plain = train(tmp_path / "plain", **settings)
    spy = Spy(REFERENCES)
    held = OrthogonalProjection({"r": REFERENCES}, target="gradient", strength=0, leak=True)
    leaked = train(tmp_path / "leak", [held, spy], **settings)
    found = spy.steps[0][1][0]
    for name, weight in weights(leaked).items():
        shift = weight - weights(plain)[name]
        assert torch.allclose(shift, -0.1 * found[name] / 2, atol=1e-7), name
    later = {**settings, "max_steps": 3}
    once = train(
        tmp_path / "once", [OrthogonalProjection({"r": REFERENCES}, target="gradient", strength=0, leak=True)], **later
    )
    assert losses(once)[0] == losses(plain)[0]
    assert logged(once, "reference_loss")  # refreshed once, at the first step: only that step leaked


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd"])
def test_6_the_reference_loss_changes_in_the_second_order(optim, tmp_path):
    """One step at a rate and at half of it: four times the change with the projection, twice without."""
    rate = {"adamw_torch": 1e-4, "sgd": 2e-3}[optim]
    start = reference_loss(tiny.llama(spread=0.1).double()).item()

    def change(share, callbacks):
        model = tiny.llama(spread=0.1).double()
        made = train(tmp_path, callbacks, model=model, max_steps=1, learning_rate=share * rate, optim=optim)
        return reference_loss(made.model).item() - start

    held = [change(share, [projection(side="two")]) for share in (1, 0.5)]
    free = [change(share, []) for share in (1, 0.5)]
    assert held[0] / held[1] == pytest.approx(4, rel=0.1)
    assert free[0] / free[1] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("options", [{"strength": 0}, {"directions_per_set": 0}, {"target": "gradient", "strength": 0}])
def test_7_without_strength_or_rank_the_trajectory_is_the_plain_one(options, plain, tmp_path):
    held = train(tmp_path, [projection(**options)])
    assert losses(held) == losses(plain)
    assert furthest(weights(held), weights(plain)) == 0
    assert logged(held, "reference_loss")[0] == pytest.approx(reference_loss(tiny.llama(spread=0.1)).item(), abs=1e-4)


@pytest.mark.parametrize("granularity", ["tensor", "module", "global"])
def test_7_the_training_batch_as_reference_stops_training_on_it(granularity, tmp_path):
    """SGD: d = -rate g, and g itself is what is removed."""
    batch = rows(4)
    free = train(tmp_path, data=batch, max_steps=1, optim="sgd", learning_rate=0.1)
    callback = projection({"batch": batch}, side="two", granularity=granularity)
    held = train(tmp_path, [callback], data=batch, max_steps=1, optim="sgd", learning_rate=0.1)
    start = {name: p.detach() for name, p in tiny.llama(spread=0.1).named_parameters()}
    assert furthest(weights(free), start) > 1e-3
    assert furthest(weights(held), start) < 1e-6
    assert logged(held, "removed_energy") == [pytest.approx(1, abs=1e-4)]


@pytest.mark.parametrize("target", ["update", "gradient"])
def test_8_accumulation_changes_nothing(target, tmp_path):
    """One-sided, with rows that agree with the references and rows that do not: what each micro-batch alone would lose is not what
    their sum loses.

    SGD: AdamW's first steps blow rounding of a gradient near zero up to the size of the rate.
    """
    ids = tiny.tokenizer()("GZQX YUJB MKVX QQXZ ZJVK")["input_ids"][:LENGTH]
    data = [row if i % 2 else row | {"input_ids": ids, "labels": ids} for i, row in enumerate(rows())]
    arguments = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 3, "data": data}
    made = [
        train(
            tmp_path, [projection({"codes": CODES, "animals": REFERENCES}, target=target)],
            per_device_train_batch_size=size, gradient_accumulation_steps=8 // size, **arguments,
        )
        for size in (8, 2)
    ]  # fmt: skip
    assert furthest(weights(made[0]), weights(made[1])) < 1e-6
    free = train(tmp_path, **arguments | {"per_device_train_batch_size": 8})
    assert furthest(weights(made[0]), weights(free)) > 1e-4


RESUMED = {
    "update": {"side": "two", "refresh_every": 5, "directions_per_set": 2},
    "kl": {"loss": "kl_to_start", "refresh_every": 5},
    "lowered": {"max_reference_loss_rise": -1.0, "refresh_every": 3, "target": "gradient"},
    "when": {"refresh_when": 0.999, "refresh_every": 10, "granularity": "global"},
}


@pytest.mark.parametrize("name", RESUMED)
def test_9_resumed_at_step_7_of_12_bit_for_bit(name, tmp_path):
    options = {"max_steps": 12, "save_strategy": "steps", "save_steps": 7}
    whole = train(tmp_path / "whole", [projection(**RESUMED[name])], **options)
    shutil.copytree(tmp_path / "whole" / "checkpoint-7", tmp_path / "again" / "checkpoint-7")
    again = trainer(tmp_path / "again", [projection(**RESUMED[name])], **options, model=tiny.llama(seed=9, spread=0.1))
    again.train(resume_from_checkpoint=str(tmp_path / "again" / "checkpoint-7"))
    assert furthest(weights(whole), weights(again)) == 0
    both = [
        [{k: v for k, v in row.items() if "train_" not in k} for row in t.state.log_history] for t in (whole, again)
    ]
    assert both[0][:-1] == both[1][:-1]


def test_9_resuming_without_the_state_says_so_and_asks_the_references_again(tmp_path, caplog):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    train(tmp_path, [projection(refresh_every=9)], **options)
    state = tmp_path / "checkpoint-2" / "untax_projection-rank0.safetensors"
    kept = state.read_bytes()
    with pytest.raises(UserError, match="other references"):
        trainer(tmp_path, [projection(BOTH)], **options).train(resume_from_checkpoint=str(state.parent))
    state.write_bytes(kept[:-40])
    with pytest.raises(UserError, match="damaged"):
        trainer(tmp_path, [projection()], **options).train(resume_from_checkpoint=str(state.parent))
    state.unlink()
    again = trainer(tmp_path, [projection(refresh_every=9)], **options)
    with caplog.at_level(logging.WARNING):
        again.train(resume_from_checkpoint=str(state.parent))
    assert "no state of the projection" in caplog.text
    assert [row["step"] for row in again.state.log_history if "reference_loss" in row] == [1, 3]
    lost = trainer(tmp_path, [projection(loss="kl_to_start")], **options)
    with pytest.raises(UserError, match="what it said when training began"):
        lost.train(resume_from_checkpoint=str(state.parent))


def test_9_state_from_another_folder(tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 3}
    first = projection(refresh_every=9)
    whole = train(tmp_path, [first], **options)
    (tmp_path / "checkpoint-3" / "untax_projection-rank0.safetensors").rename(tmp_path / "state")
    first.save(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "untax_projection-rank0.safetensors").read_bytes()[-4000:] == (
        tmp_path / "state"
    ).read_bytes()[-4000:]
    callback = projection(refresh_every=9)
    callback.load(tmp_path / "elsewhere")
    again = trainer(tmp_path, [callback], **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert furthest(weights(whole), weights(again)) == 0
    assert logged(again, "reference_loss_rise") == logged(whole, "reference_loss_rise") == [0]


class _Args(SimpleNamespace):
    """The training arguments that a refusal looks at."""


ARGS = {
    "deepspeed": None, "optim": "adamw_torch", "gradient_checkpointing": False, "gradient_checkpointing_kwargs": None,
}  # fmt: skip


class FlatParameter(nn.Parameter):
    """What FSDP1 makes of parameters; known by its name, as torch's own cannot be made outside of it."""


def _flat():
    module = nn.Module()
    module.flat = FlatParameter(torch.zeros(2))
    return module


@pytest.mark.parametrize(
    ("args", "model", "optimizer", "way_out"),
    [
        ({"deepspeed": "zero2.json"}, None, None, "FSDP2"),
        ({"optim": "galore_adamw_layerwise"}, None, None, "adamw_torch"),
        (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
            None,
            None,
            "False",
        ),
        ({}, _flat, None, "fsdp_version: 2"),
        ({}, None, torch.optim.LBFGS, "adamw_torch"),
    ],
)
def test_10_what_cannot_be_held_is_refused_with_a_way_out(args, model, optimizer, way_out):
    module = nn.Linear(2, 2) if model is None else model()
    steps = (optimizer or torch.optim.SGD)(list(nn.Linear(2, 2).parameters()), lr=0.1)
    check_trainer(_Args(**ARGS), nn.Linear(2, 2), torch.optim.SGD([torch.zeros(1)], lr=0.1))
    with pytest.raises(UnsupportedTrainer, match=way_out):
        check_trainer(_Args(**ARGS | args), module, steps)


def test_10_a_layerwise_dummy_is_known_by_itself():
    from transformers.trainer_pt_utils import LayerWiseDummyOptimizer

    with pytest.raises(UnsupportedTrainer, match="adamw_torch"):
        check_trainer(_Args(**ARGS), nn.Linear(2, 2), LayerWiseDummyOptimizer(optimizer_dict={}))


# --------------------------------------------------------------------------- reference gradients


def test_a_reference_gradient_is_that_of_the_mean_over_tokens_however_batched():
    model = tiny.llama(spread=0.1)
    view = Parameters(model)
    part = references.read("r", REFERENCES, tiny.tokenizer())
    wanted = reference_gradients(model)
    for size in (1, 3, 8):
        found, mean = reference_gradient(model, view, part, batch_size=size)
        assert mean.item() == pytest.approx(reference_loss(model).item(), abs=1e-6)
        for name, gradient in zip(view.names, found, strict=True):
            assert torch.allclose(gradient, wanted[name], atol=1e-6), name
    assert all(p.grad is None for p in model.parameters())


def test_sets_have_their_own_directions_and_meters(tmp_path):
    callback = projection(BOTH, directions_per_set=2, side="two")
    made = train(tmp_path, [callback], max_steps=1)
    assert callback.holding.subspace.sizes == (2, 2)
    row = made.state.log_history[0]
    model = tiny.llama(spread=0.1)
    expected = {name: reference_loss(model, texts).item() for name, texts in BOTH.items()}
    for name, value in expected.items():
        assert row[f"reference_loss/{name}"] == pytest.approx(value, abs=1e-5)
    tokens = {name: references.read(name, texts, tiny.tokenizer()).tokens for name, texts in BOTH.items()}
    mean = sum(expected[name] * tokens[name] for name in BOTH) / sum(tokens.values())
    assert row["reference_loss"] == pytest.approx(mean, abs=1e-5)
    assert row["reference_loss_rise"] == 0


def test_references_are_asked_every_k_steps_and_when_they_have_turned(tmp_path):
    def refreshed(**options):
        made = train(tmp_path, [projection(**options)], max_steps=7, learning_rate=0.01)
        return [row["step"] - 1 for row in made.state.log_history if "reference_loss" in row]

    assert refreshed(refresh_every=3) == [0, 3, 6]
    assert refreshed(refresh_every=10) == [0]
    assert refreshed(refresh_every=10, refresh_when=-1.0) == [0]
    assert refreshed(refresh_every=10, refresh_when=1.1) == [0, 2, 4, 6]  # looked at every 10 // 5 steps


def test_memory_precision_of_what_is_stored(tmp_path):
    """bfloat16 keeps 8 bits of mantissa: what is left along the reference is small, and not as small as with float32."""
    spy = Spy(REFERENCES)
    callback = projection(side="two", refresh_every=1, keep_in="bfloat16")
    train(tmp_path, [callback, spy], learning_rate=0.02, max_steps=2)
    assert {kept.dtype for kept in callback.holding.subspace.kept} == {torch.bfloat16}
    assert 1e-6 < spy.cosines().abs().max() < 5e-3


# --------------------------------------------------------------------------- ways to train


def test_a_lora_is_held_from_the_second_step_on(tmp_path):
    """lora_A has no gradient while B is zero: references are asked again after the first step, and once only."""
    spy = Spy(REFERENCES)
    made = train(
        tmp_path, [projection(side="two", refresh_every=9), spy], model=lora(), max_steps=4, learning_rate=0.05
    )
    assert [row["step"] - 1 for row in made.state.log_history if "reference_loss" in row] == [0, 1]
    names = list(spy.steps[0][0])
    second = dict(zip(names, spy.cosines()[len(names) : 2 * len(names)], strict=True))
    assert all("lora" in name for name in names)
    assert max(abs(value) for value in second.values()) < 1e-4
    start = {name: p for name, p in lora().named_parameters() if "lora_A" in name}
    assert all(float((weights(made)[name] - p.detach()).abs().max()) > 0 for name, p in start.items())


def test_both_factors_of_a_lora_as_one_module(tmp_path):
    spy = Spy(REFERENCES)
    callback = projection(side="two", granularity="module", refresh_every=1)
    train(tmp_path, [callback, spy], model=lora(), max_steps=3, learning_rate=0.05)
    assert len(callback.holding.view.groups) == 4  # 2 layers, q and v
    changes, (found,) = spy.steps[-1]
    inner = {}
    for name, change in changes.items():
        at = name.partition(".lora_")[0]
        inner[at] = inner.get(at, 0) + float((change.double() * found[name].double()).sum())
    assert max(map(abs, inner.values())) < 1e-6
    assert max(abs(float((changes[name] * found[name]).sum())) for name in changes) > 1e-5


def test_weights_in_bfloat16(tmp_path):
    """The step is rounded where it is written, so that it keeps a trace of the reference; without projection it has far more."""
    cosines = []
    for callbacks in ([projection(side="two", refresh_every=1)], []):
        spy = Spy(REFERENCES)
        model = tiny.llama(spread=0.1).to(torch.bfloat16)
        train(tmp_path, [*callbacks, spy], model=model, max_steps=2, learning_rate=0.05)
        cosines.append(spy.cosines().abs().mean())
    assert cosines[0] < 0.2 * cosines[1]


def test_gradient_checkpointing_gives_the_same_and_its_old_form_is_refused(tmp_path):
    options = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 2}
    straight = train(tmp_path, [projection(BOTH)], **options)
    checkpointed = train(
        tmp_path, [projection(BOTH)], gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False}, **options,
    )  # fmt: skip
    assert furthest(weights(straight), weights(checkpointed)) < 1e-6
    with pytest.raises(UnsupportedTrainer, match="use_reentrant"):
        train(
            tmp_path, [projection()], gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": True}, **options,
        )  # fmt: skip
    model = tiny.llama(spread=0.1)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    with pytest.raises(UnsupportedTrainer, match="use_reentrant"):
        train(tmp_path, [projection()], model=model.train(), **options)


def test_clipping_follows_the_projection(tmp_path, caplog):
    """SGD at rate 1: the step is the clipped projected gradient. |step| = .01, and it has no part along the reference."""
    spy, options = Spy(REFERENCES), {"target": "gradient", "side": "two"}
    arguments = {"optim": "sgd", "learning_rate": 1.0, "max_steps": 1}
    train(tmp_path, [projection(max_grad_norm=0.01, **options), spy], **arguments)
    changes = spy.steps[0][0]
    assert torch.cat([c.flatten() for c in changes.values()]).norm().item() == pytest.approx(0.01, rel=1e-3)
    free = Spy(REFERENCES)
    train(tmp_path, [projection(**options), free], **arguments)
    scale = changes["model.norm.weight"] / free.steps[0][0]["model.norm.weight"]
    for name, change in changes.items():
        assert torch.allclose(change, scale.mean() * free.steps[0][0][name], rtol=1e-3, atol=1e-6)
    with pytest.raises(UserError, match="clipped twice"):
        train(tmp_path, [projection(max_grad_norm=0.01, **options)], **arguments | {"max_grad_norm": 1.0})
    with caplog.at_level(logging.WARNING):
        train(tmp_path, [projection(**options)], **arguments | {"max_grad_norm": 1.0})
    assert caplog.text.count("max_grad_norm=0") == 1


def test_kl_to_the_start_is_held_from_the_second_step_on(tmp_path):
    """At the start KL is 0 and so is its gradient; after a step they are not. Under an adapter the start is its base."""
    base = tiny.llama(spread=0.1)
    for make in (lambda: tiny.llama(spread=0.1), lora):
        callback = projection(loss="kl_to_start", side="two", refresh_every=9)
        held = train(tmp_path, [callback], model=make(), max_steps=3, learning_rate=0.01)
        free = train(tmp_path, model=make(), max_steps=3, learning_rate=0.01)
        measured = logged(held, "reference_loss")
        assert measured[0] == pytest.approx(0, abs=1e-6)
        assert measured[1] > 1e-5
        assert len(measured) == 2
        assert kl_to(base, held.model) < 0.8 * kl_to(base, free.model)


def kl_to(base, model):
    """Mean KL(model || base) per token of the references."""
    total, tokens = 0.0, 0
    with torch.no_grad():
        for row in references.read("r", REFERENCES, tiny.tokenizer()).rows:
            new, old = (
                m.eval()(input_ids=torch.tensor([row.ids])).logits[0, :-1].log_softmax(-1) for m in (model, base)
            )
            total += float((new.exp() * (new - old)).sum())
            tokens += len(new)
    return total / tokens


# --------------------------------------------------------------------------- budget


def test_a_budget_lowers_the_rate_for_the_step_only(tmp_path, caplog):
    """A budget below zero is exceeded from the first refresh on: 1/2, 1/2, 1/4, 1/4 of the rate; SGD moves by as much."""

    class Rates(Spy):
        def on_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
            assert [group["lr"] for group in optimizer.param_groups] == [1e-5] * len(optimizer.param_groups)

    spies = [Rates(), Spy()]
    callback = projection(strength=0, max_reference_loss_rise=-9.0)
    with caplog.at_level(logging.WARNING):
        held = train(tmp_path, [callback, spies[0]], optim="sgd", learning_rate=1e-5)
    train(tmp_path, [spies[1]], optim="sgd", learning_rate=1e-5)
    assert logged(held, "learning_rate") == [1e-5] * 4
    assert logged(held, "step_scale") == [0.5, 0.25]
    assert caplog.text.count("above its first") == 2
    name = "model.layers.0.mlp.up_proj.weight"
    shares = [float(a[0][name].norm() / b[0][name].norm()) for a, b in zip(spies[0].steps, spies[1].steps, strict=True)]
    assert shares == pytest.approx([0.5, 0.5, 0.25, 0.25], rel=0.01)


@pytest.mark.parametrize("target", ["update", "gradient"])
def test_a_budget_that_stops(target, tmp_path, caplog):
    """The refresh at step 2 finds the rise: no step moves the model further, and training ends."""
    callback = projection({"codes": CODES}, target=target, max_reference_loss_rise=0.01, on_rise="stop", strength=0)
    two = train(tmp_path, max_steps=2, learning_rate=0.02)
    with caplog.at_level(logging.WARNING):
        made = train(tmp_path, [callback], max_steps=9, learning_rate=0.02)
    assert made.state.global_step == 3
    assert furthest(weights(made), weights(two)) == 0
    assert logged(made, "reference_loss_rise")[-1] > 0.01
    assert "training stops" in caplog.text


def test_a_budget_that_is_kept_changes_nothing(tmp_path):
    free = train(tmp_path, [projection()])
    held = train(tmp_path, [projection(max_reference_loss_rise=50.0)])
    assert furthest(weights(free), weights(held)) == 0
    assert logged(held, "step_scale") == [1, 1]


# --------------------------------------------------------------------------- TRL


def test_trl_sft_and_dpo_trainers_take_it_as_it_is(tmp_path):
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    common = {
        "output_dir": str(tmp_path), "max_steps": 2, "learning_rate": 0.01, "per_device_train_batch_size": 4, "use_cpu": True,
        "bf16": False, "logging_steps": 1, "report_to": [], "save_strategy": "no", "disable_tqdm": True, "max_grad_norm": 0,
        "gradient_checkpointing": False,
    }  # fmt: skip
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = tokenizer.eos_token

    def sft(callbacks, **options):
        return SFTTrainer(
            tiny.llama(spread=0.1), SFTConfig(**common), train_dataset=completions(), processing_class=tokenizer,
            callbacks=callbacks, **options,
        )  # fmt: skip

    def dpo(callbacks, **options):
        return DPOTrainer(
            tiny.llama(spread=0.1), args=DPOConfig(**common), train_dataset=preferences(), processing_class=tokenizer,
            callbacks=callbacks, **(options or {"ref_model": tiny.llama(spread=0.1)}),
        )  # fmt: skip

    peft = {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")}
    for make, options in ((sft, {}), (dpo, {}), (sft, peft), (dpo, peft)):
        spy = Spy(REFERENCES)
        made = make([projection(side="two", refresh_every=1), spy], **options)
        made.train()
        names = list(spy.steps[0][0])
        assert spy.cosines()[-len(names) :].abs().max() < 5e-5, (make, options)
        assert len(logged(made, "reference_loss")) == 2
        assert logged(made, "removed_energy")[-1] > 0


# --------------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"target": "weights"}, "'update', 'gradient'"),
        ({"side": "three"}, "'one', 'two'"),
        ({"granularity": "layer"}, "'tensor', 'module', 'global'"),
        ({"loss": "mse"}, "'ce', 'kl_to_start'"),
        ({"on_rise": "fall"}, "'lower', 'stop'"),
        ({"keep_in": "int8"}, "'parameter', 'bfloat16'"),
        ({"directions_per_set": -1}, "at least 0"),
        ({"refresh_every": 0}, "at least 1"),
        ({"strength": float("nan")}, "at least 0"),
        ({"batch_size": 0}, "at least 1"),
        ({"energy": 0.0}, "a share"),
        ({"max_grad_norm": 1.0}, "target='gradient'"),
        ({"leak": True}, "target='gradient'"),
    ],
)
def test_options_that_cannot_be(options, told):
    with pytest.raises(UserError, match=told):
        projection(**options)


def test_references_that_cannot_be_read():
    for given in ({}, ["a text"], None):
        with pytest.raises(UserError, match="named sets"):
            read_sets(given, tiny.tokenizer())
    with pytest.raises(UserError, match="no tokenizer"):
        read_sets({"a": ["text"]}, None)
    done = references.read("a", ["text"], tiny.tokenizer())
    assert read_sets({"a": done}, None) == {"a": done}


def test_a_reference_gradient_that_is_not_finite(tmp_path):
    model = tiny.llama(spread=0.1)
    with torch.no_grad():
        model.model.norm.weight[0] = torch.inf
    with pytest.raises(UserError, match="not finite"):
        train(tmp_path, [projection()], model=model)


def test_added_too_late(tmp_path):
    with pytest.raises(UserError, match="before train"):
        projection().on_step_begin(None, SimpleNamespace(global_step=0), None)


def test_one_callback_may_hold_one_training_after_another(tmp_path):
    callback = projection(max_reference_loss_rise=-9.0)
    for _ in range(2):
        made = train(tmp_path, [callback], max_steps=2)
        assert logged(made, "step_scale") == [0.5]


def test_a_wrapped_model_is_watched_inside(tmp_path):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.other = tiny.llama(spread=0.1), nn.Parameter(torch.ones(3))

        def forward(self, **batch):
            return {"loss": self.inner(**batch).loss + self.other.square().sum()}

    model, callback, spy = Wrapped(), projection(side="two"), Spy()
    callback.watch(model.inner)
    train(tmp_path, [callback, spy], model=model, max_steps=2, remove_unused_columns=False)
    assert "other" not in callback.holding.view.names
    assert float(spy.steps[0][0]["other"].abs().min()) > 0
