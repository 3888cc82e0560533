"""Projections of hidden states: what is removed, where it is applied, that it is exact in weights, and that nothing stays behind."""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import tiny
from untax import models
from untax.edits import projection
from untax.edits.projection import Projection, orthonormal, union
from untax.types import RecipeError, UserError

PROMPTS = [f"prompt {i} of thirty-two: {'abcdefgh' * (i % 4)}" for i in range(32)]


def rows(*vectors):
    return torch.tensor(vectors, dtype=torch.float64)


def of_rows(*vectors, layer=-1):
    return Projection(orthonormal(rows(*vectors)), layer)


def some(width=32, rank=3, layer=-1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Projection(orthonormal(torch.randn(rank, width, generator=generator)), layer)


def ids_of(count=32, width=12, seed=5):
    return torch.randint(1, 257, (count, width), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model, ids):
    return model(ids).logits


def no_hooks(model):
    return not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# --------------------------------------------------------------------------- numbers


def test_one_direction_by_hand():
    """w = (3, 4), of length 5: I - w w^T / 25 = [[16, -12], [-12, 9]] / 25; (1, 2) -> (16 - 24, -12 + 18) / 25 = (-.32, .24)."""
    made = of_rows((3, 4))
    assert torch.allclose(made.matrix_HH, rows((0.64, -0.48), (-0.48, 0.36)), atol=1e-15)
    assert torch.allclose(made.of(rows((1, 2))), rows((-0.32, 0.24)), atol=1e-15)


def test_two_directions_that_are_not_at_right_angles():
    """The span of (1,0,0) and (1,1,0) is the plane z = 0: P = diag(0,0,1). The product P2 P1 of the single projections maps (0,1,0)
    to P2 (0,1,0) = (0,1,0) - .5 (1,1,0) = (-.5, .5, 0), and applied once more to P2 P1 (-.5, .5, 0) = P2 (0, .5, 0) = (-.25, .25, 0)."""
    first, second = of_rows((1, 0, 0)), of_rows((1, 1, 0))
    diagonal = torch.diag(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    for joined in (of_rows((1, 0, 0), (1, 1, 0)), union([first, second])):
        assert joined.rank == 2
        assert torch.allclose(joined.matrix_HH, diagonal, atol=1e-15)
    naive = second.matrix_HH @ first.matrix_HH
    moved = naive @ rows((0, 1, 0))[0]
    assert torch.allclose(moved, rows((-0.5, 0.5, 0))[0])
    assert torch.allclose(naive @ moved, rows((-0.25, 0.25, 0))[0]), "the product is not idempotent"


def test_it_is_a_projection():
    """P = P^T = P P, trace H - rank; rows without a new direction add nothing; P h has nothing along the directions."""
    made = some(rank=5)
    P = made.matrix_HH
    assert torch.allclose(P, P.T, atol=1e-15)
    assert torch.allclose(P @ P, P, atol=1e-14)
    assert float(P.trace()) == pytest.approx(32 - 5, abs=1e-12)
    twice = orthonormal(torch.cat([made.basis_RH, 2 * made.basis_RH[:1] + made.basis_RH[1:2]]))
    assert twice.shape == (5, 32)
    h = torch.randn(7, 32, dtype=torch.float64)
    assert float((made.of(h) @ made.basis_RH.T).abs().max()) < 1e-14
    assert torch.allclose(made.of(made.of(h)), made.of(h), atol=1e-14)


def test_the_length_of_a_direction_does_not_matter():
    """v = (0, 3), h = (2, 3): h - (h.v) v / (v.v) = (2, 3 - 9 * 3 / 9) = (2, 0). Without the division: (2, 3 - 27) = (2, -24)."""
    assert torch.allclose(of_rows((0, 3)).of(rows((2, 3))), rows((2, 0)), atol=1e-15)


def test_what_is_no_projection_is_refused():
    with pytest.raises(UserError, match="every direction is zero"):
        of_rows((0, 0))
    with pytest.raises(UserError, match="not finite"):
        of_rows((0, float("nan")))
    with pytest.raises(UserError, match="right angles"):
        Projection(rows((0, 3)))
    with pytest.raises(UserError, match="right angles"):
        Projection(rows((1, 0), (0.8, 0.6)))
    with pytest.raises(UserError, match="shape"):
        Projection(torch.ones(3))
    with pytest.raises(RecipeError, match="-2"):
        Projection(rows((1, 0)), -2)
    with pytest.raises(RecipeError, match="one layer"):
        union([some(layer=0), some(layer=1)])


# --------------------------------------------------------------------------- in a model


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2, tiny.qwen3])
@pytest.mark.parametrize("layer", [-1, 0, 1])
def test_it_is_active_while_it_lasts_and_leaves_nothing(make, layer):
    model = make()
    before = logits(model, ids_of())
    with some(layer=layer).applied(model) as inside:
        assert inside is model
        during = logits(model, ids_of())
    changed = (during - before).abs().flatten(1).max(1).values
    assert float(changed.min()) > 1e-4, "every one of 32 prompts must change"
    assert torch.equal(logits(model, ids_of()), before)
    assert no_hooks(model)
    with pytest.raises(ZeroDivisionError), some(layer=layer).applied(model):
        1 / 0  # noqa: B018
    assert no_hooks(model)


