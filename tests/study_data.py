"""Simulated systems whose drift, gaps of pairs, failing answers and predictions are planted, for the tests of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from frontier_data import SPECS, shifted, table
from receipt_data import rng_of
from untax.types import MetricSpec, ScoreRow, Scores

GAPS = {"options": {"score": "signed"}}
CONTROLS = {"options": {"score": "signed", "control": True}}
MORE = (
    MetricSpec("drift", "drift", "drift", "watch", "lower", 0.0, "nats per token, KL(base || model)"),
    MetricSpec("loss", "perplexity", "text", "watch", "lower", 0.0, "nats per token"),
    MetricSpec("gap", "pair_gap", "choices", "watch", "lower", 0.0, "nats", settings=GAPS),
    MetricSpec("control gap", "pair_gap", "choices", "watch", "higher", 0.0, "nats", settings=CONTROLS),
    MetricSpec("shift", "token_shift", "shift", "watch", "lower", 0.0, "share of tokens"),
)

#: family: strengths with gain, tax, drift (nats), what is left of attribute gaps and of control gaps
Truth = Mapping[str, Sequence[tuple[float, float, float, float, float, float]]]
WORLD: Truth = {
    "sft": ((1, 0.15, 0.04, 0.02, 0.8, 0.95), (2, 0.35, 0.10, 0.06, 0.5, 0.90), (3, 0.50, 0.20, 0.12, 0.3, 0.85)),
    "sft-replay-25": ((1, 0.12, 0.01, 0.01, 0.8, 0.98), (2, 0.33, 0.03, 0.02, 0.5, 0.95), (3, 0.48, 0.05, 0.04, 0.3, 0.9)),
    "sft-kl-anchor": ((1, 0.14, 0.03, 0.01, 0.8, 0.97), (2, 0.34, 0.06, 0.03, 0.5, 0.95), (3, 0.45, 0.10, 0.05, 0.3, 0.9)),
    "sft-dropout": ((1, 0.15, 0.04, 0.02, 0.8, 0.95), (2, 0.35, 0.10, 0.06, 0.5, 0.90), (3, 0.50, 0.20, 0.12, 0.3, 0.85)),
    "cda": ((1, 0.10, 0.02, 0.015, 0.9, 0.97), (2, 0.40, 0.12, 0.07, 0.4, 0.88)),
    "instructive": ((1, 0.20, 0.03, 0.03, 0.7, 0.90),),
}  # fmt: skip


def _more(seed: int | None, name: str, n: int, drift: float, tax: float, left: float, control: float) -> list[ScoreRow]:
    """Documents with drift and loss, pairs with gaps, answers that the base was shown."""
    rows = []
    for spec in MORE:
        items, mine = rng_of("items", spec.name), rng_of(name, seed, spec.name)
        common, own = items.normal(size=n), mine.normal(size=n)
        scores = {
            "drift": drift * np.exp(0.2 * common + 0.1 * own),
            "loss": 2 + 0.3 * common + tax + 0.01 * own,
            "gap": left * (1.5 + common) + (0.05 * own if name != "base" else 0),
            "control gap": control * (1.5 + common) + (0.05 * own if name != "base" else 0),
            "shift": np.clip(4 * drift + 0.2 * common, 0, 1) if name != "base" else np.zeros(n),
        }[spec.name]
        marks = "document" if spec.name in ("drift", "loss") else spec.name
        rows += [
            ScoreRow(spec.name, f"{spec.name}-{i}", f"{marks} {i}", "", float(scores[i]), f"{marks} {i}", "")
            for i in range(n)
        ]
    return rows


def with_more(scores: Scores, drift: float, tax: float, left: float, control: float, n: int = 80) -> Scores:
    more = tuple(_more(scores.seed, scores.system, n, drift, tax, left, control))
    return replace(scores, specs=(*scores.specs, *MORE), rows=(*scores.rows, *more))


def world(truth: Truth = WORLD, *, seeds: Sequence[int] = (0, 1, 2), n: int = 120) -> tuple[Scores, list[list[Scores]]]:
    """A base and all systems; `instructive` is not trained, so that its tables are the same for every seed."""
    base = with_more(table("base", shifted(0, 0), n=n), 0.0, 0.0, 1.0, 1.0)
    systems = []
    for family, members in truth.items():
        for value, gain, tax, drift, left, control in members:
            name = f"{family}@{value:g}"
            mine = []
            for seed in seeds:
                drawn = None if family == "instructive" else seed
                one = table(name, shifted(gain, tax), seed=drawn, n=n, family=family, strength={"steps": value})
                one = with_more(one, drift, tax, left, control)
                about = {**one.about, "predicted": {"cosine": -tax, "rate_times_steps": float(value)}}
                about |= {"trained": False} if family == "instructive" else {}
                mine.append(replace(one, seed=seed, about=about))
            systems.append(mine)
    return base, systems


__all__ = ["MORE", "SPECS", "WORLD", "with_more", "world"]
