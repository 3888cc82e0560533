"""Words of a social group exchanged for those of another, and nothing else of the text: what counterfactual data are made of.

The lists are files of `wordlists/`, each with its rules in its head. A text is read once from left to right; every word, or
run of words, that stands in a list is a hit, unless the condition of its line does not hold. Hits are replaced together, so
nothing is swapped twice, and every character outside of them stays.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from untax.data import grammar
from untax.types import RecipeError

__all__ = ["ATTRIBUTES", "Attribute", "Hit", "Swapped", "find", "forms", "groups", "identity", "swap"]

Attribute = Literal["gender", "race", "religion"]
ATTRIBUTES: tuple[Attribute, ...] = ("gender", "race", "religion")
FOLDER = Path(__file__).parent / "wordlists"

#: a word; what is joined by an underscore or ends in a digit is another word
TOKEN = re.compile(r"ma['’]am(?!\w)|\w+", re.IGNORECASE)
#: what may stand between the words of a run: one character
JOINT = re.compile(r"[ \n'’-]")
#: what is an address and no text
ADDRESS = re.compile(r"\S*(?:://|@|www\.)\S*")
CONDITIONS = ("", "title", "surname", "lower", "capital", "noun", "possessive", "object", "alone", "person", "name")


@dataclass(frozen=True)
class Hit:
    """A word of a group in a text: the characters [start, end), and which group it belongs to ("female", "muslim")."""

    start: int
    end: int
    group: str


@dataclass(frozen=True)
class Swapped:
    """A text with its words exchanged.

    `edits` are the [start, end) characters of the new text that differ. `uncertain` counts the words whose new form had to
    be guessed, or that the way back would not restore: 0 says that swapping again gives the old text.
    """

    text: str
    edits: tuple[tuple[int, int], ...]
    uncertain: int


# --------------------------------------------------------------------------- the lists


@dataclass(frozen=True)
class _Line:
    """One pair or triple: per group its forms (the first stands in front of a noun, the last alone), and its condition."""

    members: tuple[tuple[str, ...], ...]
    when: str


@dataclass(frozen=True)
class _Lists:
    """The lines of an attribute.

    `places` says for a form in lower case on which lines and in which groups it stands; `stays` are phrases that are left
    alone; `widths` says how many words the longest run has that a word begins.
    """

    groups: tuple[str, ...]
    lines: tuple[_Line, ...]
    places: Mapping[str, tuple[tuple[int, int], ...]]
    stays: frozenset[str]
    widths: Mapping[str, int]


@cache
def _lists(attribute: str, names: bool) -> _Lists:
    if attribute not in ATTRIBUTES:
        raise RecipeError(f"there are no words for the attribute '{attribute}'. There are: {', '.join(ATTRIBUTES)}.")
    groups: tuple[str, ...] = ()
    lines: list[_Line] = []
    stays: set[str] = set()
    for file in _files(attribute, names):
        rows = [row.split("\t") for row in _rows(file)]
        groups = tuple(name for name in rows[0] if name != "when")
        for row in rows[1:]:
            if row[0] == "!":
                stays.add(_key(row[1]))
                continue
            when = "name" if file.stem == "names" else row[len(groups)] if len(row) > len(groups) else ""
            assert when in CONDITIONS, f"{file.name}: {row}"
            lines.append(_Line(tuple(tuple(cell.split("|")) for cell in row[: len(groups)]), when))
    places: dict[str, list[tuple[int, int]]] = {}
    for number, line in enumerate(lines):
        for group, cell in enumerate(line.members):
            for form in cell:
                places.setdefault(_key(form), []).append((number, group))
    widths: dict[str, int] = {}
    for key in (*places, *stays):
        first, *rest = key.split()
        widths[first] = max(widths.get(first, 0), 1 + len(rest))
    known = {key: tuple(found) for key, found in places.items()}
    return _Lists(groups, tuple(lines), known, frozenset(stays), widths)


def _files(attribute: str, names: bool) -> list[Path]:
    return [FOLDER / f"{attribute}.tsv"] + ([FOLDER / "names.tsv"] if attribute == "gender" and names else [])


def _rows(path: Path) -> list[str]:
    return [row for row in path.read_text(encoding="utf-8").splitlines() if row and not row.startswith("#")]


def _key(form: str) -> str:
    """A form as it is looked up: in lower case, its words one space apart."""
    return " ".join(token.replace("’", "'") for token in TOKEN.findall(form.lower()))


def groups(attribute: str, *, names: bool = True) -> dict[str, tuple[str, ...]]:
    """The word forms of each group of an attribute, in the order of the lists and in their natural case.

    Raises: RecipeError for an unknown attribute.
    """
    lists = _lists(attribute, names)
    return {
        group: tuple(dict.fromkeys(form for line in lists.lines for form in line.members[number]))
        for number, group in enumerate(lists.groups)
    }


def forms(attribute: str, *, names: bool = True) -> tuple[str, ...]:
    """Every word form of an attribute, in natural case ("she", "Mrs", "African American"); no possessives, which only end otherwise.

    Some mean the attribute in some places only ("black", "Miss"): `find` knows where.
    Raises: RecipeError for an unknown attribute.
    """
    return tuple(dict.fromkeys(form for found in groups(attribute, names=names).values() for form in found))


@cache
def identity(attribute: str) -> str:
    """A hash of the lists of an attribute: with other lists, other texts come out."""
    files = [*_files(attribute, True), FOLDER / "people.txt"]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]


# --------------------------------------------------------------------------- reading a text


class _Reading:
    """A text as words, and what stands around each of them."""

    def __init__(self, text: str, lists: _Lists) -> None:
        self.text, self.lists = text, lists
        self.tokens = [(m.group(), m.start(), m.end()) for m in TOKEN.finditer(text)]
        self.lower = [token.lower().replace("’", "'") for token, _, _ in self.tokens]
        # most texts hold no address, and looking for one costs more than all the rest
        near = "@" in text or "://" in text or "www." in text
        self.addresses = [m.span() for m in ADDRESS.finditer(text)] if near else []

    def runs(self) -> list[tuple[int, int, tuple[tuple[int, int], ...]]]:
        """The longest runs of words that stand in the lists: first and last word, and the places in the lists."""
        found = []
        at = 0
        while at < len(self.tokens):
            longest = self.lists.widths.get(self.lower[at], 0)
            wide = next((n for n in range(longest, 0, -1) if self._known(at, n)), 0)
            if wide:
                key = " ".join(self.lower[at : at + wide])
                if key not in self.lists.stays and not self._addressed(at):
                    found.append((at, at + wide - 1, self.lists.places[key]))
            at += wide or 1
        return found

    def _known(self, at: int, wide: int) -> bool:
        if at + wide > len(self.tokens):
            return False
        key = " ".join(self.lower[at : at + wide])
        if key not in self.lists.places and key not in self.lists.stays:
            return False
        return all(JOINT.fullmatch(self.between(i, i + 1)) for i in range(at, at + wide - 1))

    def _addressed(self, at: int) -> bool:
        return any(start <= self.tokens[at][1] < end for start, end in self.addresses)

    def between(self, one: int, other: int) -> str:
        """The characters between two neighbouring words; of the text's ends, what stands in front or behind."""
        start = self.tokens[one][2] if one >= 0 else 0
        end = self.tokens[other][1] if other < len(self.tokens) else len(self.text)
        return self.text[start:end]

    def word(self, at: int) -> str:
        """A word, or the empty string beyond the ends."""
        return self.tokens[at][0] if 0 <= at < len(self.tokens) else ""

    def holds(self, when: str, first: int, last: int) -> bool:
        """Whether the condition of a line holds for the words `first` to `last`."""
        word, before, after = self.word(first), self.word(first - 1), self.word(last + 1)
        start, end = self.tokens[first][1], self.tokens[last][2]
        if when == "title":
            spaced = self.between(last, last + 1) in (" ", ". ")
            return word[0].isupper() and spaced and after[:1].isupper()
        if when == "surname":
            named = before[:1].isupper() and before.lower() not in grammar.OPENERS
            return not (word[0].isupper() and not word.isupper() and named and self.between(first - 1, first) == " ")
        if when in ("lower", "capital"):
            return word[0].isupper() == (when == "capital")
        if when == "noun":
            return before.lower() in grammar.BEFORE_A_NOUN
        if when == "name":
            return grammar.is_given_name(self.text, start, end, self._is_name)
        if when == "possessive":
            return grammar.noun_follows(self.text, start, end)[0]
        if when == "object":
            return word.lower() == "him" or not grammar.noun_follows(self.text, start, end)[0]
        if when == "alone":
            return word.lower() == "hers" or not grammar.noun_follows(self.text, start, end)[0]
        if when == "person":
            return grammar.is_of_a_person(self.text, start, end, self._is_group)
        return True

    def _is_name(self, word: str) -> bool:
        return any(self.lists.lines[n].when == "name" for n, _ in self.lists.places.get(word.lower(), ()))

    def _is_group(self, word: str) -> bool:
        return word.lower() in self.lists.places


