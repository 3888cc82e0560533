"""Turns records of one format into another: preferences, prompt and completion, contrast."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from untax.types import Candidate, ContrastiveRecord, UserError

__all__ = ["as_records", "from_preference", "from_prompt_completion", "to_preference", "to_prompt_completion"]

#: messages to one text: a tokenizer's chat template, usually
Render = Callable[[Sequence[Mapping[str, str]]], str]


def _flat(value: Any, field: str, render: Render | None) -> str:
    if isinstance(value, str):
        return value
    if render is None:
        raise UserError(
            f"field '{field}' holds messages: say how they become one text (render=..., for example a tokenizer's chat template)."
        )
    return render(value)


def _id(row: Mapping[str, Any], *texts: str) -> str:
    """The row's own id, or one made of its texts: the same row has the same id in every file."""
    return str(row["id"]) if "id" in row else hashlib.sha256("\x1f".join(texts).encode()).hexdigest()[:16]


def as_records(loaded: Iterable[Any], kind: str) -> list[ContrastiveRecord]:
    """What `load.load` read as `kind`, as contrastive records.

    Raises: UserError for a kind that has no reference to train on, and as `from_preference` and `from_prompt_completion` do.
    """
    if kind in ("contrastive", "pairs", "text"):
        return list(loaded)
    if kind == "preference":
        return from_preference(loaded)
    if kind == "prompt-completion":
        return from_prompt_completion(loaded)
    raise UserError(f"records of kind '{kind}' cannot become contrastive records: they hold no reference to a prompt.")


def from_preference(rows: Iterable[Mapping[str, Any]], *, render: Render | None = None) -> list[ContrastiveRecord]:
    """Preference rows as contrastive records: the chosen text is the reference, the rejected one the only negative.

    Raises: UserError when a row has no prompt, or holds messages and `render` is not given.
    """
    records = []
    for number, row in enumerate(rows, start=1):
        if "prompt" not in row:
            raise UserError(
                f"row {number}: without 'prompt' there is no source; split it from 'chosen' first, or map a column to it."
            )
        source, chosen, rejected = (_flat(row[name], name, render) for name in ("prompt", "chosen", "rejected"))
        positives = (Candidate(chosen.strip(), "reference"),)
        negatives = (Candidate(rejected.strip(), "rejected"),)
        records.append(ContrastiveRecord(_id(row, source, chosen, rejected), source, positives, negatives))
    return records


def from_prompt_completion(
    rows: Iterable[Mapping[str, Any]], *, render: Render | None = None
) -> list[ContrastiveRecord]:
    """Prompt-completion rows as contrastive records with one positive and no negative yet.

    Raises: UserError when a row holds messages and `render` is not given.
    """
    records = []
    for row in rows:
        source, completion = (_flat(row[name], name, render) for name in ("prompt", "completion"))
        records.append(
            ContrastiveRecord(_id(row, source, completion), source, (Candidate(completion.strip(), "reference"),))
        )
    return records


def to_preference(records: Iterable[ContrastiveRecord], *, prompt: str = "{source}") -> list[dict[str, Any]]:
    """One preference row for every negative: the reference is preferred to it. Records without a negative give none."""
    return [
        {
            "prompt": prompt.replace("{source}", record.source),
            "chosen": " " + record.reference,
            "rejected": " " + negative.text,
        }
        for record in records
        for negative in record.negatives
    ]


def to_prompt_completion(records: Iterable[ContrastiveRecord], *, prompt: str = "{source}") -> list[dict[str, Any]]:
    """The references alone, as TRL's supervised format."""
    return [
        {"prompt": prompt.replace("{source}", record.source), "completion": " " + record.reference}
        for record in records
    ]
