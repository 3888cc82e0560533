"""What edits of representations learn from: sentences that name a group, and the model's hidden states on them.

Legend of shapes: N sentences, B rows of a batch, T positions, H hidden width.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from untax import models
from untax.data import words
from untax.edits import projection
from untax.types import UserError

__all__ = ["Classes", "States", "balanced", "dealt", "hidden_states", "scaled", "sentences"]

#: shorter sentences say too little (the survey's threshold)
LEAST_WORDS = 5

#: how the sentences of a class are dealt out: 49 % to learn from, 21 % to stop by, 30 % to report on (arXiv 2004.07667)
SPLIT = (0.49, 0.70)

#: sentences of a class per one that is asked for, after which no more are read: enough to match lengths
ENOUGH = 4

NEUTRAL = "neutral"
NAMED = "any group"

#: tokens of a batch, padding included
TOKENS_AT_ONCE = 4096

#: what ends a sentence, and is no title or initial in front of a name
_END = re.compile(
    r"(?<=[.!?])(?<!\bMr\.)(?<!\bMrs\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)(?<!\b[A-Z]\.)[\"'\u2019\u201d)\]]*\s+|\n+"
)
_WORD = re.compile(r"\S+")


def sentences(texts: Iterable[Sequence[str]]) -> list[str]:
    """The sentences of all texts in order, each once; a text without an end of a sentence in it is one."""
    found = (part.strip() for one in texts for text in one for part in _END.split(text))
    return list(dict.fromkeys(part for part in found if part))


# --------------------------------------------------------------------------- classes


@dataclass(frozen=True)
class Classes:
    """As many sentences of each class, of the same numbers of words; `found` is how many of those read there were before that."""

    texts: Mapping[str, tuple[str, ...]]
    found: Mapping[str, int]


def balanced(known: Sequence[str], attribute: str, *, per_class: int, least: int, seed: int) -> Classes:
    """Sentences by the group that they name: for gender each group and those that name none, otherwise any group and none.

    A sentence ends at a random word from the first one that names a group on, and never before its fifth; one that names both
    genders is left out. What the other classes lack at a number of words is left out.
    Raises: UserError where fewer than `least` of a class are left, with how many of each there were.
    """
    rng = random.Random(seed)
    apart = attribute == "gender"
    names = [*words.groups(attribute), NEUTRAL] if apart else [NAMED, NEUTRAL]
    pools: dict[str, dict[str, int]] = {name: {} for name in names}
    for text in rng.sample(known, len(known)):
        if min(map(len, pools.values())) >= ENOUGH * per_class:
            break
        ends = [found.end() for found in _WORD.finditer(text)]
        hits = words.find(text, attribute)
        groups = {hit.group for hit in hits}
        if len(ends) < LEAST_WORDS or (apart and len(groups) > 1):
            continue
        name = NEUTRAL if not groups else groups.pop() if apart else NAMED
        # a hit of two words may end in the middle of a word of more ("African-American-owned")
        first = next(i for i, end in enumerate(ends, start=1) if end >= hits[0].end) if hits else 1
        length = rng.randint(max(first, LEAST_WORDS), len(ends))
        pools[name].setdefault(text[: ends[length - 1]], length)
    by_length: dict[str, dict[int, list[str]]] = {name: {} for name in names}
    for name, pool in pools.items():
        for text, length in pool.items():
            by_length[name].setdefault(length, []).append(text)
    common = set.intersection(*(set(lengths) for lengths in by_length.values()))
    slots = [n for n in sorted(common) for _ in range(min(len(lengths[n]) for lengths in by_length.values()))]
    slots = rng.sample(slots, min(per_class, len(slots)))
    found = {name: len(pool) for name, pool in pools.items()}
    if len(slots) < least:
        raise UserError(
            f"too few sentences name a group ({attribute}): {', '.join(f'{n} {name}' for name, n in found.items())} of at least "
            f"{LEAST_WORDS} words among {len(known)} sentences, and {len(slots)} of each once their lengths are matched; at least "
            f"{least} of each are needed. Give more texts, or texts that speak of people, under references."
        )
    chosen = {name: tuple(lengths[n].pop() for n in slots) for name, lengths in by_length.items()}
    return Classes(chosen, found)


# --------------------------------------------------------------------------- hidden states


@dataclass(frozen=True)
class States:
    """The mean of each sentence's hidden states, and that of one of its tokens, drawn at random (float32)."""

    means_NH: np.ndarray
    tokens_NH: np.ndarray


