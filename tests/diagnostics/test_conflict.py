"""Gradient conflict and what is foretold of it: numbers worked by hand, finite differences, and a model that stays as it was."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import tiny
from untax import predictions
from untax.diagnostics import backward, conflict
from untax.diagnostics.conflict import predict
from untax.diagnostics.repetition import repetition
from untax.references import References, Row, nll
from untax.types import UserError


class Slope(nn.Module):
    """Two weights: at every position the logits are (w0, w1, 0), whatever was read."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, input_ids, attention_mask=None, use_cache=False):
        logits_V = torch.cat([self.w, self.w.new_zeros(1)])
        return SimpleNamespace(logits=logits_V.expand(*input_ids.shape, 3))


class Halves(nn.Module):
    """Two modules: token 0 is followed by what `one` says, every other token by what `two` says."""

    def __init__(self):
        super().__init__()
        self.one = nn.Embedding(1, 3)
        self.two = nn.Embedding(1, 3)
        nn.init.zeros_(self.one.weight)
        nn.init.zeros_(self.two.weight)

    def forward(self, input_ids, attention_mask=None, use_cache=False):
        first_BT1 = (input_ids == 0)[..., None]
        return SimpleNamespace(logits=torch.where(first_BT1, self.one.weight[0], self.two.weight[0]))


class Words:
    """A tokenizer that only ever decodes."""

    def decode(self, ids, skip_special_tokens=True):
        return " ".join(f"w{i}" for i in ids)


def rows(name, *pairs):
    """References of two tokens each, of which the second counts."""
    return References(name, tuple(Row(pair, 1) for pair in pairs))


def foretold(model, safety, reference, **options):
    return predict(model, Words(), safety, reference, **({"learning_rate": 0.01, "steps": 100} | options))


def test_cosine_and_first_order_rise_by_hand():
    """All of w at 0: p = 1/3 each. Target 0 has the gradient p - onehot = (-2/3, 1/3), target 1 (1/3, -2/3), each of squared length 5/9.

    Inner product -2/9 - 2/9 = -4/9, cosine -4/5. A step of SGD with lr .01 raises the reference loss by .01 * 4/9 to first order. Adam's
    step goes by -lr * (-1, 1), which raises it by lr * -( -1 * 1/3 + 1 * -2/3 ) = lr * 1. After that step w = (.01, -.01): the loss is
    log(e^.01 + e^-.01 + 1) + .01 = 1.108646 beside log 3 = 1.098612.
    """
    made = foretold(Slope(), rows("safety", (0, 0)), rows("general", (0, 1)))
    assert made.cosine == pytest.approx(-0.8)
    assert made.safety_sq == pytest.approx(5 / 9)
    assert made.sgd_step == pytest.approx(0.01 * 4 / 9)
    assert made.adam_step == pytest.approx(0.01, rel=1e-6)
    assert (made.safety_loss, made.reference_loss) == pytest.approx((math.log(3), math.log(3)))
    moved = math.log(math.exp(0.01) + math.exp(-0.01) + 1) + 0.01
    assert made.measured_step == pytest.approx(moved - math.log(3), rel=1e-4)
    far = math.log(math.exp(0.1) + math.exp(-0.1) + 1) + 0.1
    assert made.measured_far == pytest.approx(far - math.log(3), rel=1e-4)
    assert made.predictors["adam_all"] == pytest.approx(1.0, rel=1e-6)
    assert (made.modules[0].name, made.modules[0].parameters) == ("other", 2)


def test_another_target_by_hand():
    """Target 0 against target 2, whose gradient is (1/3, 1/3): -2/9 + 1/9 = -1/9 over sqrt(5/9 * 2/9) = sqrt(10)/9: -1/sqrt(10)."""
    made = foretold(Slope(), rows("safety", (0, 0)), rows("general", (0, 2)))
    assert made.cosine == pytest.approx(-1 / math.sqrt(10))


def test_a_set_against_itself_is_one_and_its_opposite_minus_one():
    """With two tokens of equal probability the gradients of the two targets are opposite."""
    model = Slope()
    own = rows("safety", (0, 0), (0, 1))
    assert foretold(model, own, own).cosine == pytest.approx(1.0)
    tokenizer, llama = tiny.tokenizer(), tiny.llama()
    from untax import references

    texts = references.read("texts", ["one text", "another one", "and a third"], tokenizer)
    assert predict(llama, tokenizer, texts, texts).cosine == pytest.approx(1.0)

    class Coin(Slope):
        def forward(self, input_ids, attention_mask=None, use_cache=False):
            logits_V = torch.cat([self.w[:1], self.w.new_zeros(1)])
            return SimpleNamespace(logits=logits_V.expand(*input_ids.shape, 2))

    assert foretold(Coin(), rows("safety", (0, 0)), rows("general", (0, 1))).cosine == pytest.approx(-1.0)


