"""L2-SP and EWC: numbers worked by hand, LoRA measured on the adapted weight, and the Fisher information itself."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import tiny
from untax.penalties.ewc import EWC
from untax.penalties.l2_sp import L2SP
from untax.references import References, Row
from untax.types import UserError


class Logistic(nn.Module):
    """A language model of two tokens: after token i of the vocabulary, token 1 has the log-odds x_i . w."""

    def __init__(self, x, w):
        super().__init__()
        self.register_buffer("x", torch.tensor(x))
        self.w = nn.Parameter(torch.tensor(w))

    def forward(self, input_ids, attention_mask=None, use_cache=False):
        odds = (self.x @ self.w)[input_ids.clamp(max=len(self.x) - 1)]
        return SimpleNamespace(logits=torch.stack([torch.zeros_like(odds), odds], dim=-1))


class Plain(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.part = nn.Linear(2, 2, bias=False)
        self.part.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, input_ids, attention_mask=None, use_cache=False):
        return SimpleNamespace(logits=self.part(torch.eye(2)[input_ids]))


def rows(*pairs):
    return {"general": References("general", tuple(Row(pair, 1) for pair in pairs))}


def lora(model, b, a, alpha=1):
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(r=len(a), lora_alpha=alpha, target_modules=["part"]))
    with torch.no_grad():
        adapted.base_model.model.part.lora_B["default"].weight.copy_(torch.tensor(b))
        adapted.base_model.model.part.lora_A["default"].weight.copy_(torch.tensor(a))
    return adapted


REFERENCES = {"general": References("general", (Row((0, 70, 71, 72, 73), 2), Row((0, 80, 81), 1), Row((0, 9, 99), 1)))}


def shaken(model, scale=0.05):
    luck = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(scale * torch.randn(weight.shape, generator=luck))
    return model


def prepared(method, references, model, **options):
    penalty = method(references, **options)
    penalty.prepare(model)
    return penalty


# --------------------------------------------------------------------------- L2-SP


def test_l2_sp_by_hand():
    """Shift (3, 4): 0.1 / 2 * 25 = 1.25, gradient 0.1 * (3, 4)."""
    model = Logistic([[1.0, 2.0]], [0.5, 0.2])
    penalty = prepared(L2SP, {}, model, weight=0.1)
    assert penalty.penalty(model, 0).item() == 0
    with torch.no_grad():
        model.w.add_(torch.tensor([3.0, 4.0]))
    value = penalty.penalty(model, 0)
    value.backward()
    assert value.item() == pytest.approx(1.25)
    assert model.w.grad.tolist() == pytest.approx([0.3, 0.4])


@pytest.mark.parametrize(("alpha", "norm"), [(1, 125.0), (2, 500.0)])
def test_l2_sp_of_an_adapter_is_the_norm_of_its_update(alpha, norm):
    """B = (1, 2)^T, A = (3, 4): BA = [[3, 4], [6, 8]], squares 9 + 16 + 36 + 64 = 125; |A|^2 + |B|^2 would be 30. Scale 2: 500."""
    model = lora(Plain([[1.0, 0.0], [0.0, 1.0]]), [[1.0], [2.0]], [[3.0, 4.0]], alpha)
    assert prepared(L2SP, {}, model, weight=2.0).penalty(model, 0).item() == pytest.approx(norm)


def test_a_fresh_adapter_costs_nothing():
    model = lora(Plain([[1.0, 0.0], [0.0, 1.0]]), [[0.0], [0.0]], [[3.0, 4.0]])
    for penalty in (prepared(L2SP, {}, model), prepared(EWC, rows((0, 1)), model)):
        value = penalty.penalty(model, 0)
        value.backward()
        assert value.item() == 0
        assert all(not w.grad.any() for w in model.parameters() if w.requires_grad)


# --------------------------------------------------------------------------- EWC


def test_ewc_by_hand():
    """w = 0, x = sqrt 2, label 1: gradient of log p is (1 - 1/2) x, F = 0.5. lambda 2, shift 3: 2/2 * 0.5 * 9 = 4.5, gradient 3."""
    model = Logistic([[2.0**0.5]], [0.0])
    penalty = prepared(EWC, rows((0, 1)), model, weight=2.0, labels="data")
    assert penalty.fisher[0].item() == pytest.approx(0.5)
    value = penalty.penalty(model, 0)
    value.backward()
    assert value.item() == 0
    assert model.w.grad.item() == 0
    with torch.no_grad():
        model.w.add_(3.0)
    model.w.grad = None
    value = penalty.penalty(model, 0)
    value.backward()
    assert value.item() == pytest.approx(4.5)
    assert model.w.grad.item() == pytest.approx(3.0)


def test_each_text_is_squared_before_the_mean():
    """x = 2, w = 0, labels 1 and 0: gradients +1 and -1. F = 1; the square of their mean would be 0."""
    model = Logistic([[2.0]], [0.0])
    assert prepared(EWC, rows((0, 1), (0, 0)), model, labels="data").fisher[0].item() == pytest.approx(1.0)


X, W = [[1.0, 2.0], [3.0, -1.0]], [0.5, 0.2]
FISHER = [0.860093, 0.495150]


def test_fisher_of_a_logistic_regression():
    """F = X^T diag(p (1 - p)) X / 2 has the diagonal (0.860093, 0.495150): the exact expectation over the model's own labels."""
    model = Logistic(X, W)
    exact = torch.zeros(2)
    for i in range(2):
        p = torch.sigmoid(torch.tensor(X[i]) @ torch.tensor(W)).item()
        for label, chance in ((1, p), (0, 1 - p)):
            exact += chance / 2 * prepared(EWC, rows((i, label)), model, labels="data").fisher[0]
    assert exact.tolist() == pytest.approx(FISHER, abs=1e-6)
    drawn = prepared(EWC, rows((0, 0), (1, 0)), model, samples=3000)
    assert drawn.fisher[0].tolist() == pytest.approx(FISHER, rel=0.06)
    # the texts' own labels (always 0 here) are another thing
    assert prepared(EWC, rows((0, 0), (1, 0)), model, labels="data").fisher[0][0].item() > 2


