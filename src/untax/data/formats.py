"""What a row must look like: TRL's record formats, standard and conversational, and the contrastive record.

A check raises `BadRow` with the field and what is wrong with it; the caller knows file and line.
"""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from untax.types import Candidate, ContrastiveRecord

__all__ = ["FORMATS", "BadRow", "check_texts", "plain", "record_from", "text_from", "to_dict"]

#: what tables hold beside JSON's own types and JSON can hold as a text
DATED = datetime.date | datetime.time | decimal.Decimal
RECORD_KEYS = ("id", "source", "positives", "negatives", "reference")
CANDIDATE_KEYS = ("text", "kind", "generator", "edits", "toxicity")


class BadRow(ValueError):
    """A row that cannot be used; the message names the field."""


# --------------------------------------------------------------------------- texts


def check_texts(value: Any, field: str, max_chars: int) -> None:
    """Refuse, anywhere inside a value, what JSON cannot hold, and a text that is too long, holds NUL, or is no Unicode.

    Raises: BadRow naming the field.
    """
    if isinstance(value, str):
        if len(value) > max_chars:
            raise BadRow(f"field '{field}' has {len(value):,} characters, more than max_chars ({max_chars:,})")
        if "\x00" in value:
            raise BadRow(f"field '{field}' holds a NUL character (at {value.index(chr(0))})")
        if not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError as error:
                raise BadRow(f"field '{field}' is not UTF-8 (at character {error.start})") from None
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            check_texts(inner, f"{field}.{key}", max_chars)
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for index, inner in enumerate(value):
            check_texts(inner, f"{field}[{index}]", max_chars)
    elif isinstance(value, float) and not math.isfinite(value):
        raise BadRow(f"field '{field}' is {value}, no number that JSON can hold; write null")
    elif value is not None and not isinstance(value, int | float | DATED):
        raise BadRow(f"field '{field}' is {_kind(value)}, which JSON cannot hold; make it text or drop that column")


