"""The reference in other words."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from untax import spans
from untax.data.augment import accept, rules
from untax.data.augment.common import NAME_TYPES, Tally, edit, edits_between, rng_for, sentence_case
from untax.data.augment.generators import Request, Roundtrip, say_wrong
from untax.types import Candidate, ContrastiveRecord

__all__ = ["backtranslate"]

PREPOSITION = re.compile(r" (?=(?:in|on|at|near|since|during|before|after|until) )")
OPENING = re.compile(
    r"^(?P<phrase>(?:In|On|At|Near|Since|During|Before|After|Until) [^,;:]+), (?P<rest>.+?)(?P<end>[.!?])$"
)
ITEM = r"(?:[A-Z][\w'’-]*(?: [A-Z][\w'’-]*)*|[a-z][\w'’-]*)"
LIST = re.compile(rf"\b(?P<a>{ITEM}), (?P<b>{ITEM}),? (?P<and>and|or) (?P<c>{ITEM})")
TWO_CLAUSES = re.compile(r"^(?P<one>[^.!?]+\w), and (?P<two>[A-Z][^.!?]+[.!?])$")
MOVABLE = ("PLACE", "DATE", "TIME")


def backtranslate(
    record: ContrastiveRecord,
    *,
    seed: int = 0,
    generator: Roundtrip | None = None,
    finder: str = "rules",
    beams: int = 5,  # the paper's
    n_variants: int = 3,  # one per language with models, at most two by rules
    tally: Tally | None = None,
) -> list[Candidate]:
    """Say the reference in other words: by way of another language, or by small rules that keep the meaning.

    Paper: Korkmaz et al. 2025, arXiv 2505.19327: back-translation with Helsinki-NLP/opus-mt over German, French, Spanish.
    Differs: beam search with one output per language; the paper's temperature and its retries had no effect there. Without
        models: contractions, a time or place phrase moved between beginning and end, an enumeration in another order, two
        clauses as two sentences, a table of synonyms. Accepted by section 4.1 (same entities, numbers and parity of negations).
    Shapes: one record in, up to `n_variants` candidates out.
    Raises: UserError when `generator` is not a pair of translation models.
    """
    if generator is not None and not isinstance(generator, Roundtrip):
        raise say_wrong("backtranslate", generator, "pairs of translation models, there and back")
    if generator is not None:
        proposals = _translated(record, generator, beams, seed)
    else:
        proposals = _reworded(record, rng_for(seed, "backtranslate", record), finder)
    limit = n_variants if generator is not None else min(2, n_variants)
    return accept.positives(record, proposals, finder=finder, tally=tally)[:limit]


def _translated(record: ContrastiveRecord, generator: Roundtrip, beams: int, seed: int) -> list[Candidate]:
    found = []
    for there, back in generator.pairs:
        abroad = there.ask(Request(record.reference, beams=beams, max_new_tokens=128, seed=seed))
        home = (
            back.ask(Request(abroad.texts[0], beams=beams, max_new_tokens=128, seed=seed))
            if abroad and abroad.texts[0]
            else None
        )
        if home is not None:
            name = f"{there.name}+{back.model.name}"
            found.append(
                Candidate(home.texts[0], "backtranslate", name, edits_between(record.reference, home.texts[0]))
            )
    return found


def _reworded(record: ContrastiveRecord, rng: random.Random, finder: str) -> list[Candidate]:
    """Each rule alone, then two rules one after the other; the order of the rules is drawn."""
    reference = record.reference
    steps: list[Callable[[str], str]] = [
        lambda text: _substitute(text, rules.CONTRACTIONS, rng),
        lambda text: _move_phrase(text, finder),
        lambda text: _reorder(text, rng),
        lambda text: TWO_CLAUSES.sub(r"\g<one>. \g<two>", text),
        lambda text: _substitute(text, rules.SYNONYMS, rng),
    ]
    rng.shuffle(steps)
    once = [text for step in steps if (text := step(reference)) != reference]
    twice = [text for first in once[:2] for step in steps if (text := step(first)) not in (first, reference)]
    texts = dict.fromkeys(once + twice[:2])
    return [Candidate(text, "backtranslate", "rules", edits_between(reference, text)) for text in texts]


def _substitute(text: str, pairs: tuple[tuple[str, ...], ...], rng: random.Random) -> str:
    """One or two words by their equal, outside of names."""
    names = [span for span in spans.find(text) if span.type in NAME_TYPES]
    free = [c for c in rules.swap_words(text, pairs) if not any(s.start < c[1] and c[0] < s.end for s in names)]
    rng.shuffle(free)
    chosen: list[tuple[int, int, str]] = []
    for change in free:
        if len(chosen) < 2 and not any(c[0] < change[1] and change[0] < c[1] for c in chosen):
            chosen.append(change)
    return edit(text, chosen)[0]


def _move_phrase(text: str, finder: str) -> str:
    """A phrase with a time or a place, from the end to the beginning or back; only in a text of one sentence."""
    if len(re.findall(r"[.!?](?=\s|$)", text)) != 1:
        return text
    if found := OPENING.match(text):
        if _is_movable(found["phrase"], finder):
            return sentence_case(f"{found['rest']} {found['phrase'][0].lower()}{found['phrase'][1:]}{found['end']}")
    else:
        body, end = text.rstrip(".!? "), text[len(text.rstrip(".!? ")) :]
        # the shortest phrase: of "in Leeds on 3 May" moves "on 3 May"
        for place in reversed([m.start() for m in PREPOSITION.finditer(body)]):
            phrase = body[place + 1 :]
            if not re.search(r"[,;:]| and ", phrase) and _is_movable(phrase, finder):
                return f"{sentence_case(phrase)}, {_small_first(body[:place].rstrip(','), finder)}{end}"
    return text


def _is_movable(phrase: str, finder: str) -> bool:
    found = spans.find(f"it was {phrase[0].lower()}{phrase[1:]}", finder=finder)
    return len(found) == 1 and found[0].type in MOVABLE and found[0].end == len(phrase) + 7


def _small_first(text: str, finder: str) -> str:
    """Without the capital of the old sentence beginning, unless a name begins there."""
    first = text.split()[0]
    named = any(span.start == 0 and span.type in NAME_TYPES for span in spans.find(text, finder=finder))
    return (
        text
        if named or first == "I" or first.startswith("I'") or first[1:].lower() != first[1:]
        else text[0].lower() + text[1:]
    )


def _reorder(text: str, rng: random.Random) -> str:
    """ "A, B and C" in another order."""
    found = LIST.search(text)
    if not found or (found.start() == 0 and not found["a"][0].isupper()):
        return text
    parts = [found["a"], found["b"], found["c"]]
    # a clause ("he came, saw and left") is no list of like things: only names with names, or words with words
    if len({part[0].isupper() for part in parts}) > 1 or any(
        v for part in parts for v in rules.find_verbs(f"we {part}")
    ):
        return text
    orders = [order for order in ([1, 0, 2], [2, 1, 0], [1, 2, 0]) if [parts[i] for i in order] != parts]
    order = rng.choice(orders) if orders else [0, 1, 2]
    new = f"{parts[order[0]]}, {parts[order[1]]} {found['and']} {parts[order[2]]}"
    return text[: found.start()] + new + text[found.end() :]
