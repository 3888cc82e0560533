"""The geometry of the page's pictures: scales, ticks and places, as plain numbers for the template to draw as SVG.

Horizontal places of intervals are percentages, so that a picture stretches with its column while text and marks keep their
size. Curves have a fixed box of WIDTH x HEIGHT.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Curve", "Mark", "Panel", "Scale", "colour_of", "fence", "in_margins", "panels", "scale_for", "ticks"]

WIDTH, HEIGHT = 320, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 12, 26
MAX_POINTS = 300  # more than the pixels of a panel show nothing more
MAX_PANELS = 12
MARGINS = 5.0  # how many margins the small pictures show on either side of zero
OUTLIERS = 24  # with more ends of intervals than this, single far ones no longer set the axis
NOT_CURVES = {"step", "epoch", "num_tokens", "total_flos"}
FIRST = (
    *(
        "loss",
        "ce",
        "contrastive",
        "eval_loss",
        "reference_loss",
        "reference_loss_rise",
        "removed_energy",
        "conflict_rate",
    ),
    *("grad_norm", "learning_rate"),
)


@dataclass(frozen=True)
class Scale:
    """A linear axis from `low` to `high`, laid out from 0 to 100 %."""

    low: float
    high: float

    def place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)


def scale_for(values: Sequence[float], margins: Sequence[float]) -> Scale:
    """An axis that holds all values, zero and every margin band, with a little air. By hand: 0 to 10, margin 2: -3 to 11."""
    known = [value for value in values if math.isfinite(value)]
    edges = [*known, 0.0, *(-m for m in margins), *margins]
    low, high = min(edges), max(edges)
    if low == high:
        low, high = -1.0, 1.0
    air = (high - low) / 12
    return Scale(low - air, high + air)


def fence(values: Sequence[float]) -> list[float]:
    """The same values, far ones moved to a fence, so that one wide interval does not flatten all others.

    The fence stands one width of the middle nine tenths beyond them; up to OUTLIERS values there is none. By hand: 0 to 99 and
    5,000: the middle nine tenths run from 5 to 95, so 5,000 becomes 185.
    """
    known = sorted(value for value in values if math.isfinite(value))
    if len(known) <= OUTLIERS:
        return known
    low, high = known[round(0.05 * (len(known) - 1))], known[round(0.95 * (len(known) - 1))]
    width = high - low
    return [min(max(value, low - width), high + width) for value in known]


def ticks(low: float, high: float, *, about: int = 5) -> list[float]:
    """Round numbers between two ends, 1, 2 or 5 times a power of ten apart. By hand: -3 to 11 gives 0, 5, 10."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return []
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [0.0 if k == 0 else k * step for k in range(first, last + 1)]


def tick_text(value: float) -> str:
    """A tick's label: no more digits than it needs, and a true minus sign. By hand: -0.00015 is "−1.5e-4"."""
    size = abs(value)
    if size == 0 or 1e-3 <= size < 1e5:
        text = f"{size:.6g}"
    else:
        digits, power = f"{size:.2e}".split("e")
        text = f"{float(digits):g}e{int(power)}"
    return ("−" if value < 0 else "") + text


# --------------------------------------------------------------------------- many lines at a glance


@dataclass(frozen=True)
class Mark:
    """One interval of a small picture, in per cent of its width; `beyond` is -1 or +1 where the middle lies outside."""

    low: float
    middle: float
    high: float
    beyond: int


def in_margins(benefit: float, low: float, high: float, margin: float) -> Mark | None:
    """An interval counted in margins, so that metrics of all units fit one axis; None without an interval or a margin.

    By hand: a benefit of -0.04 (-0.06 to -0.02) with margin 0.02 is -2 (-3 to -1) margins; on an axis from -5 to 5 that is
    30 % (20 % to 40 %).
    """
    if margin <= 0 or not all(map(math.isfinite, (benefit, low, high))):
        return None
    axis = Scale(-MARGINS, MARGINS)
    middle = benefit / margin
    beyond = 0 if abs(middle) <= MARGINS else 1 if middle > 0 else -1
    return Mark(axis.place(low / margin), axis.place(middle), axis.place(high / margin), beyond)


# --------------------------------------------------------------------------- training curves


@dataclass(frozen=True)
class Curve:
    """One run's line: the points of an SVG polyline, and which system's colour it wears."""

    run: str
    colour: int
    points: str
    last: str


@dataclass(frozen=True)
class Panel:
    """One logged quantity of all runs."""

    name: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_name: str


def panels(logs: Mapping[str, Sequence[Mapping[str, float]]], colours: Mapping[str, int]) -> list[Panel]:
    """Small multiples of everything that was logged at least twice; x is the step, or the entry's number without one."""
    names: dict[str, None] = {}
    for log in logs.values():
        for name in {key: None for entry in log for key in entry}:
            if name not in NOT_CURVES and not name.startswith(("train_", "eval_runtime")) and "per_second" not in name:
                names.setdefault(name)
    ordered = [name for name in FIRST if name in names] + [name for name in names if name not in FIRST]
    made = [_panel(name, logs, colours) for name in ordered]
    return [panel for panel in made if panel is not None][:MAX_PANELS]


def _panel(name: str, logs: Mapping[str, Sequence[Mapping[str, float]]], colours: Mapping[str, int]) -> Panel | None:
    lines: dict[str, list[tuple[float, float]]] = {}
    for run, log in logs.items():
        points = [
            (float(entry.get("step", place)), float(entry[name]))
            for place, entry in enumerate(log)
            if isinstance(entry.get(name), int | float) and math.isfinite(float(entry[name]))
        ]
        if len(points) > 1:
            lines[run] = points
    if not lines:
        return None
    every = [point for points in lines.values() for point in points]
    x_low, x_high = min(x for x, _ in every), max(x for x, _ in every)
    y_low, y_high = min(y for _, y in every), max(y for _, y in every)
    if y_low == y_high:
        y_low, y_high = y_low - (abs(y_low) or 1.0) / 2, y_high + (abs(y_high) or 1.0) / 2
    if x_low == x_high:
        return None

    def across(x: float) -> float:
        return round(LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 1)

    def down(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM), 1)

    curves = []
    for run, points in lines.items():
        kept = points[:: -(-len(points) // MAX_POINTS)]
        kept = kept if kept[-1] == points[-1] else [*kept, points[-1]]
        path = " ".join(f"{across(x)},{down(y)}" for x, y in kept)
        curves.append(Curve(run, colour_of(run, colours), path, f"{points[-1][1]:.4g}"))
    stepped = any("step" in entry for log in logs.values() for entry in log)
    return Panel(
        name=name,
        curves=tuple(curves),
        x_ticks=tuple((across(t), tick_text(t)) for t in ticks(x_low, x_high, about=4)),
        y_ticks=tuple((down(t), tick_text(t)) for t in ticks(y_low, y_high, about=4)),
        x_name="step" if stepped else "entry",
    )


def colour_of(run: str, colours: Mapping[str, int]) -> int:
    """The colour of the system that a run's name begins with (the longest such name); 0 when there is none."""
    owners = [system for system in colours if run.startswith(system)]
    return colours[max(owners, key=len)] if owners else 0
