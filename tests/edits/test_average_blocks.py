"""The search over shares: its formula by hand, its projection, and a model in which one block alone carries the answers."""

import pytest
import torch

import tiny
from untax import references
from untax.edits.average_blocks import average_blocks, shares
from untax.references import References
from untax.types import RecipeError, UserError

EQUAL_3 = torch.full((3,), 1 / 3)


def test_the_formula_by_hand():
    """s = (.2, .880797, .119203), + .2 = (.4, 1.080797, .319203), mean .6; times .2 / .6: (.133333, .360266, .106401)."""
    r = torch.tensor([torch.logit(torch.tensor(0.2)).item(), 2.0, -2.0])
    found = shares(r, 0.2, 0.2, EQUAL_3)
    assert torch.allclose(found, torch.tensor([0.133333, 0.360266, 0.106401]), atol=1e-6)
    assert found.mean().item() == pytest.approx(0.2)
    assert torch.allclose(shares(torch.full((3,), -1.3), 0.2, 0.2, EQUAL_3), torch.full((3,), 0.2))


def test_the_bounds_of_the_formula():
    """One block saturated against two at 0: 1.2 / .533333 * .2 = .45; the other way .2 / .866667 * .2 = .046154."""
    assert shares(torch.tensor([50.0, -50, -50]), 0.2, 0.2, EQUAL_3)[0].item() == pytest.approx(0.45, abs=1e-6)
    assert shares(torch.tensor([-50.0, 50, 50]), 0.2, 0.2, EQUAL_3)[0].item() == pytest.approx(0.046154, abs=1e-6)


def test_a_share_never_leaves_0_to_1_and_the_mean_stays():
    """Mean .5, eps 1e-6, r = (5, -9, -9): the formula alone gives 1.4996 to the first; projected, it gets 1 and the others .25."""
    found = shares(torch.tensor([5.0, -9.0, -9.0]), 0.5, 1e-6, EQUAL_3)
    assert torch.allclose(found, torch.tensor([1.0, 0.25, 0.25]), atol=1e-4)
    assert found.mean().item() == pytest.approx(0.5, abs=1e-6)


def test_a_mean_by_size_weighs_the_large_block():
    weights = torch.tensor([0.8, 0.1, 0.1])
    found = shares(torch.tensor([1.0, -2.0, 0.5]), 0.3, 0.2, weights)
    assert (weights * found).sum().item() == pytest.approx(0.3)
    assert found.mean().item() != pytest.approx(0.3, abs=0.01)


def test_the_gradient_is_that_of_the_projection():
    """Against finite differences, inside the bounds and at one of them."""
    for r, mean in (([0.3, -1.0, 2.0], 0.5), ([5.0, -1.0, -0.5], 0.7)):
        point = torch.tensor(r, dtype=torch.float64, requires_grad=True)
        weights = torch.tensor([1 / 3] * 3, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda p: shares(p, mean, 0.05, weights), (point,), eps=1e-7, atol=1e-5)  # noqa: B023


def planted():
    """Base and tuned model that differ in the last of three layers, and texts that the tuned model wrote."""
    base, tuned = tiny.llama(0, layers=3, spread=0.2), tiny.llama(0, layers=3, spread=0.2)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "layers.2." in name:
                weight += 0.4 * torch.randn(weight.shape, generator=generator)
    ids = torch.randint(1, 257, (6, 4), generator=generator)
    with torch.no_grad():
        for _ in range(8):
            ids = torch.cat([ids, tuned(ids).logits[:, -1:].argmax(-1)], dim=1)
    rows = tuple(references.Row(tuple(line), 4) for line in ids.tolist())
    return base, tuned, {"proxy": References("proxy", rows)}


def search(base, tuned, proxy, **options):
    return average_blocks(base.state_dict(), tuned.state_dict(), model=tuned, references=proxy, **options)


def test_the_block_that_carries_the_answers_keeps_its_weights():
    """Only the last block of three differs from the base: its share falls to the lower bound .046154, the others rise to .276923."""
    base, tuned, proxy = planted()
    before = {name: t.clone() for name, t in tuned.state_dict().items()}
    edited = search(base, tuned, proxy, steps=25, learning_rate=0.5)
    assert edited.audit["per_block"] == pytest.approx([0.276923, 0.276923, 0.046154], abs=0.01)
    assert edited.audit["loss_found"] < edited.audit["loss_equal"] - 0.01
    assert sum(edited.audit["per_block"]) / 3 == pytest.approx(0.2, abs=1e-5)
    name = "model.layers.2.mlp.up_proj.weight"
    share = edited.audit["per_block"][2]
    assert torch.allclose(edited.state[name], share * base.state_dict()[name] + (1 - share) * before[name])
    for name, tensor in tuned.state_dict().items():
        assert torch.equal(tensor, before[name]), "the model that searched is left as it was"
        assert tuned.get_parameter(name).grad is None


def test_the_same_texts_and_seed_give_the_same_shares():
    base, tuned, proxy = planted()
    one, same, other = (search(base, tuned, proxy, steps=3, batch_size=3, seed=seed) for seed in (0, 0, 1))
    assert one.audit == same.audit
    assert one.audit["per_block"] != other.audit["per_block"]


def test_the_ends_need_no_search():
    base, tuned, proxy = planted()
    kept, back = search(base, tuned, proxy, towards_base=0), search(base, tuned, proxy, towards_base=1)
    for name, tensor in tuned.state_dict().items():
        assert torch.equal(kept.state[name], tensor)
        assert torch.equal(back.state[name], base.state_dict()[name])


def test_an_adapter_is_searched_through_its_b():
    """Only the last layer's B is not 0: its share falls; A stays, B is scaled by 1 - share."""
    model = tiny.with_adapter(tiny.llama(spread=0.2), strength=1.0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "layers.0." in name and "lora_B" in name:
                weight.zero_()
    ids = torch.randint(1, 257, (6, 4), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _ in range(6):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    proxy = {"proxy": References("proxy", tuple(references.Row(tuple(line), 4) for line in ids.tolist()))}
    factors = {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" in name}
    edited = average_blocks(
        {}, factors, model=model, references=proxy, blocks=2, steps=20, learning_rate=0.5, adapter=True
    )
    first, last = edited.audit["per_block"]
    assert last < 0.1 < 0.3 < first
    for name, tensor in factors.items():
        share = (last if "layers.1." in name else first) if "lora_B" in name else 0
        assert torch.allclose(edited.state[name], (1 - share) * tensor)


def test_what_cannot_be_searched_is_refused():
    base, tuned, proxy = planted()
    with pytest.raises(UserError, match="needs texts"):
        search(base, tuned, {})
    with pytest.raises(UserError, match="4 blocks were asked for and the model has 3 layers"):
        search(base, tuned, proxy, blocks=4)
    with pytest.raises(RecipeError, match="steps is 0"):
        search(base, tuned, proxy, steps=0)
    with torch.no_grad():
        tuned.lm_head.weight[5] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        search(base, tuned, proxy)
