"""How often the safety data say the same thing, and how long it is: data that repeat teach their wording rather than their point.

Paper: none; the figures are ours. The effective number is exp(entropy), Hill's number of order 1 (Ecology 54, 1973). Repeated word sequences
    are counted as by Lee et al. 2021 ("Deduplicating training data makes language models better", arXiv 2107.06499), of five words.
Differs: Lee et al. look for sequences of 50 tokens in a corpus of billions; alignment sets are a few hundred short texts.
Shapes: texts in, numbers out; shares lie between 0 and 1 and are NaN for no texts.
Raises: UserError for no targets.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from untax.predictions import Lengths, Repetition
from untax.types import UserError

__all__ = ["repetition"]


def repetition(
    targets: Sequence[str],
    *,
    tokens: Sequence[int] = (),  # length of each target in tokens
    reference_tokens: Sequence[int] = (),  # length of each reference's target in tokens
    words: int = 5,  # of a sequence that may repeat; a shorter target is one sequence
    opening: int = 3,  # words that a target begins with
) -> Repetition:
    """Repetition within a set of targets, and their lengths beside those of the references; case and spacing do not count."""
    if not targets:
        raise UserError("there are no targets to look at.")
    said = [text.casefold().split() for text in targets]
    whole = Counter(" ".join(words_) for words_ in said)
    grams = Counter(gram for words_ in said for gram in _grams(words_, words))
    openings = Counter(" ".join(words_[:opening]) for words_ in said)
    raw = "\n".join(targets).encode("utf-8", "replace")
    return Repetition(
        targets=len(said),
        distinct=len(whole),
        effective=math.exp(-sum(count / len(said) * math.log(count / len(said)) for count in whole.values())),
        duplicates=_repeated(whole),
        repeated_grams=_repeated(grams),
        opening=max(openings.values()) / len(said),
        compression=len(zlib.compress(raw, 9)) / len(raw) if raw else math.nan,
        tokens=_lengths(tokens),
        reference_tokens=_lengths(reference_tokens),
    )


def _grams(said: Sequence[str], size: int) -> list[str]:
    """Every sequence of `size` words; a text of fewer words is one sequence, an empty one has none."""
    if not said:
        return []
    return [" ".join(said[i : i + size]) for i in range(max(1, len(said) - size + 1))]


def _repeated(counts: Counter[str]) -> float:
    """The share of occurrences whose text occurs more than once."""
    total = sum(counts.values())
    return sum(count for count in counts.values() if count > 1) / total if total else math.nan


def _lengths(counts: Sequence[int]) -> Lengths:
    if not counts:
        return Lengths(0, math.nan, math.nan, math.nan, math.nan)
    low, median, high = (float(q) for q in np.quantile(np.asarray(counts, dtype=np.float64), [0.25, 0.5, 0.75]))
    return Lengths(len(counts), float(np.mean(counts)), low, median, high)
