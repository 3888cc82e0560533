"""Writes what a training has done, for people: diagnosis.html, .md and .json; and the shell of all pages of `untax diagnose`.

The pages load nothing and run no script: styles and pictures are inside, and their Content-Security-Policy allows exactly that one
style, by its hash. Everything that comes from data or names goes through autoescaping. The same figures give the same bytes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from untax import files
from untax.diagnostics.common import Estimate, Gaps, Overall, Selective, Transitions
from untax.diagnostics.flips import Flip, Flips
from untax.diagnostics.scored import Scored
from untax.diagnostics.shifts import Point, TokenShift
from untax.predictions import signed
from untax.report import charts
from untax.report.html import TEMPLATES, clean, csp_hash
from untax.report.markdown import escape, p_text, table

if TYPE_CHECKING:
    from untax.diagnostics.layers import Moved

__all__ = [
    "Diagnosis",
    "Part",
    "Table",
    "as_markdown",
    "forgetting_figures",
    "percent",
    "place_of",
    "rendered",
    "rows_and_columns",
    "section",
    "table_of",
    "verdict",
    "write",
    "write_page",
]

SCHEMA = "untax.diagnosis/1"
STYLES = ("page.css", "diagnosis.css")
#: columns of a heat map, in the order of a layer's forward pass; a kind of another name stands behind them
KINDS = ("embedding", "q", "k", "v", "qkv", "o", "attention", "mlp", "norm", "head", "other")
OUTSIDE = "no layer"
#: items of one line that are shown, letters of a prompt or an answer, and tokens in the table
SHOWN, LETTERS, TOKENS = 12, 400, 15
#: a place in the answers that fewer of them reach says nothing
LEAST_ANSWERS = 5


@dataclass(frozen=True)
class Table:
    """A table as page, Markdown and terminal print it."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...] = (0,)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The columns that are set right; those of `words` are not."""
        return tuple(place for place in range(len(self.heads)) if place not in self.words)


@dataclass(frozen=True)
class Part:
    """A section of a page: where it is jumped to, and its markup."""

    id: str
    title: str
    body: Markup


@dataclass(frozen=True)
class Diagnosis:
    """Everything that the page shows of one tuned model beside its base.

    `scored` holds forgetting and answers lost and won; `per` says what the shrink of its selectivity is counted by; `sentences` is the
    second measure of pairs, by whole sentences. `shift` is None where nothing was written, `moved` empty where weights cannot be compared.
    """

    base: str
    tuned: str
    scored: Scored
    per: str = "pair"
    sentences: Selective | None = None
    flips: tuple[Flips, ...] = ()
    shift: TokenShift | None = None
    moved: tuple[Moved, ...] = ()
    notes: tuple[str, ...] = ()


HOW_AFTER = (
    "Overall forgetting is the mean over documents of the mean KL(before ‖ after) of their tokens, over the whole vocabulary; the formulas are our "
    "own, stand in docs/diagnostics.md, and are not those of arXiv 2509.21456, whose abstract only was at hand.",
    "Intervals are 95 %, by bootstrap over documents, pairs (in their clusters), questions or answers. A model that moved far may have lost nothing, "
    "and one that moved little may have lost what you need: read the answers lost beside it, and the receipt of `untax measure`.",
    "Lost and won are counted on the same questions. Adjusted shares take away what redrawn guesses alone would move (nested form: the tuned model "
    "was trained from the base).",
)


# --------------------------------------------------------------------------- after a training


