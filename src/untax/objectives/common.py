"""What objectives on minimal pairs share: which tokens of two versions of a text belong together, and which tokens are words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any

from untax import models

__all__ = ["Aligned", "align", "continuing", "word_tokens"]

#: how pieces of a vocabulary write the space before a word: byte-level BPE (which moves bytes up to 0x20 there), sentencepiece
SPACES = frozenset({*map(chr, range(0x100, 0x121)), "\u2581", " "})


@dataclass(frozen=True)
class Aligned:
    """Two versions of a text as ids: `shared` places behind their first difference, and the `slot` of each where they differ first.

    A slot is [start, end) and holds whole words; both begin at the same place, with the same tokens before them.
    """

    shared: tuple[tuple[int, int], ...]
    slot: tuple[tuple[int, int], tuple[int, int]]


def align(one: Sequence[int], other: Sequence[int], continues: Sequence[bool]) -> Aligned:
    """Align two different id sequences; `continues` says of every id whether it goes on with the word before it.

    Tokens that both share within a word that differs ("act|or|s", "act|ress|es") are not shared: they spell the difference.
    Exchanging the two exchanges the places and nothing else.
    """
    if tuple(other) < tuple(one):  # SequenceMatcher breaks ties by the order of its arguments
        turned = align(other, one, continues)
        return Aligned(tuple((i, j) for j, i in turned.shared), (turned.slot[1], turned.slot[0]))
    start = next((k for k, (x, y) in enumerate(zip(one, other, strict=False)) if x != y), min(len(one), len(other)))
    rest = list(one[start:]), list(other[start:])
    tail = 0
    while tail < min(map(len, rest)) and rest[0][-1 - tail] == rest[1][-1 - tail]:
        tail += 1
    a, b = (part[: len(part) - tail] for part in rest)
    same = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    places = [(block.a + k, block.b + k) for block in same for k in range(block.size)]
    places += [(len(a) + k, len(b) + k) for k in range(tail)]
    shared, spelling, before = [], True, (-1, -1)
    for i, j in places:
        spelling = continues[rest[0][i]] and (spelling or (i - 1, j - 1) != before)
        before = (i, j)
        if not spelling:
            shared.append((start + i, start + j))
    ends = next(((i, j) for i, j in shared if i > start and j > start), (len(one), len(other)))
    return Aligned(tuple(shared), ((start, ends[0]), (start, ends[1])))


@lru_cache(maxsize=4)
def continuing(tokenizer: Any) -> tuple[bool, ...]:
    """Of every id whether it goes on with the word before it: a letter or digit with no space in front.

    Where no piece of the vocabulary writes a space, every token is a word of its own.
    """
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = set(tokenizer.all_special_ids)
    spaced = any(piece and piece[0] in SPACES for piece in pieces)
    return tuple(
        bool(spaced and piece and piece[0] not in SPACES and piece[0].isalnum() and number not in special)
        for number, piece in enumerate(pieces)
    )


def word_tokens(tokenizer: Any, words: Iterable[str], *, whole: bool) -> tuple[int, ...]:
    """The ids that words begin with, or (`whole`) of the words that are one token: as written and with a capital, with a space in
    front and without. In ascending order."""
    found = set()
    for word in words:
        for form in {word, word[:1].upper() + word[1:]}:
            for text in (form, f" {form}"):
                ids = models.target_ids(tokenizer, text)
                pieces = tokenizer.convert_ids_to_tokens(ids)
                while len(ids) > 1 and set(pieces[0]) <= SPACES:  # the space in front, where it is a token of its own
                    ids, pieces = ids[1:], pieces[1:]
                if len(ids) == 1 or not whole:
                    found.add(ids[0])
    return tuple(sorted(found))