def test_weight_one_is_the_kl_per_token():
    """A small step in one weight: 1/2 F step^2 is KL(start || model) in nats per token."""
    model = Logistic(X, W)
    penalty = prepared(EWC, rows((0, 0), (1, 0)), model, samples=3000)
    before = [model(torch.tensor([i])).logits[0].double().softmax(-1) for i in range(2)]
    with torch.no_grad():
        model.w.add_(torch.tensor([0.02, 0.0]))
    after = [model(torch.tensor([i])).logits[0].double().softmax(-1) for i in range(2)]
    kl = sum((q * (q / p).log()).sum().detach() for q, p in zip(before, after, strict=True)) / 2
    kl = kl.item()
    assert kl == pytest.approx(0.5 * FISHER[0] * 0.02**2, rel=0.05)
    assert penalty.penalty(model, 0).item() == pytest.approx(kl, rel=0.1)


def test_fisher_is_per_token_not_per_text():
    """The same token four times over, in one text or in four, with drawn labels: the same F, up to the draws."""
    model = Logistic([[1.0], [1.0]], [0.3])
    long = {"general": References("general", (Row((0, 0, 0, 0, 0), 1),))}
    one = prepared(EWC, long, model, samples=2000).fisher[0].item()
    p = torch.sigmoid(torch.tensor(0.3)).item()
    assert one == pytest.approx(p * (1 - p), rel=0.1)


