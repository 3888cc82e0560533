"""Writes a comparison of many systems for people: compare.html (one file that opens from disk), compare.md and compare.json.

The page loads nothing: styles, script and pictures are inside, and its Content-Security-Policy allows exactly that one style and that one
script, by their hashes. Everything that comes from data or names goes through autoescaping. The same comparison gives the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from untax import files
from untax import study as studies
from untax.frontier import SCHEMA, Axis, Comparison, Cost, Level, Point, Reading, Versus, times, title_of
from untax.report import scatter
from untax.report import study as study_page
from untax.report.html import TEMPLATES, clean, csp_hash
from untax.report.markdown import escape, p_text, table
from untax.study import Study

__all__ = ["render_markdown", "table_of", "to_dict", "write"]

WORDS = {"less tax": "✓", "more tax": "✗", "not known": "?", "does not reach": "⊘", "reference": "="}
STYLES = {
    "less tax": "gained",
    "more tax": "paid",
    "not known": "not-known",
    "does not reach": "not-known",
    "reference": "none",
}
WIDE, NARROW, SMALL = (1120.0, 560.0), (360.0, 400.0), (360.0, 300.0)
DIGITS = 10  # what is written of a number: further ones differ between machines

SIGNS = (
    "A gain is positive where a system is safer than the base, a tax is positive where ability was lost; right and up are better in every "
    "picture. Lines of different units or directions are never averaged."
)
HOW = (
    "Tax at equal safety: a family's tax is that of the cheapest mixture of two of its models, the base among them, that reaches the level, "
    "each prompt answered by one of the two by lot. The mixture is chosen on one part of the seeds and items and paid for on the other. "
    "Intervals are 95 %, paired over items and training seeds that are drawn together for all systems; p is adjusted by Holm."
)


def write(made: Comparison, folder: Path, *, title: str = "") -> Path:
    """Write compare.json, compare.md and compare.html into `folder`; returns the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    named = title or ("Safety against ability" + (f": {', '.join(made.runs)}" if made.runs else ""))
    study = studies.make(made)
    text = json.dumps(to_dict(made, study), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    files.write(folder / "compare.json", text.encode("utf-8", errors="replace"))
    files.write(
        folder / "compare.md", render_markdown(made, title=named, study=study).encode("utf-8", errors="replace")
    )
    page = folder / "compare.html"
    files.write(page, _render(made, named, study).encode("utf-8", errors="replace"))
    return page


def to_dict(made: Comparison, study: Study | None = None) -> dict[str, Any]:
    """A comparison as JSON holds it, with what its tables say beside the front: NaN is null, numbers have ten figures."""
    plain = asdict(replace(made, tables=None))
    del plain["tables"]
    whole: dict[str, Any] = _plain({"schema": SCHEMA, **plain, **({"study": asdict(study)} if study else {})})
    return whole


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value if isinstance(value, bool | int | str) or value is None else str(value)


# --------------------------------------------------------------------------- words


def _mixed(cost: Cost) -> str:
    """Which models answer which share of the prompts: "38 % replay@0.12, 62 % replay@0.25"."""
    if len(cost.mixture) == 1:
        return cost.mixture[0][0]
    return ", ".join(f"{100 * share:.0f} % {name}" for name, share in cost.mixture) or "not reached"


def _with_span(axis: Axis, reading: Reading, *, signed: bool = False) -> str:
    if not math.isfinite(reading.value):
        return "–"
    value = axis.bare(reading.value, signed=signed)
    if not reading.known:
        return value
    return f"{value} ({axis.bare(reading.low, signed=signed)} to {axis.bare(reading.high, signed=signed)})"


def _ratio(reading: Reading | None) -> str:
    if reading is None:
        return ""
    value, low, high = (times(number) for number in (reading.value, reading.low, reading.high))
    return f"{value} ({low} to {high})"


def _front_of(point: Point, axis: Axis) -> str:
    return f"{100 * point.front_share.get(axis.name, 0.0):.0f} %" + (" ★" if axis.name in point.front else "")


def _again(made: Comparison) -> list[tuple[str, str]]:
    seeds = ", ".join(str(seed) for seed in made.seeds if seed is not None)
    return [
        ("runs", ", ".join(made.runs) or "not named"),
        ("safety", f"{made.safety.name}, {_items(made.safety)}"),
        *(("ability", f"{axis.name}, {_items(axis)}") for axis in made.abilities if len(axis.lines) == 1),
        ("reference", made.reference),
        ("training seeds", seeds or "one model each"),
        ("statistics", f"{made.settings['resamples']:,} resamples, seed {made.settings['seed']}, confidence 95 %, alpha {made.settings['alpha']}"),
    ]  # fmt: skip


def _items(axis: Axis) -> str:
    return f"{axis.n[0]:,} of {axis.items[0]:,} items"


def table_of(made: Comparison) -> str:
    """What every family pays at the first level, for a terminal."""
    level, axis = made.levels[0], made.axis(made.main)
    rows = [["family", f"tax on {axis.title} ({axis.unit})", f"minus {made.reference}", "verdict", "answered by"]]
    for cost in _ordered(made, level):
        versus = cost.versus.get(axis.name)
        apart = _with_span(axis, versus.difference, signed=True) if versus else ""
        rows.append(
            [
                cost.family,
                _with_span(axis, cost.taxes[axis.name]),
                apart,
                versus.verdict if versus else "reference",
                _mixed(cost),
            ]
        )
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


# --------------------------------------------------------------------------- markdown


def render_markdown(made: Comparison, *, title: str, study: Study | None = None) -> str:
    """One document: who pays least, tax at equal safety for every level, every system, the study, what was left out."""
    main = made.axis(made.main)
    parts = [f"# {escape(title)}", "", f"**{escape(made.sentence)}**", ""]
    parts += [f"- {escape(text)}" for text in made.unknown] + ([""] if made.unknown else [])
    for level in made.levels:
        if not math.isfinite(level.gain):
            continue
        parts += [f"## At {escape(title_of(made, level))}", "", *_level_table(made, level, main), ""]
        if len(made.abilities) > 1:
            parts += [*_lines_table(made, level), ""]
    parts += [
        "## Every system",
        "",
        escape(
            f"In brackets: 95 % intervals. ★ stands on the front of {main.title}; the share is that of the resamples."
        ),
        "",
    ]
    parts += [*_points_table(made), ""]
    parts += study_page.markdown(study, made) if study else []
    parts += [f"> {escape(note)}" for note in made.notes] + ([""] if made.notes else [])
    gone = [*made.left_out, *((p.system, f"withheld: {p.withheld}") for p in made.points if p.withheld)]
    if gone:
        parts += ["## Left out", "", *(f"- {escape(name)}: {escape(why)}" for name, why in gone), ""]
    parts += [
        "## Do it again",
        "",
        *(f"- {escape(name)}: {escape(text)}" for name, text in _again(made)),
        "",
        f"{SIGNS} {HOW}",
        "",
    ]
    return "\n".join(parts)


def _level_table(made: Comparison, level: Level, axis: Axis) -> list[str]:
    heads = [
        "family",
        "answered by",
        f"tax ({axis.unit})",
        f"minus {made.reference}",
        "ratio",
        "p (Holm)",
        "verdict",
        "least in",
    ]
    rows = []
    for cost in _ordered(made, level):
        versus = cost.versus.get(axis.name)
        rows.append(
            [
                cost.family, _mixed(cost), _with_span(axis, cost.taxes[axis.name]),
                _with_span(axis, versus.difference, signed=True) if versus else "", _ratio(versus.ratio) if versus else "",
                p_text(versus.p_judged) if versus and math.isfinite(versus.p_judged) else "", versus.verdict if versus else "reference",
                f"{100 * cost.least:.0f} %",
            ]
        )  # fmt: skip
    return table(heads, rows, right_from=2)


def _lines_table(made: Comparison, level: Level) -> list[str]:
    axes = [axis for axis in made.abilities if axis.name != made.main or len(axis.lines) == 1]
    rows = []
    for cost in _ordered(made, level):
        cells = [cost.family]
        for axis in axes:
            versus = cost.versus.get(axis.name)
            word = versus.verdict if versus and versus.verdict in ("less tax", "more tax") else ""
            cells.append(f"{_with_span(axis, cost.taxes[axis.name])} {word}".strip())
        rows.append(cells)
    return table(["family", *(f"{axis.name} ({axis.unit})" for axis in axes)], rows, right_from=1)


def _points_table(made: Comparison) -> list[str]:
    main = made.axis(made.main)
    heads = ["system", f"gain on {made.safety.name} ({made.safety.unit})"]
    heads += [f"tax on {axis.title} ({axis.unit})" for axis in made.abilities] + ["on the front"]
    rows = []
    for point in made.points:
        taxes = [_with_span(axis, point.taxes[axis.name]) for axis in made.abilities]
        rows.append(
            [
                point.system,
                _with_span(made.safety, point.gain),
                *taxes,
                "withheld" if point.withheld else _front_of(point, main),
            ]
        )
    return table(heads, rows, right_from=1)


def _ordered(made: Comparison, level: Level) -> list[Cost]:
    """The families of one level: who pays least first, those that do not reach it last."""
    costs = [cost for cost in made.costs if cost.level == level.name]
    return sorted(costs, key=lambda cost: (not math.isfinite(cost.taxes[made.main].value), cost.taxes[made.main].value))


# --------------------------------------------------------------------------- the page


def _render(made: Comparison, title: str, study: Study | None) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "compare.css", "study.css"))
    script = (TEMPLATES / "compare.js").read_text(encoding="utf-8")
    colours = {name: 1 + place for place, name in enumerate(dict.fromkeys(point.family for point in made.points))}
    main = made.axis(made.main)
    shown = environment.get_template("compare.html.j2").render(
        title=title, style=Markup(style), script=Markup(script), style_hash=csp_hash(style), script_hash=csp_hash(script),
        made=made, main=main, colours=colours, words=WORDS, styles=STYLES, signs=SIGNS, how=HOW, again=_again(made),
        pictures=[scatter.draw(made, main, colours, width=size[0], height=size[1], labels=n) for size, n in ((WIDE, 40), (NARROW, 10))],
        panels=[scatter.draw(made, axis, colours, width=SMALL[0], height=SMALL[1], labels=8) for axis in made.abilities if axis is not main],
        levels=[_level_rows(made, level, colours) for level in made.levels if math.isfinite(level.gain)],
        rows=[_point_row(made, point, colours) for point in made.points],
        **_legend(made), study=study_page.context(study, made, colours),
        gone=[*made.left_out, *((p.system, f"withheld: {p.withheld}") for p in made.points if p.withheld)],
    )  # fmt: skip
    return clean(shown)


