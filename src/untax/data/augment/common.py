"""What the kinds share: words of a text, edits with their positions, sameness of entities, what other records offer."""

from __future__ import annotations

import difflib
import itertools
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from untax import spans
from untax.data.augment.generators import GAP, Generator, Request
from untax.data.trigram import NO_SPACE_BEFORE, Trigram
from untax.spans import Span
from untax.types import Candidate, ContrastiveRecord

__all__ = [
    "NAME_TYPES",
    "Corpus",
    "Tally",
    "changed_parts",
    "content_words",
    "edit",
    "edits_between",
    "fits",
    "normalise",
    "rewrites",
    "rng_for",
    "same_entity",
    "sentence_case",
    "typed_continuation",
    "word_list",
]

NAME_TYPES = ("PERSON", "PLACE", "ORG", "NAME")
WORD = re.compile(r"\w+(?:['’-]\w+)*")
#: words that carry no content of their own
FUNCTION_WORDS = spans.COMMON | frozenset(["not", "n't", "don't", "didn't", "isn't", "wasn't", "cannot", "etc"])


@dataclass
class Tally:
    """How many texts a kind made, how many were rejected for which reason, and what else it counted of those that it gave."""

    made: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)


def rng_for(seed: int, kind: str, record: ContrastiveRecord) -> random.Random:
    """A generator that depends on nothing but the seed, the kind and the record."""
    return random.Random(f"{seed}\x1f{kind}\x1f{record.id}\x1f{record.reference}")


# --------------------------------------------------------------------------- words


def word_list(text: str) -> list[str]:
    """The words of a text in lower case."""
    return [word.lower().replace("’", "'") for word in WORD.findall(text)]


@lru_cache(maxsize=65536)
def content_words(text: str) -> frozenset[str]:
    """The words that are no function words, in lower case."""
    return frozenset(word for word in word_list(text) if word not in FUNCTION_WORDS)


@lru_cache(maxsize=65536)
def normalise(text: str) -> str:
    """A text without case, punctuation and spacing: what makes two texts the same."""
    return " ".join(word_list(text))


