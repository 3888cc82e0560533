"""WiSE-FT on hand-made states and on tiny models."""

import math

import pytest
import torch

import tiny
from untax.edits.interpolate import interpolate
from untax.types import RecipeError, UserError


def states(old=2.0, new=5.0, dtype=torch.float32):
    return {"w": torch.tensor([old], dtype=dtype)}, {"w": torch.tensor([new], dtype=dtype)}


def test_the_share_is_that_of_the_base():
    """0.7 * 2 + 0.3 * 5 = 2.9; the other direction would give 4.1. |edit| = 2.1, |tuning| = 3, their ratio is the share."""
    edited = interpolate(*states(), towards_base=0.7)
    assert edited.state["w"].item() == pytest.approx(2.9)
    assert edited.audit["relative_edit"] == pytest.approx(0.7)
    assert edited.audit["tuning_norm"] == pytest.approx(3)


def test_the_ends_are_the_models_bit_for_bit():
    """0.1 and 0.7 have no exact float: a mixture would move the last bit."""
    generator = torch.Generator().manual_seed(0)
    base = {"w": torch.randn(1000, generator=generator), "count": torch.tensor([3])}
    tuned = {"w": torch.randn(1000, generator=generator), "count": torch.tensor([4])}
    kept, back = interpolate(base, tuned, towards_base=0).state, interpolate(base, tuned, towards_base=1).state
    assert torch.equal(kept["w"], tuned["w"])
    assert torch.equal(back["w"], base["w"])
    assert kept["count"].item() == back["count"].item() == 4, "an integer buffer is copied, not averaged"
    audits = [interpolate(base, tuned, towards_base=end).audit for end in (0, 1)]
    assert [audit["relative_edit"] for audit in audits] == [0, 1]
    assert [audit["lost_on_rounding"] for audit in audits] == [0, 0], "nothing was to lie between"
    kept["w"] += 1
    assert not torch.equal(kept["w"], tuned["w"]), "the result is a copy"


def test_weights_that_tuning_left_alone_stay_bit_for_bit():
    base = {"w": torch.linspace(0.1, 1, 50)}
    tuned = {"w": base["w"].clone()}
    tuned["w"][:10] += 1
    edited = interpolate(base, tuned, towards_base=0.3)
    assert torch.equal(edited.state["w"][10:], base["w"][10:])
    assert edited.audit["changed_by_tuning"] == edited.audit["changed_by_edit"] == 0.2


@pytest.mark.parametrize(
    ("of_tuned", "lands_on", "key"),
    [(0.1, 1.0, "rounded_to_base"), (0.3, 1.0, "rounded_to_base"), (0.5, 1.0, "rounded_to_base"),
     (0.6, 1.0078125, "rounded_to_tuned")],
)  # fmt: skip
def test_what_bfloat16_cannot_hold_is_told(of_tuned, lands_on, key):
    """Base 1.0 and tuned 1.0078125 are neighbours in bfloat16: 0.1, 0.3, 0.5 of the way round to 1.0, 0.6 to the tuned value."""
    edited = interpolate(*states(1.0, 1.0078125, torch.bfloat16), towards_base=1 - of_tuned)
    assert edited.state["w"].dtype == torch.bfloat16
    assert edited.state["w"].item() == lands_on
    assert edited.audit[key] == edited.audit["lost_on_rounding"] == 1
    assert interpolate(*states(1.0, 2.0, torch.bfloat16), towards_base=0.5).audit["lost_on_rounding"] == 0


def test_tied_embeddings_stay_tied():
    base, tuned = tiny.llama(0), tiny.llama(1)
    assert tuned.lm_head.weight is tuned.model.embed_tokens.weight
    state = interpolate(base.state_dict(), tuned.state_dict(), towards_base=0.5).state
    assert state["lm_head.weight"] is state["model.embed_tokens.weight"]