def write(made: Diagnosis, folder: Path, *, title: str, again: Sequence[tuple[str, str]] = ()) -> Path:
    """Write diagnosis.html, .md and .json into `folder`; returns the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / "diagnosis.json", to_dict(made))
    files.write(folder / "diagnosis.md", _markdown(made, title, again).encode("utf-8", errors="replace"))
    parts = [
        Part(
            "forgetting", "What was forgotten", section(made.scored, per=made.per, sentences=made.sentences, told=False)
        )
    ]
    if any(line.lost or line.won for line in made.flips):
        parts.append(
            Part(
                "items",
                "Items lost and won",
                rendered("after.html.j2", part="items", lines=[_items(f) for f in made.flips]),
            )
        )
    if made.shift is not None and made.shift.positions:
        parts.append(Part("shift", "Which words", rendered("after.html.j2", part="shift", **_shift(made.shift))))
    if made.moved:
        parts.append(
            Part(
                "where",
                "Which weights",
                rendered("after.html.j2", part="where", heat=_heat(made.moved), kinds=_kinds(made.moved)),
            )
        )
    page = folder / "diagnosis.html"
    write_page(page, title, verdict(made), parts, reading=(), notes=made.notes, again=again, how=HOW_AFTER)
    return page


def to_dict(made: Diagnosis) -> dict[str, Any]:
    """A diagnosis as JSON holds it: NaN is None, numbers have ten figures."""
    whole: dict[str, Any] = plain({"schema": SCHEMA, "verdict": verdict(made), **asdict(made)})
    return whole


def plain(value: Any) -> Any:
    """Values as JSON holds them."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.10g}") if math.isfinite(value) else None
    return value if isinstance(value, bool | int | str) or value is None else str(value)


def section(
    found: Scored,
    *,
    per: str = "pair",
    sentences: Selective | None = None,
    told: bool = True,
    name: str = "",
    mark: str = "",
) -> Markup:
    """The section on forgetting by itself: a part of a diagnosis, and of any page that has the styles of diagnosis.css.

    `told`: begin with what it comes to; a page whose verdict says it already leaves that out. Where a page has several, `name` says of which
    system, and `mark` keeps their ids apart.
    """
    figures = forgetting_figures(found, per=per, sentences=sentences)
    words = {"sentence": figures["sentence"] if told else "", "name": name, "mark": mark}
    return rendered("forgetting.html.j2", **figures | words)


def forgetting_figures(found: Scored, *, per: str = "pair", sentences: Selective | None = None) -> dict[str, Any]:
    """Everything that forgetting.html.j2 draws and prints."""
    overall = found.overall
    known = overall is not None and math.isfinite(overall.nll_change.value)
    return {
        "sentence": _forgetting_sentence(found, sentences),
        "moved": None if overall is None else charts.bars(_by_domain(overall, rise=False)),
        "moved_note": "" if overall is None else f"{overall.note[:1].upper()}{overall.note[1:]}",
        "reads": charts.bars(_by_domain(overall, rise=True)) if overall is not None and known else None,
        "gaps": None if found.selective is None else _gaps(found, per, sentences),
        "transitions": charts.bars(_lost_and_won(found.transitions)) if found.transitions else None,
        "answers": _answers(found.transitions),
        "remarks": list(found.notes),
    }


def verdict(made: Diagnosis) -> str:
    """How far the model moved, what it lost for sure, what it was meant to lose, and where it moved most."""
    told = [_forgetting_sentence(made.scored, made.sentences)]
    if made.shift is not None and made.shift.positions:
        told.append(
            f"Of the tokens that it writes {percent(made.shift.shifted.value)} are none of the base’s first three choices, "
            f"{percent(made.shift.unshifted.value)} are its first."
        )
    top = next(iter(_most_moved(made.moved)), None)
    if top is not None:
        (row, kind), relative, share = top
        where = kind if row == OUTSIDE else f"the {kind} of {row}"
        told.append(
            f"Its weights moved most in {where} (by {100 * relative:.2g} % of their size; {percent(share)} of all squared movement)."
        )
    return " ".join(told)


def _forgetting_sentence(found: Scored, sentences: Selective | None = None) -> str:
    told = []
    overall = found.overall
    if overall is not None and math.isfinite(overall.kl.value):
        domains = {
            name: one.kl.value for name, one in overall.by_domain.items() if name and math.isfinite(one.kl.value)
        }
        worst = max(domains, key=lambda name: domains[name], default="")
        most = f", most on {worst} ({number(domains[worst])})" if len(domains) > 1 else ""
        reads = _reads(overall.nll_change)
        told.append(f"On ordinary text the model moved by {with_span(overall.kl)} nats per token{most}{reads}.")
    lost = [
        f"{name} ({percent(one.forgotten_adjusted.value)} beyond guessing)"
        if one.guessed > 0
        else f"{name} ({percent(one.forgotten.value)})"
        for name, one in found.transitions.items()
        if one.p < 0.05 and one.forgotten.value > one.learned.value
    ]
    won = [name for name, one in found.transitions.items() if one.p < 0.05 and one.learned.value > one.forgotten.value]
    if found.transitions:
        told.append(
            f"Right answers were lost, for sure, in {_listed(lost)}."
            if lost
            else "No line of questions surely lost more right answers than it won."
        )
    if won:
        told.append(f"More were won than lost in {_listed(won)}.")
    if found.selective is not None:
        told.append(_selective_sentence(found.selective, sentences))
    return (
        " ".join(told)
        or "The suite has no line that tells of forgetting: no ordinary text, no pairs, no questions that are right or wrong."
    )


