"""Which made texts are kept: the acceptance filters of sections 4.1 and 4.2, each with the reason it gives.

A kind calls `positives` or `negatives` with what it made; the toxicity limits stand apart, because a scorer reads texts in
batches and the run calls it once for many records.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from untax import spans
from untax.data.augment.common import Tally, changed_parts, content_words, normalise, same_entity, word_list
from untax.types import Candidate, ContrastiveRecord

__all__ = ["LONG_KINDS", "negatives", "new_facts", "positives", "relevance", "source_reason", "toxicity_reason"]

#: kinds that may be up to four times as long as the reference
LONG_KINDS = ("toxic", "sys_lowcon")
NEGATION = re.compile(
    r"\b(?:not|never|no|none|nobody|nothing|nowhere|neither|nor|without|cannot|refused|failed)\b|n['’]t\b",
    re.IGNORECASE,
)
QUOTE = re.compile(r"[\"“”«»]")
NUMBERS = re.compile(r"\d+(?:[.,]\d+)*")
Check = Callable[[Candidate], str]


# --------------------------------------------------------------------------- sources


def source_reason(toxicity: float, relevant: float, *, max_toxicity: float, min_relevance: float) -> str:
    """Why a source is not used, or the empty string. NaN fails: what could not be scored is not known to be clean."""
    if not toxicity <= max_toxicity:
        return f"reference toxicity above {max_toxicity:g}"
    return "" if relevant >= min_relevance else f"relevance below {min_relevance:g}"


def relevance(records: Sequence[ContrastiveRecord]) -> list[float]:
    """Cosine of the TF-IDF vectors of source and reference, one per record: the offline stand-in for sentence vectors."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not records:
        return []
    texts = [r.source for r in records] + [r.reference for r in records]
    matrix = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b").fit_transform(texts)
    n = len(records)
    return np.asarray(matrix[:n].multiply(matrix[n:]).sum(axis=1)).ravel().tolist()


def toxicity_reason(kind: str, score: float | None, *, positive: bool) -> str:
    """Why a text's toxicity rules it out, or the empty string; None means that nothing scored it."""
    if score is None:
        return ""
    if score != score:
        return "could not be scored"
    if kind == "toxic" and not positive:
        return "" if score >= 0.4 else "toxicity below 0.4"
    return "" if score < 0.5 else "toxicity 0.5 or more"


# --------------------------------------------------------------------------- positives


def positives(
    record: ContrastiveRecord, proposals: Iterable[Candidate], *, finder: str = "rules", tally: Tally | None = None
) -> list[Candidate]:
    """The proposals that say what the reference says in other words (section 4.1, without its toxicity limit)."""
    kept: list[Candidate] = []
    tally = tally if tally is not None else Tally()
    for proposal in proposals:
        tally.made += 1
        reason = _positive_reason(record, proposal, kept, finder)
        if reason:
            tally.rejected[reason] += 1
        else:
            kept.append(proposal)
    return kept


def _positive_reason(record: ContrastiveRecord, proposal: Candidate, kept: Sequence[Candidate], finder: str) -> str:
    reference, text = record.reference, proposal.text
    if normalise(text) == normalise(reference):
        return "identical to the reference"
    if any(normalise(text) == normalise(c.text) for c in (*record.positives, *kept)):
        return "repeats another positive"
    if reason := _length_reason(reference, text, 2.0):
        return reason
    if Counter(NUMBERS.findall(text)) != Counter(NUMBERS.findall(reference)):
        return "other numbers"
    if not _same_entities(reference, text, finder):
        return "other entities"
    if len(NEGATION.findall(text)) % 2 != len(NEGATION.findall(reference)) % 2:
        return "other parity of negations"
    if len(QUOTE.findall(text)) > len(QUOTE.findall(reference)):
        return "a new quotation"
    one, other = content_words(reference), content_words(text)
    if one | other and len(one & other) / len(one | other) < 0.3:
        return "too few words in common"
    return ""


def _same_entities(one: str, other: str, finder: str) -> bool:
    of_one, of_other = spans.find_all([one, other], finder=finder)
    a, b = [s.text for s in of_one], [s.text for s in of_other]
    return all(any(same_entity(x, y) for y in b) for x in a) and all(any(same_entity(x, y) for y in a) for x in b)


def _length_reason(reference: str, text: str, most: float) -> str:
    ratio = len(word_list(text)) / max(1, len(word_list(reference)))
    return "" if 0.5 <= ratio <= most else f"length ratio outside 0.5 to {most:g}"


# --------------------------------------------------------------------------- negatives


def negatives(
    record: ContrastiveRecord,
    proposals: Iterable[Candidate],
    *,
    check: Check | None = None,  # what the kind itself demands: a reason, or the empty string
    tally: Tally | None = None,
) -> list[Candidate]:
    """The proposals that are negatives by section 4.2 (without its toxicity limits) and by the kind's own check."""
    kept: list[Candidate] = []
    tally = tally if tally is not None else Tally()
    positive = {normalise(c.text) for c in record.positives}
    seen = {normalise(c.text) for c in record.negatives}
    for proposal in proposals:
        tally.made += 1
        key = normalise(proposal.text)
        most = 4.0 if proposal.kind in LONG_KINDS else 2.0
        if not key:
            reason = "empty"
        elif key in positive:
            reason = "same as a positive"
        elif key in seen:
            reason = "repeats another negative"
        else:
            reason = _length_reason(record.reference, proposal.text, most) or _alias_reason(record, proposal.text)
            reason = reason or (check(proposal) if check else "")
        if reason:
            tally.rejected[reason] += 1
        else:
            seen.add(key)
            kept.append(proposal)
    return kept


def _alias_reason(record: ContrastiveRecord, text: str) -> str:
    """ "US" for "United States" is no fault."""
    known = set(re.findall(r"[\w.]+", record.reference))
    new = [word for word in re.findall(r"[\w.]+", text) if word not in known]
    # the word-by-word comparison is slow, and a new word without a capital is part of no name
    if not new or any(word[0].islower() for word in new):
        return ""
    parts = changed_parts(record.reference, text)
    names = [before and after and before[0].isupper() and same_entity(before, after) for before, after in parts]
    return "only another name of the same" if names and all(names) else ""


def new_facts(record: ContrastiveRecord, text: str, *, finder: str = "rules") -> list[str]:
    """The entities and numbers of a text that neither the source nor the reference knows."""
    of_text, of_source, of_reference = spans.find_all([text, record.source, record.reference], finder=finder)
    known = [span.text for span in (*of_source, *of_reference)]
    digits = set(NUMBERS.findall(record.source)) | set(NUMBERS.findall(record.reference))
    new = [span.text for span in of_text if not any(same_entity(span.text, other) for other in known)]
    return new + [number for number in NUMBERS.findall(text) if number not in digits]
