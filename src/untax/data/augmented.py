"""What an augmentation did, in numbers: the table of kinds, what was rejected and why, what a mask can see."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from untax.types import UserError

__all__ = ["AugmentReport", "KindRow", "read_report"]


@dataclass(frozen=True)
class KindRow:
    """One kind: texts made, kept, rejected by reason; of the kept ones, those with a span, and the blind negatives."""

    kind: str
    generator: str
    made: int
    kept: int
    rejected: Mapping[str, int]
    with_spans: int
    blind: int
    negatives: int

    @property
    def coverage(self) -> float:
        """The share of kept texts with at least one span; NaN when none was kept."""
        return self.with_spans / self.kept if self.kept else float("nan")

    @property
    def blind_share(self) -> float:
        """The share of kept negatives whose selected words all stand before the first edit; NaN without negatives."""
        return self.blind / self.negatives if self.negatives else float("nan")


@dataclass(frozen=True)
class AugmentReport:
    """The whole augmentation: sources read, kept and dropped, and one row per kind.

    `few_positives` sources have only their reference and train cross-entropy alone; `no_negatives` have nothing to be
    contrasted with. `key` identifies records and settings, `result` the written file; `notes` is what else a kind counted.
    """

    read: int
    kept: int
    dropped: Mapping[str, int]
    rows: tuple[KindRow, ...]
    with_spans: Mapping[str, int]
    few_positives: int
    no_negatives: int
    key: str = ""
    result: str = ""
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, counts: Sequence[Mapping[str, Any]], *, key: str) -> AugmentReport:
        """Add up the counts of all chunks."""
        rows: dict[tuple[str, str], KindRow] = {}
        for chunk in counts:
            for value in chunk["rows"]:
                row = KindRow(**value)
                before = rows.get((row.kind, row.generator))
                rows[row.kind, row.generator] = row if before is None else _sum(before, row)
        dropped: Counter[str] = Counter()
        spans: Counter[str] = Counter()
        notes: Counter[str] = Counter()
        for chunk in counts:
            dropped.update(chunk["dropped"])
            spans.update(chunk["with_spans"])
            notes.update(chunk.get("notes", {}))
        totals = {
            name: sum(chunk[name] for chunk in counts) for name in ("read", "kept", "few_positives", "no_negatives")
        }
        told = tuple(f"{what}: {count}" for what, count in sorted(notes.items()))
        return cls(
            dropped=dict(dropped), rows=tuple(rows.values()), with_spans=dict(spans), key=key, notes=told, **totals
        )

    def dropped_text(self) -> str:
        """Why sources were dropped, with counts."""
        return "; ".join(f"{n} {reason}" for reason, n in self.dropped.items()) or "none was dropped"

    def summary(self) -> list[str]:
        """The numbers around the table, one sentence a line."""
        lines = [
            f"sources: {self.read} read, {self.kept} kept"
            + (f" (dropped: {self.dropped_text()})" if self.dropped else "")
        ]
        if self.kept:
            shares = ", ".join(f"{name}s {count / self.kept:.1%}" for name, count in sorted(self.with_spans.items()))
            lines.append(f"texts with a span to pool over: {shares}")
            if self.no_negatives == self.kept:
                lines.append(f"only one positive: {self.few_positives}; no negatives: nothing is contrasted")
            else:
                lines.append(
                    f"only one positive (cross-entropy alone): {self.few_positives}; without a negative: {self.no_negatives}"
                )
        return [*lines, *self.notes]

    def table(self) -> Any:
        """The rows as a rich table."""
        from rich.table import Table

        table = Table(title="Augmentation", title_justify="left")
        for name, side in zip(HEADER, ("left", "left", *["right"] * 4, "left"), strict=True):
            table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
        for row in self.rows:
            table.add_row(*_cells(row))
        return table

    def markdown(self) -> str:
        """Table and summary as Markdown."""
        lines = ["| " + " | ".join(HEADER) + " |", "|---|---|--:|--:|--:|--:|---|"]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |" for row in self.rows]
        return "\n".join([*lines, "", *(f"- {line}" for line in self.summary())]) + "\n"

    def __str__(self) -> str:
        from rich.console import Console

        out = io.StringIO()
        Console(file=out, width=140, color_system=None).print(self.table())
        return out.getvalue() + "\n".join(self.summary())


HEADER = ("kind", "generator", "made", "kept", "with a span", "blind", "rejected, and why")


def _cells(row: KindRow) -> list[str]:
    why = "; ".join(f"{count} {reason}" for reason, count in row.rejected.items())
    blind = _percent(row.blind_share) if row.negatives else "–"
    return [row.kind, row.generator, str(row.made), str(row.kept), _percent(row.coverage), blind, why]


def _percent(share: float) -> str:
    return "–" if share != share else f"{share:.1%}"


def _sum(one: KindRow, other: KindRow) -> KindRow:
    rejected = Counter(one.rejected)
    rejected.update(other.rejected)
    return KindRow(
        one.kind,
        one.generator,
        one.made + other.made,
        one.kept + other.kept,
        dict(sorted(rejected.items(), key=lambda item: (-item[1], item[0]))),
        one.with_spans + other.with_spans,
        one.blind + other.blind,
        one.negatives + other.negatives,
    )


def read_report(path: Path) -> AugmentReport:
    """A report as `augment` wrote it.

    Raises: UserError when the file is no such report.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        rows = tuple(KindRow(**row) for row in value.pop("rows"))
        return AugmentReport(rows=rows, **{**value, "notes": tuple(value.get("notes", ()))})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: no report of an augmentation: {error}. Remove it to make a new one.") from None
