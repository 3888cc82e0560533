"""What test_processes.py starts: trains each case from the same start, on as many processes as the launcher says, and writes the weights.

    python -m torch.distributed.run --standalone --nproc-per-node 2 worker_processes.py OUT CASE ...

Called without a launcher it is the one process that the others are compared with.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch import distributed as dist
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import tiny

#: cpu, or cuda for the tests that need one
DEVICE = os.environ.get("UNTAX_TEST_DEVICE", "cpu")
#: optimiser steps of a case, and rows of a step over all processes
STEPS, ROWS = 4, 8


@dataclass(frozen=True)
class Case:
    """One way to train. `way`: trainer, sft, dpo or shards (FSDP2 by hand); `options`: the projection's, None without one."""

    way: str
    options: dict[str, Any] | None
    accumulation: int = 1
    clip: float = 0.0
    lora: bool = False
    sharded: bool = False  # by accelerate's own FSDP2, inside the trainer
    resume: bool = False  # saved at step 2, and taken up again by a new trainer


def _cases() -> dict[str, Case]:
    made = {}
    for way in ("trainer", "shards"):
        made[f"{way}-plain"] = Case(way, None)
        for granularity in ("tensor", "module", "global"):
            for target in ("update", "gradient"):
                for side in ("one", "two"):
                    options = {"granularity": granularity, "target": target, "side": side}
                    made[f"{way}-{granularity}-{target}-{side}"] = Case(way, options)
    return made | {
        "sft-plain": Case("sft", None),
        "sft": Case("sft", {}),
        "sft-accumulation": Case("sft", {}, accumulation=2),
        "sft-lora-plain": Case("sft", None, lora=True),
        "sft-lora-module": Case("sft", {"granularity": "module"}, lora=True),
        "sft-kl": Case("sft", {"loss": "kl_to_start"}),
        "dpo-plain": Case("dpo", None),
        "dpo": Case("dpo", {}),
        "trainer-plain-accumulation": Case("trainer", None, accumulation=4),
        "trainer-accumulation": Case("trainer", {}, accumulation=4),
        "trainer-clip": Case("trainer", {"target": "gradient"}, clip=0.05),
        "trainer-own-clip": Case("trainer", {"target": "gradient", "max_grad_norm": 0.05}),
        "trainer-resume": Case("trainer", {}, resume=True),
        "trainer-sharded": Case("trainer", {}, sharded=True),
        "trainer-sharded-global": Case("trainer", {"granularity": "global"}, sharded=True),
        "trainer-sharded-accumulation": Case("trainer", {}, sharded=True, accumulation=2),
        "trainer-sharded-clip": Case("trainer", {"target": "gradient"}, sharded=True, clip=0.05),
        "trainer-sharded-resume": Case("trainer", {}, sharded=True, resume=True),
        "sft-sharded": Case("sft", {}, sharded=True),
        "sft-sharded-lora": Case("sft", {}, sharded=True, lora=True),
        "shards-own-clip": Case("shards", {"target": "gradient", "max_grad_norm": 0.05}),
        "shards-accumulation": Case("shards", {}, accumulation=2),
    }


CASES = _cases()


# --------------------------------------------------------------------------- what is trained, on what


def texts(count: int, seed: int) -> list[dict[str, str]]:
    """Rows of a prompt and a completion, of lengths that differ: a mean per process is not the mean over all tokens."""
    generator = torch.Generator().manual_seed(seed)
    words = ["red", "blue", "calm", "iron", "paper", "river", "seven", "north", "glass", "bread"]

    def some(low: int, high: int) -> str:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return " ".join(words[int(i)] for i in torch.randint(len(words), (length,), generator=generator))

    return [{"prompt": some(2, 4), "completion": " " + some(1, 6)} for _ in range(count)]


def pairs(count: int) -> list[dict[str, str]]:
    kept, lost = texts(count, 3), texts(count, 4)
    return [
        {"prompt": k["prompt"], "chosen": k["completion"], "rejected": r["completion"]}
        for k, r in zip(kept, lost, strict=True)
    ]


def encoded(rows: Sequence[dict[str, str]]) -> list[dict[str, list[int]]]:
    tokenizer = tiny.tokenizer()
    made = []
    for row in rows:
        prompt, rest = tokenizer(row["prompt"])["input_ids"], tokenizer(row["completion"])["input_ids"]
        made.append({"input_ids": [*prompt, *rest], "labels": [*[-100] * len(prompt), *rest]})
    return made


def collate(rows: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
    width = max(len(row["input_ids"]) for row in rows)
    ids = [row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in rows]
    labels = [row["labels"] + [-100] * (width - len(row["labels"])) for row in rows]
    mask = [[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows]
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels), "attention_mask": torch.tensor(mask)}


def strange(count: int) -> list[dict[str, list[int]]]:
    """Rows of tokens that no training text has: what makes those likelier makes these less likely, whatever is projected."""
    generator = torch.Generator().manual_seed(2)
    return [{"input_ids": torch.randint(130, 250, (5 + i % 4,), generator=generator).tolist()} for i in range(count)]


