"""Writes receipts for people: receipt.html (one file that opens from disk), receipt.md and receipt.json.

The page loads nothing: styles, script, pictures and data are inside, and its Content-Security-Policy allows exactly that one
style and that one script, by their hashes. Everything that comes from data or names goes through autoescaping or through
`json_for_html`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from untax import files
from untax import guards as guarding
from untax import receipt as receipts
from untax.guards import Guard
from untax.receipt import MetricResult, Receipt
from untax.report import figures, markdown
from untax.report.examples import Example, as_data, choose
from untax.types import UserError

__all__ = ["json_for_html", "write"]

TEMPLATES = Path(__file__).parent / "templates"
MAX_EXAMPLES = 5_000
DATA_BYTES = 2_400_000  # what the examples may take of a page of 3 MB
TEXT_LIMITS = (2_000, 1_000, 600, 400, 250, 150, 80)
SIDES = (("safety", "Safety"), ("ability", "Ability"), ("watch", "Watched"))
WORDS = {"gained": "▲", "held": "●", "paid": "▼", "not known": "?"}


def write(
    made: Sequence[Receipt],
    folder: Path,
    *,
    title: str,
    curves: Mapping[str, Sequence[Mapping[str, float]]] | None = None,
    examples: Iterable[Example] = (),
    environment: Mapping[str, Any] | None = None,
    command: str = "",
    notes: Sequence[str] = (),
) -> Path:
    """Write receipt.json, receipt.md and receipt.html into `folder`; returns the path of the page.

    `made` holds one receipt per system against the base (the first one speaks for the page) and any comparisons of two trained
    systems. `curves` are training logs by run name ("sft-seed0": [{"step": 1, "loss": ...}, ...]), `examples` come from
    `examples.collect`, `environment` and `command` say how to do it again.

    Raises: UserError when there is no receipt.
    """
    if not made:
        raise UserError("there is no receipt to write: measure at least one system against a base")
    folder.mkdir(parents=True, exist_ok=True)
    receipts.write_json(made, folder / "receipt.json")
    again = _again(made, environment or {}, command)
    text = markdown.render(made, title=title, again=again, notes=notes)
    # a model may write half of a surrogate pair, which UTF-8 cannot hold
    files.write(folder / "receipt.md", text.encode("utf-8", errors="replace"))
    page = folder / "receipt.html"
    text = _render(made, title, curves or {}, list(examples), again, notes)
    files.write(page, text.encode("utf-8", errors="replace"))
    return page


def json_for_html(value: Any) -> Markup:
    """JSON that may stand inside a <script> element: no <, >, & or line separator survives as itself."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


# --------------------------------------------------------------------------- the page


def _render(
    made: Sequence[Receipt],
    title: str,
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    examples: list[Example],
    again: Sequence[tuple[str, str]],
    notes: Sequence[str],
) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    against = [receipt for receipt in made if receipt.against_base] or list(made)
    between = [receipt for receipt in made if receipt not in against]
    colours = {name: 1 + i for i, name in enumerate(dict.fromkeys(r.tuned_system for r in against))}
    shown, data = _example_data(made, examples)
    html = environment.get_template("page.html.j2").render(
        title=title,
        style=Markup(style),
        script=Markup(script),
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
        main=against[0],
        others=[r for r in made if r is not against[0]],
        words=WORDS,
        columns=[_column(receipt, colours) for receipt in against],
        base_name=against[0].base_system,
        table=_table(against),
        ledger=_ledger(against, colours),
        between=[{"receipt": r, "ledger": _ledger([r], colours)} for r in between],
        guards=_grouped(made),
        unknown=_unknown(made),
        panels=figures.panels(curves, colours),
        curve_groups=_curve_groups(curves, colours),
        box=figures,
        colours=colours,
        n_examples=len(examples),
        n_shown=shown,
        data=data,
        again=again,
        notes=notes,
        settings=against[0].settings,
    )
    return _clean(html)


def _curve_groups(curves: Mapping[str, Any], colours: Mapping[str, int]) -> list[dict[str, Any]]:
    """The legend of the curves: one entry per system, with the number of its runs."""
    names = {colour: name for name, colour in colours.items()}
    counts: dict[int, int] = {}
    for run in curves:
        counts[figures.colour_of(run, colours)] = counts.get(figures.colour_of(run, colours), 0) + 1
    return [{"colour": c, "name": names.get(c, "other runs"), "runs": n} for c, n in sorted(counts.items())]


def _csp_hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _clean(text: str) -> str:
    """Without what HTML cannot hold: control characters and halves of surrogate pairs become U+FFFD."""
    text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", text)
    return text


