"""The human text itself."""

from __future__ import annotations

from untax.types import Candidate, ContrastiveRecord

__all__ = ["reference"]


def reference(record: ContrastiveRecord, *, seed: int = 0) -> list[Candidate]:
    """The reference as first positive: the text that cross-entropy trains on, whatever else is made.

    Paper: Korkmaz et al. 2025, arXiv 2505.19327; CLIFF, Cao and Wang 2021, arXiv 2109.09209: the reference is a positive.
    Differs: the released code trained cross-entropy on a back-translation, because a list was reversed; here the reference
        is always y_1.
    Shapes: one record in, exactly one candidate out.
    Raises: nothing; a record without a reference cannot be built.
    """
    first = record.positives[0]
    return [Candidate(first.text, "reference", first.generator, (), first.toxicity)]