def projection(options: dict[str, Any]) -> Any:
    from untax.gradients.ogpsa import OrthogonalProjection

    references = {"facts": texts(7, 1), "strange": strange(5)}
    return OrthogonalProjection(references, **{"refresh_every": 2, "target": "update", "side": "one", **options})


def model(case: Case) -> Any:
    from transformers import LlamaForCausalLM

    config = tiny.llama(spread=0.15).config
    config.mlp_bias = True  # a module of two tensors
    torch.manual_seed(0)
    made = LlamaForCausalLM(config)
    return tiny.with_adapter(made) if case.lora else made


# --------------------------------------------------------------------------- what a projection does to its surroundings


class Collectives(TorchDispatchMode):
    """Counts what goes between processes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            self.seen[func.name()] += 1
        return func(*args, **(kwargs or {}))


class HostCopies(TorchFunctionMode):
    """Notes the size of each tensor that is taken to the host; on a CPU that is a call without an effect, but it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        to_host = name == "to" and any(str(value) == "cpu" for value in (*args[1:], *(kwargs or {}).values()))
        if (name in ("cpu", "numpy", "tolist", "pin_memory") or to_host) and isinstance(args[0], Tensor):
            self.largest = max(self.largest, args[0].numel())
        return func(*args, **(kwargs or {}))


def watched(callback: Any, notes: dict[str, Any]) -> Any:
    """Note the collectives and the host copies of each projection: the two events around the optimiser's step."""
    per_step: list[dict[str, int]] = []
    notes |= {"collectives": per_step, "largest_host_copy": 0, "moved": 0, "elsewhere": 0}
    places: list[int] = []
    kind = type(callback)

    class Watched(kind):  # type: ignore[misc, valid-type]
        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            with Collectives() as collectives, HostCopies() as copies:
                super().on_pre_optimizer_step(*args, **kwargs)
            per_step.append(dict(collectives.seen))
            notes["largest_host_copy"] = max(notes["largest_host_copy"], copies.largest)

        def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            with Collectives() as collectives, HostCopies() as copies:
                super().on_optimizer_step(*args, **kwargs)
            per_step[-1] = dict(Counter(per_step[-1]) + collectives.seen)
            notes["largest_host_copy"] = max(notes["largest_host_copy"], copies.largest)
            stored, values = self.holding.subspace.kept, self.holding.view.values()
            notes["gram"] = float(self.holding.subspace.gram_GMM.diagonal(dim1=1, dim2=2).sum())
            places[:] = places or [t.data_ptr() for t in stored]
            notes["moved"] += sum(t.data_ptr() != place for t, place in zip(stored, places, strict=True))
            notes["elsewhere"] += sum(t.device != v.device for t, v in zip(stored, values, strict=True))
            notes["sharded"] = any(
                t.numel() != p.numel() for t, p in zip(values, self.holding.view.tensors, strict=True)
            )

    callback.__class__ = Watched
    return callback


# --------------------------------------------------------------------------- three ways to train


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


def arguments(case: Case, folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "use_cpu": DEVICE == "cpu",
        "bf16": False,
        "seed": 5,
        "max_steps": STEPS,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "linear",
        "per_device_train_batch_size": ROWS // world() // case.accumulation,
        "gradient_accumulation_steps": case.accumulation,
        "max_grad_norm": case.clip,
        "optim": "adamw_torch",
        "adam_epsilon": 1e-4,  # above what rounding makes of a gradient near zero: AdamW would turn that into a step
        "save_strategy": "steps" if case.resume else "no",
        "save_steps": 2,
        "report_to": "none",
        "logging_steps": 1,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "ddp_backend": "gloo" if world() > 1 and DEVICE == "cpu" else None,
    }


def by_trainer(case: Case, folder: Path, callbacks: list[Any]) -> Any:
    from transformers import Trainer, TrainingArguments

    return Trainer(
        model=model(case),
        args=TrainingArguments(**arguments(case, folder), remove_unused_columns=False),
        train_dataset=encoded(texts(STEPS * ROWS, 0)),
        data_collator=collate,
        processing_class=tiny.tokenizer(),
        callbacks=callbacks,
    )


def by_sft(case: Case, folder: Path, callbacks: list[Any]) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    return SFTTrainer(
        model=model(case),
        args=SFTConfig(**arguments(case, folder), max_length=None),
        train_dataset=Dataset.from_list(texts(STEPS * ROWS, 0)),
        processing_class=tiny.tokenizer(),
        callbacks=callbacks,
    )


def by_dpo(case: Case, folder: Path, callbacks: list[Any]) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    return DPOTrainer(
        model=model(case),
        ref_model=model(case),
        args=DPOConfig(**arguments(case, folder), max_length=None),
        train_dataset=Dataset.from_list(pairs(STEPS * ROWS)),
        processing_class=tiny.tokenizer(),
        callbacks=callbacks,
    )