def hidden_states(model: Any, tokenizer: Any, texts: Sequence[str], layer: int, *, seed: int = 0) -> States:
    """The states that a projection of this layer would see. What the tokenizer puts before every text is not in the mean.

    A sentence that is longer than the context loses its end.
    Raises: UserError for a layer that the model does not have, a text without a token, or states that are not finite.
    """
    opening = models.opening_ids(tokenizer)
    limit = models.context_length(model)
    rows = [[*opening, *models.target_ids(tokenizer, text)][:limit] for text in texts]
    empty = [text for text, row in zip(texts, rows, strict=True) if len(row) <= len(opening)]
    if empty:
        raise UserError(
            f"{len(empty)} of {len(texts)} sentences have no token of their own (first: {empty[0][:40]!r})."
        )
    rng = random.Random(seed)
    drawn = [rng.randrange(len(opening), len(row)) for row in rows]
    means: dict[int, np.ndarray] = {}
    tokens: dict[int, np.ndarray] = {}
    with projection.listening(model, layer) as seen, models.asking(model):
        for chosen in _batches(rows):
            width = len(rows[chosen[0]])
            ids_BT = torch.tensor([rows[i] + [0] * (width - len(rows[i])) for i in chosen], device=model.device)
            mask_BT = torch.tensor([[t < len(rows[i]) for t in range(width)] for i in chosen], device=model.device)
            model(input_ids=ids_BT, attention_mask=mask_BT.long(), use_cache=False)
            states_BTH = seen.pop().float()
            own_BT = mask_BT.to(states_BTH.device).clone()
            own_BT[:, : len(opening)] = False
            sums_BH = states_BTH.masked_fill(~own_BT[:, :, None], 0.0).sum(1)
            means_BH = (sums_BH / own_BT.sum(1, keepdim=True)).cpu().numpy()
            for line, i in enumerate(chosen):
                means[i], tokens[i] = means_BH[line], states_BTH[line, drawn[i]].cpu().numpy()
    stacked = States(*(np.stack([one[i] for i in range(len(rows))]) for one in (means, tokens)))
    if not (np.isfinite(stacked.means_NH).all() and np.isfinite(stacked.tokens_NH).all()):
        raise UserError("the model's hidden states are not finite: it is damaged, or its dtype overflows.")
    return stacked


def _batches(rows: Sequence[Sequence[int]]) -> Iterable[list[int]]:
    """Indices of rows, the longest first."""
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    while order:
        size = max(1, TOKENS_AT_ONCE // len(rows[order[0]]))
        yield order[:size]
        order = order[size:]


def scaled(states_NH: np.ndarray, train: np.ndarray, centred: bool = False) -> np.ndarray:
    """All states divided by one number, the root mean square of those to learn from (less their mean, if centred); in float64."""
    wide_NH = states_NH.astype(np.float64)
    if centred:
        wide_NH = wide_NH - wide_NH[train].mean(axis=0)
    size = float(np.sqrt(np.mean(wide_NH[train] ** 2)))
    return wide_NH / size if size else wide_NH


def dealt(labels_N: np.ndarray, seed: int) -> list[np.ndarray]:
    """Indices to learn from, to stop by and to report on, with the same share of every class in each."""
    rng = np.random.default_rng(seed)
    parts: list[list[np.ndarray]] = [[], [], []]
    for label in np.unique(labels_N):
        mine = rng.permutation(np.flatnonzero(labels_N == label))
        for part, some in zip(parts, np.split(mine, [round(cut * len(mine)) for cut in SPLIT]), strict=True):
            part.append(some)
    return [np.sort(np.concatenate(part)) for part in parts]
