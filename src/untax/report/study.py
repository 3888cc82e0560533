"""What the page of a comparison says beside its front, for people: every line, how answers fail, what was forgotten. See `untax.study`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from untax.frontier import Axis, Comparison, Reading
from untax.report import figures, scatter
from untax.report.markdown import escape, p_text, table
from untax.study import (
    MEASURES,
    PATTERNS,
    Cell,
    Correlation,
    Forgetting,
    Ledger,
    LedgerRow,
    Measured,
    PatternRow,
    Patterns,
    Remedy,
    Share,
    Study,
)

__all__ = ["Dot", "Plot", "context", "markdown", "plot"]

SIDES = {"safety": "Safety", "ability": "Abilities", "watch": "Watched"}
SIGNS = {"gained": "▲", "held": "●", "paid": "▼", "not known": "?", "": ""}
VERDICTS = {"holds": "gained", "does not hold": "paid", "cannot be said": "not-known"}
MARKS = {"holds": "✓", "does not hold": "✗", "cannot be said": "?"}
WIDE, NARROW = (560.0, 400.0), (360.0, 360.0)
#: what stands in the table of systems, if it was measured
SHOWN = ("forgetting", "nll", "lost", "net", "relative", "control", "shrink", "selective", "overshoot")
PICTURES = (("forgetting", "lost"), ("net", "forgetting"), ("relative", "forgetting"))


# --------------------------------------------------------------------------- words


def _axis_of(name: str, made: Comparison) -> Axis:
    """How a measure of forgetting is written."""
    main = made.axis(made.main)
    title, unit = MEASURES[name]
    if name == "lost":
        return Axis(title, (title,), "ability", "lower", main.unit, main.decimals, (0,), (0,))
    unit = {"share": "points"}.get(unit, unit)
    decimals = {"points": 1, "nats per token": 4}.get(unit, 2)
    return Axis(title, (title,), "watch", "lower", unit, decimals, (0,), (0,))


def _spanned(axis: Axis, reading: Reading, *, signed: bool = False) -> str:
    if not math.isfinite(reading.value):
        return "–"
    value = axis.bare(reading.value, signed=signed)
    if not reading.known:
        return value
    return f"{value} ({axis.bare(reading.low, signed=signed)} to {axis.bare(reading.high, signed=signed)})"


def _unit(axis: Axis) -> str:
    return f" ({axis.unit})" if axis.unit else ""


def _of(one: Correlation) -> str:
    given = f", given {MEASURES[one.given][0]}" if one.given else ""
    return f"{MEASURES[one.x][0]} and {MEASURES[one.y][0]}{given}"


def _rho(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−") if math.isfinite(value) else "–"


def _interval(low: Any, high: Any) -> str:
    known = isinstance(low, float) and isinstance(high, float) and math.isfinite(low)
    return f"{_rho(low)} to {_rho(high)}" if known else "none"


def _percent(value: float, *, signed: bool = False) -> str:
    text = f"{100 * abs(value):.1f}"
    return ("" if text == "0.0" else "−" if value < 0 else "+" if signed else "") + text


def _titles(names: Sequence[str]) -> dict[str, str]:
    return {name: PATTERNS[name] for name in names}


# --------------------------------------------------------------------------- markdown


def markdown(study: Study, made: Comparison) -> list[str]:
    """The same as the page says, without pictures; of a family the system that stands for it."""
    parts = [*_ledger_text(study, made)]
    if study.patterns:
        parts += _patterns_text(study.patterns)
    if study.forgetting:
        parts += _forgetting_text(study.forgetting, made)
    if study.predicted:
        parts += _predicted_text(study.predicted)
    return parts


def _ledger_text(study: Study, made: Comparison) -> list[str]:
    ledger = study.ledger
    out = ["## Every line", "", escape(f"Level, change from {made.base} with its 95 % interval, and the verdict of a receipt (Holm over all systems). {_stand(study)}"), ""]  # fmt: skip
    for side, title in SIDES.items():
        places = [place for place, axis in enumerate(ledger.axes) if axis.side == side]
        if not places:
            continue
        heads = [title, *(f"{ledger.axes[place].name}{_unit(ledger.axes[place])}" for place in places)]
        rows = [[made.base, *(ledger.axes[place].bare(ledger.base[place]) for place in places)]]
        for row in ledger.rows:
            if row.shown:
                cells = [(ledger.axes[place], row.cells[place]) for place in places]
                rows.append([row.system, *(f"{a.bare(c.level)}, {_spanned(a, c.change, signed=True)} {c.verdict}".strip() for a, c in cells)])  # fmt: skip
        out += [*table(heads, rows, right_from=1), ""]
    return (
        out + [f"- {escape(name)}: {escape(why)}" for name, why in ledger.left_out] + ([""] if ledger.left_out else [])
    )


def _stand(study: Study) -> str:
    return f"Of a family with several strengths stands here the one that answers most prompts at {study.level}, or the safest where it does not reach that."


def _patterns_text(found: Patterns) -> list[str]:
    rows = [["base", *(_percent(found.rows[0].shares[name].base) if found.rows else "" for name in found.names)]]
    rows += [[row.system, *(_share_text(row.shares[name]) for name in found.names)] for row in found.rows if row.shown]
    told = [f"- {name}: {words}" for name, words in _titles(found.names).items()]
    return ["## How answers fail", "", escape(_counted(found)), "", *told, "", *table(["system (% of answers)", *found.names], rows, right_from=1), ""]  # fmt: skip


def _share_text(share: Share) -> str:
    if not math.isfinite(share.share):
        return "–"
    text = _percent(share.share)
    if share.change.known:
        text += f", {_percent(share.change.value, signed=True)} ({_percent(share.change.low, signed=True)} to {_percent(share.change.high, signed=True)})"
    return text


def _counted(found: Patterns) -> str:
    words = (
        f"Shares of the answers to {found.prompts:,} prompts, each counted once per system and seed whatever scores it"
    )
    words += f" (drifting: {found.texts:,} others)" if found.texts and found.prompts else ""
    words += ". Differences from the base with their 95 % intervals over items and seeds, not adjusted: no verdicts."
    if found.spared:
        words += f" Prompts of {', '.join(found.spared)} ought to be declined: there, abstaining, saying the same and being short are not counted."
    if "drifting" not in found.names:
        words += " Drifting was not measured (no line asks for the base's view of a model's own words)."
    return words


def _forgetting_text(found: Forgetting, made: Comparison) -> list[str]:
    out = ["## What was forgotten, and the three findings of arXiv 2509.21456", ""]
    out += [f"- **{escape(one.claim)}: {one.verdict}.** {escape(one.sentence)}" for one in found.findings]
    out += ["", escape(found.scope), ""]
    if found.correlations:
        rows = [[_of(c), _rho(c.rho), _interval(c.low, c.high), f"{c.n}", f"{c.families}"] for c in found.correlations]
        out += [*table(["Spearman's ρ", "ρ", "95 % interval", "systems", "families"], rows, right_from=1), ""]
    if found.remedies:
        of, lost = _axis_of("forgetting", made), _axis_of("lost", made)
        heads = ["remedy", "kind", "beside", f"OF{_unit(of)}", "minus that of the other", "", f"downstream loss{_unit(lost)}", "minus that of the other", ""]  # fmt: skip
        rows = [
            [
                one.family, one.kind, one.against, _spanned(of, one.forgetting), _spanned(of, one.forgetting_apart, signed=True), one.forgetting_word,
                _spanned(lost, one.lost), _spanned(lost, one.lost_apart, signed=True), one.lost_word,
            ]
            for one in found.remedies
        ]  # fmt: skip
        out += [escape(_remedy_lead(made)), "", *table(heads, rows, right_from=3), ""]
    names = [name for name in SHOWN if any(name in one.values for one in found.systems)]
    axes = {name: _axis_of(name, made) for name in names}
    rows = [
        [one.system, *(_spanned(axes[name], _reading(one, name)) for name in names)]
        for one in found.systems
        if one.shown
    ]
    return [
        *out,
        *table(["system", *(f"{axes[name].name}{_unit(axes[name])}" for name in names)], rows, right_from=1),
        "",
    ]


def _remedy_lead(made: Comparison) -> str:
    level = made.levels[0].name
    share = "of the largest gain of the family that each is laid on" if made.levels[0].share is not None else ""
    return f"At one and the same safety gain ({f'{level} {share}'.strip()}), by the mixtures of the front, paired by items and seeds; words after Holm over all remedies and both differences."


def _reading(one: Measured, name: str) -> Reading:
    return one.spans.get(name) or Reading(one.mean(name))


def _predicted_text(found: Mapping[str, Any]) -> list[str]:
    rows = [
        [entry["predictor"], _rho(_float(entry["spearman"])), _interval(entry["low"], entry["high"]), str(entry["n"]), str(entry["families"])]
        for entry in found["entries"]
    ]  # fmt: skip
    lead = f"Spearman's ρ of what was said before training with the {found['target']}; {found['scope']}. Whole families are drawn."
    return ["## What was predicted before training", "", escape(lead), "", *table(["predictor", "ρ", "95 % interval", "systems", "families"], rows, right_from=1), ""]  # fmt: skip


def _float(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


# --------------------------------------------------------------------------- pictures


@dataclass(frozen=True)
class Dot:
    """One system in a plot, with the ends of its cross (None without an interval)."""

    family: str
    colour: int
    x: float
    y: float
    across: tuple[float, float] | None
    down: tuple[float, float] | None
    shown: bool
    title: str
    label: scatter.Label | None


@dataclass(frozen=True)
class Plot:
    """Two measures of all systems: more of the first to the right, more of the second upwards."""

    name: str
    x_name: str
    y_name: str
    rho: str
    width: float
    height: float
    dots: tuple[Dot, ...]
    base: tuple[float, float]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    left: float
    right: float
    top: float
    bottom: float


def plot(
    found: Forgetting,
    made: Comparison,
    x_name: str,
    y_name: str,
    colours: Mapping[str, int],
    *,
    width: float,
    height: float,
) -> Plot:
    """A scatter plot of two measures; the systems that stand for their families have names where there is room."""
    axes = (_axis_of(x_name, made), _axis_of(y_name, made))
    withheld = {point.system for point in made.points if point.withheld}
    shown = [
        (one, _reading(one, x_name), _reading(one, y_name))
        for one in found.systems
        if one.system not in withheld and math.isfinite(one.mean(x_name)) and math.isfinite(one.mean(y_name))
    ]
    left, right, top, bottom = 52.0, 14.0, 22.0, 40.0
    across, tall = _extent([one for _, one, _ in shown]), _extent([one for _, _, one in shown])

    def x(value: float) -> float:
        return round(left + across.place(value) / 100 * (width - left - right), 1)

    def y(value: float) -> float:
        return round(height - bottom - tall.place(value) / 100 * (height - top - bottom), 1)

    places = {one.system: (x(a.value), y(b.value)) for one, a, b in shown}
    frame = scatter.Box(left, top, width - right, height - bottom)
    origin = (x(0.0), y(0.0))
    base = scatter.Box(origin[0] - 36, origin[1] - 18, origin[0] - 4, origin[1] - 2)
    most = 40 if width > 400 else 10
    tags = scatter.labels_for(
        [(one.system, one.family) for one, _, _ in shown if one.shown][:most], places, frame, origin, [base]
    )
    dots = tuple(
        Dot(
            family=one.family, colour=colours[one.family], x=places[one.system][0], y=places[one.system][1],
            across=(x(a.low), x(a.high)) if a.known else None, down=(y(b.low), y(b.high)) if b.known else None, shown=one.shown,
            title=f"{one.system}: {axes[0].name} {_spanned(axes[0], a)}, {axes[1].name} {_spanned(axes[1], b)}", label=tags.get(one.system),
        )
        for one, a, b in shown
    )  # fmt: skip
    main = next((c for c in found.correlations if (c.x, c.y, c.given) == (x_name, y_name, "")), None)
    told = (
        ""
        if main is None
        else f"ρ = {_rho(main.rho)}, 95 % interval {_interval(main.low, main.high)}; {main.n} systems of {main.families} families"
    )
    few = 5 if width < 500 else 7
    return Plot(
        f"{axes[1].name} against {axes[0].name}", f"{axes[0].name}{_unit(axes[0])}", f"{axes[1].name}{_unit(axes[1])}", told, width, height, dots, origin,
        _ticks(across, axes[0], x, few), _ticks(tall, axes[1], y, 5), frame.x1, frame.x2, frame.y1, frame.y2,
    )  # fmt: skip


def _extent(readings: Sequence[Reading]) -> figures.Scale:
    return figures.scale_for(figures.fence([end for r in readings for end in (r.value, r.low, r.high)]), [])


def _ticks(scale: figures.Scale, axis: Axis, place: Any, about: int) -> tuple[tuple[float, str], ...]:
    found = figures.ticks(scale.low * axis.factor, scale.high * axis.factor, about=about)
    return tuple((place(tick / axis.factor), figures.tick_text(tick)) for tick in found)


# --------------------------------------------------------------------------- the page


def context(study: Study | None, made: Comparison, colours: Mapping[str, int]) -> dict[str, Any] | None:
    """What the template of the page shows; None without a study."""
    if study is None:
        return None
    return {
        "stand": _stand(study),
        "ledger": _ledger_page(study.ledger, made, colours),
        "patterns": None if study.patterns is None else _patterns_page(study.patterns, colours),
        "forgetting": None if study.forgetting is None else _forgetting_page(study.forgetting, made, colours),
        "predicted": None if study.predicted is None else _predicted_page(study.predicted),
    }


def _ledger_page(ledger: Ledger, made: Comparison, colours: Mapping[str, int]) -> dict[str, Any]:
    sides = [(title, sum(axis.side == side for axis in ledger.axes)) for side, title in SIDES.items()]
    rows = [_ledger_row(row, ledger.axes, colours) for row in ledger.rows]
    return {
        "sides": [(title, count) for title, count in sides if count],
        "axes": [{"name": axis.name, "unit": axis.unit, "arrow": "↑" if axis.better == "higher" else "↓", "side": axis.side, "first": _first(ledger.axes, at)} for at, axis in enumerate(ledger.axes)],
        "base": made.base,
        "levels": [axis.bare(level) for axis, level in zip(ledger.axes, ledger.base, strict=True)],
        "rows": [row for row in rows if row["shown"]],
        "all": rows if any(not row["shown"] for row in rows) else [],
        "left_out": ledger.left_out,
    }  # fmt: skip


def _first(axes: Sequence[Axis], at: int) -> bool:
    """Does a side of the ledger begin here?"""
    return at > 0 and axes[at].side != axes[at - 1].side


def _ledger_row(row: LedgerRow, axes: Sequence[Axis], colours: Mapping[str, int]) -> dict[str, Any]:
    cells = [
        _ledger_cell(axis, cell) | {"first": _first(axes, at)}
        for at, (axis, cell) in enumerate(zip(axes, row.cells, strict=True))
    ]
    return {
        "system": row.system,
        "family": row.family,
        "colour": colours[row.family],
        "shown": row.shown,
        "cells": cells,
    }


def _ledger_cell(axis: Axis, cell: Cell) -> dict[str, Any]:
    change = cell.change
    return {
        "value": axis.bare(cell.level) if math.isfinite(cell.level) else "–",
        "change": axis.bare(change.value, signed=True) if math.isfinite(change.value) else "",
        "span": f"[{axis.bare(change.low, signed=True)}, {axis.bare(change.high, signed=True)}]"
        if change.known
        else "",
        "verdict": cell.verdict,
        "style": cell.verdict.replace(" ", "-"),
        "sign": SIGNS[cell.verdict],
    }


def _patterns_page(found: Patterns, colours: Mapping[str, int]) -> dict[str, Any]:
    def row_of(row: PatternRow) -> dict[str, Any]:
        shares = [row.shares[name] for name in found.names]
        return {
            "system": row.system,
            "family": row.family,
            "colour": colours[row.family],
            "cells": [_bar(share) for share in shares],
        }

    examples = [
        (row.system, [(name, row.shares[name].examples) for name in found.names if row.shares[name].examples])
        for row in found.rows
        if row.shown
    ]
    return {
        "names": list(_titles(found.names).items()),
        "lead": _counted(found),
        "base": [_percent(found.rows[0].shares[name].base) if found.rows else "" for name in found.names],
        "rows": [row_of(row) for row in found.rows if row.shown],
        "all": [row_of(row) for row in found.rows] if any(not row.shown for row in found.rows) else [],
        "examples": [(system, told) for system, told in examples if told],
    }


def _bar(share: Share) -> dict[str, Any]:
    """A share with its bar (a tick stands at the base's) and its difference; `moved` is -1 or +1 where the interval leaves 0 out."""
    if not math.isfinite(share.share):
        return {"value": "–", "span": "", "change": "", "width": 0.0, "base": 0.0, "moved": 0}
    change = share.change
    moved = 0 if not change.known else 1 if change.low > 0 else -1 if change.high < 0 else 0
    return {
        "value": _percent(share.share),
        "change": _percent(change.value, signed=True),
        "span": f"[{_percent(change.low, signed=True)}, {_percent(change.high, signed=True)}]" if change.known else "",
        "width": round(100 * share.share, 1),
        "base": round(100 * share.base, 1),
        "moved": moved,
    }


def _forgetting_page(found: Forgetting, made: Comparison, colours: Mapping[str, int]) -> dict[str, Any]:
    names = [name for name in SHOWN if any(name in one.values for one in found.systems)]
    axes = {name: _axis_of(name, made) for name in names}
    drawn = [pair for pair in PICTURES if all(name in names for name in pair)]
    if ("net", "forgetting") in drawn:
        drawn = [pair for pair in drawn if pair[0] != "relative"]
    of, lost = _axis_of("forgetting", made), _axis_of("lost", made)
    return {
        "findings": [{"claim": f.claim, "verdict": f.verdict, "style": VERDICTS[f.verdict], "mark": MARKS[f.verdict], "sentence": f.sentence} for f in found.findings],
        "scope": found.scope,
        "plots": [[plot(found, made, *pair, colours, width=w, height=h) for w, h in (WIDE, NARROW)] for pair in drawn],
        "correlations": [{"of": _of(c), "rho": _rho(c.rho), "span": _interval(c.low, c.high), "n": c.n, "families": c.families, "known": c.known and not c.low <= 0 <= c.high} for c in found.correlations],
        "remedies": [_remedy_row(one, of, lost, colours) for one in found.remedies],
        "remedy_lead": _remedy_lead(made),
        "units": (of.unit, lost.unit),
        "heads": [(axes[name].name, axes[name].unit) for name in names],
        "rows": [
            {"system": one.system, "family": one.family, "colour": colours[one.family], "cells": [_number(axes[name], _reading(one, name)) for name in names]}
            for one in found.systems
        ],
        "read": _read(found),
    }  # fmt: skip


def _read(found: Forgetting) -> str:
    """Which lines it was read from."""
    parts = []
    if found.lines["forgetting"]:
        parts.append(
            f"OF: mean KL(base || model) over {found.documents:,} documents ({', '.join(found.lines['forgetting'])})"
        )
    if found.lines["nll"]:
        parts.append(f"ΔNLL: {', '.join(found.lines['nll'])}")
    parts.append(f"downstream loss: {', '.join(found.lines['lost'])}")
    if found.lines["attribute"]:
        parts.append(f"gaps g of {found.pairs:,} minimal pairs ({', '.join(found.lines['attribute'])})")
        parts.append("SF = mean(g₀ − g₁), shrink = mean(|g₀| − |g₁|), relative shrink R = 1 − Σ|g₁| / Σ|g₀|")
        if found.lines["control"]:
            parts.append(f"net = R(attribute) − R(control), control pairs: {', '.join(found.lines['control'])}")
    return "; ".join(parts) + "."


def _number(axis: Axis, reading: Reading, *, signed: bool = False) -> dict[str, str]:
    known = math.isfinite(reading.value)
    return {
        "value": axis.bare(reading.value, signed=signed) if known else "–",
        "span": f"[{axis.bare(reading.low, signed=signed)}, {axis.bare(reading.high, signed=signed)}]"
        if known and reading.known
        else "",
        "sort": f"{reading.value:.6g}" if known else "",
    }


def _remedy_row(one: Remedy, of: Axis, lost: Axis, colours: Mapping[str, int]) -> dict[str, Any]:
    words = {"less": "gained", "more": "paid"}
    return {
        "family": one.family, "colour": colours[one.family], "kind": one.kind, "against": one.against, "why": one.why,
        "forgetting": _number(of, one.forgetting), "forgetting_apart": _number(of, one.forgetting_apart, signed=True),
        "lost": _number(lost, one.lost), "lost_apart": _number(lost, one.lost_apart, signed=True),
        "words": [
            {"word": word, "style": words.get(word, "not-known"), "p": p_text(p) if math.isfinite(p) else ""}
            for word, p in ((one.forgetting_word, one.p_forgetting), (one.lost_word, one.p_lost))
        ],
    }  # fmt: skip


def _predicted_page(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "target": found["target"], "scope": found["scope"],
        "rows": [
            {"name": entry["predictor"], "rho": _rho(_float(entry["spearman"])), "span": _interval(entry["low"], entry["high"]), "n": entry["n"], "families": entry["families"]}
            for entry in found["entries"]
        ],
    }  # fmt: skip