def shard(trainer: Any) -> Any:
    """Tell accelerate that what it found may be sharded: it asks for an accelerator first, and then shards on a CPU just as well."""
    from accelerate import DistributedType, FullyShardedDataParallelPlugin, PartialState

    if world() > 1 and DEVICE == "cpu":
        state = trainer.accelerator.state
        state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["LlamaDecoderLayer"],
            reshard_after_forward=True,
            cpu_ram_efficient_loading=False,
            state_dict_type="FULL_STATE_DICT",
        )
        state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
        trainer.is_fsdp_enabled = True
    return trainer


@contextmanager
def as_found() -> Iterator[None]:
    """Put accelerate's idea of the machine back: it is shared by all trainers of a process."""
    from accelerate import DistributedType, PartialState
    from accelerate.state import AcceleratorState

    try:
        yield
    finally:
        if world() > 1 and DEVICE == "cpu" and AcceleratorState._shared_state:
            PartialState().distributed_type = DistributedType.MULTI_CPU
            AcceleratorState().fsdp_plugin = None


def by_shards(case: Case, folder: Path, callbacks: list[Any]) -> nn.Module:
    """FSDP2 by hand on every layer and the root, with the events in the order of the Trainer; one process shards nothing."""
    from transformers import TrainerControl, TrainerState, TrainingArguments

    given = arguments(case, folder)
    net = model(case).train().to(DEVICE)
    if world() > 1:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        # four processes: two copies of two shards
        sizes, names = ((2, 2), ("dp_replicate", "dp_shard")) if world() == 4 else ((world(),), ("dp_shard",))
        mesh = init_device_mesh(DEVICE, sizes, mesh_dim_names=names)
        for layer in net.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(net, mesh=mesh)
    optimizer = torch.optim.AdamW(net.parameters(), lr=given["learning_rate"], eps=given["adam_epsilon"])
    state, control = TrainerState(max_steps=STEPS), TrainerControl()
    settings = TrainingArguments(**given)

    def tell(event: str) -> None:
        for callback in callbacks:
            getattr(callback, event)(
                settings, state, control, model=net, optimizer=optimizer, processing_class=tiny.tokenizer()
            )

    rank = dist.get_rank() if world() > 1 else 0
    rows = encoded(texts(STEPS * ROWS, 0))
    part = ROWS // world() // case.accumulation
    tell("on_train_begin")
    for step in range(STEPS):
        batch = rows[step * ROWS : (step + 1) * ROWS]
        counted = sum(label != -100 for row in batch for label in row["labels"][1:])
        tell("on_step_begin")
        for micro in range(case.accumulation):
            first = (micro * world() + rank) * part
            made = {key: value.to(DEVICE) for key, value in collate(batch[first : first + part]).items()}
            wanted = made.pop("labels")[:, 1:].flatten()
            logits = net(**made).logits
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), wanted, reduction="sum")
            (loss * world() / counted).backward()  # shards are averaged over the processes
        tell("on_pre_optimizer_step")
        optimizer.step()
        tell("on_optimizer_step")
        optimizer.zero_grad()
        state.global_step += 1
        tell("on_step_end")
    tell("on_train_end")
    return net


def build(case: Case, folder: Path, callbacks: list[Any]) -> Any:
    trainer = {"trainer": by_trainer, "sft": by_sft, "dpo": by_dpo}[case.way](case, folder, callbacks)
    return shard(trainer) if case.sharded else trainer


def weights(net: nn.Module) -> dict[str, Tensor]:
    """Every trained tensor, whole, in every process."""
    from torch.distributed.tensor import DTensor

    return {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().cpu().clone().contiguous()
        for name, p in net.named_parameters()
        if p.requires_grad
    }


def run(name: str, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights after a case, and what was noted on the way."""
    case, notes = CASES[name], {}
    made = None if case.options is None else watched(projection(case.options), notes)
    callbacks = [] if made is None else [made]
    if case.way == "shards":
        net = by_shards(case, folder / name, callbacks)
    else:
        with as_found():
            trainer = build(case, folder / name, callbacks)
            trainer.train()
            if case.resume:
                again = [] if case.options is None else [watched(projection(case.options), notes)]
                trainer = build(case, folder / name, again)
                trainer.train(resume_from_checkpoint=str(folder / name / "checkpoint-2"))
        net = trainer.accelerator.unwrap_model(trainer.model)
        notes["log"] = trainer.state.log_history
    return weights(net), notes


def main(out: Path, names: Sequence[str]) -> None:
    torch.use_deterministic_algorithms(DEVICE == "cpu")
    if DEVICE == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if DEVICE == "cuda" else "gloo")
    rank = dist.get_rank() if dist.is_initialized() else 0
    for name in names:
        tensors, notes = run(name, out)
        save_file(tensors, out / f"{name}-{rank}.safetensors")
        (out / f"{name}-{rank}.json").write_text(json.dumps(notes), encoding="utf-8")
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
