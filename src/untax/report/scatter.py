"""The geometry of the front's pictures: places of points, crosses, lines and labels, as plain numbers for the template to draw as SVG.

Right is safer and up is less tax, so that right and up are better. A picture has a fixed box in pixels; labels are placed beside their
points where nothing else stands, and left out where nothing is free: the table has every point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from untax.frontier import Axis, Comparison, Level, Point, title_of
from untax.report import figures

__all__ = ["Box", "Label", "Mark", "Picture", "Trail", "draw", "labels_for"]

LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 20.0, 40.0
LETTER, LINE = 6.2, 13.0  # pixels of one letter and of one line of text at 11 px
RINGS = (9.0, 20.0, 34.0, 50.0)  # how far a label may stand from its point
WAYS = ((1, 0), (1, -1), (1, 1), (-1, 0), (-1, -1), (-1, 1), (0, -1), (0, 1))
LEADER = 12.0  # a label further away than this is tied to its point by a line
HALF = 5.5  # half the size of a mark


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    x1: float
    y1: float
    x2: float
    y2: float

    def meets(self, other: Box) -> bool:
        return self.x1 < other.x2 and other.x1 < self.x2 and self.y1 < other.y2 and other.y1 < self.y2


@dataclass(frozen=True)
class Label:
    """A point's name: where its text is anchored, and where a line to it begins when it stands apart."""

    text: str
    x: float
    y: float
    anchor: str
    tied: tuple[float, float] | None


@dataclass(frozen=True)
class Mark:
    """One system: its place, the ends of its cross (None without an interval), the words of its title."""

    family: str
    colour: int
    x: float
    y: float
    across: tuple[float, float] | None
    down: tuple[float, float] | None
    front: bool
    title: str
    label: Label | None


@dataclass(frozen=True)
class Trail:
    """A family's systems in the order of their strength, as the points of an SVG polyline."""

    family: str
    colour: int
    points: str


@dataclass(frozen=True)
class Picture:
    """One front: gain to the right, less tax upwards."""

    axis: Axis
    width: float
    height: float
    marks: tuple[Mark, ...]
    trails: tuple[Trail, ...]
    front: str
    base: tuple[float, float]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    level: tuple[float, str] | None
    left: float
    right: float
    top: float
    bottom: float


def draw(
    made: Comparison, axis: Axis, colours: Mapping[str, int], *, width: float, height: float, labels: int
) -> Picture:
    """The front of one ability axis. `labels` is how many points may be named: those on the front and the safest of each family first."""
    shown = [point for point in made.points if not point.withheld and math.isfinite(point.taxes[axis.name].value)]
    across = _scale([e for p in shown for e in (p.gain.value, p.gain.low, p.gain.high)])
    tall = _scale(
        [e for p in shown for e in (p.taxes[axis.name].value, p.taxes[axis.name].low, p.taxes[axis.name].high)]
    )

    def x(gain: float) -> float:
        return round(LEFT + across.place(gain) / 100 * (width - LEFT - RIGHT), 1)

    def y(tax: float) -> float:
        return round(TOP + tall.place(tax) / 100 * (height - TOP - BOTTOM), 1)

    places = {point.system: (x(point.gain.value), y(point.taxes[axis.name].value)) for point in shown}
    frame = Box(LEFT, TOP, width - RIGHT, height - BOTTOM)
    named = _named(shown, axis, labels)
    level = _level(made, made.levels[0], across, x)
    words = [_around("base", x(0.0) - 6, y(0.0) - 10, -1, 0)]
    tags = labels_for(
        [(p.system, p.family + (f" {p.label}" if p.label else "")) for p in named],
        places,
        frame,
        (x(0.0), y(0.0)),
        words,
    )
    marks = []
    for point in shown:
        tax = point.taxes[axis.name]
        px, py = places[point.system]
        marks.append(
            Mark(
                family=point.family, colour=colours[point.family], x=px, y=py, front=axis.name in point.front,
                across=(x(point.gain.low), x(point.gain.high)) if point.gain.known else None,
                down=(y(tax.low), y(tax.high)) if tax.known else None, title=_title(point, axis, made.safety), label=tags.get(point.system),
            )
        )  # fmt: skip
    marks.sort(key=lambda mark: mark.front)  # those on the front are drawn over the others
    front = sorted(places[point.system] for point in shown if axis.name in point.front)
    return Picture(
        axis=axis, width=width, height=height, marks=tuple(marks), trails=tuple(_trails(made, places, colours)),
        front=_path([(x(0.0), y(0.0)), *front]), base=(x(0.0), y(0.0)),
        x_ticks=_ticks(across, made.safety, x, about=5 if width < 500 else 8), y_ticks=_ticks(tall, axis, y, about=5),
        level=level, left=frame.x1, right=frame.x2, top=frame.y1, bottom=frame.y2,
    )  # fmt: skip