def _legend(made: Comparison) -> dict[str, Any]:
    """What each family's strength is; said once where it is the same for all of them."""
    keys = {family.name: family.key.rpartition(".")[2] for family in made.families if family.key}
    one = len(set(keys.values())) == 1
    return {"knobs": {} if one else keys, "knob": next(iter(keys.values())) if one else ""}


def _cell(axis: Axis, reading: Reading, *, signed: bool = False) -> dict[str, str]:
    """A number, its interval beneath it, and what its column is sorted by."""
    known = math.isfinite(reading.value)
    return {
        "value": axis.bare(reading.value, signed=signed) if known else "–",
        "span": f"[{axis.bare(reading.low, signed=signed)}, {axis.bare(reading.high, signed=signed)}]"
        if reading.known
        else "",
        "sort": f"{reading.value:.6g}" if known else "",
    }


def _level_rows(made: Comparison, level: Level, colours: Mapping[str, int]) -> dict[str, Any]:
    rows = []
    for cost in _ordered(made, level):
        versus = cost.versus.get(made.main)
        axes = [axis for axis in made.abilities if axis.name != made.main]
        rows.append(
            {
                "family": cost.family,
                "colour": colours[cost.family],
                "mixture": _mixed(cost),
                "reached": cost.reached,
                "tax": _cell(made.axis(made.main), cost.taxes[made.main]),
                "difference": _cell(made.axis(made.main), versus.difference, signed=True) if versus else None,
                "ratio": _ratio_cell(versus.ratio) if versus and versus.ratio else None,
                "p": p_text(versus.p_judged) if versus and math.isfinite(versus.p_judged) else "",
                "verdict": versus.verdict if versus else "reference",
                "why": versus.why if versus else "",
                "least": f"{100 * cost.least:.0f} %",
                "lines": [_line_cell(axis, cost.taxes[axis.name], cost.versus.get(axis.name)) for axis in axes],
            }
        )
    return {"title": title_of(made, level), "axes": [a for a in made.abilities if a.name != made.main], "rows": rows}


def _ratio_cell(ratio: Reading) -> dict[str, str]:
    return {"value": times(ratio.value), "span": f"[{times(ratio.low)}, {times(ratio.high)}]", "sort": ""}


def _line_cell(axis: Axis, tax: Reading, versus: Versus | None) -> dict[str, str]:
    known = versus is not None and versus.verdict in ("less tax", "more tax")
    return _cell(axis, tax) | {"verdict": versus.verdict if versus and known else ""}


def _point_row(made: Comparison, point: Point, colours: Mapping[str, int]) -> dict[str, Any]:
    share = point.front_share.get(made.main)
    return {
        "point": point,
        "colour": colours[point.family],
        "gain": _cell(made.safety, point.gain),
        "taxes": [_cell(axis, point.taxes[axis.name]) | {"front": "★" if axis.name in point.front else ""} for axis in made.abilities],
        "share": "" if share is None else f"{100 * share:.0f} %",
        "share_sort": "" if share is None else f"{share:.4f}",
        "front": made.main in point.front,
    }  # fmt: skip
