"""SentenceDebias: the direction in which sentences differ when the group in them is swapped is taken out of a hidden state."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from untax.data import words
from untax.edits import features
from untax.edits.common import Edited, projected
from untax.edits.projection import NOTHING, Projection
from untax.types import RecipeError, UserError

__all__ = ["sentence_debias"]

#: sentences with a group in them below which the direction is one of their other words
LEAST = 20

#: how often a derangement is drawn until every group had its turn
DRAWS = 16

#: components whose share of the variance is told, removed or not
SHOWN = 10


def sentence_debias(
    base: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    *,
    model: Any,  # the module that gives the hidden states; `tuned` are its weights
    tokenizer: Any,  # the model's own
    texts: Mapping[str, Sequence[str]],  # plain texts, some of whose sentences name a group
    attribute: Literal["gender", "race", "religion"] = "gender",  # whose groups are swapped
    layer: int = -1,  # -1: what the output layer reads, folded into its weights; else a block from 0, as a hook
    components: int = 1,  # directions that are removed, those of most variance first (k of the paper)
    max_texts: int = 10000,  # the most sentences that are read, each with its other members
    seed: int = 0,  # which sentences are read, where there are more
) -> Edited:
    """Take out of the last hidden state what a swap of the group changes in a sentence: one vector, no training.

    Paper: Liang et al. 2020, arXiv 2007.08100, eq. 1 to 4: h - sum_k <h, v_k> v_k, the v_k of the PCA of sentence states less the mean
        of their pair or triple. Pairs (.6, .8)/(.6, -.8) and (.8, .6)/(.8, -.6): v = (0, 1), h = (2, 3) becomes (2, 0).
    Differs: members are made of the user's texts by swapping words, as in the survey (Meade et al. 2021, arXiv 2110.08527), but in the
        case in which they were written; the released code uses templates. Means leave out the tokenizer's BOS. Applied at every position
        of a decoder, where the paper debiases one vector a sentence.
    Shapes: state dict of the whole model in, like it out, with the output matrix replaced and untied (layer -1). `base` is not read.
    Raises: RecipeError for options out of range; UserError for too few sentences, more components than there are, or an output layer
        that is not linear.
    """
    if components < 1 or max_texts < LEAST:
        raise RecipeError(
            f"sentence_debias: components is {components} and max_texts {max_texts}; at least 1 and {LEAST} are needed."
        )
    known = features.sentences(texts.values())
    random.Random(seed).shuffle(known)
    count = len(words.groups(attribute))
    found: list[tuple[str, ...]] = []
    uncertain = named = 0
    for text in known:
        members, unsure = _members(text, attribute, count)
        named += len(members) > 1
        if len(members) == count:
            found.append(members)
            uncertain += unsure
        if len(found) == max_texts:
            break
    if len(found) < LEAST:
        raise UserError(
            f"sentence_debias ({attribute}): {named} of {len(known)} sentences name a group, and {len(found)} of them could be written for "
            f"all {count} groups; at least {LEAST} are needed. Give more texts, or texts that speak of people, under references."
        )
    every = [text for members in found for text in members]
    means_NH = features.hidden_states(model, tokenizer, every, layer, seed=seed).means_NH.astype(np.float64)
    basis_RH, explained = directions(means_NH.reshape(len(found), count, -1), components)
    about = {"edit": "sentence_debias", "attribute": attribute, "seed": seed}
    audit = {
        "attribute": attribute,
        "sentences": len(known),
        "pairs": len(found),
        "members": count,
        "uncertain": uncertain,
        "components": components,
        "explained": sum(explained[:components]),
        "explained_by": explained[:SHOWN],
    }
    return projected(model, tuned, Projection(torch.from_numpy(basis_RH), layer, about), audit)


def directions(members_NGH: np.ndarray, components: int) -> tuple[np.ndarray, list[float]]:
    """The first `components` principal directions (R, H) of members less the mean of their own N, and the share of each of all.

    States are of length 1 before the mean is taken off.
    Raises: UserError where the members differ in fewer directions; RecipeError for more components than the width.
    """
    lengths_NG = np.linalg.norm(members_NGH, axis=-1, keepdims=True)
    if not lengths_NG.all():
        raise UserError("sentence_debias: a sentence's hidden state is zero, which has no direction.")
    unit_NGH = members_NGH / lengths_NG
    own_NGH = unit_NGH - unit_NGH.mean(axis=1, keepdims=True)
    _, values, basis_RH = np.linalg.svd(own_NGH.reshape(-1, own_NGH.shape[-1]), full_matrices=False)
    # the states themselves are of length 1: what is this far below them is rounding
    rank = int((values > max(NOTHING, np.finfo(np.float32).eps) * np.sqrt(len(own_NGH))).sum())
    if components > rank:
        raise UserError(
            f"sentence_debias: {components} components were asked for, and the members of the pairs differ in {rank} directions. "
            + ("At this layer a swap changes nothing." if not rank else f"Give components of at most {rank}.")
        )
    return basis_RH[:components], [float(value) for value in values**2 / np.sum(values**2)]


def _members(text: str, attribute: str, count: int) -> tuple[tuple[str, ...], bool]:
    """The text as it would be for each group, itself first, and whether a word in it could be swapped in two ways."""
    members, unsure = {text: None}, False
    for draw in range(1 if count == 2 else DRAWS):
        swapped = words.swap(text, attribute, rng=random.Random(draw))
        members[swapped.text] = None
        unsure = unsure or bool(swapped.uncertain)
        if len(members) == count or not swapped.edits:
            break
    return tuple(members), unsure
