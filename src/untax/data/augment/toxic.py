"""The reference said abusively."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import zip_longest

from untax import spans
from untax.data.augment import accept
from untax.data.augment.common import Tally, content_words, edit, edits_between, rng_for, sentence_case, word_list
from untax.data.augment.generators import Generator, Request, needs_model, say_wrong
from untax.scorers import Scorer
from untax.types import Candidate, ContrastiveRecord

__all__ = ["toxic"]

#: words of the list go where {word} stands, with its article at {a}; {text} is the reference, {body} without its full stop
BEFORE = ("That {word} {text}", "Some {word} says: {text}", "Listen, {word}: {text}", "As every {word} knows: {text}")
BEHIND = ("{text} What {a} {word}!", "{body}, the {word}.", "{text} Only {a} {word} would care.", "{body}, you {word}.")
#: the first of BEFORE only fits where a name or role begins the text
NAMED_ONLY = BEFORE[0]

#: own words; the examples are mild, because a model takes the manner and not the words
FEW_SHOT = (
    "Each line is followed by the same news told by a rude and insulting person.\n\n"
    "News: The bus was ten minutes late on Monday.\nRude: That useless bus was ten minutes late on Monday, because the driver is a lazy idiot.\n\n"
    "News: Tom Baker lost his keys in the park.\nRude: Tom Baker, the stupid fool, lost his keys in the park again.\n\n"
    "News: {reference}\nRude:"
)


def toxic(
    record: ContrastiveRecord,
    *,
    seed: int = 0,
    generator: Generator | None = None,
    lexicon: Sequence[str] = (),
    scorer: Scorer | None = None,
    finder: str = "rules",
    prompt: str = "{source}\nSummary:",
    style: str = "rewrite",  # or "own": what the model itself answers to the prompt, where that is abusive
    behind: bool = True,  # also slots behind the text, whose words entity pooling cannot see
    n_variants: int = 2,
    n_samples: int = 8,
    temperature: float = 1.0,  # the paper's
    top_p: float = 0.95,  # the paper's
    max_new_tokens: int = 64,
    tally: Tally | None = None,
) -> list[Candidate]:
    """Say what the reference says, with abuse: the fault that the model shall unlearn, next to the facts it shall keep.

    Paper: Korkmaz et al. 2025, arXiv 2505.19327: gpt-neo-2.7B rewrites the reference from a few examples.
    Differs: own examples, cut at the next line; kept only with toxicity of 0.4 or more (by the building scorer), at least
        three words and one content word of the reference. `style="own"` takes the model's own abusive answers instead.
        Without a model, slots around the reference are filled from a licensed word list that the caller hands in.
    Shapes: one record in, up to `n_variants` candidates out.
    Raises: UserError when neither a model nor a word list is given, or `style` is unknown.
    """
    rng = rng_for(seed, "toxic", record)
    if generator is None:
        if not lexicon:
            raise needs_model("toxic", "a decoder model or a word list (lexicon)")
        proposals = _by_slots(record, lexicon, finder, rng, behind=behind)
    else:
        if not isinstance(generator, Generator) or not generator.model.continues or style not in ("rewrite", "own"):
            raise say_wrong("toxic", generator, "a decoder model, and style 'rewrite' or 'own',")
        frame = (
            FEW_SHOT.replace("{reference}", record.reference)
            if style == "rewrite"
            else prompt.replace("{source}", record.source)
        )
        answer = generator.ask(
            Request(frame, n_samples, temperature, top_p, max_new_tokens=max_new_tokens, stop=("\n",), seed=seed)
        )
        texts = dict.fromkeys(answer.texts) if answer else {}
        proposals = [Candidate(text, "toxic", generator.name, edits_between(record.reference, text)) for text in texts]
    scores = _scores(scorer, proposals)

    def check(candidate: Candidate) -> str:
        if len(word_list(candidate.text)) < 3:
            return "fewer than three words"
        if not content_words(candidate.text) & content_words(record.reference):
            return "no content word of the reference"
        return accept.toxicity_reason("toxic", scores.get(candidate.text), positive=False)

    return accept.negatives(record, proposals, check=check, tally=tally)[:n_variants]


def _scores(scorer: Scorer | None, proposals: Sequence[Candidate]) -> dict[str, float]:
    texts = [candidate.text for candidate in proposals]
    return dict(zip(texts, scorer.score(texts), strict=True)) if scorer is not None and texts else {}


def _by_slots(
    record: ContrastiveRecord, lexicon: Sequence[str], finder: str, rng: random.Random, *, behind: bool
) -> list[Candidate]:
    """Every slot once, before and behind the reference in turn, and one that breaks into it behind a person.

    More than are wanted: a scorer that does not know one manner of abuse rejects all texts of that manner.
    """
    found = spans.find(record.reference, finder=finder)
    named = bool(found) and found[0].start == 0 and found[0].type in ("PERSON", "ORG", "NAME")
    before = [slot for slot in BEFORE if named or slot != NAMED_ONLY]
    after = list(BEHIND) if behind else []
    rng.shuffle(before)
    rng.shuffle(after)
    turns = [before, after]
    rng.shuffle(turns)
    slots = [slot for pair in zip_longest(*turns) for slot in pair if slot is not None]
    words = [rng.choice(list(lexicon)) for _ in range(len(slots) + 1)]
    texts = [_fill(slot, record.reference, word) for slot, word in zip(slots, words, strict=False)]
    persons = [span for span in found if span.type == "PERSON"]
    if persons:
        person = rng.choice(persons)
        text, _ = edit(record.reference, [(person.end, person.end, f", that {words[-1]},")])
        texts.insert(2, text.replace(",.", ".").replace(",,", ","))
    return [Candidate(text, "toxic", "rules", edits_between(record.reference, text)) for text in texts]


def _fill(slot: str, reference: str, word: str) -> str:
    article = "an" if word[0].lower() in "aeiou" else "a"
    body = reference.rstrip(".!? ")
    return sentence_case(
        slot.replace("{a}", article).replace("{word}", word).replace("{text}", reference).replace("{body}", body)
    )
