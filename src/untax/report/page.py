"""Writes receipts for people: receipt.html (one file that opens from disk), receipt.md and receipt.json.

The page loads nothing: styles, script, pictures and data are inside, and its Content-Security-Policy allows exactly that one
style and that one script, by their hashes. Everything that comes from data or names goes through autoescaping; the examples
are packed, and the script only ever sets them as text.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from untax import files
from untax import receipt as receipts
from untax.diagnostics.scored import Scored
from untax.guards import ENOUGH_ITEMS
from untax.receipt import Receipt
from untax.report import diagnosis, figures, ledger, markdown
from untax.report.examples import Example, as_data, choose
from untax.report.html import TEMPLATES, clean, csp_hash
from untax.types import UserError

__all__ = ["packed", "write"]

PAGE_BYTES = 2_950_000  # the page stays below 3 MB
LEAST_DATA = 600_000  # what the examples keep of it, however many lines there are
#: how many examples, and how long their texts: the first that fits is taken
CUTS = (
    (20_000, 2_000), (20_000, 1_000), (20_000, 600), (10_000, 600), (10_000, 400), (5_000, 600), (5_000, 400),
    (5_000, 250), (5_000, 150), (5_000, 80), (2_000, 150), (2_000, 80), (500, 80), (100, 80), (0, 80),
)  # fmt: skip
#: which lines explain themselves: the first choice whose page leaves room for examples is taken
DETAILS = (
    frozenset({"paid", "not known", "held", "gained"}),
    frozenset({"paid", "not known"}),
    frozenset({"paid"}),
    frozenset[str](),
)
WIDE = 4  # with more systems than this, the table beside the base leaves intervals to the ledger
WORDS = {"gained": "▲", "held": "●", "paid": "▼", "not known": "?"}


def write(
    made: Sequence[Receipt],
    folder: Path,
    *,
    title: str,
    curves: Mapping[str, Sequence[Mapping[str, float]]] | None = None,
    examples: Iterable[Example] = (),
    forgotten: Mapping[str, Scored] | None = None,
    environment: Mapping[str, Any] | None = None,
    command: str = "",
    notes: Sequence[str] = (),
) -> Path:
    """Write receipt.json, receipt.md and receipt.html into `folder`; returns the path of the page.

    `made` holds one receipt per system against the base (the first one speaks for the page) and any comparisons of two trained
    systems. `forgotten` says what systems forgot, by their names (diagnostics/scored.py). `curves` are training logs by run name ("sft-seed0": [{"step": 1, "loss": ...}, ...]), `examples` come from
    `examples.collect`, `environment` and `command` say how to do it again.

    Raises: UserError when there is no receipt.
    """
    if not made:
        raise UserError("there is no receipt to write: measure at least one system against a base")
    folder.mkdir(parents=True, exist_ok=True)
    receipts.write_json(made, folder / "receipt.json")
    again = markdown.again(made, environment or {}, command)
    text = markdown.render(made, title=title, again=again, notes=notes)
    # a model may write half of a surrogate pair, which UTF-8 cannot hold
    files.write(folder / "receipt.md", text.encode("utf-8", errors="replace"))
    page = folder / "receipt.html"
    text = _render(made, title, curves or {}, list(examples), forgotten or {}, again, notes)
    files.write(page, text.encode("utf-8", errors="replace"))
    return page


def packed(value: Any) -> str:
    """JSON as the page's script unpacks it: compressed, as base64. Nobody reads an insult who only looks at the file."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode("utf-8", "replace"), 6)).decode("ascii")


# --------------------------------------------------------------------------- the page


def _render(
    made: Sequence[Receipt],
    title: str,
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    examples: list[Example],
    forgotten: Mapping[str, Scored],
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
    style = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "diagnosis.css"))
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    template = environment.get_template("page.html.j2")
    fixed = _values(made, title, curves, again, notes) | {
        "style": Markup(style),
        "script": Markup(script),
        "style_hash": csp_hash(style),
        "script_hash": csp_hash(script),
        "n_examples": len(examples),
        "forgotten": _forgotten(forgotten),
    }
    html, room = "", 0
    for explained in DETAILS:
        lines = _lines(made, fixed["colours"], explained)
        html = template.render(**fixed, **lines, n_shown=0, cut=0, data="")
        room = PAGE_BYTES - len(html.encode("utf-8", "replace"))
        if room >= LEAST_DATA:
            break
    shown, cut, data = _example_data(made, examples, room)
    return clean(template.render(**fixed, **lines, n_shown=shown, cut=cut, data=data))


