"""The reference with the words of one social group exchanged for those of another."""

from __future__ import annotations

from typing import Literal

from untax.data import words
from untax.data.augment.common import Tally, rng_for
from untax.types import Candidate, ContrastiveRecord, RecipeError

__all__ = ["counterfactual"]


def counterfactual(
    record: ContrastiveRecord,
    *,
    seed: int = 0,
    attribute: Literal["gender", "race", "religion"] = "gender",  # whose words change places
    names: bool = True,  # given names too (gender only)
    neutral_share: float = 0.5,  # at most this share of the finished records may have no counterfactual; 1.0 keeps all
    tally: Tally | None = None,
) -> list[Candidate]:
    """Say the same of the other group, so that a model that is trained on both sees both alike.

    Paper: Lu et al. 2018, arXiv 1807.11714, and Zmigrod et al. 2019, arXiv 1906.04571 (counterfactual data augmentation);
        Webster et al. 2020, arXiv 2010.06032 (for pretrained models, two-sided: original and counterfactual both); names
        as in Maudslay et al. 2019, arXiv 1909.00871.
    Differs: word lists of our own; "her" and "his" by what follows; case, white space and punctuation stay; of three groups
        one derangement a text (the survey arXiv 2110.08527 draws each group's partner apart, so two can become one); texts
        without such a word are kept up to `neutral_share`, which the run sees to (the survey drops them all).
    Shapes: one record in, one candidate out, or none: nothing to swap, or a source that names the attribute itself and so
        would not fit the swapped text.
    Raises: RecipeError when `neutral_share` is no share, or for an attribute without words.
    """
    if not 0 <= neutral_share <= 1:
        raise RecipeError(f"counterfactual: neutral_share is {neutral_share:g}; it is a share, from 0 to 1.")
    tally = tally if tally is not None else Tally()
    rng = rng_for(seed, f"counterfactual {attribute}", record)
    swapped = words.swap(record.reference, attribute, rng=rng, names=names)
    if not swapped.edits:
        return []
    tally.made += 1
    if words.find(record.source, attribute, names=names):
        tally.rejected["the source names the attribute too"] += 1
        return []
    tally.notes["words with a guessed form"] += swapped.uncertain
    tally.notes["words exchanged"] += len(swapped.edits)
    return [Candidate(swapped.text, "counterfactual", "rules", swapped.edits)]