def sentence_case(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


# --------------------------------------------------------------------------- edits


def edit(text: str, changes: Iterable[tuple[int, int, str]]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Replace [start, end) of the text by new words, and say where the new words stand in the new text.

    Changes are carried out from right to left, so that no change moves the place of another; none may overlap.
    """
    ordered = sorted(changes)
    if any(before[1] > after[0] for before, after in itertools.pairwise(ordered)):
        raise ValueError(f"changes overlap: {ordered}")
    for start, end, new in reversed(ordered):
        text = text[:start] + new + text[end:]
    places = []
    moved = 0
    for start, end, new in ordered:
        places.append((start + moved, start + moved + len(new)))
        moved += len(new) - (end - start)
    return text, tuple(places)


def _opcodes(old: str, new: str) -> list[tuple[str, str, int, int]]:
    """What differs, word by word: the old words, the new ones, and where the new ones stand."""
    tokens_old = [(m.group(), m.start(), m.end()) for m in re.finditer(r"\w+(?:['’]\w+)*|[^\w\s]", old)]
    tokens_new = [(m.group(), m.start(), m.end()) for m in re.finditer(r"\w+(?:['’]\w+)*|[^\w\s]", new)]
    matcher = difflib.SequenceMatcher(None, [t[0] for t in tokens_old], [t[0] for t in tokens_new], autojunk=False)
    found = []
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            continue
        start = tokens_new[j1][1] if j1 < len(tokens_new) else len(new)
        end = tokens_new[j2 - 1][2] if j2 > j1 else start
        before = old[tokens_old[i1][1] : tokens_old[i2 - 1][2]] if i2 > i1 else ""
        found.append((before, new[start:end], start, end))
    return found


def edits_between(old: str, new: str) -> tuple[tuple[int, int], ...]:
    """The places of the new text whose words differ from the old one; a deletion is a place of length 0."""
    return tuple((start, end) for _, _, start, end in _opcodes(old, new))


def changed_parts(old: str, new: str) -> list[tuple[str, str]]:
    """The words that were replaced and what stands there now; either may be empty."""
    return [(before, after) for before, after, _, _ in _opcodes(old, new)]


# --------------------------------------------------------------------------- entities


def _entity_words(text: str) -> list[str]:
    words = [word for word in re.findall(r"[\w'’-]+", text.replace(".", "")) if word.lower() != "the"]
    return words or [text]


@lru_cache(maxsize=65536)
def same_entity(one: str, other: str) -> bool:
    """Whether two names mean the same: equal, one an abbreviation of the other, or one a part of the other."""
    a, b = _entity_words(one), _entity_words(other)
    low_a, low_b = [w.lower() for w in a], [w.lower() for w in b]
    if low_a == low_b:
        return True
    for short, long in ((a, b), (b, a)):
        initials = "".join(w[0] for w in long if w[0].isupper())
        if (
            len(short) == 1
            and short[0].isupper()
            and 1 < len(short[0]) <= len(initials)
            and initials.startswith(short[0])
        ):
            return True
    names = one[:1].isupper() and other[:1].isupper()
    return names and (set(low_a) < set(low_b) or set(low_b) < set(low_a))


def _plural(span: Span) -> bool:
    if span.type in ("NUMBER", "MONEY", "PERCENT"):
        return not re.match(r"\D*(?:1|one)\b(?![.,]\d)", span.text, re.IGNORECASE)
    if span.type == "ROLE":
        last = span.text.split()[-1].lower()
        return last.endswith("s") and last not in spans.ROLE_NOUNS
    return False


def fits(one: Span, other: Span) -> bool:
    """Whether one span may stand in the place of the other: same type, both one or both many, both years or neither."""
    years = [bool(re.fullmatch(r"\d{4}s?", span.text)) for span in (one, other)]
    return one.type == other.type and _plural(one) == _plural(other) and years[0] == years[1]


# --------------------------------------------------------------------------- what other records offer


@dataclass(frozen=True)
class Corpus:
    """What the offline rules may look at beyond the record: entities of all records by type, and a model of all references."""

    entities: Mapping[str, tuple[str, ...]]
    trigram: Trigram
    verbs: tuple[str, ...]

    @classmethod
    def of(cls, records: Sequence[ContrastiveRecord], *, finder: str = "rules") -> Corpus:
        """Read all references (and the entities of the sources) once."""
        references = [record.reference for record in records]
        found = spans.find_all(references, finder=finder)
        of_sources = spans.find_all([record.source for record in records], finder=finder)
        types: dict[str, Counter[str]] = {}
        for group in (*found, *of_sources):
            for span in group:
                types.setdefault(span.text, Counter())[span.type] += 1
        entities: dict[str, list[str]] = {}
        for text, counts in types.items():
            # a name that is once taken for another type ("for Derby") counts as what it mostly is
            entities.setdefault(counts.most_common(1)[0][0], []).append(text)
        trigram = Trigram()
        verbs: Counter[str] = Counter()
        for reference, group in zip(references, found, strict=True):
            tokens = trigram.tokens(reference, group)
            trigram.add(tokens)
            verbs.update(_words_after_names(tokens))
        common = [word for word, count in sorted(verbs.items(), key=lambda item: (-item[1], item[0])) if count > 1][
            :200
        ]
        return cls({kind: tuple(texts) for kind, texts in entities.items()}, trigram, tuple(common))

    def foreign(self, span: Span, known: Sequence[str], rng: random.Random, *, tries: int = 40) -> str | None:
        """An entity that fits the place of `span` and is none of the known ones, or None when the tries find none."""
        pool = self.entities.get(span.type, ())
        for _ in range(tries if pool else 0):
            text = pool[rng.randrange(len(pool))]
            if fits(Span(0, 0, span.type, text), span) and not any(same_entity(text, other) for other in known):
                return text
        return None


def _words_after_names(tokens: Sequence[str]) -> Iterable[str]:
    """Words that stand behind a name in a reference: its verbs, mostly."""
    for token, after in itertools.pairwise(tokens):
        name = token in ("<PERSON>", "<ORG>", "<NAME>", "<ROLE>", "and", "who")
        if name and after.isalpha() and after.islower() and after not in FUNCTION_WORDS and len(after) > 2:
            yield after


# --------------------------------------------------------------------------- other endings of a reference


def rewrites(
    record: ContrastiveRecord, cuts: list[int], generator: Generator, prompt: str, request: Request, kind: str
) -> list[Candidate]:
    """What a model writes behind the beginning of the reference, for each place where it is cut."""
    found = []
    for cut in cuts:
        kept = record.reference[:cut].rstrip()
        asked = prompt.replace("{source}", record.source)
        text = f"{asked} {kept}".rstrip() if generator.model.continues else f"{asked} {kept} {GAP}"
        settings = {name: value for name, value in vars(request).items() if name not in ("text", "gap")}
        answer = generator.ask(Request(text, gap=not generator.model.continues, **settings))
        for rest in answer.texts if answer else ():
            whole = _sentences(_join(kept, rest), record.reference)
            found.append(Candidate(whole, kind, generator.name, edits_between(record.reference, whole)))
    return found


def _join(kept: str, rest: str) -> str:
    return sentence_case(kept + rest if not kept or rest[:1] in NO_SPACE_BEFORE else f"{kept} {rest}")


def _sentences(text: str, reference: str) -> str:
    """No more sentences than the reference has: a base model does not stop by itself."""
    ends = [m.end() for m in re.finditer(r"[.!?][\"”')]*(?=\s|$)", text)]
    wanted = max(1, len(re.findall(r"[.!?][\"”')]*(?=\s|$)", reference)))
    return text[: ends[min(wanted, len(ends)) - 1]] if ends else text


def typed_continuation(
    record: ContrastiveRecord, tokens: list[str], corpus: Corpus, finder: str, rng: random.Random
) -> list[str]:
    """Words of the trigram model behind `tokens`; its open places are filled from the post, or from elsewhere."""
    long = len(Trigram.tokens(record.reference, spans.find(record.reference, finder=finder)))
    rest = corpus.trigram.continue_from(
        tokens, rng, longest=max(2, 2 * long - len(tokens)), shortest=max(0, long // 2 - len(tokens))
    )
    of_source = spans.find(record.source, finder=finder)
    written = []
    for token in rest:
        if token.startswith("<") and len(token) > 2:
            kind = token.strip("<>")
            near = [span.text for span in of_source if span.type == kind]
            far = corpus.entities.get(kind, ())
            choices = near if near and (rng.random() < 0.7 or not far) else far
            written.append(choices[rng.randrange(len(choices))] if choices else kind.lower())
        else:
            written.append(token)
    # cut off in the middle: a reference that ends its sentence would be told apart by that alone
    return [] if record.reference[-1:] in ".!?" and written[-1:] not in (["."], ["!"], ["?"]) else written
