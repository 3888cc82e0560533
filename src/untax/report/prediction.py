"""Writes what a training will do, for people: before-training.html, .md and .json, and the text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from untax import files, predictions
from untax.predictions import PREDICTORS, Prediction, nats, signed
from untax.report import charts
from untax.report.diagnosis import Part, Table, as_markdown, percent, place_of, rendered, rows_and_columns, write_page
from untax.report.markdown import escape

__all__ = ["correlation_table", "prediction_table", "write_prediction"]


def write_prediction(
    made: Prediction,
    folder: Path,
    *,
    title: str,
    measured: Mapping[str, Any] | None = None,
    again: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Write before-training.html, .md and .json into `folder`; returns the path of the page.

    `measured` are the correlations of `predictions.correlations`, or None where none were measured; `again` says how to do it again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told = made.as_dict() | {
        "verdict": predictions.verdict(made),
        "reading": predictions.reading(made),
        "measured": measured,
    }
    files.write_json(folder / "before-training.json", told)
    text = _prediction_markdown(made, title, measured, again, notes)
    files.write(folder / "before-training.md", text.encode("utf-8", errors="replace"))
    cosines, rises, unit = _maps(made)
    shown: dict[str, Any] = {
        "cosines": cosines, "parts_of_rise": rises, "unit": unit, "steps": _steps(made), "sets": _sets(made), "shares": _shares(made),
        "lengths": _lengths(made), "measured": measured, "predictors": _predictors(made, measured),
        "correlations": _correlation_bars(measured) if measured else None,
    }  # fmt: skip
    parts = [
        Part(name, heading, rendered("prediction.html.j2", part=name, **shown))
        for name, heading in (
            ("where", "Where they pull"), ("steps", "Steps"), ("data", "Repetition"), ("foretold", "How far to trust this"),
        )
    ]  # fmt: skip
    page = folder / "before-training.html"
    sentence, reading = predictions.verdict(made), predictions.reading(made)
    write_page(page, title, sentence, parts, reading=reading, notes=notes, again=again, how=HOW_BEFORE)
    return page


HOW_BEFORE = (
    "Nothing was trained: the gradients of the safety loss and of the reference loss were taken at the model as it is, without dropout, over a "
    "seeded sample of rows of each. A loss is the mean over the tokens of the targets; several sets of references count alike.",
    "A cosine of 1 means that a step for safety serves the references too, −1 that it undoes them, 0 that the two have nothing to do with each other. "
    "In a large model small cosines are the rule; what counts is whether they keep their sign from batch to batch, and what the step does to the loss.",
    "First-order figures assume that gradients stay as they are. They do not: a virtual step also meets the curvature, and so does training.",
)


def _maps(made: Prediction) -> tuple[charts.HeatMap, charts.HeatMap, str]:
    """Cosines, and parts of the first-order rise in a unit in which they can be read."""
    named = {place_of(m.layer, m.kind): m for m in made.modules}
    rows, columns = rows_and_columns(list(named))
    shares = {place: (m.sgd if made.optimizer == "sgd" else m.adam) for place, m in named.items()}
    largest = max((abs(value) for value in shares.values()), default=0.0)
    power = math.floor(math.log10(largest)) if largest > 0 else 0
    scaled = {place: value / 10.0**power for place, value in shares.items()}
    cosines = charts.heat_map(
        {place: m.cosine for place, m in named.items()}, rows=rows, columns=columns, full=0.5,
        texts={place: signed(m.cosine) for place, m in named.items()},
        titles={place: f"{m.name}: cosine {signed(m.cosine)}, {m.parameters:,} weights" for place, m in named.items()},
    )  # fmt: skip
    rises = charts.heat_map(
        scaled, rows=rows, columns=columns, texts={place: signed(value, 1) for place, value in scaled.items()},
        titles={place: f"{m.name}: {nats(shares[place])} nats per token" for place, m in named.items()},
    )  # fmt: skip
    return cosines, rises, f"10{_superscript(power)} nats per token" if power else "nats per token"


def _superscript(number: int) -> str:
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _steps(made: Prediction) -> Table:
    batches = made.adam_batches
    span = f"{nats(batches.low)} to {nats(batches.high)}" if batches.n > 1 else "one batch"
    assumed = f"assumes that all {made.steps} steps are like the first, at a learning rate of {made.learning_rate:g}"
    step = "SGD" if made.optimizer == "sgd" else "Adam"
    return Table(
        ("figure", "nats per token", "what it assumes"),
        words=(0, 2),
        rows=(
            ("Adam’s first step, first order", nats(made.adam_step), "every weight moves by the learning rate, against the sign of its gradient"),
            ("the same, batch by batch", span, f"{batches.n} batches of up to {made.batch_size} safety rows"),
            ("one step of SGD, first order", nats(made.sgd_step), "the learning rate times the gradient, unclipped"),
            (f"all steps, first order ({step})", nats(made.step * made.steps), assumed),
            (f"one virtual step of {step}, measured", nats(made.measured_step), "no warm-up, no weight decay"),
            (
                f"a virtual step {math.sqrt(made.steps):.3g} times as long, measured", nats(made.measured_far),
                f"the distance that {made.steps} steps in random directions come",
            ),
        ),
    )  # fmt: skip


def _sets(made: Prediction) -> Table:
    return Table(
        ("references", "rows", "loss", "cosine", "Adam’s step", "SGD’s step"),
        tuple(
            (one.name, str(one.rows), f"{one.loss:.3f}", signed(one.cosine), nats(one.adam), nats(one.sgd))
            for one in made.sets
        ),
    )


def _shares(made: Prediction) -> charts.Bars:
    data = made.data
    rows = [
        ("stand there more than once", data.duplicates),
        ("five-word sequences that repeat", data.repeated_grams),
        ("begin with the commonest three words", data.opening),
        ("not needed for the variety (1 − effective / targets)", 1 - data.distinct_share),
    ]
    return charts.bars(
        [(name, 100 * share, math.nan, math.nan, percent(share)) for name, share in rows], least=0.0, most=100.0
    )


def _lengths(made: Prediction) -> Table:
    data = made.data
    return Table(
        ("targets", "number", "different", "effectively", "mean tokens", "quartiles", "compressed to"),
        (
            (
                "safety", f"{data.targets:,}", f"{data.distinct:,}", f"{data.effective:.1f}", f"{data.tokens.mean:.1f}",
                _quartiles(data.tokens), percent(data.compression),
            ),
            ("references", f"{data.reference_tokens.n:,}", "", "", f"{data.reference_tokens.mean:.1f}", _quartiles(data.reference_tokens), ""),
        ),
    )  # fmt: skip


def _quartiles(lengths: predictions.Lengths) -> str:
    return f"{lengths.low:g} · {lengths.median:g} · {lengths.high:g}"


def _value(name: str, value: float) -> str:
    if not math.isfinite(value):
        return "–"
    if name in ("repeated_grams", "duplicates", "distinct_share", "opening", "compression", "sign_agreement"):
        return percent(value)
    return (
        nats(value)
        if name.endswith(("_step", "_all", "_far"))
        else signed(value)
        if "cosine" in name
        else f"{value:.3g}"
    )


def _entries(measured: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    return {str(entry["predictor"]): entry for entry in measured["entries"]} if measured else {}


def _rank(entry: Mapping[str, Any] | None) -> str:
    """ "+0.61 (+0.20 to +0.85)", or why there is none."""
    if entry is None or entry["spearman"] is None:
        return "not measured"
    if entry["low"] is None:
        return f"{signed(entry['spearman'])} (no interval)"
    return f"{signed(entry['spearman'])} ({signed(entry['low'])} to {signed(entry['high'])})"


def _predictors(made: Prediction, measured: Mapping[str, Any] | None) -> Table:
    entries = _entries(measured)
    return Table(
        ("figure", "here", "correlation with the tax"),
        tuple(
            (PREDICTORS[name], _value(name, value), _rank(entries.get(name))) for name, value in made.predictors.items()
        ),
    )


def _correlation_bars(measured: Mapping[str, Any]) -> charts.Bars:
    rows = []
    for name, entry in _entries(measured).items():
        value, low, high = (
            math.nan if entry[key] is None else float(entry[key]) for key in ("spearman", "low", "high")
        )
        rows.append((PREDICTORS.get(name, name), value, low, high, f"{_rank(entry)}, n {entry['n']}"))
    return charts.bars(rows, least=-1.0, most=1.0)


def correlation_table(measured: Mapping[str, Any] | None) -> str:
    """For a terminal: every figure's correlation with the tax that was paid, whatever it is."""
    if measured is None:
        return "How well such figures foretell a tax: not measured yet."
    width = max((len(PREDICTORS.get(name, name)) for name in _entries(measured)), default=0)
    lines = [
        f"{PREDICTORS.get(name, name):<{width}}  {_rank(entry)}  n {entry['n']}"
        for name, entry in _entries(measured).items()
    ]
    head = f"Spearman's correlation with {measured['target']} ({measured['unit']}) over {measured['n']} runs, 95 % interval:"
    return "\n".join([head, *lines, *([str(measured["scope"])] if measured["scope"] else [])])