def _scale(ends: Sequence[float]) -> figures.Scale:
    return figures.scale_for(figures.fence(ends), [])


def _ticks(
    scale: figures.Scale, axis: Axis, place: Callable[[float], float], *, about: int
) -> tuple[tuple[float, str], ...]:
    found = figures.ticks(scale.low * axis.factor, scale.high * axis.factor, about=about)
    return tuple((place(tick / axis.factor), figures.tick_text(tick)) for tick in found)


def _level(
    made: Comparison, level: Level, scale: figures.Scale, place: Callable[[float], float]
) -> tuple[float, str] | None:
    if not scale.low < level.gain < scale.high:
        return None
    return place(level.gain), title_of(made, level)


def _title(point: Point, axis: Axis, safety: Axis) -> str:
    tax = point.taxes[axis.name]
    parts = [
        f"{point.system}: gain {safety.say(point.gain.value)} ({safety.span(point.gain)}) on {safety.name}",
        f"tax {axis.say(tax.value)} ({axis.span(tax)}) on {axis.title}",
    ]
    if axis.name in point.front:
        parts.append(f"on the front in {100 * point.front_share[axis.name]:.0f} % of the resamples")
    return "; ".join([*parts, *point.warnings])


def _trails(made: Comparison, places: Mapping[str, tuple[float, float]], colours: Mapping[str, int]) -> Iterable[Trail]:
    for family in made.families:
        path = [places[system] for system in family.systems if system in places]
        if len(path) > 1:
            yield Trail(family.name, colours[family.name], _path(path))


def _path(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


# --------------------------------------------------------------------------- labels


def _named(shown: Sequence[Point], axis: Axis, most: int) -> list[Point]:
    """The points on the front, then the safest of each family that has none there."""
    front = [point for point in shown if axis.name in point.front]
    ends: dict[str, Point] = {}
    for point in shown:
        if point.family not in ends or point.gain.value > ends[point.family].gain.value:
            ends[point.family] = point
    there = {point.family for point in front}
    return [*front, *(point for family, point in ends.items() if family not in there)][:most]


def labels_for(
    named: Sequence[tuple[str, str]],
    places: Mapping[str, tuple[float, float]],
    frame: Box,
    base: tuple[float, float],
    words: Sequence[Box],
) -> dict[str, Label]:
    """A place for each name (system, text) beside its point, in order of importance: inside the frame, on no other name, on no mark if that can be had."""
    marks = [Box(x - HALF, y - HALF, x + HALF, y + HALF) for x, y in (*places.values(), base)]
    taken = list(words)
    made: dict[str, Label] = {}
    for system, text in named:
        px, py = places[system]
        best: tuple[float, Box, float, float, int] | None = None
        for ring in RINGS:
            for way, (dx, dy) in enumerate(WAYS):
                lx, ly = px + dx * ring * (0.8 if dy else 1), py + dy * ring * (0.9 if dx else 1.1)
                box = _around(text, lx, ly, dx, dy)
                inside = box.x1 >= frame.x1 and box.x2 <= frame.x2 + RIGHT and box.y1 >= frame.y1 and box.y2 <= frame.y2
                if not inside or any(box.meets(other) for other in taken):
                    continue
                cost = ring / 12 + way / 20 + 2.5 * sum(box.meets(mark) for mark in marks)
                if best is None or cost < best[0]:
                    best = (cost, box, lx, ly, dx)
        if best is None:
            continue
        _, box, lx, ly, dx = best
        taken.append(box)
        far = math.hypot(lx - px, ly - py) > LEADER
        anchor = "start" if dx > 0 else "end" if dx < 0 else "middle"
        made[system] = Label(
            text, round(lx, 1), round(ly + 4, 1), anchor, (round(lx, 1), round(ly, 1)) if far else None
        )
    return made


def _around(text: str, x: float, y: float, dx: int, dy: int) -> Box:
    width = LETTER * len(text) + 2
    start = x if dx > 0 else x - width if dx < 0 else x - width / 2
    return Box(start, y - LINE / 2, start + width, y + LINE / 2)