def test_each_block_of_layers_has_its_share_and_the_rest_the_common_one():
    """Base 0, tuned 1: what remains is 1 - share. Two layers, two blocks; norms in a layer belong to no block."""
    model = tiny.llama()
    base = {name: torch.zeros_like(t) for name, t in model.state_dict().items()}
    tuned = {name: torch.ones_like(t) for name, t in model.state_dict().items()}
    state = interpolate(base, tuned, towards_base=0.25, per_block=[0.5, 1]).state
    left = {name: t.flatten()[0].item() for name, t in state.items()}
    for name, value in left.items():
        wanted = 0.75
        if "layers.0." in name and "layernorm" not in name:
            wanted = 0.5
        if "layers.1." in name and "layernorm" not in name:
            wanted = 0.0
        assert value == wanted, name


def test_blocks_are_equally_deep():
    names = [f"h.{layer}.mlp.weight" for layer in range(6)]
    base, tuned = ({name: torch.full((1,), end) for name in names} for end in (0.0, 1.0))
    state = interpolate(base, tuned, per_block=[0.0, 0.5, 1.0]).state
    assert [state[name].item() for name in names] == [1, 1, 0.5, 0.5, 0, 0]


@pytest.mark.parametrize("lora", [{}, {"use_rslora": True}])
def test_scaling_b_is_exact_for_an_adapter(lora):
    """Merged weights averaged with the base = the adapter with B at 0.3, merged: W + 0.3 * s * B A."""
    from peft import LoraConfig, get_peft_model

    def adapted():
        torch.manual_seed(0)
        wanted = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False, **lora)
        return get_peft_model(tiny.llama(), wanted)

    base, whole, model = tiny.llama().state_dict(), adapted().merge_and_unload().state_dict(), adapted()
    wanted = interpolate(base, whole, towards_base=0.7).state
    factors = {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" in name}
    edited = interpolate({}, factors, towards_base=0.7, adapter=True)
    assert edited.audit["relative_edit"] == pytest.approx(0.7)
    for name, tensor in edited.state.items():
        assert torch.allclose(tensor, factors[name] * (0.3 if "lora_B" in name else 1))
    model.load_state_dict(edited.state, strict=False)
    got = model.merge_and_unload().state_dict()
    for name, tensor in wanted.items():
        assert torch.allclose(got[name], tensor, atol=1e-6), name


def test_an_adapter_that_is_more_than_its_factors_is_refused():
    factor = {"layers.0.q_proj.lora_A.weight": torch.ones(2, 2), "layers.0.q_proj.lora_B.weight": torch.ones(2, 2)}
    interpolate({}, factor, adapter=True)
    for name in ("layers.0.q_proj.lora_magnitude_vector", "lm_head.weight"):
        with pytest.raises(UserError, match="Merge it"):
            interpolate({}, factor | {name: torch.ones(2)}, adapter=True)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan, "0.2", True])
def test_a_share_outside_is_a_usage_error(share):
    with pytest.raises(RecipeError, match="towards_base"):
        interpolate(*states(), towards_base=share)
    with pytest.raises(RecipeError, match="per_block"):
        interpolate(*states(), per_block=[share])


def test_models_that_do_not_belong_together_are_refused():
    base, tuned = states()
    with pytest.raises(UserError, match=r"1 tensors only in the tuned model \(first: v\)"):
        interpolate(base, tuned | {"v": torch.ones(1)})
    with pytest.raises(UserError, match="only in the base"):
        interpolate(base | {"v": torch.ones(1)}, tuned)
    with pytest.raises(UserError, match=r"w has the shape \(1,\) in the base and \(2,\)"):
        interpolate(base, {"w": torch.ones(2)})
    with pytest.raises(UserError, match="quantised"):
        interpolate({"w": torch.zeros(2, 2, dtype=torch.uint8)}, {"w": torch.ones(2, 2, dtype=torch.uint8)})
    with pytest.raises(UserError, match="not finite"):
        interpolate(base, {"w": torch.tensor([math.nan])})
    with pytest.raises(UserError, match="5 blocks were asked for and the model has 2 layers"):
        interpolate(tiny.llama().state_dict(), tiny.llama().state_dict(), per_block=[0.1] * 5)


def test_a_mask_of_infinities_that_both_have_is_kept():
    mask = {"w": torch.ones(1), "mask": torch.tensor([0.0, -math.inf])}
    assert torch.equal(interpolate(mask, dict(mask), towards_base=0.5).state["mask"], mask["mask"])