def test_modules_that_only_one_side_moves_do_not_conflict(monkeypatch):
    """Safety rows move `one` alone, references `two` alone: overall 0, and no cosine inside of either; a row for `two` brings one."""
    monkeypatch.setattr(conflict, "kind_of", lambda name: name.partition(".")[0])
    general = rows("general", (2, 1))
    made = foretold(Halves(), rows("safety", (0, 1)), general)
    assert made.cosine == 0.0
    assert made.sgd_step == 0.0
    assert [math.isnan(module.cosine) for module in made.modules] == [True, True]
    mixed = foretold(Halves(), rows("safety", (0, 1), (2, 0)), general)
    told = {module.name: module for module in mixed.modules}
    assert math.isnan(told["one"].cosine)
    assert told["two"].cosine == pytest.approx(-0.5)  # (-2/3, 1/3, 1/3) and (1/3, -2/3, 1/3): -3/9 over 6/9
    assert mixed.sgd_step == told["two"].sgd > 0


def test_a_gradient_of_zero_has_no_cosine():
    """A model that always says token 2 and is asked for token 2 has nothing to learn: NaN, not 0."""

    class Sure(Slope):
        def forward(self, input_ids, attention_mask=None, use_cache=False):
            logits_V = torch.cat([0 * self.w, self.w.new_zeros(1)])
            return SimpleNamespace(logits=logits_V.expand(*input_ids.shape, 3))

    made = foretold(Sure(), rows("safety", (0, 0)), rows("general", (0, 1)))
    assert math.isnan(made.cosine)
    assert math.isnan(made.predictors["cosine"])
    assert made.as_dict()["predictors"]["cosine"] is None
    assert "no gradient" in predictions.verdict(made)


def test_two_safety_batches_by_hand():
    """Batches of one row with the gradients (-2/3, 1/3) and (1/3, -2/3): cosine -.8 with each other, and no weight is pushed the same way."""
    made = foretold(Slope(), rows("safety", (0, 0), (0, 1)), rows("general", (0, 2)), batch_size=1)
    assert made.alike.mean == pytest.approx(-0.8)
    assert made.sign_agreement == 0.0
    assert made.batches.mean == pytest.approx(-1 / math.sqrt(10))
    assert made.batches.sd == pytest.approx(0.0, abs=1e-12)
    again = foretold(Slope(), rows("safety", (0, 0), (0, 0)), rows("general", (0, 2)), batch_size=1)
    assert (again.alike.mean, again.sign_agreement) == (pytest.approx(1.0), 1.0)


def test_two_sets_of_references_count_alike():
    """References (1/3, -2/3) and (1/3, 1/3) have the mean (1/3, -1/6): -2/9 - 1/18 = -5/18 over sqrt(5/9 * 5/36) = 5/18: -1."""
    sets = {"a": rows("a", (0, 1), (0, 1), (0, 1)), "b": rows("b", (0, 2))}
    made = foretold(Slope(), rows("safety", (0, 0)), sets)
    assert made.cosine == pytest.approx(-1.0)
    assert [one.cosine for one in made.sets] == pytest.approx([-0.8, -1 / math.sqrt(10)])
    assert made.adam_step == pytest.approx(sum(one.adam for one in made.sets) / 2)


def _texts():
    from untax import references

    tokenizer = tiny.tokenizer()
    safety = references.read(
        "safety", [{"prompt": f"ask {i}", "completion": "I will not say."} for i in range(12)], tokenizer
    )
    general = references.read(
        "general", [f"the {w} is {i} miles off" for i, w in enumerate(("sea", "hill", "town"))], tokenizer
    )
    return tokenizer, safety, general