@dataclass(frozen=True)
class _Found:
    """A hit with the line that it was found on."""

    first: int
    last: int
    line: int
    group: int


def _read(text: str, lists: _Lists) -> tuple[_Reading, list[_Found], int]:
    """The hits of a text, and how many words stay because the line of their first use does not fit where they stand now."""
    reading = _Reading(text, lists)
    found = []
    kept: dict[str, int] = {}
    left = 0
    for first, last, places in reading.runs():
        key = " ".join(reading.lower[first : last + 1])
        # three groups: a word keeps the triple of its first use, or one text would mix two sets of words
        if len(lists.groups) > 2 and key in kept:
            places = tuple(place for place in places if place[0] == kept[key])
            left += not reading.holds(lists.lines[kept[key]].when, first, last)
        place = next((p for p in places if reading.holds(lists.lines[p[0]].when, first, last)), None)
        if place is not None:
            kept.setdefault(key, place[0])
            found.append(_Found(first, last, *place))
    return reading, found, left


def find(text: str, attribute: str, *, names: bool = True) -> tuple[Hit, ...]:
    """Where a text names an attribute, and which group: what `swap` would replace.

    Raises: RecipeError for an unknown attribute.
    """
    lists = _lists(attribute, names)
    reading, found, _ = _read(text, lists)
    return tuple(
        Hit(reading.tokens[hit.first][1], reading.tokens[hit.last][2], lists.groups[hit.group]) for hit in found
    )