def plain(value: Any) -> Any:
    """Dates and decimals of a table as JSON would hold them; anything else as it is."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value) if isinstance(value, decimal.Decimal) else value


def _kind(value: Any) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        raise BadRow(f"field '{name}' is missing; the row has: {', '.join(map(str, fields)) or 'nothing'}")
    if not isinstance(value, str):
        raise BadRow(f"field '{name}' must be a text, it is {_kind(value)}")
    if not value.strip():
        raise BadRow(f"field '{name}' is empty")
    return value


def _messages(value: Any, name: str) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise BadRow(f"field '{name}' must be a list of messages, it is {'empty' if value == [] else _kind(value)}")
    for index, message in enumerate(value):
        place = f"{name}[{index}]"
        if not isinstance(message, Mapping):
            raise BadRow(f"field '{place}' must be an object with role and content, it is {_kind(message)}")
        for key in ("role", "content"):
            inner = message.get(key)
            if not isinstance(inner, str) or not inner.strip():
                raise BadRow(
                    f"field '{place}.{key}' must be a text that is not empty, it is {_kind(inner) if not isinstance(inner, str) else 'empty'}"
                )
    return [dict(message) for message in value]


def _turn(fields: Mapping[str, Any], name: str) -> str | list[dict[str, str]]:
    """A text (standard) or a list of messages (conversational)."""
    return _messages(fields[name], name) if isinstance(fields.get(name), list) else _text(fields, name)


def _same_form(row: Mapping[str, Any], names: Sequence[str]) -> None:
    forms = {name: "messages" if isinstance(row[name], list) else "a text" for name in names if name in row}
    if len(set(forms.values())) > 1:
        raise BadRow(
            "the fields do not go together: " + ", ".join(f"'{name}' is {form}" for name, form in forms.items())
        )


# --------------------------------------------------------------------------- TRL


def _language_modeling(fields: Mapping[str, Any]) -> dict[str, Any]:
    if "messages" in fields:
        return {**fields, "messages": _messages(fields["messages"], "messages")}
    return {**fields, "text": _text(fields, "text")}


def _prompt_only(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {**fields, "prompt": _turn(fields, "prompt")}


def _prompt_completion(fields: Mapping[str, Any]) -> dict[str, Any]:
    row = {**fields, "prompt": _turn(fields, "prompt"), "completion": _turn(fields, "completion")}
    _same_form(row, ("prompt", "completion"))
    return row


def _preference(fields: Mapping[str, Any]) -> dict[str, Any]:
    row = {**fields, "chosen": _turn(fields, "chosen"), "rejected": _turn(fields, "rejected")}
    if "prompt" in fields:
        row["prompt"] = _turn(fields, "prompt")
    _same_form(row, ("prompt", "chosen", "rejected"))
    if row["chosen"] == row["rejected"]:
        raise BadRow("fields 'chosen' and 'rejected' are equal: there is nothing to prefer")
    return row


def _unpaired_preference(fields: Mapping[str, Any]) -> dict[str, Any]:
    row = {**fields, "completion": _turn(fields, "completion")}
    if "prompt" in fields:
        row["prompt"] = _turn(fields, "prompt")
    _same_form(row, ("prompt", "completion"))
    label = fields.get("label")
    # a CSV cell is always a text
    label = (
        {"true": True, "false": False, "1": True, "0": False}.get(label.lower(), label)
        if isinstance(label, str)
        else label
    )
    if label not in (True, False):
        raise BadRow(f"field 'label' must be true or false, it is {_kind(label) if label is None else repr(label)}")
    return {**row, "label": bool(label)}


#: the record formats of TRL, and the check of each
FORMATS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "language-modeling": _language_modeling,
    "prompt-only": _prompt_only,
    "prompt-completion": _prompt_completion,
    "preference": _preference,
    "unpaired-preference": _unpaired_preference,
}


# --------------------------------------------------------------------------- the contrastive record


def record_from(fields: Mapping[str, Any], *, default_id: str) -> ContrastiveRecord:
    """A row as a contrastive record; a raw row with a source and a reference gets one positive.

    A plain text has the source "", which a record may say and a raw row may not: there it is a mistake.
    Raises: BadRow when a field is missing, empty, of a wrong type or contradicts another.
    """
    source = "" if fields.get("source") == "" and "positives" in fields else _text(fields, "source")
    identifier = _identifier(fields, default_id)
    if "positives" in fields:
        positives = _candidates(fields["positives"], "positives", first_kind="reference", other_kind="positive")
        if not positives:
            raise BadRow("field 'positives' is empty: its first text is the reference")
        if "reference" in fields and fields["reference"] != positives[0].text:
            raise BadRow("field 'reference' differs from the first of 'positives'; keep one of the two")
    elif "reference" in fields:
        positives = (Candidate(_text(fields, "reference"), "reference"),)
    else:
        raise BadRow(f"field 'reference' (or 'positives') is missing; the row has: {', '.join(map(str, fields))}")
    negatives = _candidates(fields.get("negatives") or [], "negatives", first_kind="negative", other_kind="negative")
    extra = {key: plain(value) for key, value in fields.items() if key not in RECORD_KEYS}
    return ContrastiveRecord(identifier, source, positives, negatives, extra)


def text_from(fields: Mapping[str, Any], *, default_id: str) -> ContrastiveRecord:
    """A row with a `text` as a record without a source: its reference follows nothing.

    Other columns are kept beside it, except those that would give it a source, other texts or a prompt of its own.
    Raises: BadRow when the text is missing, empty or no text.
    """
    reference = Candidate(_text(fields, "text"), "reference")
    known = {*RECORD_KEYS, "text", "prompt"}
    extra = {key: plain(value) for key, value in fields.items() if key not in known}
    return ContrastiveRecord(_identifier(fields, default_id), "", (reference,), (), extra)


def _identifier(fields: Mapping[str, Any], default: str) -> str:
    value = fields.get("id", default)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise BadRow(f"field 'id' must be a text or a whole number, it is {_kind(value)}")
    return str(value)


def _candidates(value: Any, name: str, *, first_kind: str, other_kind: str) -> tuple[Candidate, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple):
        raise BadRow(f"field '{name}' must be a list of texts or candidates, it is {_kind(value)}")
    return tuple(
        _candidate(inner, f"{name}[{i}]", first_kind if i == 0 else other_kind) for i, inner in enumerate(value)
    )


def _candidate(value: Any, place: str, kind: str) -> Candidate:
    if isinstance(value, str):
        if not value.strip():
            raise BadRow(f"field '{place}' is empty")
        return Candidate(value, kind)
    if not isinstance(value, Mapping):
        raise BadRow(f"field '{place}' must be a text or an object with a text, it is {_kind(value)}")
    unknown = [key for key in value if key not in CANDIDATE_KEYS]
    if unknown:
        raise BadRow(f"field '{place}' has an unknown key '{unknown[0]}'; a candidate has: {', '.join(CANDIDATE_KEYS)}")
    text = value.get("text")
    if not isinstance(text, str) or not text.strip():
        raise BadRow(f"field '{place}.text' must be a text that is not empty")
    for key in ("kind", "generator"):
        if not isinstance(value.get(key, ""), str | None):
            raise BadRow(f"field '{place}.{key}' must be a text, it is {_kind(value[key])}")
    return Candidate(
        text,
        value.get("kind") or kind,
        value.get("generator") or "data",
        _edits(value.get("edits"), place, len(text)),
        _toxicity(value.get("toxicity"), place),
    )


def _edits(value: Any, place: str, length: int) -> tuple[tuple[int, int], ...]:
    pairs = []
    if not isinstance(value or [], list | tuple):
        raise BadRow(f"field '{place}.edits' must be a list of [start, end], it is {_kind(value)}")
    for pair in value or ():
        whole = (
            isinstance(pair, list | tuple)
            and len(pair) == 2
            and all(isinstance(x, int) and not isinstance(x, bool) for x in pair)
        )
        if not whole or not 0 <= pair[0] <= pair[1] <= length:
            raise BadRow(f"field '{place}.edits' holds {pair!r}, no [start, end] inside its {length} characters")
        pairs.append((int(pair[0]), int(pair[1])))
    return tuple(pairs)


def _toxicity(value: Any, place: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise BadRow(f"field '{place}.toxicity' must be a number from 0 to 1 or null, it is {value!r}")
    return float(value)


def to_dict(record: ContrastiveRecord) -> dict[str, Any]:
    """A record as the JSON object that `record_from` reads back."""
    return {
        "id": record.id,
        "source": record.source,
        "positives": [_candidate_dict(c) for c in record.positives],
        "negatives": [_candidate_dict(c) for c in record.negatives],
        **record.extra,
    }


def _candidate_dict(candidate: Candidate) -> dict[str, Any]:
    scored = candidate.toxicity is not None and not math.isnan(candidate.toxicity)
    return {
        "text": candidate.text,
        "kind": candidate.kind,
        "generator": candidate.generator,
        "edits": [list(edit) for edit in candidate.edits],
        "toxicity": candidate.toxicity if scored else None,
    }