def _forgotten(found: Mapping[str, Scored]) -> list[tuple[str, Markup]]:
    """A section for each system of which something can be said; the first one stands open."""
    known = {name: one for name, one in found.items() if one.overall or one.selective or one.transitions}
    return [
        (name, diagnosis.section(one, name=name if len(known) > 1 else "", mark=f"-{number}" if number else ""))
        for number, (name, one) in enumerate(known.items())
    ]


def _values(
    made: Sequence[Receipt],
    title: str,
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    again: Sequence[tuple[str, str]],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Everything that the template prints, but for the lines and the examples."""
    against = _against(made)
    colours = {name: 1 + i for i, name in enumerate(dict.fromkeys(r.tuned_system for r in against))}
    return {
        "title": title,
        "main": against[0],
        "others": [receipt for receipt in made if receipt is not against[0]],
        "words": WORDS,
        "columns": [_column(receipt, colours) for receipt in against],
        "wide": len(against) > WIDE,
        "base_name": against[0].base_system,
        "main_tally": ledger.tally(against[0]),
        "tallies": [ledger.tally(receipt) for receipt in made if receipt is not against[0]],
        "glance": ledger.glance(against, colours),
        "matrix": ledger.matrix(against),
        "guards": ledger.findings(made),
        "unknown": ledger.unknown(made),
        "panels": figures.panels(curves, colours),
        "curve_groups": _curve_groups(curves, colours),
        "box": figures,
        "colours": colours,
        "enough": ENOUGH_ITEMS,
        "few": sorted({m.name for r in made for m in r.metrics if m.verdict is not None and m.n < ENOUGH_ITEMS}),
        "again": again,
        "notes": notes,
        "settings": against[0].settings,
        "across": against[0].settings.get("across") or [],
        "sign_map": receipts.SIGN_MAP,
    }


def _against(made: Sequence[Receipt]) -> list[Receipt]:
    """The receipts against an untrained base; when there is none, those of the first comparison's other side."""
    found = [receipt for receipt in made if receipt.against_base]
    return found or [receipt for receipt in made if receipt.base_system == made[0].base_system]


def _lines(made: Sequence[Receipt], colours: Mapping[str, int], explained: frozenset[str]) -> dict[str, Any]:
    against = _against(made)
    between = [receipt for receipt in made if all(receipt is not other for other in against)]
    return {
        "axes": ledger.axes(against, colours, details_of=explained),
        "between": ledger.axes(between, colours, details_of=explained) if between else [],
        "explained": len(explained),
    }


def _curve_groups(curves: Mapping[str, Any], colours: Mapping[str, int]) -> list[dict[str, Any]]:
    """The legend of the curves: one entry per system, with the number of its runs."""
    names = {colour: name for name, colour in colours.items()}
    counts: dict[int, int] = {}
    for run in curves:
        counts[figures.colour_of(run, colours)] = counts.get(figures.colour_of(run, colours), 0) + 1
    return [{"colour": c, "name": names.get(c, "other runs"), "runs": n} for c, n in sorted(counts.items())]


def _example_data(made: Sequence[Receipt], examples: list[Example], room: int) -> tuple[int, int, str]:
    """How many examples fit into `room` bytes, where their texts are cut, and the packed examples themselves."""
    metrics = {
        line.name: {"unit": receipts.unit_of(line), "points": receipts.unit_of(line) == "points", "better": line.better}
        for receipt in made
        for line in receipt.metrics
    }
    known = [e for e in examples if all(s.metric in metrics for s in e.scores)]
    ordered, chosen_for = known, -1
    for most, cut in CUTS:
        if most != chosen_for:
            ordered, chosen_for = choose(known, most), most
        text = packed(as_data(ordered, metrics, text_limit=cut) | {"cut": cut, "all": len(examples)})
        if len(text) <= room:
            return len(ordered), cut, text
    return 0, 0, packed({})


def _column(receipt: Receipt, colours: Mapping[str, int]) -> dict[str, Any]:
    seeds = [str(seed) for seed in receipt.tuned_seeds if seed is not None]
    return {"name": receipt.tuned_system, "colour": colours[receipt.tuned_system], "seeds": seeds}