# --------------------------------------------------------------------------- swapping


def swap(text: str, attribute: str, *, rng: random.Random | None = None, names: bool = True) -> Swapped:
    """The text with the words of every group of an attribute exchanged for those of another group.

    Two groups change places. Of three, one derangement is drawn for the whole text: no group keeps its words, no two become
    one. `rng` draws it; without one the text itself does, always the same. "a" and "an" follow their new word.
    Paper: Zhao et al. 2018, arXiv 1804.06876; Maudslay et al. 2019, arXiv 1909.00871 (names); pronouns by a rule of ours.
    Raises: RecipeError for an unknown attribute.
    """
    lists = _lists(attribute, names)
    reading, found, left = _read(text, lists)
    turned = _derangement(len(lists.groups), rng if rng is not None else random.Random(text))
    new, edits = _replaced(reading, found, turned)
    if not found:
        return Swapped(text, (), left)
    guessed = {hit.first for hit in found if _is_guess(reading, hit)}
    back = [turned.index(group) for group in range(len(turned))]
    again, there, _ = _read(new, lists)
    restored = _replaced(again, there, back)[0]
    if restored != text:
        guessed |= _not_restored(reading, found, again, there, back)
    return Swapped(new, edits, max(len(guessed) + left, int(restored != text)))


def _derangement(n: int, rng: random.Random) -> list[int]:
    """Which group each group becomes; none stays."""
    order = list(range(n))
    while any(i == to for i, to in enumerate(order)):
        rng.shuffle(order)
    return order


def _is_guess(reading: _Reading, hit: _Found) -> bool:
    if reading.lists.lines[hit.line].when not in ("possessive", "object", "alone"):
        return False
    start, end = reading.tokens[hit.first][1], reading.tokens[hit.last][2]
    return reading.lower[hit.first] in ("her", "his") and not grammar.noun_follows(reading.text, start, end)[1]


def _replaced(
    reading: _Reading, found: Sequence[_Found], turned: Sequence[int]
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The text with every hit replaced, and where the new words stand in it."""
    parts: list[str] = []
    edits: list[tuple[int, int]] = []
    length = done = 0
    for start, end, word in _changes(reading, found, turned):
        parts += [reading.text[done:start], word]
        length += start - done
        edits.append((length, length + len(word)))
        length += len(word)
        done = end
    return "".join([*parts, reading.text[done:]]), tuple(edits)


def _changes(reading: _Reading, found: Sequence[_Found], turned: Sequence[int]) -> list[tuple[int, int, str]]:
    changes = []
    for hit in found:
        new = _new_words(reading, hit, turned[hit.group])
        old = reading.text[reading.tokens[hit.first][1] : reading.tokens[hit.last][2]]
        article = reading.word(hit.first - 1)
        if article.lower() in ("a", "an") and reading.between(hit.first - 1, hit.first) in (" ", "\n"):
            wanted = grammar.article(old, new, article)
            if wanted != article:
                changes.append((*reading.tokens[hit.first - 1][1:], wanted))
        changes.append((reading.tokens[hit.first][1], reading.tokens[hit.last][2], new))
    return changes


def _new_words(reading: _Reading, hit: _Found, group: int) -> str:
    """The words of the other group, in the case and with the joints of the old ones."""
    line = reading.lists.lines[hit.line]
    key = reading.lower[hit.first : hit.last + 1]
    stored = next(TOKEN.findall(form) for form in line.members[hit.group] if _key(form).split() == key)
    choices = line.members[group]
    alone = len(choices) > 1 and grammar.stands_as_noun(
        reading.text, reading.tokens[hit.first][1], reading.tokens[hit.last][2]
    )
    target = TOKEN.findall(choices[-1] if alone else choices[0])
    text = ""
    for i, word in enumerate(target):
        at = hit.first + i
        opens = i == 0 and grammar.opens_sentence(reading.text, reading.tokens[at][1])
        text += grammar.cased(reading.word(at), stored[i], word, opens=opens)
        if i < len(target) - 1:
            text += reading.between(at, at + 1)
    return text


def _not_restored(
    reading: _Reading, found: Sequence[_Found], again: _Reading, there: Sequence[_Found], back: Sequence[int]
) -> set[int]:
    """The hits that swapping back misses or turns into another word. Words keep their number, so places can be compared."""
    returned = {hit.first: _new_words(again, hit, back[hit.group]) for hit in there}
    lost = set()
    for hit in found:
        old = reading.text[reading.tokens[hit.first][1] : reading.tokens[hit.last][2]]
        if returned.get(hit.first) != old:
            lost.add(hit.first)
    return lost