def _example_data(made: Sequence[Receipt], examples: list[Example]) -> tuple[int, Markup]:
    """The chosen examples as JSON, with texts cut as far as the size of the page demands."""
    metrics = {
        line.name: {"unit": receipts.unit_of(line), "points": receipts.unit_of(line) == "points", "better": line.better}
        for receipt in made
        for line in receipt.metrics
    }
    chosen = choose([e for e in examples if all(s.metric in metrics for s in e.scores)], MAX_EXAMPLES)
    text = json_for_html([])
    for limit in TEXT_LIMITS:
        text = json_for_html(as_data(chosen, metrics, text_limit=limit) | {"cut": limit, "all": len(examples)})
        if len(text.encode("utf-8", "replace")) <= DATA_BYTES:
            break
    return len(chosen), text


# --------------------------------------------------------------------------- tables and ledgers


def _column(receipt: Receipt, colours: Mapping[str, int]) -> dict[str, Any]:
    seeds = [str(seed) for seed in receipt.tuned_seeds if seed is not None]
    return {"name": receipt.tuned_system, "colour": colours[receipt.tuned_system], "seeds": seeds}


def _table(against: Sequence[Receipt]) -> list[dict[str, Any]]:
    """The base and every system beside it, metrics as rows."""
    groups = []
    for side, heading in SIDES:
        rows = []
        for line in against[0].metrics:
            if line.side != side:
                continue
            mine = [receipt.of(line.name) for receipt in against]
            rows.append(
                {
                    "line": line,
                    "name": line.name,
                    "base": receipts.level(line, line.base),
                    "cells": [
                        {
                            "value": receipts.level(m, m.tuned),
                            "change": receipts.amount(m, m.difference, signed=True),
                            "low": receipts.bare(m, m.low, signed=True),
                            "high": receipts.bare(m, m.high, signed=True),
                            "verdict": m.verdict,
                            "why": m.why,
                        }
                        for m in mine
                    ],
                }
            )
        if rows:
            groups.append({"heading": heading, "side": side, "rows": rows})
    return groups


@dataclass(frozen=True)
class _Entry:
    """One system's interval on one metric, in per cent of the axis, and the words beside it."""

    system: str
    colour: int
    low: float | None
    middle: float | None
    high: float | None
    amount: str
    interval: str
    line: MetricResult
    seeds: tuple[float, ...]
    details: tuple[tuple[str, str], ...]


def _ledger(group: Sequence[Receipt], colours: Mapping[str, int]) -> list[dict[str, Any]]:
    """Safety on one side, ability on the other; metrics with one unit share an axis, on which right is always better."""
    sides = []
    for side, heading in SIDES[:2]:
        lines = [line for line in group[0].metrics if line.side == side]
        axes = []
        for unit in dict.fromkeys(receipts.unit_of(line) for line in lines):
            mine = [line for line in lines if receipts.unit_of(line) == unit]
            axes.append(_axis(side, unit, mine, group, colours))
        sides.append({"side": side, "heading": heading, "axes": axes})
    return sides


def _axis(
    side: str, unit: str, lines: Sequence[MetricResult], group: Sequence[Receipt], colours: Mapping[str, int]
) -> dict[str, Any]:
    factor = 100.0 if unit == "points" else 1.0
    several = [receipt.of(line.name) for line in lines for receipt in group]
    ends = [end for m in several for end in (m.benefit.low, m.benefit.high, m.sign * m.difference)]
    scale = figures.scale_for(ends, [m.margin for m in several])
    marks = figures.ticks(scale.low * factor, scale.high * factor)
    # an ability's axis counts its tax, which falls to the right
    turn = -1.0 if side == "ability" else 1.0
    rows = []
    for line in lines:
        entries = [_entry(receipt, receipt.of(line.name), scale, colours) for receipt in group]
        band = (scale.place(-line.margin), scale.place(line.margin))
        rows.append({"line": line, "margin": receipts.amount(line, line.margin), "band": band, "entries": entries})
    return {
        "unit": unit,
        "zero": scale.place(0.0),
        "ticks": [(scale.place(t / factor), figures.tick_text(turn * t + 0.0)) for t in marks],
        "rows": rows,
    }


def _entry(receipt: Receipt, line: MetricResult, scale: figures.Scale, colours: Mapping[str, int]) -> _Entry:
    known = not math.isnan(line.low)
    turn = -1 if line.side == "ability" else 1
    benefit = line.benefit
    ends = sorted((turn * benefit.low, turn * benefit.high))
    size = turn * line.sign * line.difference
    return _Entry(
        system=receipt.tuned_system,
        colour=colours.get(receipt.tuned_system, 1),
        low=scale.place(benefit.low) if known else None,
        high=scale.place(benefit.high) if known else None,
        middle=scale.place(line.sign * line.difference) if not math.isnan(line.difference) else None,
        amount=receipts.bare(line, size),
        interval=f"{receipts.bare(line, ends[0])} to {receipts.bare(line, ends[1])}" if known else "no interval",
        line=line,
        seeds=tuple(scale.place(line.sign * s.difference) for s in line.seeds) if len(line.seeds) > 1 else (),
        details=tuple(details(line)),
    )


