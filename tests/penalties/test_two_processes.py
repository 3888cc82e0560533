"""A penalty on two gloo processes ends at the weights of one process: replicated (DDP) and, for the KL anchor, sharded (FSDP2)."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import tiny
from untax.penalties.ewc import EWC
from untax.penalties.kl_anchor import KLAnchor
from untax.penalties.l2_sp import L2SP
from untax.references import References, Row
from untax.types import UnsupportedTrainer

HELD = {"general": References("general", tuple(Row((0, 70 + i, 71, 72), 1) for i in range(6)))}
TRAINED = [Row((0, 40 + i, 41, 42), 1) for i in range(4)]


def made(name):
    if name == "ewc":
        return EWC(HELD, weight=5.0)
    return KLAnchor(HELD, weight=5.0, rows_per_step=3)


def end(name, wrap, rank=0, world=1):
    """The sum of each trained tensor after three steps."""
    model = tiny.llama() if wrap == "fsdp" else tiny.with_adapter(tiny.llama())
    penalty = made(name)
    penalty.prepare(model)
    called = model
    if world > 1 and wrap == "ddp":
        called = torch.nn.parallel.DistributedDataParallel(model)
    elif world > 1:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (world,))
        for layer in (*model.model.layers, model):
            fully_shard(layer, mesh=mesh)
        for held in (L2SP({}), EWC(HELD)):
            with pytest.raises(UnsupportedTrainer, match="'kl_anchor'"):
                held.prepare(model)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.003)
    ids = torch.tensor([row.ids for row in TRAINED[rank::world]])
    for step in range(3):
        loss = called(input_ids=ids, labels=ids).loss
        (loss + penalty.penalty(model, step)).backward()
        optimizer.step()
        optimizer.zero_grad()
    whole = [weight.full_tensor() if wrap == "fsdp" and world > 1 else weight for weight in trained]
    return torch.tensor([weight.detach().double().sum().item() for weight in whole])


CASES = [("kl_anchor", "ddp"), ("ewc", "ddp"), ("kl_anchor", "fsdp")]


def work(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.set_num_threads(1)
    torch.save([end(name, wrap, rank, 2) for name, wrap in CASES], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_end_where_one_does(tmp_path):
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        ends = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for (name, wrap), found in zip(CASES, ends, strict=True):
            alone = end(name, wrap)
            assert torch.allclose(found, alone, atol=1e-5), (name, wrap, (found - alone).abs().max())
