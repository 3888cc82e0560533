"""A small trigram model of typed words: continues a text offline, with places left open for names and numbers."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Sequence

from untax.spans import Span

__all__ = ["NO_SPACE_BEFORE", "Trigram"]

START, END = "<s>", "</s>"
TOKEN = re.compile(r"<[A-Z]+>|\w+(?:['’-]\w+)*|[^\w\s]")
NO_SPACE_BEFORE = frozenset(".,!?;:)]}%'’”")
NO_SPACE_AFTER = frozenset("([{$€£“#")


class Trigram:
    """Counts of word triples; names and numbers stand in as <PERSON>, <PLACE>, ... so that one text's form fits another's facts."""

    def __init__(self) -> None:
        self._triples: dict[tuple[str, str], Counter[str]] = {}
        self._pairs: dict[str, Counter[str]] = {}
        self._words: Counter[str] = Counter()

    @staticmethod
    def tokens(text: str, spans: Sequence[Span] = ()) -> list[str]:
        """The words and marks of a text, every span as its type."""
        pieces, last = [], 0
        for span in spans:
            pieces += [*TOKEN.findall(text[last : span.start]), f"<{span.type}>"]
            last = span.end
        return pieces + TOKEN.findall(text[last:])

    @staticmethod
    def text(tokens: Sequence[str]) -> str:
        """Tokens as a text, with the spacing of English."""
        written = ""
        for token in tokens:
            glued = not written or token[0] in NO_SPACE_BEFORE or written[-1] in NO_SPACE_AFTER
            written += token if glued else f" {token}"
        return written

    def add(self, tokens: Sequence[str]) -> None:
        """Count one text."""
        padded = [START, START, *tokens, END]
        for a, b, c in zip(padded, padded[1:], padded[2:], strict=False):
            self._triples.setdefault((a, b), Counter())[c] += 1
            self._pairs.setdefault(b, Counter())[c] += 1
            self._words[c] += 1

    def _choices(self, a: str, b: str) -> Counter[str]:
        return self._triples.get((a, b)) or self._pairs.get(b) or self._words

    def log_probability(self, tokens: Sequence[str]) -> float:
        """Mean log-probability per token, a fixed 0.4 for every step back to a shorter context."""
        padded = [START, START, *tokens, END]
        total = 0.0
        for a, b, c in zip(padded, padded[1:], padded[2:], strict=False):
            for weight, counts in ((1.0, self._triples.get((a, b))), (0.4, self._pairs.get(b)), (0.16, self._words)):
                if counts and counts[c]:
                    total += math.log(weight * counts[c] / counts.total())
                    break
            else:
                total += math.log(0.16 / (self._words.total() + 1))
        return total / (len(padded) - 2)

    def continue_from(self, tokens: Sequence[str], rng: random.Random, *, longest: int, shortest: int = 0) -> list[str]:
        """Words behind `tokens` until the model ends the text; END is put off until `shortest` words stand there."""
        if not self._words:
            return []
        written = [START, START, *tokens]
        made: list[str] = []
        while len(made) < longest:
            counts = self._choices(written[-2], written[-1])
            if len(made) < shortest and set(counts) == {END}:
                counts = self._words
            words = [word for word in counts if word != END or len(made) >= shortest] or [END]
            word = rng.choices(words, [counts[w] for w in words])[0]
            if word == END:
                break
            made.append(word)
            written.append(word)
        return made
