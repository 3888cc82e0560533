"""One sample of lm_eval: what was asked, what the model said, and its score in the units of a receipt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from untax.marks import digest
from untax.readers.lines import Raw
from untax.types import NAN, Request, ScoreRow

__all__ = ["ROLLING", "as_number", "choices_of", "concerns", "misshapen", "row_of", "score_of", "texts_of", "unread"]

#: metrics of whole texts: what their scores are counted in, and by what the nats are divided
ROLLING: Mapping[str, tuple[str, float]] = {
    "word_perplexity": ("nats per word", 1.0),
    "byte_perplexity": ("nats per byte", 1.0),
    "bits_per_byte": ("bits per byte", math.log(2)),
}
#: fields of a document that several items share: their items are no independent ones
_SOURCES = ("passage", "article", "context", "story", "paragraph")
_UNREAD = "[invalid]"  # what lm_eval's filters put where they find no answer


def score_of(raw: Raw, sample: Mapping[str, Any]) -> float | None:
    """The score of one item, in the units of `_unit`; None when a single item has none, NaN when it could not be scored."""
    value, metric = sample[raw.metric], raw.metric
    if raw.request == "text" and metric in ROLLING and _size(value) == 2:
        total, count = (as_number(part) for part in value)
        return NAN if total is None or not count else -total / count / ROLLING[metric][1]
    if metric == "perplexity" and raw.request == "choices":
        total = as_number(value)
        return None if total is None else -total
    if metric == "brier_score":
        return _brier(value, sample)
    if metric in ("accuracy_amb", "accuracy_disamb") and _size(value) == 2:
        return as_number(value[0])
    if raw.task.startswith("realtoxicityprompts") and as_number(sample.get("perspective_api_toxicity_score")) == 0:
        return NAN  # the task writes a 0 where the remote scorer failed; a probability of exactly 0 does not occur
    if _size(value) and all(isinstance(part, bool) for part in value):
        return math.fsum(value) / len(value)
    return NAN if value is None else as_number(value)


def concerns(raw: Raw, sample: Mapping[str, Any]) -> bool:
    """Is the metric about this item? BBQ hands every item to both accuracies, with a mark of the kind of its context."""
    value = sample[raw.metric]
    if raw.metric not in ("accuracy_amb", "accuracy_disamb") or _size(value) != 2:
        return True
    return (str(value[1]) == "True") == (raw.metric == "accuracy_disamb")


def _brier(value: Any, sample: Mapping[str, Any]) -> float | None:
    """Sum over the choices of (p - is it the right one)^2. The probabilities are made anew from the log-likelihoods: what is
    logged of them is rounded text."""
    logs = [as_number(pair[0]) for pair in sample.get("filtered_resps", []) if _size(pair) == 2]
    gold = value[0] if _size(value) == 2 else None
    if not isinstance(gold, Integral) or len(logs) != len(texts_of(sample)) or any(log is None for log in logs):
        return None
    known = [log for log in logs if log is not None]
    weights = [math.exp(log - max(known)) for log in known]
    shares = [weight / math.fsum(weights) for weight in weights]
    return math.fsum((share - (place == gold)) ** 2 for place, share in enumerate(shares))


def as_number(value: Any) -> float | None:
    """A number, or the text of one (a samples file holds log-likelihoods as text); None for anything else."""
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return None


def _size(value: Any) -> int:
    return len(value) if isinstance(value, list | tuple) else 0


def misshapen(sample: Mapping[str, Any]) -> str:
    """The field of a sample that is not of the kind that lm_eval writes, "" when all are."""
    given = sample.get("arguments") or []
    numbered = isinstance(given, Mapping) and all(str(key).rpartition("_")[2].isdecimal() for key in given)
    if not numbered and not isinstance(given, list | tuple):
        return "arguments"
    requests = given.values() if isinstance(given, Mapping) else given
    if not all(isinstance(request, Mapping | list | tuple) for request in requests):
        return "arguments"
    return next(
        (key for key in ("resps", "filtered_resps") if not isinstance(sample.get(key, []), list | tuple)),
        "",
    )


def texts_of(sample: Mapping[str, Any]) -> list[list[str]]:
    """The texts of every request that was made for an item: a context and a continuation, or a prompt. Settings are left out."""
    given = sample.get("arguments") or []
    if isinstance(given, Mapping):
        given = [given[key] for key in sorted(given, key=lambda key: int(str(key).rpartition("_")[2]))]
    asked = []
    for request in given:
        parts = [request[key] for key in sorted(request)] if isinstance(request, Mapping) else list(request)
        # a chat prompt may stand in a list of its own
        flat = [text for part in parts for text in (part if isinstance(part, list | tuple) else [part])]
        asked.append([text for text in flat if isinstance(text, str)])
    return asked


def choices_of(sample: Mapping[str, Any]) -> int:
    """How many choices there were: half of the requests where each was also asked without its context."""
    count = len(texts_of(sample))
    return count // 2 if "acc_mutual_info" in sample else count


def unread(sample: Mapping[str, Any]) -> bool:
    found = sample.get("filtered_resps") or [""]
    return str(found[0][0] if _size(found[0]) else found[0]).strip() in ("", _UNREAD)


def row_of(sample: Mapping[str, Any], key: str, request: Request) -> ScoreRow:
    """A sample as a row that waits for its metric and score; `key` is its id."""
    asked = texts_of(sample)
    prompt = asked[0][0] if asked and asked[0] else ""
    if not prompt and request == "choices":
        prompt = " / ".join(texts[-1] for texts in asked if texts)
    return ScoreRow(
        metric="", item_id=key, prompt_hash=digest([sample.get("prompt_hash", ""), asked]), cluster=_source(sample),
        score=NAN, prompt=prompt, answer=_answer(request, sample, asked),
    )  # fmt: skip


def _answer(request: Request, sample: Mapping[str, Any], asked: Sequence[Sequence[str]]) -> str:
    """What the model said: its text before any filter, or the likeliest choice."""
    if request == "generate":
        said: Any = sample.get("resps") or [""]
        while _size(said):
            said = said[0]
        return str(said) if isinstance(said, str) else ""
    logs = [as_number(pair[0]) for pair in sample.get("filtered_resps", []) if _size(pair) == 2]
    known = [(log, place) for place, log in enumerate(logs[: choices_of(sample)]) if log is not None]
    if request == "text" or len(known) < 2:
        return ""
    return asked[max(known)[1]][-1]


def _source(sample: Mapping[str, Any]) -> str:
    """What an item shares with others: its field `cluster`, its passage, or the occupation and participant of its template."""
    doc = sample.get("doc")
    if not isinstance(doc, Mapping):
        return ""
    if isinstance(doc.get("cluster"), str):
        return str(doc["cluster"])
    if isinstance(doc.get("occupation"), str) and isinstance(doc.get("participant"), str):
        return f"{doc['occupation']} | {doc['participant']}"
    text = next((doc[name] for name in _SOURCES if isinstance(doc.get(name), str) and len(doc[name]) >= 20), "")
    return digest(text) if text else ""