@pytest.mark.parametrize("layer", [-1, 0])
def test_a_projection_of_nothing_gives_the_tokens_of_the_base(layer):
    model = tiny.llama()
    nothing = Projection(torch.zeros(0, 32), layer)
    asked = models.generate(model, tiny.tokenizer(), PROMPTS[:4], max_new_tokens=6)
    before = logits(model, ids_of())
    with nothing.applied(model):
        assert models.generate(model, tiny.tokenizer(), PROMPTS[:4], max_new_tokens=6) == asked
        assert torch.equal(logits(model, ids_of()), before)
    if layer == -1:
        assert nothing.fold(model) == 0.0
        assert torch.equal(logits(model, ids_of()), before)


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_hook_and_weights_are_one_map_and_both_matrices_are_saved(make, tmp_path):
    """Hook against exported weights in float64, before and after a way over the disk; the tied embedding is left alone."""
    model, made = make().double(), some()
    embedding = model.get_input_embeddings().weight.detach().clone()
    with made.applied(model):
        hooked = logits(model, ids_of())
    made.fold(model)
    assert float((logits(model, ids_of()) - hooked).abs().max()) < 1e-12
    assert not model.config.tie_word_embeddings
    models.save(model, tiny.tokenizer(), tmp_path / "m")
    stored = load_file(tmp_path / "m" / "model.safetensors")
    assert sum(tensor.shape == (257, 32) for tensor in stored.values()) == 2
    again, _ = models.load(tmp_path / "m", dtype="auto")
    assert again.dtype == torch.float64
    assert float((logits(again, ids_of()) - hooked).abs().max()) < 1e-12
    assert torch.equal(again.get_input_embeddings().weight, embedding)
    again.tie_weights()
    assert float((logits(again, ids_of()) - hooked).abs().max()) < 1e-12, "nothing ties it again"


def test_a_bias_of_the_output_layer_is_not_touched():
    """logits = W P h + c: at h = 0 they are c, with and without."""
    model = tiny.llama().double()
    projection.untie(model)
    torch.manual_seed(3)
    head = nn.Linear(32, 257).double()
    model.set_output_embeddings(head)
    bias = head.bias.detach().clone()
    made = some()
    with made.applied(model):
        hooked = logits(model, ids_of())
    made.fold(model)
    assert torch.equal(head.bias, bias)
    assert float((logits(model, ids_of()) - hooked).abs().max()) < 1e-12


