"""The null space of activations: by hand, against inputs collected one by one, then in a trainer."""

from types import SimpleNamespace

import pytest
import torch
from short_training import ARGS, REFERENCES, resumes, same, state, train, weights
from torch import nn

import tiny
from untax import references
from untax.gradients.activations import InputSpace, collect, layers_of, leading
from untax.gradients.common import Parameters
from untax.gradients.null_space import NullSpace
from untax.references import References, Row
from untax.types import UnsupportedTrainer, UserError


class Plane(nn.Module):
    """Two-dimensional tokens and one linear layer: token 1 is (1, 0), the others are (0, 1)."""

    def __init__(self):
        super().__init__()
        self.tokens = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
        self.layer = nn.Linear(2, 3, bias=False)

    def forward(self, input_ids, attention_mask, use_cache):
        return SimpleNamespace(logits=self.layer(self.tokens[input_ids]))


def plane(**options):
    model = Plane()
    space = InputSpace(model, {"x": References("x", (Row((1, 1, 1), 1),))}, **options)
    space.refresh(0)
    return model, space


def test_a_step_keeps_only_what_the_activations_do_not_have():
    """dW = (3, 4) in every row, x = (1, 0): dW becomes (0, 4), so dW x = 0; half the strength: (1.5, 4)."""
    for strength, kept in ((1.0, 0.0), (0.5, 1.5)):
        model, space = plane(strength=strength)
        before = model.layer.weight.detach().clone()
        copies = space.before()
        with torch.no_grad():
            model.layer.weight += torch.tensor([3.0, 4.0])
        share = space.project_update_(copies)
        moved = (model.layer.weight - before).tolist()
        assert moved == [pytest.approx([kept, 4], abs=1e-5)] * 3
        assert share == pytest.approx(1 - (kept**2 + 16) / 25, abs=1e-5)


def test_a_gradient_likewise():
    model, space = plane()
    model.layer.weight.grad = torch.tensor([[3.0, 4.0]] * 3)
    assert space.project_gradients_(measure=True) == pytest.approx(9 / 25)
    assert model.layer.weight.grad.tolist() == [[0, 4]] * 3


def test_half_of_each_step_is_half_of_each_step():
    """Strength .5, two steps of 1 along x: .5 remains of the first, .5 of the second; not a quarter of the first."""
    model, space = plane(strength=0.5)
    before = model.layer.weight[0, 0].item()
    for wanted in (0.5, 1.0):
        with torch.no_grad():
            model.layer.weight[:, 0] += 1
        space.project_update_()
        assert model.layer.weight[0, 0].item() - before == pytest.approx(wanted, abs=1e-6)


def test_the_fewest_directions_that_hold_the_energy():
    """Eigenvalues 6, 3, 1: 60 % in one, 90 % in two; what is zero is never a direction."""
    covariance = torch.diag(torch.tensor([3.0, 0.0, 6.0, 1.0], dtype=torch.float64))
    kept = {energy: leading(covariance, energy=energy, max_rank=None).shape[1] for energy in (0.5, 0.61, 0.89, 0.91, 1)}
    assert kept == {0.5: 1, 0.61: 2, 0.89: 2, 0.91: 3, 1: 3}
    first = leading(covariance, energy=1, max_rank=1)
    assert first.abs().tolist() == [[0], [0], [1], [0]]
    assert leading(covariance, energy=1, max_rank=0).shape == (4, 0)


def leaders(model):
    return {layer.name: layer.leader for layer in layers_of(model, Parameters(model))}


def test_layers_with_one_input_share_a_subspace():
    found = leaders(tiny.llama())
    inner = "model.layers.1."
    assert {name for name, leader in found.items() if leader == f"{inner}self_attn.q_proj"} == {
        f"{inner}self_attn.{part}_proj" for part in "qkv"
    }
    assert found[f"{inner}mlp.up_proj"] == f"{inner}mlp.gate_proj"
    assert [found[f"{inner}{own}"] for own in ("self_attn.o_proj", "mlp.down_proj")] == [
        f"{inner}self_attn.o_proj", f"{inner}mlp.down_proj",
    ]  # fmt: skip
    assert "lm_head" not in found, "a tied head is the embedding"
    assert len(found) == 14
    assert "lm_head" in leaders(tiny.qwen3()), "an untied one is a layer"


def test_of_a_lora_it_is_the_rows_of_a():
    model = tiny.with_adapter(tiny.llama())
    found = layers_of(model, Parameters(model))
    assert {layer.name.split(".")[-2] for layer in found} == {"lora_A"}
    assert len(found) == 4
    assert len({layer.leader for layer in found}) == 2, "q and v get one input"


def sets(*texts):
    return {"x": references.read("x", texts, tiny.tokenizer())}