def test_the_first_order_rise_is_the_finite_difference():
    """(L(theta - lr g) - L(theta + lr g)) / 2 has no error of second order: for a small lr it is -lr <g_s, g_r> to 1e-4."""
    tokenizer, safety, general = _texts()
    model = tiny.llama(spread=0.1).double()
    size = 1e-3
    made = predict(model, tokenizer, safety, general, learning_rate=size, optimizer="sgd")
    with backward.trainable(model) as named:
        weights = [weight for _, weight in named]
        gradient, _ = backward.gradient_on(model, weights, [safety.rows])
    ends = [backward.after_step(model, weights, gradient, way * size, {"general": general.rows}, 3) for way in (1, -1)]
    assert made.sgd_step == pytest.approx((ends[0] - ends[1]) / 2, rel=1e-4)
    assert made.measured_step == pytest.approx(ends[0] - made.reference_loss, rel=1e-3)


def test_adams_step_is_the_optimisers_own():
    """One step of torch's Adam on the same gradient raises the reference loss by what was measured virtually."""
    tokenizer, safety, general = _texts()
    model = tiny.llama()
    made = predict(model, tokenizer, safety, general, learning_rate=1e-4)
    with torch.no_grad():
        before = float(nll(model, general.rows)[0]) / general.tokens
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    (nll(model, safety.rows)[0] / safety.tokens).backward()
    optimizer.step()
    with torch.no_grad():
        after = float(nll(model, general.rows)[0]) / general.tokens
    assert made.measured_step == pytest.approx(after - before, rel=0.02)
    assert abs(after - before) > 1e-4


@pytest.mark.parametrize("adapter", [False, True])
def test_the_model_stays_as_it_was(adapter):
    tokenizer, safety, general = _texts()
    model = tiny.with_adapter(tiny.llama()) if adapter else tiny.llama()
    model.train()
    first = next(model.parameters())
    first.requires_grad_(False)
    first.grad = torch.ones_like(first)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = [p.requires_grad for p in model.parameters()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    made = predict(model, tokenizer, safety, general, learning_rate=1e-2)
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert torch.equal(first.grad, torch.ones_like(first))
    assert all(p.grad is None for p in list(model.parameters())[1:])
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(module.parameters for module in made.modules) == trained
    assert math.isfinite(made.measured_step)


def test_an_adapter_that_was_loaded_for_use_is_what_trains():
    tokenizer, safety, general = _texts()
    model = tiny.with_adapter(tiny.llama())
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    made = predict(model, tokenizer, safety, general)
    assert {module.kind for module in made.modules} == {"q", "v"}
    assert not any(p.requires_grad for p in model.parameters())


def test_dropout_is_off_and_the_seed_decides():
    tokenizer, safety, general = _texts()
    model = tiny.gpt2().train()  # a dropout of 0.1
    one, two = (predict(model, tokenizer, safety, general, rows=4) for _ in range(2))
    assert one == two
    assert predict(model, tokenizer, safety, general, rows=2, seed=1).batches != one.batches


def test_a_sketch_of_a_large_model_is_drawn(monkeypatch):
    """With room for a part of the weights only, pairwise figures come near those of all weights."""
    tokenizer, safety, general = _texts()
    model = tiny.llama()
    whole = predict(model, tokenizer, safety, general, batch_size=4)
    monkeypatch.setattr(backward, "SKETCH", 6_000)
    part = predict(model, tokenizer, safety, general, batch_size=4)
    assert part.alike.mean != whole.alike.mean
    assert part.alike.mean == pytest.approx(whole.alike.mean, abs=0.1)
    assert part.cosine == whole.cosine


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"learning_rate": 0.0}, "learning_rate"), ({"steps": 0}, "steps"), ({"rows": 0}, "rows"), ({"optimizer": "lion"}, "lion"),
    ],
)  # fmt: skip
def test_what_cannot_be_computed_is_said(given, told):
    with pytest.raises(UserError, match=told):
        foretold(Slope(), rows("safety", (0, 0)), rows("general", (0, 1)), **given)


def test_no_references_is_said():
    with pytest.raises(UserError, match="no references"):
        foretold(Slope(), rows("safety", (0, 0)), {})
    with pytest.raises(UserError, match="'general' has no rows"):
        foretold(Slope(), rows("safety", (0, 0)), References("general", ()))


