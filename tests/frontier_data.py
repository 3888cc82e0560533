"""Simulated sweeps for the tests of the front: a base and families of systems whose true gain and tax are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from receipt_data import rng_of
from untax import frontier
from untax.types import MetricSpec, ScoreRow, Scores

SPECS = (
    MetricSpec("toxicity", "toxicity", "generate", "safety", "lower", 0.02, "points", binary=True),
    MetricSpec("facts", "exact_match", "generate", "ability", "higher", 0.02, "points", binary=True),
    MetricSpec("copying", "exact_match", "generate", "ability", "higher", 0.02, "points", binary=True),
    MetricSpec("perplexity", "perplexity", "text", "ability", "lower", 0.05, "nats per token"),
)
BASE = {"toxicity": 0.6, "facts": 0.9, "copying": 0.85, "perplexity": 2.0}

#: family: strengths, each with its true gain in toxicity and its tax on facts, copying (shares) and perplexity (nats)
Truth = Mapping[str, Sequence[tuple[float | None, float, float]]]
SWEEPS: Truth = {
    "plain": ((0.1, 0.15, 0.03), (0.3, 0.35, 0.10), (1.0, 0.50, 0.20)),
    "replay": ((0.03, 0.48, 0.10), (0.12, 0.46, 0.05), (0.25, 0.40, 0.02)),
    "weak": ((0.5, 0.10, 0.00), (0.9, 0.18, 0.01)),
    "worse": ((None, 0.50, 0.40),),
}


def _scores(
    spec: MetricSpec, mean: float, n: int, world: int, name: str, seed: int | None, noise: float
) -> list[float]:
    items, mine = rng_of("items", world, spec.name), rng_of(name, seed, world, spec.name)
    hard = items.uniform(size=n)
    if not spec.binary:
        return [float(v) for v in mean + hard - 0.5 + mine.normal(0, 0.05, n)]
    drawn, again = mine.uniform(size=n) < noise, mine.uniform(size=n)
    return [float(v) for v in np.where(drawn, again, hard) < mean]


def table(
    name: str,
    means: Mapping[str, float],
    *,
    seed: int | None = None,
    n: int | Mapping[str, int] = 200,
    world: int = 0,
    noise: float = 0.1,
    specs: Sequence[MetricSpec] = SPECS,
    family: str | None = None,
    strength: Mapping[str, Any] | None = None,
) -> Scores:
    """One model's scores: `noise` is the share of 0/1 items whose score is drawn afresh."""
    rows = []
    for spec in specs:
        count = n if isinstance(n, int) else n[spec.name]
        for i, score in enumerate(_scores(spec, means[spec.name], count, world, name, seed, noise)):
            rows.append(
                ScoreRow(
                    spec.name,
                    f"{spec.name}-{i}",
                    f"hash-{i}",
                    "",
                    score,
                    f"Prompt {i}",
                    f"answer {i} of {name} {seed}",
                    5,
                )
            )
    about: dict[str, Any] = {"model": f"models/{name}", "dtype": "float32", "fingerprint": f"{name}-{seed}"}
    if family is not None:
        about |= {"family": family, "strength": dict(strength or {})}
    return Scores(name, tuple(specs), tuple(rows), seed, about)


def shifted(gain: float, tax: float) -> dict[str, float]:
    return {
        "toxicity": BASE["toxicity"] - gain, "facts": BASE["facts"] - tax, "copying": BASE["copying"] - tax,
        "perplexity": BASE["perplexity"] + tax,
    }  # fmt: skip


def sweep(
    truth: Truth = SWEEPS, *, seeds: Sequence[int | None] = (0, 1, 2), key: str = "train.learning_rate", **more: Any
) -> tuple[Scores, list[list[Scores]]]:
    """A base and all systems of some families."""
    systems = []
    for family, members in truth.items():
        for value, gain, tax in members:
            name = family if value is None else f"{family}@{value:g}"
            strength = {} if value is None else {key: value}
            systems.append(
                [table(name, shifted(gain, tax), seed=s, family=family, strength=strength, **more) for s in seeds]
            )
    return table("base", BASE, **more), systems


FAMILIES = (
    "plain", "replay", "ogpsa update", "ogpsa gradient", "a-gem", "null space", "kl anchor", "l2-sp", "ewc", "interpolate",
    "self replay", "replay and update",
)  # fmt: skip


@cache
def twelve_families() -> frontier.Comparison:
    """Twelve families of four strengths, as an experiment on projections has them."""
    rng = np.random.default_rng(0)
    truth = {}
    for name in FAMILIES:
        top, cost = 0.3 + 0.2 * rng.uniform(), 0.02 + 0.2 * rng.uniform()
        truth[name] = tuple((v, top * g, cost * g**1.7) for v, g in ((0.1, 0.4), (0.3, 0.7), (0.6, 0.9), (1.0, 1.0)))
    left = [("ewc@3", "unfinished: no scores of the training seed 2")]
    return frontier.build(*sweep(truth, seeds=(0, 1), n=120), runs=["sweep"], left_out=left, resamples=200)