def test_what_is_collected_is_every_token_and_no_padding():
    """Against the inputs of rows that are run one by one; batches of rows of other lengths give the same sums."""
    model = tiny.gpt2()
    view, given = Parameters(model), sets("a long text here", "short", "mid one")
    layers = layers_of(model, view)
    assert all(layer.transposed for layer in layers), "GPT-2's layers keep (in, out)"
    name = "transformer.h.1.mlp.c_proj"
    heard = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0][0].double()))
    with torch.no_grad():
        for row in given["x"].rows:
            model(torch.tensor([row.ids]))
    handle.remove()
    wanted = torch.cat(heard).T @ torch.cat(heard)
    assert len(torch.cat(heard)) == sum(len(row.ids) for row in given["x"].rows)
    loss, tokens = references.nll(model, given["x"].rows)
    for batch_size in (1, 3):
        found = {
            leader: (c, losses) for leader, c, losses in collect(model, view, layers, given, batch_size=batch_size)
        }
        assert torch.allclose(found[name][0], wanted, rtol=1e-4, atol=1e-4)
        assert found[name][1]["x"] == pytest.approx(loss.item() / tokens, rel=1e-5)


def test_large_models_take_several_passes(monkeypatch):
    """With room for one matrix at a time the same comes out, by as many passes as there are inputs."""
    model = tiny.llama()
    view, given = Parameters(model), sets("some text")
    layers = layers_of(model, view)
    at_once = {name: c.clone() for name, c, _ in collect(model, view, layers, given, batch_size=8)}
    monkeypatch.setattr("untax.gradients.activations.AT_ONCE", 32 * 32)
    passes = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    one_by_one = {name: c.clone() for name, c, _ in collect(model, view, layers, given, batch_size=8)}
    assert len(passes) == len(at_once) == 8
    assert all(torch.equal(at_once[name], one_by_one[name]) for name in at_once)


# --------------------------------------------------------------------------- in a trainer

FEW = {"x": ["red", "the"]}
OTHER = "unseen text"


def logits(model, texts):
    model.eval()
    with torch.no_grad():
        return torch.cat(
            [model(torch.tensor([row.ids])).logits[0] for row in references.read("x", texts, tiny.tokenizer()).rows]
        )


def adapted():
    """A LoRA as training begins: B is zero."""
    return tiny.with_adapter(tiny.llama(), strength=0.0).double()


@pytest.mark.parametrize(
    ("make", "options"),
    [(tiny.llama, {}), (tiny.gpt2, {}), (tiny.qwen3, {}), (adapted, {}),
     (tiny.llama, {"target": "gradient", "optim": "sgd"}), (adapted, {"target": "gradient", "optim": "sgd"})],
    ids=["llama", "gpt2", "untied", "lora", "llama-gradient", "lora-gradient"],
)  # fmt: skip
def test_what_the_references_are_answered_stays_exactly(make, options, tmp_path):
    """All directions of eight tokens are held: their logits move by less than 1e-6 in ten steps, those of another text by far more."""
    model = make().double()
    held, other = logits(model, FEW["x"]), logits(model, [OTHER])
    trained = {"optim": options.pop("optim")} if "optim" in options else {"weight_decay": 0.1}
    callback = NullSpace(FEW, energy=1.0, meter_every=1, **options)
    history = train(model, callback, tmp_path, steps=10, **({"learning_rate": 1e-2} | trained)).state.log_history
    assert (logits(model, FEW["x"]) - held).abs().max() < 1e-6
    assert (logits(model, [OTHER]) - other).abs().max() > 1e-2
    lines = [row for row in history if "loss" in row]
    assert all(abs(row["reference_loss_rise"]) < 1e-6 for row in lines)
    assert all(0 < row["removed_energy"] < 1 for row in lines[1:])
    assert lines[0]["reference_loss/x"] == pytest.approx(lines[0]["reference_loss"])
    assert 0 < lines[0]["held_rank"] < 1


def test_plain_training_does_move_them(tmp_path):
    """What the test above would see without the method."""
    model = tiny.llama().double()
    held = logits(model, FEW["x"])
    train(model, None, tmp_path, steps=10, learning_rate=1e-2)
    assert (logits(model, FEW["x"]) - held).abs().max() > 1e-2


@pytest.mark.parametrize("options", [{"strength": 0}, {"max_rank": 0}])
def test_strength_or_rank_0_is_plain_training_bit_for_bit(options, tmp_path):
    plain, measured = tiny.llama(), tiny.llama()
    train(plain, None, tmp_path / "a")
    history = train(measured, NullSpace(REFERENCES, meter_every=2, **options), tmp_path / "b").state.log_history
    assert same(plain, measured)
    assert [row["step"] for row in history if "reference_loss" in row] == [1, 3]


