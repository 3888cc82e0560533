"""Reads rows from JSONL, JSON, CSV, Parquet and Hugging Face datasets, and writes JSONL whole or not at all.

A row that cannot be read comes out as a row with a problem, so that the caller can stop at it or list it; a file that cannot
be read at all is an error at once.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from untax import files
from untax.types import UserError

__all__ = ["MAX_CHARS", "SUFFIXES", "Row", "read_rows", "write_jsonl"]

#: longest text of a field, in characters, unless the caller says otherwise: about 25,000 tokens
MAX_CHARS = 100_000
#: a row may hold this many longest texts before reading of its line stops
TEXTS_PER_ROW = 64
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?::[\w.-]+)?")


@dataclass(frozen=True)
class Row:
    """One row of a file: where it stands ("file.jsonl", line 3), its fields, or why it could not be read."""

    file: str
    line: int
    fields: Mapping[str, Any]
    problem: str = ""


def read_rows(
    source: str | Path, *, max_chars: int = MAX_CHARS, split: str = "train", allow_network: bool = False
) -> Iterator[Row]:
    """The rows of a file, of a dataset directory (save_to_disk), or of a hub dataset when the network is allowed.

    Raises: UserError when there is no such file, or it cannot be read as what its name says.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _dataset_directory(path, split)
    if not path.exists():
        if HUB_NAME.fullmatch(str(source)) and path.suffix not in SUFFIXES:
            return _hub(str(source), split, allow_network)
        raise UserError(f"there is no file {path}.{_near(path)}")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty.")
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return _jsonl(path, max_chars)
    if suffix == ".json":
        return _json(path)
    if suffix in (".csv", ".tsv"):
        return _csv(path, "\t" if suffix == ".tsv" else ",")
    if suffix == ".parquet":
        return _parquet(path)
    raise UserError(
        f"{path}: what is a '{path.suffix}' file? Readable are: {', '.join(SUFFIXES)} and dataset directories."
    )


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSONL, whole or not at all; how many there were."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]
    files.write(path, "".join(line + "\n" for line in lines))
    return len(lines)


def _near(path: Path) -> str:
    """What lies beside a path that does not exist."""
    if not path.parent.is_dir():
        return f" There is no folder {path.parent} either."
    names = sorted(p.name for p in path.parent.iterdir() if p.suffix.lower() in SUFFIXES)
    close = difflib.get_close_matches(path.name, names, n=1)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" In that folder are: {', '.join(names[:8])}." if names else " That folder holds no data file."


# --------------------------------------------------------------------------- lines


def _jsonl(path: Path, max_chars: int) -> Iterator[Row]:
    limit = max_chars * TEXTS_PER_ROW
    rows = 0
    with path.open("rb") as file:
        number = 0
        while line := file.readline(limit + 1):
            number += 1
            if len(line) > limit:
                while line and not line.endswith(b"\n"):
                    line = file.readline(limit)
                yield Row(
                    path.name,
                    number,
                    {},
                    f"the line is longer than {limit:,} bytes. Shorten it or raise max_chars (now {max_chars:,}).",
                )
                rows += 1
                continue
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            rows += 1
            yield _json_line(path.name, number, line, last=not line.endswith(b"\n"))
    if not rows:
        raise UserError(f"{path}: the file holds no row, only blank lines.")


def _json_line(name: str, number: int, line: bytes, *, last: bool) -> Row:
    try:
        value = json.loads(line.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        return Row(
            name,
            number,
            {},
            f"not UTF-8 (byte {error.start + 1} of the line is 0x{line[error.start]:02x}). Save the file as UTF-8.",
        )
    except json.JSONDecodeError as error:
        cut = " The file ends in the middle of this row: it was cut off." if last else ""
        return Row(name, number, {}, f"no valid JSON: {error.msg} at column {error.colno}.{cut}")
    except RecursionError:
        return Row(name, number, {}, "JSON nested too deeply.")
    except ValueError as error:
        return Row(name, number, {}, f"no usable JSON: {_short(error)}.")
    if not isinstance(value, dict):
        return Row(name, number, {}, f"a row is a JSON object, this is {_kind(value)}.")
    return Row(name, number, value)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ: of a key that stands twice the second would silently win."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key '{twice}' stands twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value; write null")


def _short(error: ValueError) -> str:
    # Python says how to lift its limit on the digits of a number, which is no advice for a data file
    return str(error).partition(";  use")[0].partition("; use sys")[0]


def _kind(value: Any) -> str:
    names = {
        list: "a list",
        str: "a text",
        int: "a number",
        float: "a number",
        bool: "true or false",
        dict: "an object",
    }
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


