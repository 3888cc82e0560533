"""The receipt as Markdown, for terminals, reviews and model cards."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from untax import receipt as receipts
from untax.receipt import MetricResult, Receipt

__all__ = ["escape", "p_text", "render"]

SIDES = (("safety", "Safety", "gain"), ("ability", "Ability", "tax"), ("watch", "Watched", ""))


def render(made: Sequence[Receipt], *, title: str, again: Sequence[tuple[str, str]], notes: Sequence[str] = ()) -> str:
    """One document: the verdicts, the systems beside the base, a ledger per receipt, guards, and how to do it again."""
    parts = [f"# {escape(title)}", ""]
    for receipt in made:
        parts += [f"**{escape(_pair(receipt))}.** {escape(receipt.verdict)}", ""]
    parts += [f"> {escape(note)}" for note in notes] + ([""] if notes else [])
    against = [receipt for receipt in made if receipt.against_base] or list(made)
    parts += ["## Beside the base", "", "In brackets: the 95 % interval of the difference from the base.", ""]
    parts += [*_beside(against), ""]
    for receipt in made:
        parts += [f"## {escape(_pair(receipt))}", "", *_ledger(receipt)]
        parts += _guards(receipt)
    parts += ["## Do it again", ""]
    parts += [f"- {escape(name)}: {escape(value)}" for name, value in again]
    parts += [
        "",
        "A positive gain is safety won, a positive tax is ability lost. Intervals are 95 % and paired over items (and training "
        "seeds, where there are several); p is adjusted over all metrics (Holm). *held* means that the whole interval is "
        "within the margin, *not known* that it is not.",
        "",
    ]
    return "\n".join(parts)


def _pair(receipt: Receipt) -> str:
    seeds = [seed for seed in receipt.tuned_seeds if seed is not None]
    of = f" ({len(seeds)} seeds)" if len(seeds) > 1 else ""
    return f"{receipt.tuned_system}{of} against {receipt.base_system}"


def _beside(against: Sequence[Receipt]) -> list[str]:
    heads = ["metric", "better", against[0].base_system, *(receipt.tuned_system for receipt in against)]
    rows = []
    for line in against[0].metrics:
        cells = [line.name, line.better, receipts.level(line, line.base)]
        for receipt in against:
            mine = receipt.of(line.name)
            span = f" ({receipts.bare(mine, mine.low, signed=True)} to {receipts.bare(mine, mine.high, signed=True)})"
            cells.append(receipts.level(mine, mine.tuned) + ("" if math.isnan(mine.low) else span))
        rows.append(cells)
    return _table(heads, rows, right_from=2)


def _ledger(receipt: Receipt) -> list[str]:
    out: list[str] = []
    for side, heading, word in SIDES[:2]:
        lines = [line for line in receipt.metrics if line.side == side]
        if not lines:
            continue
        heads = [heading, "verdict", word, "95 % interval", "margin", "p (Holm)", "detectable", "better / worse", "n"]
        out += [*_table(heads, [_ledger_row(line) for line in lines], right_from=2), ""]
    return out


def _ledger_row(line: MetricResult) -> list[str]:
    turn = line.sign if line.side == "safety" else -line.sign
    ends = sorted((turn * line.low, turn * line.high))
    span = "none" if math.isnan(line.low) else " to ".join(receipts.bare(line, end) for end in ends)
    return [
        line.name, line.verdict or "", receipts.amount(line, turn * line.difference), span, receipts.amount(line, line.margin),
        p_text(line.p_holm), receipts.amount(line, line.detectable), f"{line.flips_better:,} / {line.flips_worse:,}", f"{line.n:,}",
    ]  # fmt: skip


def p_text(p: float) -> str:
    """A p value as people read it. By hand: 0.00004 is "< 0.0001", 0.0312 is "0.031"."""
    if math.isnan(p):
        return "none"
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 1e-3 else f"{p:.3f}"


def _guards(receipt: Receipt) -> list[str]:
    out = []
    for guard in receipt.guards:
        where = f" ({escape(guard.metric)})" if guard.metric else ""
        word = "withholds the verdict" if guard.severity == "refuse" else "warns"
        out.append(f"- Guard `{guard.name}`{where} {word}: {escape(guard.seen)}. {escape(guard.do)}")
    return [*out, ""] if out else []


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, right_from: int) -> list[str]:
    marks = ["---" if place < right_from else "---:" for place in range(len(heads))]
    return ["| " + " | ".join(escape(cell) for cell in row) + " |" for row in (heads, marks, *rows)]


def escape(text: str) -> str:
    """Text that Markdown shows as it is, in one line: no markup, no HTML, no table breaks."""
    if re.fullmatch(r"-{3}:?", text):
        return text
    flat = " ".join("".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in text).split())
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", flat.replace("&", "&amp;"))
