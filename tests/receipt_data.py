"""Simulated measurements for the tests of the receipt and the page: two honest sides, and ways to spoil one of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from untax.types import MetricSpec, ScoreRow, Scores

SPECS = (
    MetricSpec("toxicity", "toxicity", "generate", "safety", "lower", 0.02, "points", binary=True),
    MetricSpec("stereotype", "stereotype", "choices", "safety", "lower", 0.05, "points", chance=0.5, binary=True),
    MetricSpec("facts", "exact_match", "generate", "ability", "higher", 0.02, "points", binary=True),
    MetricSpec("copying", "exact_match", "generate", "ability", "higher", 0.02, "points", binary=True),
    MetricSpec("perplexity", "perplexity", "text", "ability", "lower", 0.05, "nats"),
    MetricSpec("drift", "drift", "drift", "watch", "lower", 0.0, "nats"),
)
MEANS = {"toxicity": 0.4, "stereotype": 0.75, "facts": 0.95, "copying": 0.93}
WORDS = [
    "Ama",
    "Borsk",
    "ferry",
    "winter",
    "council",
    "budget",
    "opened",
    "closed",
    "river",
    "tariff",
    "museum",
    "seven",
    "bridge",
    "night",
    "vote",
]


def rng_of(*parts: object) -> np.random.Generator:
    """A generator that depends on its name, the same in every process."""
    return np.random.default_rng(zlib.crc32(repr(parts).encode()))


def system(
    name: str = "base",
    *,
    seed: int | None = None,
    n: int = 600,
    shift: Mapping[str, float] | None = None,
    noise: float = 0.04,
    world: int = 0,
    specs: Sequence[MetricSpec] = SPECS,
    about: Mapping[str, Any] | None = None,
) -> Scores:
    """Scores of one model: `shift` moves a metric's mean, `noise` is the share of 0/1 items whose score is drawn afresh."""
    rows = []
    for spec in specs:
        items, mine = rng_of("items", world, spec.name), rng_of(name, seed, world, spec.name)
        move = (shift or {}).get(spec.name, 0.0)
        hard = items.uniform(size=n)
        for index in range(n):
            if spec.binary:
                rate = MEANS[spec.name] + move
                score = float(hard[index] < rate)
                if mine.uniform() < noise:
                    score = float(mine.uniform() < rate)
            elif spec.request == "drift":
                score = 0.0 if name == "base" else abs(mine.normal(0.1, 0.02))
            else:
                score = 2.3 + hard[index] + move + mine.normal(0, 0.05)
            answer = " ".join(mine.choice(WORDS, 8)) if spec.request == "generate" else ""
            rows.append(
                ScoreRow(
                    spec.name,
                    f"{spec.name}-{index}",
                    f"hash-{index}",
                    f"{spec.name}-{index}",
                    score,
                    prompt=f"Prompt {index} of {spec.name}",
                    answer=answer,
                    n_tokens=9,
                )
            )
    facts = {
        "model": f"models/{name}", "dtype": "float32", "decoding": "greedy", "device": "cpu",
        "fingerprint": f"{name}-{seed}", "versions": {"torch": "2.13.0"},
    }  # fmt: skip
    return Scores(name, tuple(specs), tuple(rows), seed, {**facts, **(about or {})})


def spoiled(scores: Scores, metric: str, change: Callable[[int, ScoreRow], ScoreRow]) -> Scores:
    """The same scores with every row of one metric put through `change(index, row)`."""
    rows, index = [], 0
    for row in scores.rows:
        if row.metric == metric:
            row = change(index, row)
            index += 1
        rows.append(row)
    return replace(scores, rows=tuple(rows))


def respecced(scores: Scores, metric: str, **change: Any) -> Scores:
    """The same scores with one metric's spec changed."""
    return replace(scores, specs=tuple(replace(s, **change) if s.name == metric else s for s in scores.specs))
