"""Keeps what was measured: one row per metric and item in Parquet, and who was measured, in JSON beside it."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from untax.types import MetricSpec, ScoreRow, Scores, UserError

__all__ = ["read", "write"]

ROWS, ABOUT = "scores.parquet", "about.json"
FORMAT = 1

SCHEMA = pa.schema(
    [
        ("metric", pa.string()),
        ("item_id", pa.string()),
        ("prompt_hash", pa.string()),
        ("cluster", pa.string()),
        ("score", pa.float64()),
        ("prompt", pa.string()),
        ("answer", pa.string()),
        ("n_tokens", pa.int64()),
        ("truncated", pa.bool_()),
    ]
)


def write(scores: Scores, folder: str | Path) -> None:
    """Write scores.parquet and about.json into `folder`; a reader sees both as they were, or as they are, never a mixture."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    about = json.dumps(
        {
            "format": FORMAT,
            "system": scores.system,
            "seed": scores.seed,
            "specs": [asdict(spec) for spec in scores.specs],
            "about": dict(scores.about),
        },
        indent=2,
        ensure_ascii=False,
    )
    columns = {name: [row.__dict__[name] for row in scores.rows] for name in SCHEMA.names}
    stamp = {"about_sha256": hashlib.sha256(about.encode()).hexdigest(), "format": str(FORMAT)}
    # the rows carry the hash of their description: after a crash between the two renames, read() sees that they do not belong
    table = pa.table(columns, schema=SCHEMA.with_metadata(stamp))
    part = folder / f".{ROWS}.part"
    pq.write_table(table, part, compression="zstd", write_page_checksum=True)
    _replace(part, folder / ROWS)
    part = folder / f".{ABOUT}.part"
    part.write_text(about + "\n", encoding="utf-8")
    _replace(part, folder / ABOUT)


def read(folder: str | Path) -> Scores:
    """The scores that `write` left in `folder`.

    Raises: UserError when files are missing, damaged, or of two different measurements.
    """
    folder = Path(folder)
    for name in (ROWS, ABOUT):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} holds no {name}: it is no folder of scores, or the measurement was not finished."
            )
    try:
        table = pq.read_table(folder / ROWS, page_checksum_verification=True)
        about = (folder / ABOUT).read_bytes().decode("utf-8").removesuffix("\n")
        told = json.loads(about)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"{folder}: the scores cannot be read ({str(error).splitlines()[0]}). Measure again."
        ) from error
    stamp = (table.schema.metadata or {}).get(b"about_sha256", b"").decode()
    known = table.schema.equals(SCHEMA) and not any(column.null_count for column in table.columns)
    if not known or not isinstance(told, dict) or told.get("format") != FORMAT or not _described(told):
        raise UserError(f"{folder} holds scores of another format than this version writes. Measure again.")
    if stamp != hashlib.sha256(about.encode()).hexdigest():
        raise UserError(
            f"{folder}: {ROWS} and {ABOUT} belong to two different measurements, or one was changed. Measure again."
        )
    return Scores(
        system=told["system"],
        specs=tuple(_spec(spec, folder) for spec in told["specs"]),
        rows=_rows(table, folder),
        seed=told["seed"],
        about=told["about"],
    )


def _rows(table: Any, folder: Path) -> tuple[ScoreRow, ...]:
    try:
        return tuple(ScoreRow(**row | {"score": _finite(row["score"])}) for row in table.to_pylist())
    except UnicodeDecodeError as error:
        raise UserError(f"{folder}: the scores are damaged ({error}). Measure again.") from error


def _described(told: Mapping[str, Any]) -> bool:
    """Has a description the parts that `write` gives it, and each of them the right kind?"""
    kinds: Mapping[str, Any] = {"system": str, "seed": int | None, "specs": list, "about": dict}
    if not all(key in told and isinstance(told[key], kind) for key, kind in kinds.items()):
        return False
    names = [spec.get("name") for spec in told["specs"] if isinstance(spec, dict)]
    return len(names) == len(told["specs"]) and len(set(map(str, names))) == len(names)


def _finite(score: float) -> float:
    """A score that is infinite could not be computed: NaN, which is counted."""
    return score if math.isfinite(score) else math.nan


def _spec(told: Mapping[str, Any], folder: Path) -> MetricSpec:
    known = {field.name for field in fields(MetricSpec)}
    if set(told) != known:
        raise UserError(
            f"{folder}/{ABOUT}: a metric is described by other keys than this version knows. Measure again."
        )
    return MetricSpec(**told)


def _replace(part: Path, target: Path) -> None:
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(target)
