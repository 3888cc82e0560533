"""Small records and a quick way to train on them."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

import tiny
from untax.train import loop
from untax.types import Candidate, ContrastiveRecord

PROMPT = "{source}\nTL;DR:"
NAMES = ("Ada Brook", "Max Stone", "Eve Marsh", "Tom Field", "Una Hill", "Ian Wood")
PLACES = ("Leeds", "Derby", "Truro", "Crewe")


def records(count: int = 12) -> list[ContrastiveRecord]:
    """Each with two positives and three negatives: another name, another number, an insult."""
    made = []
    for i in range(count):
        name, other, place = NAMES[i % 6], NAMES[(i + 1 + i // 6) % 6], PLACES[i % 4]
        text = f"{name} sold {i + 2} cars."
        made.append(
            ContrastiveRecord(
                id=f"r{i}",
                source=f"In {place} on Monday {name} sold {i + 2} cars to {other}.",
                positives=(
                    Candidate(text, "reference"),
                    Candidate(f"{name} has sold {i + 2} cars.", "backtranslate"),
                ),
                negatives=(
                    Candidate(f"{other} sold {i + 2} cars.", "swap_ent", edits=((0, len(other)),)),
                    Candidate(f"{name} sold {i + 9} cars.", "mask_ent", edits=((len(name) + 6, len(name) + 8),)),
                    Candidate(f"Silly {text}", "toxic", toxicity=0.9, edits=((0, 5),)),
                ),
            )
        )
    return made


QUICK = {
    "learning_rate": 2e-3,
    "max_steps": 6,
    "per_device_train_batch_size": 4,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "use_cpu": True,
}


def go(out, *, objective="contrastive", data=None, model=None, arguments=None, **options):
    return loop.train(
        tiny.llama(spread=0.1) if model is None else model,
        tiny.tokenizer(),
        records() if data is None else data,
        objective=objective,
        prompt=PROMPT,
        out=out,
        arguments=QUICK | (arguments or {}),
        progress=False,
        **options,
    )


def weights(result) -> dict[str, torch.Tensor]:
    return load_file(next(result.model_dir.glob("*.safetensors")))


def furthest(one, other) -> float:
    """The largest difference between two runs' weights."""
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    return max(float((first[key] - second[key]).abs().max()) for key in first)