def _reads(change: Estimate) -> str:
    if not math.isfinite(change.low):
        return ""
    if change.low > 0:
        return f", and reads it worse (its loss rose by {with_span(change)})"
    return (
        f", and reads it better (its loss fell by {number(-change.value)})"
        if change.high < 0
        else ", and reads it neither surely worse nor better"
    )


def _selective_sentence(found: Selective, sentences: Selective | None) -> str:
    told = f"Preferences between the sentences of a pair {_shrunk(found)}"
    if sentences is not None:
        told = f"{told} in the words that both share, and {_shrunk(sentences)} in whole sentences"
    if found.control is None or not math.isfinite(found.net.value):
        why = (
            "there are no control pairs" if found.control is None else "with the control pairs it could not be compared"
        )
        return f"{told}; {why}, so nobody knows whether the model became fairer or only flatter."
    return f"{told}."


def _shrunk(found: Selective) -> str:
    value = found.attribute.relative_shrink.value
    if not math.isfinite(value):
        return "could not be compared"
    told = f"{'shrank' if value >= 0 else 'grew'} by {percent(abs(value))}"
    if found.control is None or not math.isfinite(found.net.value):
        return told
    ends = ", ".join(signed(100 * end, 0) for end in (found.net.low, found.net.high))
    return f"{told} (net of control pairs {signed(100 * found.net.value, 0)} points [{ends}])"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def number(value: float) -> str:
    """A figure in nats, short and with a true minus."""
    if not math.isfinite(value):
        return "–"
    text = f"{abs(value):.3g}" if abs(value) >= 1e-3 or not value else f"{abs(value):.1e}"
    return f"−{text}" if value < 0 else text


def with_span(one: Estimate, *, factor: float = 1.0, digits: int | None = None) -> str:
    """ "0.12 (0.1 to 0.15)"; a dash where it is not known, no interval where there is none."""
    if not math.isfinite(one.value):
        return "–"

    def shown(value: float) -> str:
        if digits is None:
            return number(factor * value)
        text = f"{abs(factor * value):.{digits}f}"
        return f"−{text}" if value < 0 and text.strip("0.") else text

    return (
        shown(one.value)
        if not math.isfinite(one.low)
        else f"{shown(one.value)} ({shown(one.low)} to {shown(one.high)})"
    )


def _by_domain(overall: Overall, *, rise: bool) -> list[tuple[str, float, float, float, str]]:
    every = [("all", overall.nll_change if rise else overall.kl)]
    if len(overall.by_domain) > 1:
        every += [(name or "other", one.nll_change if rise else one.kl) for name, one in overall.by_domain.items()]
    return [(name, one.value, one.low, one.high, with_span(one)) for name, one in every]


