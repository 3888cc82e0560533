"""A few steps of a plain Trainer on a tiny model, with a callback that it knows nothing of; and callbacks driven by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments, default_data_collator

import tiny

#: what must not be lost, and what is trained on
REFERENCES = {"general": ["a red fox", "the sea is"], "facts": ["two and two"]}
TRAINED = ["I will not.", "No, I won't", "I can't do."]


def rows() -> list[dict[str, list[int]]]:
    """Training rows of one length, as the default collator wants them."""
    ids = [tiny.tokenizer()(text)["input_ids"] for text in TRAINED * 4]
    return [{"input_ids": row[:10], "labels": row[:10]} for row in ids]


def train(
    model: Any, callback: Any, out: Any, *, steps: int = 4, resume: str | None = None, **arguments: Any
) -> Trainer:
    settings = {
        "learning_rate": 3e-3, "max_steps": steps, "per_device_train_batch_size": 4, "lr_scheduler_type": "constant", "use_cpu": True,
        "report_to": "none", "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True, "max_grad_norm": 0.0, "seed": 0,
    }  # fmt: skip
    trainer = Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(out), **(settings | arguments)),
        train_dataset=rows(),
        data_collator=default_data_collator,
        processing_class=tiny.tokenizer(),
        callbacks=[] if callback is None else [callback],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(one: nn.Module, other: nn.Module) -> bool:
    """Bit for bit."""
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def resumes(make: Any, callback: Any, out: Any, **arguments: Any) -> bool:
    """Whether 3 steps, and 3 more by new objects from the checkpoint, end as 6 steps do."""
    whole, half = make(), make()
    train(whole, callback(), out / "whole", steps=6, **arguments)
    train(half, callback(), out / "half", steps=3, save_strategy="steps", save_steps=3, **arguments)
    again = make()
    train(again, callback(), out / "half", steps=6, resume=str(out / "half" / "checkpoint-3"), **arguments)
    return same(whole, again) and not same(whole, half)


ARGS = SimpleNamespace(bf16=False, fp16=False, deepspeed=None, optim="sgd", gradient_checkpointing=False,
                       gradient_checkpointing_kwargs=None, max_grad_norm=0.0, resume_from_checkpoint=None)  # fmt: skip


def state(step: int = 0) -> SimpleNamespace:
    return SimpleNamespace(global_step=step, log_history=[{}])


class Vectors(nn.Module):
    """Parameters and nothing else: their gradients are set by hand."""

    def __init__(self, *values: list[float]) -> None:
        super().__init__()
        self.parts = nn.ParameterList(nn.Parameter(torch.zeros(len(value))) for value in values)
        for parameter, value in zip(self.parts, values, strict=True):
            parameter.grad = torch.tensor(value)

    def gradients(self) -> list[list[float]]:
        return [p.grad.tolist() for p in self.parts]


class Given:
    """A memory whose gradient is given."""

    def __init__(self, view: Any, *values: list[float]) -> None:
        self.view, self.values = view, values

    def gradient(self, step: int) -> list[torch.Tensor]:
        return [torch.tensor(value) for value in self.values]

    def told(self) -> dict[str, float]:
        return {}


def step(callback: Any, number: int = 0) -> dict[str, float]:
    """One optimiser step's events, and what the callback adds to the log."""
    logs = {"loss": 0.0}
    for event in (callback.on_step_begin, callback.on_pre_optimizer_step, callback.on_optimizer_step):
        event(ARGS, state(number), None)
    callback.on_log(ARGS, state(number), None, logs=logs)
    return logs