def prediction_table(made: Prediction) -> str:
    """For a terminal: the verdict, then the reading, a line each."""
    return "\n".join([predictions.verdict(made), *(f"- {text}" for text in predictions.reading(made))])


def _prediction_markdown(
    made: Prediction,
    title: str,
    measured: Mapping[str, Any] | None,
    again: Sequence[tuple[str, str]],
    notes: Sequence[str],
) -> str:
    parts = [f"# {escape(title)}", "", f"**{escape(predictions.verdict(made))}**", ""]
    parts += [f"- {escape(text)}" for text in predictions.reading(made)] + [""]
    parts += [f"> {escape(note)}" for note in notes] + ([""] if notes else [])
    parts += ["## Steps", "", *as_markdown(_steps(made)), "", *as_markdown(_sets(made)), ""]
    parts += ["## Where they pull", ""]
    modules = tuple(
        (
            m.name,
            signed(m.cosine),
            percent(m.safety_sq / made.safety_sq if made.safety_sq else math.nan),
            nats(m.adam),
            f"{m.parameters:,}",
        )
        for m in made.modules
    )
    parts += [
        *as_markdown(Table(("weights", "cosine", "of the safety gradient", "Adam’s step", "number"), modules)),
        "",
    ]
    parts += ["## Repetition", "", *as_markdown(_lengths(made)), ""]
    parts += ["## How well such figures foretold real taxes", ""]
    if measured is None:
        parts += ["Not measured yet: this version carries no correlations with taxes that were paid.", ""]
    else:
        told = f"Spearman's correlation with {measured['target']} ({measured['unit']}) over {measured['n']} runs; 95 % intervals over families."
        parts += [escape(f"{told} {measured['scope']}"), ""]
    parts += [*as_markdown(_predictors(made, measured)), "", "## Do it again", ""]
    parts += [f"- {escape(name)}: {escape(text)}" for name, text in again]
    return "\n".join([*parts, "", *(escape(text) for text in HOW_BEFORE), ""])
