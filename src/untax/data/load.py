"""Loads training records of any of the known formats, and says which rows could not be used and why."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from untax.data.files import MAX_CHARS, Row, read_rows, write_jsonl
from untax.data.formats import FORMATS, BadRow, check_texts, plain, record_from, text_from, to_dict
from untax.data.pairs import pair_from
from untax.types import ContrastiveRecord, RecipeError, UserError

__all__ = ["KINDS", "Loaded", "Skipped", "load", "write_records"]

KINDS = ("contrastive", "pairs", "text", *FORMATS)
Duplicates = Literal["error", "keep"]


@dataclass(frozen=True)
class Skipped:
    """A row that was left out."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class Loaded:
    """The records of a file and the rows that were left out.

    `records` are `ContrastiveRecord`s for the kinds "contrastive", "pairs" and "text", and checked rows (dict) for TRL's formats.
    """

    records: tuple[Any, ...]
    skipped: tuple[Skipped, ...] = ()

    def summary(self, *, show: int = 5) -> str:
        """How many rows were read and left out, with the first reasons."""
        text = f"{len(self.records)} records"
        if self.skipped:
            text += f", {len(self.skipped)} rows skipped:\n" + "\n".join(f"  {s}" for s in self.skipped[:show])
            if len(self.skipped) > show:
                text += f"\n  and {len(self.skipped) - show} more"
        return text


@dataclass
class _Seen:
    """What has been read so far, to notice a row or an id that comes again."""

    rows: dict[str, int] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)

    def check(self, record: Any, line: int, duplicates: Duplicates) -> None:
        if isinstance(record, ContrastiveRecord):
            if record.id in self.ids:
                raise BadRow(f"field 'id': '{record.id}' stands in line {self.ids[record.id]} already")
            key = json.dumps([record.source, record.reference])
        else:
            key = json.dumps({k: v for k, v in record.items() if k != "id"}, sort_keys=True, default=str)
        if key in self.rows and duplicates == "error":
            raise BadRow(
                f"the row repeats line {self.rows[key]} (duplicates='keep' keeps such rows, on_error='skip' leaves them out)"
            )
        self.rows.setdefault(key, line)
        if isinstance(record, ContrastiveRecord):
            self.ids[record.id] = line


def load(
    source: str | Path,
    *,
    columns: Mapping[str, str] | None = None,  # our field: the name of its column in the file
    on_error: Literal["raise", "skip"] = "raise",
    limit: int | None = None,  # only the first so many good rows
    kind: str = "contrastive",
    max_chars: int = MAX_CHARS,  # longest text of a field
    duplicates: Duplicates = "error",
    split: str = "train",
    allow_network: bool = False,
) -> Loaded:
    """Read records from a JSONL, JSON, CSV or Parquet file, a dataset directory, or a hub dataset.

    A bad row stops the reading with file, line and field, unless `on_error` is "skip": then it is listed.

    Raises: UserError when the file or a row cannot be used, or when no good row is left.
    """
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        raise RecipeError(
            f"record kind '{kind}' is not known.{f' Did you mean {near[0]!r}?' if near else ''} There are: {', '.join(KINDS)}."
        )
    if on_error not in ("raise", "skip"):
        raise UserError(f"on_error is 'raise' or 'skip', not '{on_error}'.")
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1, it is {limit}.")
    records: list[Any] = []
    skipped: list[Skipped] = []
    seen = _Seen()
    for row in read_rows(source, max_chars=max_chars, split=split, allow_network=allow_network):
        try:
            record = _record(row, columns or {}, kind, max_chars)
            seen.check(record, row.line, duplicates)
        except BadRow as problem:
            if on_error == "raise":
                raise UserError(f"{_place(source, row)}: {problem}.") from None
            skipped.append(Skipped(row.file, row.line, str(problem)))
            continue
        records.append(record)
        if len(records) == limit:
            break
    if not records:
        raise UserError(
            f"{source}: no row can be used; all {len(skipped)} were skipped. The first: {skipped[0] if skipped else 'none'}."
        )
    return Loaded(tuple(records), tuple(skipped))


def write_records(path: Path, records: Iterable[ContrastiveRecord]) -> int:
    """Write contrastive records as JSONL, whole or not at all; how many there were."""
    return write_jsonl(path, (to_dict(record) for record in records))


def _place(source: str | Path, row: Row) -> str:
    return f"{source}:{row.line}"


def _record(row: Row, columns: Mapping[str, str], kind: str, max_chars: int) -> Any:
    if row.problem:
        raise BadRow(row.problem.rstrip("."))
    fields = _mapped(row.fields, columns)
    for name, value in fields.items():
        check_texts(value, str(name), max_chars)
    if kind == "pairs":
        return pair_from(fields, default_id=f"{Path(row.file).stem}-{row.line}")
    if kind == "text":
        return text_from(fields, default_id=f"{Path(row.file).stem}-{row.line}")
    if kind == "contrastive":
        return record_from(fields, default_id=f"{Path(row.file).stem}-{row.line}")
    checked: dict[str, Any] = plain(FORMATS[kind](fields))
    return checked


def _mapped(fields: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The fields under our names; a column that was mapped is not kept under its own name."""
    taken = {}
    for ours, theirs in columns.items():
        if theirs not in fields:
            near = difflib.get_close_matches(theirs, [str(name) for name in fields], n=1)
            guess = f"; did you mean '{near[0]}'?" if near else ""
            raise BadRow(
                f"column '{theirs}' (for '{ours}') is missing; the row has: {', '.join(map(str, fields)) or 'nothing'}{guess}"
            )
        taken[ours] = fields[theirs]
    return {key: value for key, value in fields.items() if key not in columns.values() and key not in taken} | taken