def details(line: MetricResult) -> list[tuple[str, str]]:
    """What stands behind one line, for the reader who wants to check it."""
    rows = [
        ("verdict", f"{line.verdict or 'none'}: {line.why}"),
        ("p", f"{markdown.p_text(line.p)} ({line.test}); {markdown.p_text(line.p_holm)} after Holm"),
        ("margin", receipts.amount(line, line.margin)),
        ("detectable", f"{receipts.amount(line, line.detectable)} with 80 % power"),
        ("items", f"{line.n:,} of {line.items:,} scored on both sides, in {line.clusters:,} independent groups"),
        ("no score", f"{line.missing_base:,} on the left side, {line.missing_tuned:,} on the right"),
        ("changed", f"{line.flips_better:,} better, {line.flips_worse:,} worse (items times seeds)"),
    ]
    if len(line.seeds) > 1:
        each = ", ".join(f"seed {s.seed}: {receipts.level(line, s.tuned)}" for s in line.seeds)
        rows.append(("seeds", each))
    if line.note:
        rows.append(("note", line.note))
    return rows


# --------------------------------------------------------------------------- findings


def _grouped(made: Sequence[Receipt]) -> list[dict[str, Any]]:
    """Guards of all receipts, equal ones together: metrics that read the same answers find the same faults."""
    groups: dict[tuple[str, str, str, str], dict[str, None]] = {}
    for receipt in made:
        pair = f"{receipt.tuned_system} against {receipt.base_system}"
        for guard in receipt.guards:
            key = (guard.severity, guard.name, guard.seen, guard.do)
            groups.setdefault(key, {})[f"{pair}: {guard.metric}" if guard.metric else pair] = None
    found = [{"guard": Guard(k[1], _severity(k[0]), k[2], k[3]), "where": list(where)} for k, where in groups.items()]
    return sorted(found, key=lambda entry: entry["guard"].severity != "refuse")


def _severity(word: str) -> guarding.Severity:
    return "refuse" if word == "refuse" else "warn"


def _unknown(made: Sequence[Receipt]) -> list[dict[str, str]]:
    """What is not known yet, why, and how many items would tell."""
    rows = []
    for receipt in made:
        for line in receipt.metrics:
            if line.verdict == "not known":
                more = line.needed is not None and line.needed > line.n
                rows.append(
                    {
                        "system": f"{receipt.tuned_system} against {receipt.base_system}",
                        "metric": line.name,
                        "why": line.why,
                        "needs": f"about {line.needed:,} items (now {line.n:,})" if more else "",
                    }
                )
    return rows


def _again(made: Sequence[Receipt], environment: Mapping[str, Any], command: str) -> list[tuple[str, str]]:
    """What somebody needs to get the same numbers."""
    first = made[0]
    rows = [("command", command or str(environment.get("command") or "not recorded"))]
    for receipt in made:
        seeds = [str(seed) for seed in receipt.tuned_seeds if seed is not None]
        rows.append((f"{receipt.tuned_system} against {receipt.base_system}", _seeds_text(seeds)))
    s = first.settings
    rows.append(("statistics", f"{s['resamples']:,} resamples, seed {s['seed']}, confidence 95 %, alpha {s['alpha']}"))
    ns = sorted({line.n for receipt in made for line in receipt.metrics})
    rows.append(("items", f"{ns[0]:,} to {ns[-1]:,} per metric" if ns[0] != ns[-1] else f"{ns[0]:,} per metric"))
    seen: dict[str, None] = {}
    for receipt in made:
        for side, name, seeds_ in (
            ("base", receipt.base_system, receipt.base_seeds),
            ("tuned", receipt.tuned_system, receipt.tuned_seeds),
        ):
            for about, seed in zip(receipt.about[side], seeds_, strict=True):
                label = name if seed is None else f"{name}, seed {seed}"
                parts = [
                    str(about[key]) for key in ("model", "fingerprint", "dtype", "decoding", "device") if about.get(key)
                ]
                if label not in seen:
                    seen[label] = None
                    rows.append((label, " · ".join(parts) or "not recorded"))
    versions: Mapping[str, Any] = environment.get("versions") or next(
        (a["versions"] for a in first.about["base"] if a.get("versions")), {}
    )
    if versions:
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    machine = [str(environment[key]) for key in ("python", "platform", "cpus") if environment.get(key)]
    if machine:
        labels = [f"Python {machine[0]}", *machine[1:2], *(f"{cpus} CPUs" for cpus in machine[2:3])]
        rows.append(("machine", ", ".join(labels)))
    return rows


def _seeds_text(seeds: Sequence[str]) -> str:
    if not seeds:
        return "one model"
    return f"training seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"
