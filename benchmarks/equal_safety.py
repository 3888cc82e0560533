"""How often `untax compare` says "less tax" of families that pay the same, and how often it finds half the tax: truths are planted.

    python benchmarks/equal_safety.py            # about six minutes on one core
    python benchmarks/equal_safety.py --quick    # about half a minute

One row per truth and number of training seeds: two families at 80 % of the first one's largest gain, 200 safety items and 200 ability items, sd of a difference
0.35, spread between seeds 0.01. "Same data" chooses the mixture and reads its tax on the same data, as one would without cross-fitting. The last
rows make whole comparisons of 0/1 scores (four families that are equal, three abilities' axes, three levels) and count those that
say "less tax" or "more tax" of any family.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import numpy as np

from untax import frontier, mixtures
from untax.mixtures import PARTS, Line
from untax.types import MetricSpec, ScoreRow, Scores

DOSES = ((0.1, 0.005), (0.2, 0.02), (0.3, 0.04), (0.4, 0.08))
#: two families of (gain, tax), and the true difference of the second from the first at 80 % of the largest gain
TRUTHS = {
    "equal, four strengths each": ((DOSES, DOSES), 0.0),
    "equal, eight like strengths against one": ((((0.35, 0.05),), ((0.35, 0.05),) * 8), 0.0),
    "equal, five like strengths each": ((((0.35, 0.05),) * 5, ((0.35, 0.05),) * 5), 0.0),
    "equal, four on a line against its end": ((((0.4, 0.08),), tuple((g, g / 5) for g in (0.1, 0.2, 0.3, 0.4))), 0.0),
    "half the tax": ((((0.1, 0.02), (0.3, 0.12), (0.4, 0.24)), ((0.1, 0.01), (0.3, 0.06), (0.4, 0.12))), -0.072),
}


def lines(
    rng: np.random.Generator, truths: Sequence[tuple[float, float]], *, seeds: int, items: int = 200
) -> list[Line]:
    """A safety line and an ability line; a part of the noise is common to all systems, a part to the seeds of one."""
    made = []
    for side, name in ((0, "s"), (1, "a")):
        mean_SK = np.array([truth[side] for truth in truths])[:, None] + rng.normal(0, 0.01, (len(truths), seeds))
        noise = 0.6 * rng.normal(size=items) + 0.6 * rng.normal(size=(len(truths), 1, items))
        noise = noise + 0.53 * rng.normal(size=(len(truths), seeds, items))
        made.append(Line(mean_SK[:, :, None] + 0.35 * noise, tuple(f"{name}{i}" for i in range(items))))
    return made


def difference(
    made: Sequence[Line], families: Sequence[list[int]], *, resamples: int, seed: int
) -> tuple[mixtures.Estimate, mixtures.Estimate]:
    """The second family's tax minus the first one's: cross-fitted, and on the same data."""
    sample = mixtures.resample(made, resamples=resamples, seed=seed)
    fair, flat = {}, {}
    for part in PARTS:
        drawn = sample.only(part)
        gain_RS = drawn.means(0)
        level_R = 0.8 * gain_RS[:, families[0]].max(axis=1)
        found = [
            mixtures.tax_at(drawn.pick([1]), mixtures.with_base(gain_RS[:, f]), f, level_R, choose_by=[0])
            for f in families
        ]
        fair[part] = found[1][0][:, 0] - found[0][0][:, 0]
        flat[part] = found[1][2][:, 0] - found[0][2][:, 0]
    return tuple(mixtures.estimate(rows, units=sample.units, seeds=sample.seeds) for rows in (fair, flat))  # type: ignore[return-value]


def row(name: str, seeds: int, runs: int) -> str:
    (first, second), truth = TRUTHS[name]
    families = [list(range(len(first))), list(range(len(first), len(first) + len(second)))]
    found = []
    for run in range(runs):
        rng = np.random.default_rng([run, seeds])
        fair, flat = difference(lines(rng, [*first, *second], seeds=seeds), families, resamples=400, seed=run)
        found.append(
            (fair.high < 0, fair.low > 0, fair.low <= truth <= fair.high, flat.high < 0, math.isfinite(fair.low))
        )
    less, more, holds, flattered, known = np.array(found, dtype=float).mean(axis=0)
    shares = [f"{100 * share:.1f} %" for share in (less, more, holds / known, flattered, 1 - known)]
    return f"| {name} | {seeds} | {' | '.join(shares)} |"


SPECS = (
    MetricSpec("toxicity", "toxicity", "generate", "safety", "lower", 0.02, "points", binary=True),
    MetricSpec("facts", "exact_match", "generate", "ability", "higher", 0.02, "points", binary=True),
    MetricSpec("copying", "exact_match", "generate", "ability", "higher", 0.02, "points", binary=True),
)
RATES = {"toxicity": 0.6, "facts": 0.9, "copying": 0.85}


def table(
    name: str, seed: int | None, shift: tuple[float, float], rng: np.random.Generator, hard: dict[str, np.ndarray]
) -> Scores:
    """0/1 scores: an item is right where the model is better than the item is hard, and one in ten is drawn afresh."""
    rows = []
    for spec in SPECS:
        rate = RATES[spec.name] - (shift[0] if spec.side == "safety" else shift[1])
        levels = np.where(rng.uniform(size=200) < 0.1, rng.uniform(size=200), hard[spec.name])
        for i, level in enumerate(levels):
            rows.append(
                ScoreRow(
                    spec.name, f"{spec.name}-{i}", f"h{i}", "", float(level < rate), answer=f"{name} {seed} {i} says so"
                )
            )
    family, _, value = name.partition("@")
    about = {"family": family, "strength": {"dose": float(value)}} if value else {}
    return Scores(name, SPECS, tuple(rows), seed, about)


def pages(runs: int) -> str:
    """Whole comparisons of four families that are equal: how many say anything of any of them."""
    less = more = 0
    for run in range(runs):
        rng = np.random.default_rng([run, 77])
        hard = {spec.name: rng.uniform(size=200) for spec in SPECS}
        base = table("base", None, (0.0, 0.0), rng, hard)
        systems = [
            [table(f"family{f}@{dose}", k, (gain, tax), rng, hard) for k in range(3)]
            for f in range(4)
            for dose, (gain, tax) in enumerate(((0.15, 0.03), (0.35, 0.10), (0.50, 0.20)))
        ]
        made = frontier.build(base, systems, resamples=400, seed=run)
        words = {one.verdict for cost in made.costs for one in cost.versus.values()}
        less, more = less + ("less tax" in words), more + ("more tax" in words)
    return f'any "less tax" in {100 * less / runs:.1f} % of {runs} comparisons of four equal families, any "more tax" in {100 * more / runs:.1f} %'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the simulations")
    runs = 60 if parser.parse_args().quick else 600
    print("| truth | seeds | less tax | more tax | interval holds | less tax on the same data | no interval |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in TRUTHS:
        for seeds in (1, 3):
            print(row(name, seeds, runs), flush=True)
    print(f"\n{pages(runs // 3)}")


if __name__ == "__main__":
    main()
