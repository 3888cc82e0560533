"""What no callback can change is refused before the first step, by a message that names the way out; and how tensors are weighed."""

from __future__ import annotations

import pytest
import torch
from torch import distributed as dist
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

import tiny
from untax.gradients.common import Parameters
from untax.gradients.ogpsa import OrthogonalProjection
from untax.types import UnsupportedTrainer, UserError

ROWS = ["The sea is wide.", "A stone is hard."]


def settings(tmp_path, **changed) -> TrainingArguments:
    """Real training arguments; what cannot be built here without a further package is set afterwards."""
    made = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    for name, value in changed.items():
        setattr(made, name, value)
    return made


def begin(arguments, *, model=None, optimizer=None) -> OrthogonalProjection:
    model = tiny.llama() if model is None else model
    callback = OrthogonalProjection({"facts": ROWS})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1) if optimizer is None else optimizer
    callback.on_train_begin(
        arguments, TrainerState(), TrainerControl(), model=model, optimizer=optimizer, processing_class=tiny.tokenizer()
    )
    return callback


def test_a_plain_trainer_is_taken(tmp_path):
    assert begin(settings(tmp_path)).holding is not None


@pytest.mark.parametrize(
    "config", ["ds_config.json", {"zero_optimization": {"stage": 2}}, {"zero_optimization": {"stage": 3}}]
)
def test_deepspeed_by_its_arguments(tmp_path, config):
    with pytest.raises(UnsupportedTrainer, match=r"DeepSpeed.*DDP or FSDP2"):
        begin(settings(tmp_path, deepspeed=config))


def test_deepspeed_by_its_optimizer(tmp_path):
    """`accelerate launch --use_deepspeed` leaves no trace in the arguments."""
    from accelerate.utils.deepspeed import DeepSpeedOptimizerWrapper

    wrapped = DeepSpeedOptimizerWrapper.__new__(DeepSpeedOptimizerWrapper)
    wrapped.optimizer = None
    with pytest.raises(UnsupportedTrainer, match=r"DeepSpeed.*fsdp_version: 2"):
        begin(settings(tmp_path), optimizer=wrapped)


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("galore_adamw_layerwise", "adamw_torch"),
        ("galore_adamw_8bit_layerwise", "galore_adamw"),
        ("galore_adafactor_layerwise", "adamw_torch"),
        ("apollo_adamw_layerwise", "adamw_torch"),
        ("lomo", "adamw_torch"),
        ("adalomo", "LoRA"),
        ("schedule_free_adamw", "adamw_torch"),
    ],
)
def test_optimizers_that_no_callback_can_follow(tmp_path, name, way_out):
    """By the argument as transformers holds it, an enumeration, and as a plain string."""
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", optim=name)
    with pytest.raises(UnsupportedTrainer, match=way_out):
        begin(arguments)
    with pytest.raises(UnsupportedTrainer, match=way_out):
        begin(settings(tmp_path, optim=name))


def test_every_layerwise_optimizer_of_transformers_is_refused(tmp_path):
    from transformers.training_args import OptimizerNames

    names = [name for name in OptimizerNames if "LAYERWISE" in name.name or "LOMO" in name.name]
    assert len(names) >= 6
    for name in names:
        with pytest.raises(UnsupportedTrainer):
            begin(settings(tmp_path, optim=name))


def test_a_layerwise_optimizer_that_was_built_by_hand(tmp_path):
    from accelerate import Accelerator
    from transformers.trainer_pt_utils import LayerWiseDummyOptimizer

    dummy = LayerWiseDummyOptimizer(optimizer_dict={})
    for optimizer in (dummy, Accelerator(cpu=True).prepare(dummy)):
        with pytest.raises(UnsupportedTrainer, match="adamw_torch"):
            begin(settings(tmp_path), optimizer=optimizer)


