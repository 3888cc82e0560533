"""What moved in a model, and in how many directions, is what was planted; from memory, from files and from a LoRA's factors alike."""

import copy
import dataclasses
import json
import math

import pytest
import torch

import tiny
from untax import models
from untax.diagnostics import movement
from untax.diagnostics.layers import layers, layers_of_folders, summed
from untax.types import UserError

Q0 = "model.layers.0.self_attn.q_proj.weight"
DOWN1 = "model.layers.1.mlp.down_proj.weight"


def planted(seed=0):
    """The tiny llama, and a copy with a rank-one change in one weight and a change of three equal directions in another."""
    base = tiny.llama(seed)
    tuned = copy.deepcopy(base)
    weights = dict(tuned.named_parameters())
    with torch.no_grad():
        weights[Q0][2] += 0.5
        weights[DOWN1][0, 0] += 3.0
        weights[DOWN1][1, 1] += 3.0
        weights[DOWN1][2, 2] += 3.0
    return base, tuned


def named(moved):
    return {one.name: one for one in moved}


def test_planted_changes_by_hand():
    """|dW|: .5 sqrt 32 = 2.828 and 3 sqrt 3 = 5.196, so shares 8 / 35 and 27 / 35; ranks 1 and 3."""
    base, tuned = planted()
    found = layers(base, tuned)
    one, three = named(found)[Q0], named(found)[DOWN1]
    assert (one.moved, three.moved) == pytest.approx((math.sqrt(8), math.sqrt(27)), rel=1e-6)
    assert (one.share, three.share) == pytest.approx((8 / 35, 27 / 35), rel=1e-6)
    assert (one.effective_rank, one.stable_rank) == pytest.approx((1, 1), abs=1e-5)
    assert (three.effective_rank, three.stable_rank) == pytest.approx((3, 3), abs=1e-5)
    weight = dict(base.named_parameters())[Q0]
    assert one.relative == pytest.approx(math.sqrt(8) / float(weight.detach().norm()), rel=1e-6)
    assert [each.name for each in found[:2]] == [DOWN1, Q0]
    assert (one.layer, one.kind, three.layer, three.kind) == (0, "q", 1, "mlp")
    rest = [each for each in found if each.name not in (Q0, DOWN1)]
    assert all(each.moved == each.share == 0 and each.note == "did not move" for each in rest)
    assert {each.name for each in found} == set(dict(base.named_parameters()))


def test_ranks_by_hand():
    """Singular values 2, 1: exp(-2/3 ln 2/3 - 1/3 ln 1/3) = 1.8899, (4 + 1) / 4 = 1.25."""
    assert movement.ranks(torch.tensor([2.0, 1.0])) == pytest.approx((1.8899, 1.25), abs=1e-4)
    matrix = torch.zeros(3, 5, dtype=torch.float64)
    matrix[0, 1], matrix[2, 4] = 2, -1
    for each in (matrix, matrix.T.clone()):
        far, values, note = movement.measured(each, 100)
        assert (far, note) == (pytest.approx(math.sqrt(5)), "")
        assert sorted(values.tolist()) == pytest.approx([0, 1, 2])


def test_singular_values_are_those_of_a_decomposition():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(40, 25, generator=generator, dtype=torch.float64)
    values = movement.measured(matrix, 10_000)[1].flip(0)
    assert torch.allclose(values, torch.linalg.svdvals(matrix), atol=1e-9)
    low = torch.randn(200, 3, generator=generator) @ torch.randn(3, 150, generator=generator)
    assert int((movement.measured(low.double(), 10**6)[1] > 0).sum()) == 3


def test_a_model_against_itself_did_not_move():
    base = tiny.llama()
    assert all(one.moved == one.share == 0 and one.unranked == 0 for one in layers(base, copy.deepcopy(base)))


def test_sums_by_layer_and_kind():
    base, tuned = planted()
    moved = layers(base, tuned)
    by_layer, by_kind = named(summed(moved, "layer")), named(summed(moved, "kind"))
    assert by_layer["layer 0"].share == pytest.approx(8 / 35, rel=1e-6)
    assert by_layer["layer 1"].moved == pytest.approx(math.sqrt(27), rel=1e-6)
    assert (by_layer["layer 1"].layer, by_layer["layer 1"].effective_rank) == (1, pytest.approx(3, abs=1e-5))
    assert by_kind["mlp"].share == pytest.approx(27 / 35, rel=1e-6)
    weights = [float(w.detach().norm()) for name, w in base.named_parameters() if "mlp" in name]
    assert by_kind["mlp"].relative == pytest.approx(math.sqrt(27) / math.hypot(*weights), rel=1e-6)
    whole = summed(moved, "all")[0]
    assert (whole.moved, whole.share) == pytest.approx((math.sqrt(35), 1), rel=1e-6)
    assert whole.effective_rank == pytest.approx((8 * 1 + 27 * 3) / 35, abs=1e-5)
    assert whole.tensors == len(moved)
    assert sum(one.share for one in by_layer.values()) == pytest.approx(1)


def test_large_matrices_and_vectors_have_no_rank_and_are_counted():
    base, tuned = planted()
    with torch.no_grad():
        dict(tuned.named_parameters())["model.norm.weight"].add_(0.1)
    found = named(layers(base, tuned, largest=1500))
    assert math.isnan(found[DOWN1].effective_rank)
    assert "more than 1,500 numbers" in found[DOWN1].note
    assert found[Q0].effective_rank == pytest.approx(1, abs=1e-5)
    assert "vector" in found["model.norm.weight"].note
    assert summed(found.values(), "all")[0].unranked == 2
    assert summed(found.values(), "all")[0].effective_rank == pytest.approx(1, abs=1e-5)