@pytest.mark.parametrize("adapter", [False, True])
def test_with_f_one_it_is_l2_sp(adapter):
    """Full: sums over all weights. Under LoRA: EWC forms dW, L2-SP uses tr((B^T B)(A A^T)); value and gradient agree."""
    model = tiny.with_adapter(tiny.llama()) if adapter else tiny.llama()
    held, near = prepared(EWC, REFERENCES, model, weight=0.3), prepared(L2SP, {}, model, weight=0.3)
    held.fisher = [torch.ones_like(f) for f in held.fisher]
    shaken(model)
    trained = [w for w in model.parameters() if w.requires_grad]
    values = [penalty.penalty(model, 0) for penalty in (held, near)]
    assert values[0].item() > 0.1
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-5)
    for one, other in zip(*(torch.autograd.grad(value, trained) for value in values), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_under_lora_f_is_that_of_the_adapted_weight():
    """The same numbers as full training has for those weights: A is protected although its own gradient is 0 at B = 0."""
    base = tiny.llama()
    full = prepared(EWC, REFERENCES, copy.deepcopy(base))
    whole = {part.name: f for part, f in zip(full.parts, full.fisher, strict=True)}
    adapted = tiny.with_adapter(base)  # B is not 0: F is still that of the base
    penalty = prepared(EWC, REFERENCES, adapted)
    assert len(penalty.parts) == 4
    for part, f in zip(penalty.parts, penalty.fisher, strict=True):
        name = part.name.removeprefix("base_model.model.") + ".weight"
        assert torch.allclose(f, whole[name], rtol=1e-4, atol=1e-9)
        assert f.any()
    assert not any(w.requires_grad for n, w in adapted.named_parameters() if "lora_" not in n)
    assert all(w.requires_grad for n, w in adapted.named_parameters() if "lora_" in n)
    assert all(w.grad is None for w in adapted.parameters())


@pytest.mark.parametrize("target", ["c_attn", "wte"])
def test_layers_that_store_their_weight_the_other_way(target):
    """GPT-2's projections and embeddings are stored input by output: the update has the shape of the weight all the same."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny.gpt2(), LoraConfig(r=2, lora_alpha=6, target_modules=[target], fan_in_fan_out=True))
    shaken(model, 0.3)
    penalty = prepared(L2SP, {}, model, weight=2.0)
    theirs = [module.get_delta_weight("default") for name, module in model.named_modules() if name.endswith(target)]
    assert len(theirs) == len(penalty.parts)
    for part, delta in zip(penalty.parts, theirs, strict=True):
        assert part.shift().shape == part.weight.shape
        assert torch.allclose(part.shift(), delta, atol=1e-6)
    assert penalty.penalty(model, 0).item() == pytest.approx(sum(d.square().sum().item() for d in theirs), rel=1e-5)
    assert prepared(EWC, REFERENCES, model).penalty(model, 0).item() > 0


def test_modules_saved_beside_an_adapter_are_held_to_the_originals():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny.llama(), LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["norm"]))
    penalty = prepared(EWC, REFERENCES, model)
    saved = model.base_model.model.model.norm.modules_to_save["default"].weight
    found = {part.name: f for part, f in zip(penalty.parts, penalty.fisher, strict=True)}
    assert len(found) == 2 + 5  # every name that ends in norm
    assert found["base_model.model.model.norm.weight"].any()
    near = prepared(L2SP, {}, model, weight=2.0)
    with torch.no_grad():
        saved.add_(0.5)
    assert near.penalty(model, 0).item() == pytest.approx(0.25 * saved.numel(), rel=1e-5)
    near.penalty(model, 0).backward()
    assert saved.grad.any()


def test_the_order_of_parameters_is_irrelevant():
    class Pair(nn.Module):
        def __init__(self, names):
            super().__init__()
            for name in names:
                self.register_parameter(name, nn.Parameter(torch.tensor([0.5 if name == "a" else 0.2])))

        def forward(self, input_ids, attention_mask=None, use_cache=False):
            odds = (torch.tensor(X) @ torch.cat([self.a, self.b]))[input_ids]
            return SimpleNamespace(logits=torch.stack([torch.zeros_like(odds), odds], dim=-1))

    values = []
    for names in ("ab", "ba"):
        model = Pair(names)
        penalty = prepared(EWC, rows((0, 0), (1, 0)), model, samples=5)
        with torch.no_grad():
            model.a.add_(1.0)
            model.b.add_(2.0)
        values.append(penalty.penalty(model, 0).item())
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_tied_weights_count_once():
    model = tiny.llama()  # its head is its embedding
    penalty = prepared(L2SP, {}, model, weight=2.0)
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(0.1)
    assert penalty.penalty(model, 0).item() == pytest.approx(0.01 * 257 * 32, rel=1e-4)


def test_fisher_is_the_same_every_time_and_draws_no_luck():
    model = tiny.llama().train()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    before = torch.get_rng_state()
    one, again = prepared(EWC, REFERENCES, model), prepared(EWC, REFERENCES, model)
    value = one.penalty(shaken(model), 0)
    value.backward()
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert all(torch.equal(f, g) for f, g in zip(one.fisher, again.fisher, strict=True))
    other = prepared(EWC, REFERENCES, model, seed=1)
    assert not all(torch.equal(f, g) for f, g in zip(one.fisher, other.fisher, strict=True))


def test_nothing_the_size_of_a_weight_waits_for_the_backward_pass():
    model = tiny.with_adapter(tiny.llama())
    penalty = prepared(EWC, REFERENCES, model)
    sizes = []

    known = {t.data_ptr() for t in (*penalty.fisher, *model.parameters())}

    def pack(tensor):
        sizes.append(0 if tensor.data_ptr() in known else tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = penalty.penalty(model, 0)
    value.backward()
    assert max(sizes) < min(f.numel() for f in penalty.fisher)


def test_rows_limit_and_weights_that_the_rows_say_nothing_of(caplog):
    class Loose(Logistic):
        def __init__(self):
            super().__init__(X, W)
            self.unused = nn.Parameter(torch.ones(3))

    few = prepared(EWC, rows((0, 0), (1, 0)), Loose(), rows=1, labels="data")
    assert "1 tensors, which are not held (first: unused)" in caplog.text
    used = few.fisher[[part.name for part in few.parts].index("w")]
    ratio = (used[0] / used[1]).item()
    assert ratio == pytest.approx(1 / 4) or ratio == pytest.approx(9.0)  # one row: x = (1, 2) or (3, -1)


def test_what_cannot_be_held_is_said():
    from peft import IA3Config, LoraConfig, get_peft_model

    with pytest.raises(UserError, match="labels is 'true'"):
        EWC({}, labels="true")
    with pytest.raises(UserError, match="samples is 0"):
        EWC({}, samples=0)
    with pytest.raises(UserError, match="weight is nan"):
        L2SP({}, weight=float("nan"))
    with pytest.raises(UserError, match="'ewc' needs reference rows"):
        EWC({}).prepare(tiny.llama())
    with pytest.raises(UserError, match="nothing to hold"):
        L2SP({}).prepare(tiny.llama().requires_grad_(False))
    for method in (L2SP({}), EWC(REFERENCES)):
        with pytest.raises(UserError, match="call prepare"):
            method.penalty(tiny.llama(), 0)
    dora = get_peft_model(tiny.llama(), LoraConfig(r=2, target_modules=["q_proj"], use_dora=True))
    with pytest.raises(UserError, match=r"q_proj: .*plain LoRA"):
        L2SP({}).prepare(dora)
    scaled = get_peft_model(
        tiny.llama(), IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    )
    near = prepared(L2SP, {}, scaled, weight=2.0)
    assert near.penalty(shaken(scaled, 0.1), 0).item() > 0