@pytest.mark.parametrize("layer", [-1, 1])
def test_with_and_without_cache(layer):
    """Token by token with a cache gives the logits of the whole text in one pass."""
    model = tiny.llama().double()
    ids = ids_of(2, 9)
    with some(layer=layer).applied(model), torch.no_grad():
        whole = model(ids, use_cache=False).logits
        cache, steps = None, []
        for t in range(ids.shape[1]):
            out = model(ids[:, t : t + 1], past_key_values=cache, use_cache=True)
            cache, steps = out.past_key_values, [*steps, out.logits]
        assert float((torch.cat(steps, 1) - whole).abs().max()) < 1e-10
        first, second = (
            model.generate(ids, max_new_tokens=5, do_sample=False, use_cache=cached, pad_token_id=0)
            for cached in (True, False)
        )
        assert torch.equal(first, second)


@pytest.mark.parametrize("layer", [-1, 0])
@pytest.mark.parametrize("where", [["q_proj", "v_proj"], ["q_proj", "lm_head"]])
def test_under_an_adapter(where, layer):
    """Hooked under an adapter = hooked in the merged model, also where the adapter changes the output layer itself."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(4)
    base = tiny.llama().double()
    if "lm_head" in where:
        projection.untie(base)
    adapted = get_peft_model(
        base, LoraConfig(r=4, target_modules=where, init_lora_weights=False, task_type="CAUSAL_LM")
    ).double()
    adapted.eval()
    made = some(layer=layer)
    with made.applied(adapted):
        hooked = logits(adapted, ids_of())
    assert no_hooks(adapted)
    with pytest.raises(UserError, match="merge it first" if layer == -1 else "exactly"):
        made.fold(adapted)
    merged = adapted.merge_and_unload()
    with made.applied(merged):
        assert float((logits(merged, ids_of()) - hooked).abs().max()) < 1e-10


def test_gradients_pass_and_half_precision_stays_what_it_is():
    model = tiny.llama().bfloat16()
    made = some()
    with made.applied(model):
        with models.asking(model):
            model(ids_of(2))
        out = model(ids_of(2)).logits
        out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert float(model.model.layers[0].self_attn.q_proj.weight.grad.abs().max()) > 0
    left = made.fold(model)
    assert 0 < left < 0.01, "bfloat16 keeps 8 bits: about 2^-9 of the weights' size is left along the directions"


def test_a_model_that_it_does_not_fit_is_refused():
    model = tiny.llama()
    with pytest.raises(UserError, match="16 wide and the model's hidden state 32"), some(width=16).applied(model):
        pass
    with pytest.raises(UserError, match="0 to 1"), some(layer=2).applied(model):
        pass
    with pytest.raises(UserError, match="exactly"):
        some(layer=0).fold(model)
    model.lm_head = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 257))
    with pytest.raises(UserError, match="must be linear"), some().applied(model):
        pass
    other = tiny.llama()
    spare = nn.Linear(32, 257)
    other.get_output_embeddings = lambda: spare
    with pytest.raises(UserError, match="nothing would be projected"), some().applied(other):
        pass
    assert no_hooks(other)
    assert not spare._forward_pre_hooks


# --------------------------------------------------------------------------- in a file


def test_a_file_gives_it_back_and_damage_is_told(tmp_path):
    made = Projection(some().basis_RH, 1, {"edit": "inlp", "attribute": "gender"})
    made.save(tmp_path / "p.safetensors")
    again = projection.load(tmp_path / "p.safetensors")
    assert torch.equal(again.basis_RH, made.basis_RH)
    assert (again.layer, dict(again.about)) == (1, dict(made.about))
    with pytest.raises(UserError, match="no projection at"):
        projection.load(tmp_path / "q.safetensors")
    whole = (tmp_path / "p.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    save_file({"basis": made.basis_RH}, tmp_path / "other.safetensors")
    save_file({"basis": made.basis_RH}, tmp_path / "odd.safetensors", metadata={"untax": json.dumps(["layer"])})
    for name in ("half", "other", "odd"):
        with pytest.raises(UserError, match="no projection that untax wrote"):
            projection.load(tmp_path / f"{name}.safetensors")


def test_no_warning_is_given():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with some().applied(tiny.llama()):
            pass