def test_weights_that_no_input_covers_stand_still_or_are_left(tmp_path):
    """Embeddings and norms; when left, the references' answers drift although every layer is held."""
    start = tiny.gpt2().double()
    for others in ("freeze", "leave"):
        model = tiny.gpt2().double()
        train(model, NullSpace(FEW, energy=1.0, others=others), tmp_path, weight_decay=0.1)
        now, before = weights(model), weights(start)
        kept = {name: torch.equal(now[name], before[name]) for name in now}
        for name, stayed in kept.items():
            covered = "weight" in name and any(part in name for part in ("c_attn", "c_proj", "c_fc"))
            assert stayed == (not covered and others == "freeze"), name
        drift = (logits(model, FEW["x"]) - logits(start, FEW["x"])).abs().max()
        assert drift < 1e-6 if others == "freeze" else drift > 1e-3


def test_a_loras_a_leaves_the_subspace_at_the_start(tmp_path):
    """B is zero, so nothing changes; afterwards A V = 0. An adapter that has begun keeps its A, and only its steps are held."""
    model = adapted()
    held = logits(model, ["red fox"])
    space = InputSpace(model, sets("red fox"), energy=1.0)
    space.refresh(0)
    assert torch.equal(logits(model, ["red fox"]), held)
    for layer in space.layers:
        assert space.held[layer.name].abs().max() < 1e-12
        assert space.bases[layer.leader].shape[1] > 0
    begun = tiny.with_adapter(tiny.llama(), strength=0.3)
    before = weights(begun)
    InputSpace(begun, sets("red fox"), energy=1.0).refresh(0)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(begun).items())


def test_a_refresh_holds_the_present_weights(tmp_path):
    """Refreshed every two steps, two sets of directions are seen; never, one."""
    seen = []

    class Watching(NullSpace):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(self.space.refreshed_at)

    train(tiny.llama(), Watching(FEW, refresh_every=2), tmp_path)
    train(tiny.llama(), Watching(FEW), tmp_path)
    assert seen == [0, 0, 2, 2, 0, 0, 0, 0]


@pytest.mark.parametrize("options", [{}, {"refresh_every": 2}, {"strength": 0.5}, {"strength": 0}])
def test_resuming_goes_on_as_if_nothing_had_happened(options, tmp_path):
    """The subspace of the start weights cannot be taken again from a checkpoint: it is in it."""
    assert resumes(tiny.llama, lambda: NullSpace(REFERENCES, **options), tmp_path)


def test_a_state_that_does_not_fit_is_refused(tmp_path, caplog):
    train(tiny.llama(), NullSpace(FEW), tmp_path, steps=3, save_strategy="steps", save_steps=3)
    checkpoint = tmp_path / "checkpoint-3"
    kept = checkpoint / "untax_null_space-rank0.safetensors"

    def again(callback):
        train(tiny.llama(), callback, tmp_path, steps=4, resume=str(checkpoint))

    with pytest.raises(UserError, match="other references, options"):
        again(NullSpace(FEW, energy=0.5))
    kept.write_bytes(kept.read_bytes()[:99])
    with pytest.raises(UserError, match="damaged"):
        again(NullSpace(FEW))
    kept.unlink()
    again(NullSpace(FEW))
    assert "holds no state of NullSpace" in caplog.text


def test_what_cannot_be_used_is_refused(tmp_path):
    for options in (
        {"energy": 0}, {"energy": 1.1}, {"max_rank": -1}, {"strength": -1}, {"refresh_every": 0}, {"meter_every": 0},
        {"batch_size": 0}, {"target": "weights"}, {"others": "drop"},
    ):  # fmt: skip
        with pytest.raises(UserError):
            NullSpace(REFERENCES, **options)
    from peft import LoraConfig, get_peft_model

    dora = get_peft_model(tiny.llama(), LoraConfig(r=2, target_modules=["q_proj"], use_dora=True))
    with pytest.raises(UserError, match="DoRA"):
        train(dora, NullSpace(FEW), tmp_path)
    norms_only = tiny.llama().requires_grad_(False)
    norms_only.model.norm.weight.requires_grad_(True)
    with pytest.raises(UserError, match="no linear layer"):
        train(norms_only, NullSpace(FEW), tmp_path)
    with pytest.raises(UserError, match="constructor"):
        NullSpace(FEW).on_step_begin(ARGS, state(), None)


def test_weights_cut_across_their_input_are_refused():
    """nn.Linear cut by rows of its output is whole for this; by columns, or a Conv1D by rows, it is not."""
    from torch import distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    from untax.gradients.activations import _check_cut

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        rows, columns, whole = (
            distribute_tensor(torch.ones(4, 4), mesh, [p]) for p in (Shard(0), Shard(1), Replicate())
        )
        _check_cut("a", rows, False)
        _check_cut("a", whole, True)
        for weight, transposed in ((columns, False), (rows, True)):
            with pytest.raises(UnsupportedTrainer, match="across its input"):
                _check_cut("a", weight, transposed)
    finally:
        dist.destroy_process_group()
