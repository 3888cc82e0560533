"""A tiny Llama under plain trainers, with rows that a safety training might have and rows that a reference might."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, default_data_collator

import tiny
from untax import references

REFERENCES = [
    f"The {word} has {i} legs." for i, word in enumerate(("cat", "dog", "sun", "moon", "tree", "lake", "hill"))
]
OTHERS = ["Leeds is west of Hull.", "Derby is west of Crewe.", "Truro is west of Bude."]
#: letters that no row of training has: what is learned there is unlearned here
CODES = ["XQZJ KVWY", "GZQX YUJB MKVX", "QQXZ ZJVK"]
LENGTH = 24

ARGUMENTS: dict[str, Any] = {
    "max_steps": 4, "learning_rate": 1e-3, "per_device_train_batch_size": 4, "lr_scheduler_type": "constant", "max_grad_norm": 0,
    "logging_steps": 1, "save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True, "seed": 0,
}  # fmt: skip


def rows(count: int = 32) -> list[dict[str, list[int]]]:
    """Texts of one length, so that every token counts alike however they are batched."""
    made = []
    for i in range(count):
        ids = tiny.tokenizer()(f"No, I will not help with {10 + i}.....")["input_ids"][:LENGTH]
        made.append({"input_ids": ids, "labels": ids, "attention_mask": [1] * LENGTH})
    return made


def trainer(out, callbacks=(), *, model=None, data=None, **arguments) -> Trainer:
    """A plain transformers.Trainer with these callbacks."""
    made = Trainer(
        tiny.llama(spread=0.1) if model is None else model,
        TrainingArguments(output_dir=str(out), **(ARGUMENTS | arguments)),
        train_dataset=rows() if data is None else data,
        data_collator=default_data_collator,
        processing_class=tiny.tokenizer(),
        callbacks=list(callbacks),
    )
    made.remove_callback(PrinterCallback)
    return made


def train(out, callbacks=(), **arguments) -> Trainer:
    made = trainer(out, callbacks, **arguments)
    made.train()
    return made


def weights(made: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in made.model.named_parameters() if p.requires_grad}


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def losses(made: Trainer) -> list[float]:
    return [row["loss"] for row in made.state.log_history if "loss" in row]


def logged(made: Trainer, name: str) -> list[float]:
    return [row[name] for row in made.state.log_history if name in row]


def reference_loss(model: Any, texts=REFERENCES) -> torch.Tensor:
    """Cross-entropy per token of the texts, row by row and without untax: ids, labels, and what the model itself calls its loss."""
    model.eval()
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    for text in texts:
        ids = torch.tensor([references.read("r", [text], tiny.tokenizer()).rows[0].ids])
        logps = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
        total = total - logps.gather(-1, ids[0, 1:, None]).sum()
        tokens += ids.shape[1] - 1
    return total / tokens


def reference_gradients(model: Any, texts=REFERENCES) -> dict[str, torch.Tensor]:
    """The gradient of `reference_loss`; not on a copy, whose forward TRL would have bound to the original."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    modes = {module: module.training for module in model.modules()}
    with torch.enable_grad():
        found = torch.autograd.grad(reference_loss(model, texts), list(named.values()))
    for module, training in modes.items():
        module.training = training
    return dict(zip(named, found, strict=True))


class Spy(TrainerCallback):
    """Watches single steps: the weights before and after each, and the reference gradients before."""

    def __init__(self, *sets) -> None:
        self.sets = sets
        self.steps: list[tuple[dict, list[dict]]] = []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        self.found = [reference_gradients(model, texts) for texts in self.sets]

    def on_step_end(self, args, state, control, model=None, **kwargs):
        changes = {name: p.detach() - self.before[name] for name, p in model.named_parameters() if p.requires_grad}
        self.steps.append((changes, self.found))

    def cosines(self) -> torch.Tensor:
        """Of every change with every reference gradient: step by step, set by set, tensor by tensor."""
        return torch.stack(
            [
                torch.nn.functional.cosine_similarity(
                    changes[name].double().flatten(), found[name].double().flatten(), dim=0
                )
                for changes, sets in self.steps
                for found in sets
                for name in changes
            ]
        )


def preferences(count: int = 8) -> Dataset:
    return Dataset.from_list(
        [
            {"prompt": f"How do I break {i} locks?", "chosen": " I will not say.", "rejected": " Take a saw."}
            for i in range(10, 10 + count)
        ]
    )


def completions(count: int = 8) -> Dataset:
    return Dataset.from_list(
        [{"prompt": f"How do I break {i} locks?", "completion": " I will not say."} for i in range(10, 10 + count)]
    )