def _gaps(found: Scored, per: str, sentences: Selective | None) -> Table:
    """The attribute's pairs beside the control pairs, and net, what shrank beyond them; whole sentences behind them where they were read."""
    assert found.selective is not None
    measures = [found.selective, *([] if sentences is None else [sentences])]
    sides = [side for one in measures for side in (one.attribute, one.control)]

    def row(name: str, pick: Callable[[Gaps], Estimate], factor: float = 1.0, digits: int = 2) -> tuple[str, ...]:
        return (name, *("–" if side is None else with_span(pick(side), factor=factor, digits=digits) for side in sides))

    def beside(name: str, values: Sequence[str]) -> tuple[str, ...]:
        return (name, *(text for value in values for text in (value, "")))

    rows = [
        row("gap before (nats)", lambda g: g.before),
        row("gap after", lambda g: g.after),
        row("drop: before − after", lambda g: g.drop),
        row("shrink: |before| − |after|", lambda g: g.shrink),
        row("relative shrink (%)", lambda g: g.relative_shrink, 100, 0),
        row("turned round (% of pairs)", lambda g: g.overshoot, 100, 0),
        row("first preferred before (%)", lambda g: g.first_before, 100, 0),
        row("first preferred after (%)", lambda g: g.first_after, 100, 0),
        beside("net (points)", [with_span(one.net, factor=100, digits=0) for one in measures]),
    ]
    if found.selectivity is not None:
        rows.append(
            beside(
                f"selectivity: shrink per {per} over overall forgetting",
                [with_span(found.selectivity), ""][: len(measures)],
            )
        )
    rows.append(("pairs", *("–" if side is None else _counted(side) for side in sides)))
    heads = ("attribute", "controls") if sentences is None else (
        "attribute: words that both share", "controls", "attribute: whole sentences", "controls")  # fmt: skip
    return Table(("", *heads), tuple(rows))


def _counted(gaps: Gaps) -> str:
    told = [f"{gaps.pairs}"]
    told += [f"{gaps.excluded} without a signal"] * bool(gaps.excluded) + [f"{gaps.missing} without a score"] * bool(
        gaps.missing
    )
    return ", ".join(told)


def _lost_and_won(found: Mapping[str, Transitions]) -> list[tuple[str, float, float, float, str]]:
    rows = []
    for name, one in found.items():
        lost, won = one.forgotten, one.learned
        rows.append(
            (
                f"{name}: lost",
                -100 * lost.value,
                -100 * lost.high,
                -100 * lost.low,
                with_span(lost, factor=100, digits=1) + " %",
            )
        )
        rows.append(
            (
                f"{name}: won",
                100 * won.value,
                100 * won.low,
                100 * won.high,
                with_span(won, factor=100, digits=1) + " %",
            )
        )
    return rows


def _answers(found: Mapping[str, Transitions]) -> Table:
    heads = (
        "questions",
        "n",
        "right before",
        "right after",
        "lost",
        "won",
        "by guessing",
        "lost beyond it",
        "was known, is not",
        "p",
    )
    return Table(
        heads,
        tuple(
            (
                name, f"{one.n:,}", percent(one.right_before.value), percent(one.right_after.value), str(one.lost), str(one.won),
                f"{100 * one.guessed:.1f} %", with_span(one.forgotten_adjusted, factor=100, digits=1) + " %",
                with_span(one.forgotten_known, factor=100, digits=1) + " %", p_text(one.p),
            )
            for name, one in found.items()
        ),
    )  # fmt: skip


def _items(found: Flips) -> dict[str, Any]:
    def cut(flip: Flip) -> dict[str, str]:
        return {
            key: _cut(text) for key, text in (("prompt", flip.prompt), ("before", flip.before), ("after", flip.after))
        }

    return {
        "name": found.metric, "n": found.items, "lost_n": len(found.lost), "won_n": len(found.won),
        "lost": [cut(flip) for flip in found.lost[:SHOWN]], "won": [cut(flip) for flip in found.won[:SHOWN]],
        "lost_left": max(0, len(found.lost) - SHOWN), "won_left": max(0, len(found.won) - SHOWN),
    }  # fmt: skip


def _cut(text: str) -> str:
    told = text.strip() or "(nothing)"
    return told if len(told) <= LETTERS else told[: LETTERS - 1] + "…"