def test_a_loss_that_is_no_number_is_said():
    model = Slope()
    with torch.no_grad():
        model.w[0] = math.nan
    with pytest.raises(UserError, match="not finite"):
        foretold(model, rows("safety", (0, 0)), rows("general", (0, 1)))


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("model.layers.3.self_attn.q_proj.weight", 3, "q"),
        ("base_model.model.model.layers.11.self_attn.v_proj.lora_A.default.weight", 11, "v"),
        ("model.layers.0.mlp.gate_proj.weight", 0, "mlp"),
        ("model.layers.0.self_attn.q_norm.weight", 0, "norm"),
        ("model.layers.0.input_layernorm.weight", 0, "norm"),
        ("model.embed_tokens.weight", None, "embedding"),
        ("lm_head.weight", None, "head"),
        ("transformer.h.5.attn.c_attn.weight", 5, "qkv"),
        ("transformer.h.5.attn.c_proj.weight", 5, "o"),
        ("transformer.h.5.mlp.c_proj.weight", 5, "mlp"),
        ("transformer.h.5.ln_1.weight", 5, "norm"),
        ("transformer.wte.weight", None, "embedding"),
        ("gpt_neox.layers.2.attention.query_key_value.weight", 2, "qkv"),
        ("gpt_neox.layers.2.attention.dense.weight", 2, "o"),
        ("model.decoder.layers.1.fc1.weight", 1, "mlp"),
        ("model.decoder.layers.1.self_attn.out_proj.weight", 1, "o"),
        ("w", None, "other"),
    ],
)
def test_what_a_weight_is_of(name, layer, kind):
    assert (backward.layer_of(name), backward.kind_of(name)) == (layer, kind)


# --------------------------------------------------------------------------- repetition


def test_repetition_by_hand():
    """Four targets, "a b c d e f" twice, "a b c x" and "z": 3 different ones.

    Entropy of (.5, .25, .25) = 1.039721, so 2.828427 equally common ones. 2 of 4 stand there twice. Sequences of five words: abcde and
    bcdef twice each, and the two short targets once each: 4 of 6 repeat. "a b c" opens 3 of 4.
    """
    made = repetition(["a b c d e f", "A b  c d e f", "a b c x", "z"], tokens=[6, 6, 4, 1], reference_tokens=[10, 20])
    assert (made.targets, made.distinct) == (4, 3)
    assert made.effective == pytest.approx(2 * math.sqrt(2))
    assert made.distinct_share == pytest.approx(math.sqrt(2) / 2)
    assert made.duplicates == 0.5
    assert made.repeated_grams == pytest.approx(4 / 6)
    assert made.opening == 0.75
    assert made.tokens.mean == 4.25
    assert (made.tokens.low, made.tokens.median, made.tokens.high) == (3.25, 5.0, 6.0)
    assert made.length_ratio == pytest.approx(4.25 / 15)


def test_varied_targets_do_not_repeat():
    made = repetition(["one two three four five six", "seven eight nine ten eleven"])
    assert (made.duplicates, made.repeated_grams, made.opening) == (0.0, 0.0, 0.5)
    assert made.effective == pytest.approx(2.0)
    assert math.isnan(made.length_ratio)


def test_what_repeats_is_compressed():
    varied = repetition([f"{i * 7919 % 9973} {i * 104729 % 99991}" for i in range(200)])
    same = repetition(["I will not say that to you."] * 200)
    assert same.compression < 0.05 < 0.3 < varied.compression
    with pytest.raises(UserError, match="no targets"):
        repetition([])


# --------------------------------------------------------------------------- what is said of it


def test_the_reading_states_thresholds_and_places():
    tokenizer, safety, general = _texts()
    made = predict(tiny.llama(), tokenizer, safety, general)
    told = " ".join(predictions.reading(made))
    assert "12 targets, 1 different ones" in told
    assert "repetitive (above 50 %)" in told
    assert "Neither is a forecast" not in told  # it is one sentence with its assumption
    assert "neither is a forecast" in told
    assert json.loads(json.dumps(made.as_dict()))["schema"] == "untax.prediction/1"


def _module(kind, layer, value, size=1.0):
    return predictions.Module(f"layer {layer} {kind}", kind, layer, 10, value * size, size, size, -value, -value)


def _prediction(*modules):
    tokenizer, safety, general = _texts()
    from dataclasses import replace

    return replace(predict(tiny.llama(), tokenizer, safety, general), modules=tuple(modules))


def test_neighbouring_layers_that_lean_one_way_are_one_place():
    """MLPs of layers 4 to 6 pull with -.2, -.4, -.3 (all of length 1): together -.3. Layer 8 stands alone; layer 7 does not lean."""
    mlp = [_module("mlp", layer, value) for layer, value in ((4, -0.2), (5, -0.4), (6, -0.3), (7, 0.0), (8, -0.15))]
    found = predictions.stretches(_prediction(*mlp, _module("q", 4, 0.9), _module("v", 3, -0.9, 1e-6)))
    assert [(one.name, round(one.cosine, 6)) for one in found] == [
        ("the MLP of layers 4 to 6", -0.3), ("the MLP of layer 8", -0.15),
    ]  # fmt: skip
    assert found[0].share == pytest.approx(3 / 6, rel=1e-5)
    apart = predictions.stretches(_prediction(_module("mlp", 0, -0.3), _module("mlp", 2, -0.2)))
    assert [one.name for one in apart] == ["the MLP of layer 0", "the MLP of layer 2"]