# --------------------------------------------------------------------------- adapters


def test_a_lora_is_read_off_its_factors():
    """The same figures as those of the merged model; only the weights that it touches."""
    base = tiny.llama()
    adapted = tiny.with_adapter(copy.deepcopy(base))
    found = named(layers(None, adapted))
    merged = copy.deepcopy(adapted).merge_and_unload()
    whole = {name: one for name, one in named(layers(base, merged)).items() if one.moved}
    assert set(found) == set(whole)
    assert len(found) == 4
    for name, one in found.items():
        other = whole[name]
        for part in ("moved", "norm", "relative", "share", "effective_rank", "stable_rank"):
            assert getattr(one, part) == pytest.approx(getattr(other, part), rel=1e-4), (name, part)
        assert (one.numbers, one.layer, one.kind) == (other.numbers, other.layer, other.kind)
    assert named(layers(base, adapted)) == found


def test_a_lora_at_its_start_did_not_move():
    assert all(one.moved == 0 and one.note for one in layers(None, tiny.with_adapter(tiny.llama(), strength=0.0)))


def test_whole_modules_saved_beside_the_factors_count():
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(
        tiny.gpt2(), LoraConfig(r=2, target_modules=["c_attn"], modules_to_save=["ln_f"], fan_in_fan_out=True)
    )
    with torch.no_grad():
        adapted.get_submodule("base_model.model.transformer.ln_f").modules_to_save["default"].weight += 0.5
    found = named(layers(None, adapted))
    assert found["transformer.ln_f.weight"].moved == pytest.approx(0.5 * math.sqrt(32))
    assert found["transformer.ln_f.weight"].share == 1
    assert "transformer.h.0.attn.c_attn.weight" in found


def test_adapters_that_are_more_are_refused():
    from peft import IA3Config, LoraConfig, get_peft_model

    for config in (
        LoraConfig(r=2, target_modules=["q_proj"], use_dora=True),
        IA3Config(target_modules=["q_proj"], feedforward_modules=[]),
    ):
        with pytest.raises(UserError, match="Merge it"):
            layers(None, get_peft_model(tiny.llama(), config))
    with pytest.raises(UserError, match="another base"):
        layers(tiny.llama(5), tiny.with_adapter(tiny.llama()))
    merged = tiny.with_adapter(tiny.llama())
    merged.merge_adapter()
    with pytest.raises(UserError, match="unmerge"):
        layers(None, merged)
    with pytest.raises(UserError, match="needs the model before"):
        layers(None, tiny.llama())


# --------------------------------------------------------------------------- folders


def test_folders_say_what_models_say(tmp_path):
    base, tuned = planted()
    for name, model in (("base", base), ("tuned", tuned)):
        models.save(model, tiny.tokenizer(), tmp_path / name)
    assert layers_of_folders(tmp_path / "base", tmp_path / "tuned") == layers(base, tuned)


def test_folders_in_several_files_and_adapters(tmp_path):
    base = tiny.llama()
    adapted = tiny.with_adapter(copy.deepcopy(base))
    base.save_pretrained(tmp_path / "base", max_shard_size="20KB")
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 1
    models.save(adapted, tiny.tokenizer(), tmp_path / "adapter")
    found, wanted = named(layers_of_folders(tmp_path / "base", tmp_path / "adapter")), named(layers(None, adapted))
    assert set(found) == set(wanted)
    for name, one in found.items():
        for part in ("moved", "norm", "share", "effective_rank"):
            assert getattr(one, part) == pytest.approx(getattr(wanted[name], part), rel=1e-6)


def test_folders_that_cannot_be_read(tmp_path):
    models.save(tiny.llama(), tiny.tokenizer(), tmp_path / "base")
    with pytest.raises(UserError, match="no weights in safetensors"):
        layers_of_folders(tmp_path / "base", tmp_path)
    models.save(tiny.gpt2(), tiny.tokenizer(), tmp_path / "other")
    with pytest.raises(UserError, match="no weight of one name"):
        layers_of_folders(tmp_path / "base", tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        layers_of_folders(tmp_path / "base", tmp_path / "other")


def test_what_is_on_one_side_only_is_named():
    base, tuned = planted()
    tuned.resize_token_embeddings(260)
    found = named(layers(base, tuned))
    one = found["model.embed_tokens.weight"]
    assert math.isnan(one.moved)
    assert "(257, 32) to (260, 32)" in one.note
    assert list(found)[-1] == "model.embed_tokens.weight"
    assert summed(found.values(), "all")[0].note == "1 could not be compared"
    assert sum(each.share for each in found.values() if not math.isnan(each.share)) == pytest.approx(1)
    deeper = named(layers(base, tiny.llama(layers=3)))
    assert deeper["model.layers.2.mlp.up_proj.weight"].note == "only in the model after"


def test_a_damaged_model_is_refused():
    base, tuned = planted()
    with torch.no_grad():
        dict(tuned.named_parameters())[Q0][0, 0] = math.nan
    with pytest.raises(UserError, match="not finite"):
        layers(base, tuned)


def test_results_become_plain_numbers():
    json.dumps([dataclasses.asdict(one) for one in layers(*planted())])