def _shift(found: TokenShift) -> dict[str, Any]:
    kinds = (("unshifted", found.unshifted), ("marginal", found.marginal), ("shifted", found.shifted))
    rows = [
        (name, 100 * one.value, 100 * one.low, 100 * one.high, f"{with_span(one, factor=100, digits=1)} %")
        for name, one in kinds
    ]

    def line(points: Sequence[Point], pick: Any, factor: float) -> list[tuple[float, float]]:
        return [(point.at, factor * pick(point).value) for point in points if pick(point).n >= LEAST_ANSWERS]

    first = {
        "shifted": line(found.by_position, lambda p: p.shifted, 100.0),
        "marginal": line(found.by_position, lambda p: p.marginal, 100.0),
    }
    tokens = Table(
        ("token", "written", "of them shifted", "KL in all (nats)", "share of all KL"),
        tuple(
            (_visible(t.text), str(t.count), str(t.shifted), number(t.kl), percent(t.share))
            for t in found.tokens[:TOKENS]
        ),
    )
    named = [
        ("function words", found.function_words),
        *([("words of the attribute", found.words)] if found.words is not None else []),
    ]
    where = Table(
        ("the movement on", "share of all KL", "share of positions", "the one over the other"),
        tuple(
            (
                name,
                f"{with_span(c.kl_share, factor=100, digits=0)} %",
                f"{with_span(c.position_share, factor=100, digits=0)} %",
                with_span(c.ratio),
            )
            for name, c in named
        ),
    )
    return {
        "shift": found, "classes": charts.bars(rows, least=0.0, most=100.0), "tokens": tokens, "concentration": where,
        "by_position": charts.curves(first, x_name="position in the answer", y_name="share of tokens (%)"),
        "by_share": charts.curves(
            {"KL": line(found.by_share, lambda p: p.kl, 1.0)}, x_name="share of the answer", y_name="KL(tuned ‖ base), nats per token"
        ),
    }  # fmt: skip


def _visible(text: str) -> str:
    """A token with what nobody could see of it made visible."""
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") or "(nothing)"


def _grouped(moved: Sequence[Moved]) -> dict[tuple[str, str], tuple[float, float]]:
    """Relative movement and share of all squared movement, by layer and kind."""
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for one in moved:
        if math.isfinite(one.moved) and math.isfinite(one.norm):
            at = sums[place_of(one.layer, one.kind)]
            at[0], at[1], at[2] = (
                at[0] + one.moved**2,
                at[1] + one.norm**2,
                at[2] + (one.share if math.isfinite(one.share) else 0.0),
            )
    return {place: (math.sqrt(a / b) if b else math.nan, share) for place, (a, b, share) in sums.items()}


def _most_moved(moved: Sequence[Moved]) -> list[tuple[tuple[str, str], float, float]]:
    found = [
        (place, relative, share)
        for place, (relative, share) in _grouped(moved).items()
        if math.isfinite(relative) and relative > 0
    ]
    return sorted(found, key=lambda one: -one[1])


def _heat(moved: Sequence[Moved]) -> charts.HeatMap:
    found = _grouped(moved)
    rows, columns = rows_and_columns(list(found))
    values = {place: 100 * relative for place, (relative, _) in found.items()}
    return charts.heat_map(
        values, rows=rows, columns=columns, texts={place: f"{value:.2g}" for place, value in values.items()},
        titles={
            place: f"{place[0]}, {place[1]}: moved by {values[place]:.3g} % of its size, {percent(share)} of all squared movement"
            for place, (_, share) in found.items()
        },
    )  # fmt: skip


def _kinds(moved: Sequence[Moved]) -> Table:
    """By kind of weight: how far, which share of it all, and in how many directions (means weighted by squared movement)."""
    kinds: dict[str, list[Moved]] = defaultdict(list)
    for one in moved:
        if math.isfinite(one.moved) and math.isfinite(one.norm):
            kinds[one.kind].append(one)
    rows = []
    for kind, many in kinds.items():
        size = math.fsum(one.norm**2 for one in many)
        ranked = [one for one in many if math.isfinite(one.effective_rank)]
        weight = math.fsum(one.moved**2 for one in ranked)
        ranks = [math.fsum(one.moved**2 * pick for one, pick in pairs) / weight if weight else math.nan for pairs in (
            [(one, one.effective_rank) for one in ranked], [(one, one.stable_rank) for one in ranked])]  # fmt: skip
        relative = math.sqrt(math.fsum(one.moved**2 for one in many) / size) if size else math.nan
        share = math.fsum(one.share for one in many if math.isfinite(one.share))
        rows.append((kind, f"{100 * relative:.2g} %" if math.isfinite(relative) else "–", percent(share), *(f"{r:.1f}" if math.isfinite(r) else "–" for r in ranks), str(len(many))))  # fmt: skip
    return Table(
        ("weights", "moved by, of their size", "share of squared movement", "effective rank", "stable rank", "tensors"),
        tuple(rows),
    )