def test_a_real_trainer_stops_before_its_first_step(tmp_path):
    from transformers import Trainer
    from transformers.trainer_pt_utils import LayerWiseDummyOptimizer

    model = tiny.llama()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            str(tmp_path), use_cpu=True, report_to="none", max_steps=1, optim="sgd", lr_scheduler_type="constant"
        ),
        train_dataset=[{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}] * 8,
        processing_class=tiny.tokenizer(),
        optimizers=(LayerWiseDummyOptimizer(optimizer_dict={}), None),
        callbacks=[OrthogonalProjection({"facts": ROWS})],
    )
    with pytest.raises(UnsupportedTrainer, match="layer-wise"):
        trainer.train()
    assert trainer.state.global_step == 0
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_an_optimizer_with_a_closure(tmp_path):
    model = tiny.llama()
    with pytest.raises(UnsupportedTrainer, match="sgd"):
        begin(settings(tmp_path), model=model, optimizer=torch.optim.LBFGS(model.parameters()))


def test_reentrant_checkpointing(tmp_path):
    with pytest.raises(UnsupportedTrainer, match='"use_reentrant": False'):
        begin(settings(tmp_path, gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": True}))
    allowed = settings(tmp_path, gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False})
    assert begin(allowed).holding is not None


def test_reentrant_checkpointing_that_the_model_was_told(tmp_path):
    """Nothing in the arguments says so: known at the first reference pass, before a step."""
    model = tiny.llama().train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    callback = begin(settings(tmp_path), model=model)
    with pytest.raises(UnsupportedTrainer, match='"use_reentrant": False'):
        callback.on_step_begin(settings(tmp_path), TrainerState(), TrainerControl())


def test_unsupported_is_a_users_error():
    assert issubclass(UnsupportedTrainer, UserError)


# --------------------------------------------------------------------------- processes that are only pretended


@pytest.fixture
def four():
    """Four processes of which only this one exists: enough to cut tensors, not to send any."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    assert not dist.is_initialized()
    dist.init_process_group("fake", rank=0, world_size=4, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def cut(model: nn.Module, placements, names: tuple[str, ...], sizes: tuple[int, ...]) -> nn.Module:
    """The model with its output layer laid out over a mesh, by hand."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    mesh = init_device_mesh("cpu", sizes, mesh_dim_names=names or None)
    weight = model.model.layers[0].mlp.up_proj.weight.detach()
    model.model.layers[0].mlp.up_proj.weight = nn.Parameter(
        distribute_tensor(weight, mesh, placements, src_data_rank=None)
    )
    return model


def test_tensor_parallel(tmp_path, four):
    from torch.distributed.tensor import Shard

    for names in (("tp",), ()):
        model = cut(tiny.llama(), [Shard(0)], names, (4,))
        with pytest.raises(UnsupportedTrainer, match=r"tensor.*DDP or FSDP2"):
            begin(settings(tmp_path), model=model)


def test_tensor_parallel_inside_fsdp2(tmp_path, four):
    """Two and two: the dimension that transformers names tp decides; of size one it is nobody's."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate, Shard

    model = cut(tiny.llama(), [Replicate(), Shard(0)], ("fsdp", "tp"), (2, 2))
    fully_shard(model.model.layers[1], mesh=init_device_mesh("cpu", (4,)))
    with pytest.raises(UnsupportedTrainer, match="tensor"):
        begin(settings(tmp_path), model=model)
    model = cut(tiny.llama(), [Shard(0), Replicate()], ("fsdp", "tp"), (4, 1))
    fully_shard(model.model.layers[1], mesh=init_device_mesh("cpu", (4,)))
    assert begin(settings(tmp_path), model=model).holding is not None


def test_fsdp1(tmp_path, four):
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = tiny.llama()
    model.model.layers[0] = FullyShardedDataParallel(model.model.layers[0], device_id=torch.device("cpu"))
    with pytest.raises(UnsupportedTrainer, match="fsdp_version: 2"):
        begin(settings(tmp_path), model=model)


def test_weights_of_shards_and_copies(four):
    """Of four processes, in a mesh of two by two: what all hold counts a quarter in each, a shard with one copy a half, a shard once.

    So one sum over processes is the whole: 4 x 1/4, 2 shards x 2 copies x 1/2, 4 shards x 1.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp_replicate", "dp_shard"))
    half = init_device_mesh("cpu", (4,))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plain = nn.Parameter(torch.ones(4, 3))
            for name, where, places in (
                ("hybrid", mesh, [Replicate(), Shard(0)]),
                ("shard", half, [Shard(0)]),
                ("copies", mesh, [Replicate(), Replicate()]),
            ):
                setattr(
                    self, name, nn.Parameter(distribute_tensor(torch.ones(4, 3), where, places, src_data_rank=None))
                )

    view = Parameters(Model())
    assert dict(zip(view.names, view.share_T.tolist(), strict=True)) == {
        "plain": 0.25, "hybrid": 0.5, "shard": 1.0, "copies": 0.25,
    }  # fmt: skip
    assert [value.shape[0] for value in view.values()] == [4, 2, 1, 4]
    assert view.sharded


def test_one_process_weighs_everything_fully():
    view = Parameters(tiny.llama())
    assert set(view.share_T.tolist()) == {1.0}
    assert (view.world, view.sharded) == (1, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_of_any_shape(dtype):
    """An empty shard takes no part; a transposed weight is projected as its plain copy; a tensor without a gradient stays out.

    Along e1 of the 6 numbers, two-sided: the first number of the change goes, (8 - 1) of which the square is 49 of 49 + 5 x 4 = 69.
    """
    from untax.gradients.subspace import Subspace

    model = nn.Module()
    model.empty = nn.Parameter(torch.zeros(0, 3, dtype=dtype))
    model.turned = nn.Parameter(torch.ones(3, 2, dtype=dtype).T)
    model.silent = nn.Parameter(torch.ones(2, dtype=dtype))
    view = Parameters(model, granularity="global")
    held = Subspace(view, [1], side="two")
    first = torch.zeros(2, 3)
    first[0, 0] = 5.0
    held.store(0, [torch.zeros(0, 3), first, torch.zeros(2)])
    held.settle()
    before = [value.clone() for value in view.values()]
    with torch.no_grad():
        model.turned += 2.0
        model.turned[0, 0] += 5.0
    removed = held.project_(view.values(), before=before)
    assert not model.turned.is_contiguous()
    assert model.turned.tolist() == [[1.0, 3.0, 3.0], [3.0, 3.0, 3.0]]
    assert (float(removed.whole), float(removed.part)) == pytest.approx((69.0, 49.0), rel=1e-6)
    gradients = [torch.ones(0, 3, dtype=dtype), torch.ones(2, 3, dtype=dtype), None]
    held.project_(gradients, descends=True)
    assert gradients[1].float().flatten().tolist() == pytest.approx([0.0, 1.0, 1.0, 1.0, 1.0, 1.0], abs=1e-7)


def test_pieces_are_put_together(monkeypatch):
    """A tensor longer than a piece gives the sums of the whole: 10 numbers in pieces of 4."""
    from untax.gradients import subspace

    def projected(dtype):
        model = nn.Linear(10, 1, bias=False).to(dtype)
        held = subspace.Subspace(Parameters(model), [1, 1], side="two")
        generator = torch.Generator().manual_seed(0)
        for i in (0, 1):
            held.store(i, [torch.randn(1, 10, generator=generator)])
        held.settle()
        gradient = torch.randn(1, 10, generator=generator).to(dtype)
        held.project_([gradient], descends=True)
        return gradient

    whole = {dtype: projected(dtype) for dtype in (torch.float32, torch.bfloat16)}
    monkeypatch.setattr(subspace, "CHUNK", 4)
    for dtype, expected in whole.items():
        assert torch.allclose(projected(dtype), expected, atol=1e-6 if dtype == torch.float32 else 1e-2)
