"""The geometry of the diagnosis's pictures: bars with intervals, heat maps, and curves, as plain numbers for the template to draw as SVG.

Bars lie on an axis in per cent, so that they stretch with their column; heat maps and curves have fixed boxes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from untax.report.figures import Scale, fence, scale_for, tick_text, ticks

__all__ = ["Bar", "Bars", "Cell", "Curves", "HeatMap", "Line", "bars", "curves", "heat_map"]

CELL_W, CELL_H, NAMES, HEADS = 46, 20, 62, 20
WIDTH, HEIGHT = 340, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 34
#: names of columns that are wider than a field
SHORT = {"embedding": "embed", "attention": "attn"}
PALE = 0.08  # a cell of the least value is still seen as one


@dataclass(frozen=True)
class Bar:
    """One row: from zero to its value, and its interval (None without one), in per cent of the width; `title` has the words."""

    name: str
    start: float
    width: float
    place: float
    low: float | None
    high: float | None
    text: str
    title: str
    rising: bool


@dataclass(frozen=True)
class Bars:
    """Rows on one axis, with the place of zero and of its ticks."""

    rows: tuple[Bar, ...]
    zero: float
    ticks: tuple[tuple[float, str], ...]


def bars(
    rows: Sequence[tuple[str, float, float, float, str]], *, least: float | None = None, most: float | None = None
) -> Bars:
    """Rows of (name, value, low, high, text); `least` and `most` fix the axis where its ends are known.

    By hand: values 0 and 10 lie on an axis from -0.83 to 10.83, zero at 7.14 %.
    """
    ends = [end for _, value, low, high, _ in rows for end in (value, low, high) if math.isfinite(end)]
    scale = Scale(least, most) if least is not None and most is not None else scale_for(fence(ends), [])
    zero = scale.place(0.0)
    made = []
    for name, value, low, high, text in rows:
        place = scale.place(value) if math.isfinite(value) else zero
        known = math.isfinite(low) and math.isfinite(high)
        made.append(
            Bar(
                name=name, start=min(zero, place), width=round(abs(place - zero), 2), place=place, text=text,
                low=scale.place(low) if known else None, high=scale.place(high) if known else None,
                title=f"{name}: {text}", rising=value > 0,
            )
        )  # fmt: skip
    marks = tuple((scale.place(tick), tick_text(tick)) for tick in ticks(scale.low, scale.high, about=4))
    return Bars(tuple(made), zero, marks)


@dataclass(frozen=True)
class Cell:
    """One field of a heat map: its corner, how strong its colour is (0 to 1), which of two colours, its number and its words."""

    x: int
    y: int
    strength: float
    negative: bool
    text: str
    title: str


@dataclass(frozen=True)
class HeatMap:
    """Rows by columns; a field without a value has no cell."""

    width: int
    height: int
    cell: tuple[int, int]
    cells: tuple[Cell, ...]
    rows: tuple[tuple[int, str], ...]
    columns: tuple[tuple[int, str], ...]


def heat_map(
    values: Mapping[tuple[str, str], float],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    full: float | None = None,
    texts: Mapping[tuple[str, str], str] | None = None,
    titles: Mapping[tuple[str, str], str] | None = None,
) -> HeatMap:
    """Fields by (row, column); the colour is full at `full` (the largest size, when left out), and tells sign from sign.

    By hand: values 1 and -.5 with full 1 have the strengths 1 and .5.
    """
    known = {place: value for place, value in values.items() if math.isfinite(value)}
    top = full or max((abs(value) for value in known.values()), default=0.0) or 1.0
    cells = []
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            value = known.get((row, column))
            if value is None:
                continue
            text = (texts or {}).get((row, column), f"{value:.2f}")
            cells.append(
                Cell(
                    x=NAMES + j * CELL_W, y=HEADS + i * CELL_H, negative=value < 0, text=text,
                    strength=round(max(PALE, min(1.0, abs(value) / top)), 3),
                    title=(titles or {}).get((row, column), f"{row}, {column}: {text}"),
                )
            )  # fmt: skip
    return HeatMap(
        width=NAMES + len(columns) * CELL_W,
        height=HEADS + len(rows) * CELL_H + 2,
        cell=(CELL_W, CELL_H),
        cells=tuple(cells),
        rows=tuple((HEADS + i * CELL_H + CELL_H // 2, row) for i, row in enumerate(rows)),
        columns=tuple(
            (NAMES + j * CELL_W + CELL_W // 2, SHORT.get(column, column)) for j, column in enumerate(columns)
        ),
    )


@dataclass(frozen=True)
class Line:
    """One curve as the points of an SVG polyline, and its colour's number."""

    name: str
    colour: int
    points: str


@dataclass(frozen=True)
class Curves:
    """Several curves in one fixed box."""

    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_name: str
    y_name: str


def curves(lines: Mapping[str, Sequence[tuple[float, float]]], *, x_name: str, y_name: str) -> Curves | None:
    """Curves by name, from zero upwards; None when no curve has two points."""
    kept = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for name, points in lines.items()
    }
    every = [point for points in kept.values() if len(points) > 1 for point in points]
    if not every:
        return None
    x_low, x_high = min(x for x, _ in every), max(x for x, _ in every)
    y_low, y_high = min(0.0, *(y for _, y in every)), max(0.0, *(y for _, y in every))
    x_high = x_high if x_high > x_low else x_low + 1
    y_high = y_high if y_high > y_low else y_low + 1

    def across(x: float) -> float:
        return round(LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 1)

    def down(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM), 1)

    return Curves(
        lines=tuple(
            Line(name, 1 + place, " ".join(f"{across(x)},{down(y)}" for x, y in points))
            for place, (name, points) in enumerate(kept.items())
            if len(points) > 1
        ),
        x_ticks=tuple((across(tick), tick_text(tick)) for tick in ticks(x_low, x_high, about=5)),
        y_ticks=tuple((down(tick), tick_text(tick)) for tick in ticks(y_low, y_high, about=4)),
        x_name=x_name,
        y_name=y_name,
    )