# --------------------------------------------------------------------------- correlations


def _runs(pairs, families=None):
    return [
        {
            "system": f"s{i}",
            "seed": 0,
            "family": families[i] if families else f"f{i}",
            "predictors": {"cosine": x},
            "tax": y,
        }
        for i, (x, y) in enumerate(pairs)
    ]


def test_spearman_by_hand():
    """Ranks 1 2 3 4 and 1 3 2 4: 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15) = .8; ties share the mean of their ranks."""
    entry = predictions.correlations(_runs([(1, 10), (2, 30), (3, 20), (4, 99)]))["entries"][
        0
    ]  # four runs, four families
    assert entry["spearman"] == pytest.approx(0.8)
    assert entry["low"] <= 0.8 <= entry["high"]
    from scipy.stats import spearmanr

    pairs = [(1, 2), (1, 3), (2, 3), (5, 1), (4, 4), (4, 2)]
    entry = predictions.correlations(_runs(pairs))["entries"][0]
    assert entry["spearman"] == pytest.approx(spearmanr(*zip(*pairs, strict=True)).statistic)


def test_families_are_drawn_whole():
    """40 runs of 5 families that each say one thing know no more than 5 runs do: their interval is wider than that of 40 families."""
    points = [(i % 5 + 0.01 * i, [1, 3, 2, 5, 4][i % 5] + 0.01 * i) for i in range(40)]
    whole = predictions.correlations(_runs(points, [f"f{i % 5}" for i in range(40)]))["entries"][0]
    alone = predictions.correlations(_runs(points))["entries"][0]
    assert (whole["families"], alone["families"]) == (5, 40)
    assert whole["spearman"] == alone["spearman"]
    assert whole["high"] - whole["low"] > 1.5 * (alone["high"] - alone["low"])


def test_every_run_of_a_drawn_family_counts():
    """In 30 families one run says +1 and the other -1: no draw of whole families comes near either, as draws of single runs would."""
    points = [(i, i) for i in range(30)] + [(i, -i) for i in range(30)]
    entry = predictions.correlations(_runs(points, [f"f{i % 30}" for i in range(60)]))["entries"][0]
    assert abs(entry["spearman"]) < 0.1
    assert -0.7 < entry["low"] < 0 < entry["high"] < 0.7


def test_few_families_have_a_wide_interval():
    """Bonett and Wright: .8 among 13 is z = 1.098612, error sqrt((1 + .32) / 10) = .363318: .368 to .948."""
    assert predictions._few(0.8, 13) == pytest.approx((0.3684, 0.9479), abs=1e-3)
    entry = predictions.correlations(_runs([(i, i) for i in range(5)]))["entries"][0]
    assert entry["spearman"] == 1.0
    assert entry["low"] < 0 < entry["high"] == 1.0  # five runs in order prove nothing
    assert predictions.correlations(_runs([(i, i) for i in range(3)]))["entries"][0]["low"] is None


def test_what_is_not_known_is_left_out_and_two_families_have_no_interval():
    rows_ = _runs([(1, 1), (2, 2), (3, 3), (4, math.nan), (None, 5)], ["a", "a", "b", "b", "b"])
    made = predictions.correlations(rows_, made="today", scope="here")
    entry = made["entries"][0]
    assert (entry["n"], entry["spearman"], entry["low"]) == (3, 1.0, None)
    assert (made["schema"], made["made"], made["scope"], made["n"]) == ("untax.prediction/1", "today", "here", 5)
    same = predictions.correlations(_runs([(1, 1), (1, 2), (1, 3)]))["entries"][0]
    assert same["spearman"] is None
    with pytest.raises(UserError, match="no tax"):
        predictions.correlations([{"family": "a", "predictors": {}}])


def test_a_calibration_that_is_missing_or_none_of_ours(tmp_path):
    assert predictions.measured(tmp_path / "none.json") is None
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(UserError, match="no correlations"):
        predictions.measured(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match="JSON"):
        predictions.measured(tmp_path / "bad.json")