def _json(path: Path) -> Iterator[Row]:
    data = path.read_bytes()
    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_once, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not UTF-8 (byte 0x{data[error.start]:02x}). Save the file as UTF-8.") from None
    except json.JSONDecodeError as error:
        hint = " It looks like JSONL: name it .jsonl." if error.msg == "Extra data" else ""
        cut = " The file was cut off." if error.pos >= len(error.doc.rstrip()) else ""
        raise UserError(
            f"{path}:{error.lineno}: no valid JSON: {error.msg} at column {error.colno}.{cut}{hint}"
        ) from None
    except RecursionError:
        raise UserError(f"{path}: JSON nested too deeply.") from None
    except ValueError as error:
        raise UserError(f"{path}: no usable JSON: {_short(error)}.") from None
    if isinstance(value, dict):
        lists = [key for key, inner in value.items() if isinstance(inner, list)]
        if len(lists) != 1:
            raise UserError(
                f"{path}: a JSON file holds a list of objects, or an object with one such list; this object has {len(lists)} lists."
            )
        value = value[lists[0]]
    if not isinstance(value, list):
        raise UserError(f"{path}: a JSON file holds a list of objects, this is {_kind(value)}.")
    if not value:
        raise UserError(f"{path}: the list is empty.")
    return _json_rows(path.name, value)


def _json_rows(name: str, values: list[Any]) -> Iterator[Row]:
    for number, value in enumerate(values, start=1):
        if isinstance(value, dict):
            yield Row(name, number, value)
        else:
            yield Row(name, number, {}, f"a row is a JSON object, this is {_kind(value)}.")


# --------------------------------------------------------------------------- tables


def _csv(path: Path, delimiter: str) -> Iterator[Row]:
    # bytes that are no UTF-8 become surrogates, which the check of each row refuses: so the line is known
    text = path.read_bytes().decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")
    before = csv.field_size_limit(2**31 - 1)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        if not reader.fieldnames:
            raise UserError(f"{path}: the file has no header line.")
        if len(set(reader.fieldnames)) < len(reader.fieldnames):
            raise UserError(f"{path}:1: two columns have one name: {', '.join(reader.fieldnames)}.")
        rows = list(_csv_rows(path.name, reader))
    finally:
        csv.field_size_limit(before)
    if not rows:
        raise UserError(f"{path}: the file has a header and no row.")
    return iter(rows)


def _csv_rows(name: str, reader: csv.DictReader[str]) -> Iterator[Row]:
    columns = list(reader.fieldnames or ())
    line = reader.line_num + 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(name, line, {}, f"no valid CSV: {error} (a quote that is never closed?).")
            return
        if None in fields:
            yield Row(name, line, {}, f"it has more cells than the {len(columns)} columns of the header.")
        elif any(value is None for value in fields.values()):
            yield Row(name, line, {}, f"it has fewer cells than the {len(columns)} columns of the header.")
        else:
            yield Row(name, line, {key: value for key, value in fields.items() if value != ""})
        line = reader.line_num + 1


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: no readable Parquet file: {str(error).splitlines()[0]}") from None
    if file.metadata.num_rows == 0:
        raise UserError(f"{path}: the table has no row.")
    return _arrow_rows(path, file)


def _arrow_rows(path: Path, file: Any) -> Iterator[Row]:
    import pyarrow

    number = 0
    batches = file.iter_batches()
    while True:
        try:
            rows = next(batches).to_pylist()
        except StopIteration:
            return
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise UserError(f"{path}: damaged behind row {number}: {str(error).splitlines()[0]}") from None
        for fields in rows:
            number += 1
            yield Row(path.name, number, _drop_nulls(fields))


def _drop_nulls(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A table has every column in every row: null (or NaN) there means that the row has no such field."""
    return {key: value for key, value in fields.items() if value is not None and value == value}


# --------------------------------------------------------------------------- datasets


def _dataset_directory(path: Path, split: str) -> Iterator[Row]:
    if not any((path / name).is_file() for name in ("dataset_info.json", "state.json", "dataset_dict.json")):
        names = sorted(p.name for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        inside = f" It holds {', '.join(names[:8])}: name one of them." if names else ""
        raise UserError(f"{path} is a folder, not a data file, and no dataset written by save_to_disk.{inside}")
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: the dataset directory cannot be read: {str(error).splitlines()[0]}") from None
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise UserError(f"{path}: it has no split '{split}'. There are: {', '.join(loaded)}.")
        loaded = loaded[split]
    if not len(loaded):
        raise UserError(f"{path}: the dataset has no row.")
    return (Row(path.name, number, _drop_nulls(fields)) for number, fields in enumerate(loaded, start=1))


def _hub(name: str, split: str, allow_network: bool) -> Iterator[Row]:
    if not allow_network:
        raise UserError(
            f"there is no file {name}, and it reads like the name of a hub dataset. Nothing is fetched unless you allow it "
            "(allow_network: true), or give a local file or dataset directory."
        )
    import datasets

    repository, _, config = name.partition(":")
    try:
        loaded = datasets.load_dataset(repository, config or None, split=split)
    except Exception as error:  # the hub client raises whatever its transport raises
        raise UserError(
            f"the hub dataset '{name}' (split '{split}') cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return (Row(name, number, _drop_nulls(fields)) for number, fields in enumerate(loaded, start=1))
