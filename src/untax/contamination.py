"""Does a benchmark stand in the training data? Runs of words that a suite's items share with files of training text. No torch.

Paper: Brown et al. 2020, arXiv 2005.14165, appendix C (13-grams of words without case and punctuation, shorter for short items)
Differs: an item counts as contaminated when shared runs cover half of its words, not at the first shared run: a quotation or a
phrase of the trade does not make a leak. What more than a few items share (instructions, few-shot examples, answer options) is
left out: training on the same prompt format is no leak either.
"""

from __future__ import annotations

import gzip
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from untax.types import Item, UserError

__all__ = ["Overlap", "check", "overlaps", "read_texts", "strings", "words"]

LONG_RUN, SHORT_RUN = 13, 8
LONG_ITEM = 26  # from so many words on, runs are long
LEAST_WORDS = 5  # a shorter text is shared by chance
COVERED = 0.5
COMMON_ITEMS, COMMON_SHARE = 10, 0.02  # what more items than both say is the format, not the item

_WORD = re.compile(r"\w+")
_SUFFIXES = (".jsonl", ".json", ".txt", ".md", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Overlap:
    """One line of a suite against the training data: `n` of `of` items are covered to half or more; `touched` share any run."""

    n: int
    of: int
    touched: int
    first: str
    items: tuple[str, ...]


def check(lines: Mapping[str, Sequence[Item]], paths: Sequence[str | Path]) -> dict[str, Any]:
    """What stands in `about["contamination"]` of the system that was trained on `paths`; `lines` are items by line name.

    Raises: UserError when a file is missing, of an unknown kind, or holds no text.
    """
    found = overlaps(lines, (text for path in paths for text in read_texts(path)))
    return {
        "files": [str(path) for path in paths],
        "lines": {
            name: {"n": one.n, "of": one.of, "touched": one.touched, "first": one.first} for name, one in found.items()
        },
    }


def overlaps(lines: Mapping[str, Sequence[Item]], texts: Iterable[str]) -> dict[str, Overlap]:
    """Which items of each line stand in the texts. Every text is read once, whatever the number of lines.

    By hand: an item of 10 words is looked for in runs of 8. A text that holds its first 8 words covers 8 / 10 of it: contaminated.
    """
    asked = {name: [(item.id, words(_said(item))) for item in items] for name, items in lines.items()}
    runs_of = {name: [_runs(text) for _, text in items] for name, items in asked.items()}
    common = {name: _common(runs) for name, runs in runs_of.items()}
    wanted = {run for name, all_runs in runs_of.items() for runs in all_runs for run in runs if run not in common[name]}
    seen = _seen(wanted, texts)
    return {name: _overlap(asked[name], runs_of[name], seen - common[name]) for name in asked}


def words(text: str) -> list[str]:
    """Words and numbers without case and punctuation, compatible forms of a character made one."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower().replace("’", "'"))


def _said(item: Item) -> str:
    """What a model could have learned by heart: what it is asked, and the first choice (the others differ in a few words)."""
    return " ".join((item.prompt, item.text, *item.choices[:1]))


def _run_length(count: int) -> int:
    return LONG_RUN if count >= LONG_ITEM else min(SHORT_RUN, count)


def _runs(text: Sequence[str]) -> list[str]:
    """All runs of an item in order of their beginning; none where the item is too short to say anything."""
    if len(text) < LEAST_WORDS:
        return []
    length = _run_length(len(text))
    return [" ".join(text[i : i + length]) for i in range(len(text) - length + 1)]


def _common(runs: Sequence[Sequence[str]]) -> set[str]:
    """Runs that so many items share that they are the line's format."""
    counts = Counter(run for each in runs for run in set(each))
    most = max(COMMON_ITEMS, COMMON_SHARE * len(runs))
    return {run for run, count in counts.items() if count > most or 2 * count > max(3, len(runs))}


def _seen(wanted: set[str], texts: Iterable[str]) -> set[str]:
    """Those of the runs that stand in the texts."""
    lengths = sorted({run.count(" ") + 1 for run in wanted})
    if not lengths:
        return set()
    shortest = lengths[0]
    # most places of a text match nothing: one look at the beginning of a run settles them
    heads = {" ".join(run.split(" ", shortest)[:shortest]) for run in wanted}
    found: set[str] = set()
    for text in texts:
        told = words(text)
        for i in range(len(told) - shortest + 1):
            if " ".join(told[i : i + shortest]) not in heads:
                continue
            for length in lengths:
                run = " ".join(told[i : i + length])
                if run in wanted:
                    found.add(run)
    return found


def _overlap(items: Sequence[tuple[str, Sequence[str]]], runs: Sequence[Sequence[str]], seen: set[str]) -> Overlap:
    covered, touched = [], 0
    for (identity, text), mine in zip(items, runs, strict=True):
        hit = [False] * len(text)
        length = _run_length(len(text))
        for start, run in enumerate(mine):
            if run in seen:
                hit[start : start + length] = [True] * length
        touched += any(hit)
        if text and sum(hit) >= COVERED * len(text):
            covered.append(identity)
    return Overlap(len(covered), len(items), touched, covered[0] if covered else "", tuple(covered))


# --------------------------------------------------------------------------- reading training files


def read_texts(path: str | Path) -> Iterator[str]:
    """The texts of a training file: every string of a row (JSON lines, JSON, CSV, Parquet), or a plain text whole; .gz too.

    Raises: UserError when the file is missing, cannot be read, is of an unknown kind, or holds no text.
    """
    path = Path(path).expanduser()
    said = False
    for text in _texts(path):
        said = said or bool(text.strip())
        yield text
    if not said:
        raise UserError(f"training data: {path} holds no text: no value in it is a string.")


def _texts(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise UserError(f"training data: there is no file {path}.")
    name = path.name.removesuffix(".gz")
    kind = Path(name).suffix
    if kind not in _SUFFIXES:
        raise UserError(f"training data: {path} is of no kind that can be read. There are: {', '.join(_SUFFIXES)}.")
    if kind == ".parquet":
        yield from _parquet(path)
        return
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = raw.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"training data: {path} cannot be read as text ({error}).") from error
    if not text.strip():
        raise UserError(f"training data: {path} is empty.")
    if kind not in (".jsonl", ".json"):
        yield text
        return
    rows = [text] if kind == ".json" else text.split("\n")
    for number, line in enumerate(rows, start=1):
        if not line.strip():
            continue
        try:
            yield " \n ".join(strings(json.loads(line)))
        except (ValueError, RecursionError) as error:
            where = f", line {number}" if kind == ".jsonl" else ""
            raise UserError(f"training data: {path}{where} is not JSON: {error}.") from error


def strings(value: Any) -> Iterator[str]:
    """Every text inside a JSON value, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def _parquet(path: Path) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                yield " \n ".join(strings(row))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"training data: {path} cannot be read as Parquet ({error}).") from error