def table_of(made: Diagnosis) -> str:
    """For a terminal: what was forgotten, by kind of text and by line of questions."""
    lines = []
    if made.scored.overall is not None:
        lines += [
            f"moved on {name}: {text} nats per token"
            for name, _, _, _, text in _by_domain(made.scored.overall, rise=False)
        ]
    for name, one in made.scored.transitions.items():
        lines.append(
            f"{name}: {one.lost} lost, {one.won} won of {one.n} ({percent(one.right_before.value)} → {percent(one.right_after.value)}), p {p_text(one.p)}"
        )
    return "\n".join(lines)


def _markdown(made: Diagnosis, title: str, again: Sequence[tuple[str, str]]) -> str:
    parts = [f"# {escape(title)}", "", f"**{escape(verdict(made))}**", ""]
    parts += [f"> {escape(note)}" for note in (*made.notes, *made.scored.notes)] + [""]
    scored = made.scored
    if scored.overall is not None:
        both = [_by_domain(scored.overall, rise=rise) for rise in (False, True)]
        rows = tuple((kl[0], kl[4], nll[4]) for kl, nll in zip(*both, strict=True))
        parts += [
            "## On ordinary text",
            "",
            *as_markdown(Table(("text", "overall forgetting (nats per token)", "rise of the loss"), rows)),
            "",
        ]
    if scored.selective is not None:
        parts += ["## Pairs", "", *as_markdown(_gaps(scored, made.per, made.sentences)), ""]
    if scored.transitions:
        parts += ["## Right answers lost and won", "", *as_markdown(_answers(scored.transitions)), ""]
    if made.shift is not None and made.shift.positions:
        shown = _shift(made.shift)
        kinds = Table(("tokens", "share"), tuple((row.name, row.text) for row in shown["classes"].rows))
        parts += [
            "## Which words it writes otherwise",
            "",
            *as_markdown(kinds),
            "",
            *as_markdown(shown["tokens"]),
            "",
            *as_markdown(shown["concentration"]),
            "",
        ]
    if made.moved:
        parts += ["## Which weights moved", "", *as_markdown(_kinds(made.moved)), ""]
    parts += ["## Do it again", "", *(f"- {escape(name)}: {escape(text)}" for name, text in again), ""]
    return "\n".join([*parts, *(escape(text) for text in HOW_AFTER), ""])


# --------------------------------------------------------------------------- pages


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def rendered(template: str, **values: Any) -> Markup:
    """A part of a page; what it prints is escaped already."""
    return Markup(_environment().get_template(template).render(**values).strip())


def write_page(
    path: Path,
    title: str,
    sentence: str,
    parts: Sequence[Part],
    *,
    reading: Sequence[str],
    notes: Sequence[str],
    again: Sequence[tuple[str, str]],
    how: Sequence[str],
) -> None:
    style = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in STYLES)
    shown = _environment().get_template("diagnosis.html.j2").render(
        title=title, sentence=sentence, parts=parts, reading=reading, notes=notes, again=again, how=how, style=Markup(style),
        style_hash=csp_hash(style),
    )  # fmt: skip
    files.write(path, clean(shown).encode("utf-8", errors="replace"))


def place_of(layer: int | None, kind: str) -> tuple[str, str]:
    """Where a group of weights stands in a heat map: its row and its column."""
    return (OUTSIDE if layer is None else f"layer {layer}", kind)


def rows_and_columns(places: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """The rows of a heat map by number, what is in no layer last, and its columns in the order of KINDS."""
    rows = sorted(
        {row for row, _ in places}, key=lambda row: (row == OUTSIDE, 0 if row == OUTSIDE else int(row.split()[-1]))
    )
    known = {kind for _, kind in places}
    return rows, [kind for kind in KINDS if kind in known] + sorted(known - set(KINDS))


def percent(share: float) -> str:
    """0.314 is "31 %"; what is not known is a dash."""
    return f"{100 * share:.0f} %" if math.isfinite(share) else "–"


def as_markdown(made: Table) -> list[str]:
    return table(made.heads, made.rows, right_from=1)
