"""Finds the words that carry the facts of a text: names, dates, numbers, roles.

The rule layer needs no model: patterns for money, percent, times, dates and numbers; runs of capitalised words that do not
merely begin a sentence; role nouns ("my boss"), because anonymous posts hold few names. A spaCy model or a Hugging Face
token classifier finds the names instead when one is named; dates, numbers and roles come from the rules in every case, so
that one finder selects the same kinds of words in every target.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from untax.scorers import hash_files
from untax.types import UserError

__all__ = ["NUMERIC", "TYPES", "Finder", "Span", "coverage", "find", "find_all", "is_blind", "load", "sentence_starts"]

#: types that hold a quantity or a time
NUMERIC = ("DATE", "TIME", "MONEY", "PERCENT", "NUMBER")
TYPES = ("PERSON", "PLACE", "ORG", "NAME", "ROLE", "DATE", "TIME", "MONEY", "PERCENT", "NUMBER")


@dataclass(frozen=True)
class Span:
    """The characters [start, end) of a text, what they name (one of TYPES), and the words themselves."""

    start: int
    end: int
    type: str
    text: str


class Finder(Protocol):
    """Something that finds spans; `identity` changes when its answers may change."""

    name: str
    identity: str

    def find_all(self, texts: Sequence[str]) -> list[list[Span]]:
        """The spans of every text, in order of their start, none overlapping."""
        ...


# --------------------------------------------------------------------------- public functions


def find(text: str, *, finder: str = "rules") -> list[Span]:
    """The spans of one text. `finder` is "rules", "spacy:NAME_OR_DIR" or "hf:DIR".

    Raises: UserError when the finder does not exist or cannot be loaded.
    """
    return load(finder).find_all([text])[0]


def find_all(texts: Sequence[str], *, finder: str = "rules") -> list[list[Span]]:
    """The spans of many texts; models read them in batches.

    Raises: UserError when the finder does not exist or cannot be loaded.
    """
    return load(finder).find_all(texts)


def coverage(texts: Sequence[str], *, finder: str = "rules") -> float:
    """The share of texts with at least one span; NaN when there are no texts."""
    if not texts:
        return float("nan")
    return sum(1 for spans in find_all(texts, finder=finder) if spans) / len(texts)


def is_blind(spans: Iterable[Span], edits: Iterable[tuple[int, int]]) -> bool:
    """Whether every selected word stands before the first edited character.

    A causal model's states there have seen nothing of the edit, so such a negative cannot be told from the reference.
    Without a span or without an edit there is nothing to be blind with or to: False.
    """
    ends = [span.end for span in spans]
    starts = [start for start, _ in edits]
    return bool(ends and starts) and max(ends) <= min(starts)


@lru_cache(maxsize=4)
def load(finder: str = "rules") -> Finder:
    """The finder of a name, loaded once.

    Raises: UserError when the name is not understood or the model cannot be loaded.
    """
    kind, _, where = finder.partition(":")
    if finder == "rules":
        return RuleFinder()
    if kind == "spacy" and where:
        return SpacyFinder(where)
    if kind == "hf" and where:
        return TokenClassifierFinder(where)
    raise UserError(f"span finder '{finder}' is not known. There are: rules, spacy:NAME_OR_DIR, hf:DIR.")


# --------------------------------------------------------------------------- patterns


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|Jan\.?|Feb\.?|Mar\.|Apr\.?|Jun\.?|Jul\.?|Aug\.?|Sept?\.?|Oct\.?|Nov\.?|Dec\.?)(?!\w)"
)
# "May" and "March" alone are as often a verb or the first word of a sentence
LONE_MONTH = (
    r"(?:January|February|April|June|July|August|September|October|November|December"
    r"|(?:(?<=\bin )|(?<=\bof )|(?<=\bby )|(?<=\blast )|(?<=\bnext )|(?<=\bsince )|(?<=\buntil ))(?:May|March))"
)
WEEKDAY = r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)days?"
CURRENCY = (
    r"(?:dollars?|bucks|euros?|pounds?|cents?|crowns?|francs?|yen|rupees?|pesos?|pence|kroner|marks|shillings?"
    r"|USD|EUR|GBP|CHF|JPY)"
)
SMALL = r"(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen)"
TENS = r"(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)"
SCALE = r"(?:hundred|thousand|million|billion)"
WORD_NUMBER = rf"(?:(?:{TENS}(?:-(?:one|{SMALL}))?|{SMALL}|(?:one|a)(?= {SCALE}))(?: {SCALE})*(?: and (?:{TENS}|{SMALL}))?|a dozen)"
DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
CLOCK = r"(?:a\.m\.|p\.m\.|am\b|pm\b|AM\b|PM\b|o'clock)"

PATTERNS = re.compile(
    "|".join(
        f"(?P<{name}>{pattern})"
        for name, pattern in (
            ("MONEY", rf"[$€£¥]\s?{DIGITS}(?:\s?(?:k|m|bn|{SCALE})\b)?|\b(?:USD|EUR|GBP)\s?{DIGITS}"
                      rf"|(?<![\w.]){DIGITS}k?(?: {SCALE})? {CURRENCY}\b|\b{WORD_NUMBER} {CURRENCY}\b"),
            ("PERCENT", rf"(?<![\w.]){DIGITS}\s?(?:%|percent\b|per cent\b)|\b{WORD_NUMBER} (?:percent|per cent)\b"),
            ("DATE", rf"\b\d{{4}}-\d\d-\d\d\b|\b\d{{1,2}}/\d{{1,2}}/\d{{2,4}}\b"
                     rf"|\b\d{{1,2}}(?:st|nd|rd|th)?(?: of)? {MONTH}(?:,? \d{{4}})?|\b{MONTH} \d{{1,2}}(?:st|nd|rd|th)?\b(?:,? \d{{4}}\b)?"
                     rf"|\b{MONTH} \d{{4}}\b|\b(?:(?:last|next|this|every) )?{WEEKDAY}\b"
                     r"|\b(?:last|next|this) (?:week|weekend|month|year|spring|summer|autumn|fall|winter)\b"
                     rf"|\b{LONE_MONTH}\b(?! [A-Z])|\b(?:[Yy]esterday|[Tt]oday|[Tt]omorrow)\b|(?<![\w.,$€£-])(?:1\d|20)\d\d(?:s\b|(?![\w%]|[.,]\d))"),
            ("TIME", rf"\b\d{{1,2}}:\d\d(?::\d\d)?(?:\s?{CLOCK})?|\b\d{{1,2}}\s?{CLOCK}|\b(?:noon|midnight|tonight)\b"
                     rf"|\b(?:half past|quarter (?:to|past)) (?:one|{SMALL})\b|\b(?:this|last|every) (?:morning|afternoon|evening|night)\b"),
            ("NUMBER", rf"(?<![\w.]){DIGITS}(?:k|m|bn|st|nd|rd|th)?(?!\w)|\b{WORD_NUMBER}\b"),
        )
    )
)  # fmt: skip

ROLE_NOUNS = _words(
    "boss manager supervisor coworker co-worker colleague employee assistant teacher professor tutor principal coach student classmate "
    "roommate flatmate housemate neighbour neighbor landlord landlady tenant friend girlfriend boyfriend partner fiancé fiancée husband wife "
    "ex mother father mom mum dad mama papa parent sister brother sibling twin son daughter child kid baby uncle aunt cousin nephew niece "
    "grandmother grandfather grandma grandpa grandson granddaughter stepfather stepmother stepdad stepmom mother-in-law father-in-law "
    "sister-in-law brother-in-law doctor nurse surgeon dentist therapist vet lawyer solicitor judge attorney officer policeman detective "
    "guard soldier captain sailor pilot driver mechanic plumber electrician carpenter builder engineer programmer developer accountant "
    "banker cashier clerk secretary receptionist typist salesman customer client waiter waitress barista bartender cook chef baker butcher "
    "farmer fisherman gardener florist hairdresser barber tailor stylist cleaner maid nanny babysitter midwife librarian journalist reporter "
    "editor author painter singer dancer actor actress musician artist photographer mayor minister president senator priest pastor porter "
    "smith miner hunter boxer stranger guest passenger"
)
# words that may stand between the determiner and the noun
ROLE_ADJECTIVES = _words(
    "old new young former late older younger elder best close good dear little big own first second ex next-door"
)
ROLE = re.compile(
    rf"\b(?:[Mm]y|[Hh]is|[Hh]er|[Oo]ur|[Tt]heir|[Yy]our|[Aa]n?|[Tt]he)\s(?:(?:{'|'.join(sorted(ROLE_ADJECTIVES))})\s)?"
    rf"(?:{'|'.join(sorted(map(re.escape, ROLE_NOUNS), key=lambda w: (-len(w), w)))})(?:e?s)?\b(?!-)"
)

# --------------------------------------------------------------------------- word lists for capitalised runs

TITLES = _words(
    "Mr Mrs Ms Miss Dr Prof Professor Sir Lady Lord Captain Judge Uncle Aunt King Queen Prince Princess Saint Pope"
)
ORG_WORDS = _words(
    "Inc Ltd LLC Corp Corporation Company Co GmbH AG PLC plc University College School Institute Academy Hospital Clinic Bank Trust Union "
    "Club Guild Works Group Foundation Association Society Committee Council Ministry Department Agency Party Church Museum Library Press "
    "Times Post Airlines Airways Motors Industries Systems Labs Laboratories Studios Records Brothers Partners League United"
)
PLACE_WORDS = _words(
    "Street Road Avenue Lane Square Park Lake River Mountain Mount Island Islands Valley Beach Bay Bridge County City Town Village Station "
    "Airport Hill Hills Harbour Harbor Coast Desert Forest Creek Falls Gulf Ocean Sea"
)
PLACE_STARTS = _words("New San Santa Los Las Saint St North South East West Upper Lower Fort Mount Lake El")
PLACES = _words(
    "London Paris Berlin Madrid Rome Vienna Dublin Leeds Cardiff Newcastle Edinburgh Glasgow Manchester Liverpool Oxford Cambridge Bristol "
    "Boston Chicago Seattle Houston Dallas Denver Detroit Atlanta Miami Texas California Florida Ohio Virginia Oregon Washington Toronto "
    "Vancouver Montreal Sydney Melbourne Tokyo Moscow Beijing Delhi Mumbai Cairo Lagos Nairobi Athens Oslo Prague Warsaw Lisbon Amsterdam "
    "Brussels Zurich Geneva Munich Hamburg America Canada Mexico Brazil Argentina England Scotland Wales Ireland Britain France Germany Spain "
    "Italy Greece Turkey Russia Ukraine Poland Sweden Norway Denmark Finland Holland Belgium Switzerland Austria Israel Iran Iraq Syria Egypt "
    "Kenya Nigeria India Pakistan China Japan Korea Vietnam Thailand Indonesia Australia Europe Asia Africa UK US USA EU U.S U.K Earth Mars"
)
GIVEN_NAMES = _words(
    "James John Robert Michael William David Richard Joseph Thomas Charles Daniel Matthew Anthony Mark Paul Steven Andrew Kevin Brian George "
    "Edward Peter Henry Jack Tom Tim Ben Sam Adam Alex Chris Dan Dave Joe Mike Nick Steve Bob Jim Bill Harry Oliver Leo Max Luke Ryan Eric "
    "Mary Patricia Jennifer Linda Elizabeth Barbara Susan Jessica Sarah Karen Lisa Nancy Sandra Ashley Emily Anna Maria Emma Olivia Sophie "
    "Alice Jane Kate Laura Rachel Julia Helen Amy Rebecca Hannah Megan Claire Lucy Grace Chloe Ruth Eva Ella Mia Zoe Nina Sara Lily"
)
# capitalised without naming anything one could mix up, or only because a sentence begins
COMMON = _words(
    "i i'm i've i'd i'll a an the this that these those my your his her its our their he she it we they you who what which when where why how "
    "and or but nor so yet for if then than because since although though while until unless as at by in on of off to from with without into "
    "onto over under after before between during about against among through across along near there here not no yes yeah ok okay oh well now "
    "just also even only still never always often sometimes maybe perhaps please thanks thank sorry hello hi dear let all any both each every "
    "either neither few many most much more less some several such other another same one two three four five six seven eight nine ten once "
    "twice first second third last next again later soon today yesterday tomorrow is are was were be been am do does did have has had can "
    "could will would shall should may might must go goes went get got make made take took see saw say said says tell told think know want "
    "need use try keep put ask give gave read write note news question answer copy count summary story edit update tldr tl dr long short "
    "basically actually honestly luckily sadly however therefore moreover meanwhile instead finally recently eventually apparently everyone "
    "someone nobody nothing something everything anyone mom mum dad mother father people things guys everybody god mr mrs ms dr who's what's "
    "it's that's there's he's she's we're they're you're don't didn't can't won't isn't wasn't let's i'd name plant cut stir serve water "
    "behind above below nobody good bad great new old best back out up down around whether like too very really up only rather quite till per"
)
OF_WORDS = _words(
    "University College School Bank Ministry Department Institute Academy Church Museum Isle Bay Gulf United"
)
OPENERS = TITLES | PLACE_STARTS
PARTICLES = frozenset(("de", "da", "del", "della", "van", "von", "der", "den", "la", "le", "bin", "al"))
ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|Inc|Ltd|Co|No)|\b[A-Z]|\b[ap]\.m)\.$")
WORD = re.compile(r"[^\W\d_](?:[\w'’&-]*\w)?")
IN_PLACE = _words("in at near from to of towards toward through across around outside inside leaving left via between")
IN_PLACE_SURELY = _words("in near outside inside at")


# --------------------------------------------------------------------------- the rule layer


class RuleFinder:
    """Patterns and short word lists; no model, no network."""

    name = "rules"
    identity = "rules-1"

    def find_all(self, texts: Sequence[str]) -> list[list[Span]]:
        """The spans of every text, in order of their start, none overlapping."""
        return [list(_rule_spans(text)) for text in texts]


@lru_cache(maxsize=65536)
def _rule_spans(text: str) -> tuple[Span, ...]:
    patterns = _pattern_spans(text)
    names = _name_spans(text, _covered(patterns))
    return _join(patterns, names, _role_spans(text))


def _pattern_spans(text: str) -> list[Span]:
    return [Span(m.start(), m.end(), str(m.lastgroup), m.group()) for m in PATTERNS.finditer(text)]


def _role_spans(text: str) -> list[Span]:
    return [Span(m.start(), m.end(), "ROLE", m.group()) for m in ROLE.finditer(text)]


def _covered(spans: Iterable[Span]) -> set[int]:
    return {position for span in spans for position in range(span.start, span.end)}


def _join(*layers: Iterable[Span]) -> tuple[Span, ...]:
    """All spans of the layers; where two overlap, the one of the earlier layer stays."""
    kept: list[Span] = []
    taken: set[int] = set()
    for layer in layers:
        for span in layer:
            if taken.isdisjoint(range(span.start, span.end)):
                kept.append(span)
                taken.update(range(span.start, span.end))
    return tuple(sorted(kept, key=lambda span: span.start))


def sentence_starts(text: str) -> set[int]:
    """The positions of the first word of every sentence (and of what follows a colon or a line break)."""
    starts = set()
    fresh = True
    for match in re.finditer(r"[^\W_][\w'’-]*|[.!?:;\n…]+", text):
        if match.group()[0] in ".!?:;\n…":
            if match.group()[0] != "." or not ABBREVIATION.search(text, max(0, match.start() - 6), match.start() + 1):
                fresh = True
        else:
            if fresh:
                starts.add(match.start())
            fresh = False
    return starts


def _bare(word: str) -> tuple[str, bool]:
    """A word without its possessive ending, and whether it had one."""
    word = word.replace("’", "'")
    return (word[:-2], True) if word.endswith("'s") else (word, False)


def _name_spans(text: str, taken: set[int]) -> list[Span]:
    words = [m for m in WORD.finditer(text) if m.start() not in taken]
    if not words:
        return []
    starts = sentence_starts(text)
    upper = [m.group()[0].isupper() for m in words]
    common = [_bare(m.group())[0].lower() in COMMON for m in words]
    # "Dr" and "New" belong to a name only when one follows
    opens = [m.group() in OPENERS for m in words]
    follows = [*(u and not c for u, c in zip(upper[1:], common[1:], strict=True)), False]
    capital = [
        m for m, u, c, o, f in zip(words, upper, common, opens, follows, strict=True) if u and (not c or (o and f))
    ]
    inner = {_bare(m.group())[0] for m in capital if m.start() not in starts}
    lower = {m.group() for m in words if m.group()[0].islower()}
    shouted = sum(m.group().isupper() and len(m.group()) > 1 for m in words) > len(words) / 2
    if shouted:
        return []
    spans = []
    for start, end in _runs(text, capital):
        inside = text[start:end]
        if start in starts and " " not in inside and not _stands_alone(inside, inner, lower, text[end:]):
            continue
        spans.append(Span(start, end, _type(text, start, end), inside))
    return _agree(spans)


def _runs(text: str, capital: Sequence[re.Match[str]]) -> list[tuple[int, int]]:
    """Neighbouring capitalised words as one run: "Alice Meyer", "Dr. Hale", "University of Leeds", "Ludwig van Beek"."""
    runs: list[tuple[int, int]] = []
    closed = True
    for match in capital:
        word, possessive = _bare(match.group())
        start, end = match.start(), match.start() + len(word)
        if runs and not closed:
            between = text[runs[-1][1] : start]
            last = text[runs[-1][0] : runs[-1][1]].split()[-1].rstrip(".")
            title = between == ". " and (last in TITLES or len(last) == 1)
            particle = between.strip() in PARTICLES or (between == " of " and last in OF_WORDS)
            if between in (" ", " & ") or title or particle:
                runs[-1] = (runs[-1][0], end)
                closed = possessive
                continue
        runs.append((start, end))
        closed = possessive
    return runs


def _stands_alone(word: str, inner: set[str], lower: set[str], after: str) -> bool:
    """Whether a single capitalised first word of a sentence is a name all the same."""
    if word in inner or word in PLACES or word in GIVEN_NAMES:
        return True
    if word.isupper() and len(word) > 2:
        return True
    return after.startswith(("'s ", "’s ")) and word.lower() not in lower


def _type(text: str, start: int, end: int) -> str:
    words = text[start:end].replace(".", "").split()
    first, last = words[0], words[-1]
    if first in TITLES and len(words) > 1:
        return "PERSON"
    if last in ORG_WORDS or first in ORG_WORDS or "&" in words:
        return "ORG"
    if " ".join(words) in PLACES or last in PLACES or last in PLACE_WORDS or (first in PLACE_STARTS and len(words) > 1):
        return "PLACE"
    if first in GIVEN_NAMES:
        return "PERSON"
    if len(words) == 1 and first.isupper() and len(first) > 1:
        return "ORG"
    before = WORD.findall(text[max(0, start - 24) : start])
    preposition = (
        before[-1].lower()
        if before and text[start - 1 : start] == " " and text[start - 2 : start - 1].isalpha()
        else ""
    )
    if preposition in IN_PLACE_SURELY or (preposition in IN_PLACE and len(words) == 1):
        return "PLACE"
    if preposition == "the":
        return "NAME"
    return "PERSON" if 2 <= len(words) <= 3 else "NAME"


def _agree(spans: list[Span]) -> list[Span]:
    """Give a mention that tells nothing ("Leeds closed", "Meyer left") the type that it has elsewhere in the text."""
    known = {span.text: span.type for span in reversed(spans) if span.type != "NAME"}
    parts = {
        word: span.type for span in spans if " " in span.text and span.type == "PERSON" for word in span.text.split()
    }
    agreed = []
    for span in spans:
        single = " " not in span.text
        kind = parts.get(span.text, span.type) if single else span.type
        agreed.append(Span(span.start, span.end, known.get(span.text, kind) if kind == "NAME" else kind, span.text))
    return agreed


# --------------------------------------------------------------------------- models

LABELS = {
    "PER": "PERSON", "PERSON": "PERSON", "LOC": "PLACE", "GPE": "PLACE", "FAC": "PLACE", "LOCATION": "PLACE", "ORG": "ORG",
    "ORGANIZATION": "ORG", "NORP": "NAME", "MISC": "NAME", "PRODUCT": "NAME", "EVENT": "NAME", "WORK_OF_ART": "NAME",
    "LAW": "NAME", "LANGUAGE": "NAME", "DATE": "DATE", "TIME": "TIME", "MONEY": "MONEY", "PERCENT": "PERCENT",
    "CARDINAL": "NUMBER", "QUANTITY": "NUMBER", "ORDINAL": "NUMBER",
}  # fmt: skip


def _with_rules(text: str, names: Iterable[Span]) -> list[Span]:
    return list(_join(_pattern_spans(text), [span for span in names if span.text.strip()], _role_spans(text)))


class SpacyFinder:
    """Names by a spaCy pipeline, dates, numbers and roles by the rules."""

    def __init__(self, where: str) -> None:
        try:
            import spacy
        except ImportError as error:
            raise UserError(
                "span finder 'spacy:...' needs spaCy, which is not installed. Install untax[ner], or use 'rules'."
            ) from error
        try:
            self._pipeline = spacy.load(where)
        except (OSError, ValueError) as error:
            raise UserError(
                f"span finder: spaCy cannot load '{where}': {error}. Give an installed model's name or its directory."
            ) from error
        self.name = f"spacy:{Path(where).name}"
        self.identity = f"spacy:{self._pipeline.meta.get('name')}-{self._pipeline.meta.get('version')}"

    def find_all(self, texts: Sequence[str]) -> list[list[Span]]:
        """The spans of every text, in order of their start, none overlapping."""
        found = []
        for text, document in zip(texts, self._pipeline.pipe(texts, batch_size=64), strict=True):
            names = [Span(e.start_char, e.end_char, LABELS.get(e.label_, "NAME"), e.text) for e in document.ents]
            found.append(_with_rules(text, names))
        return found


class TokenClassifierFinder:
    """Names by a Hugging Face token-classification directory, dates, numbers and roles by the rules."""

    def __init__(self, where: str) -> None:
        folder = Path(where).expanduser()
        if not (folder / "config.json").is_file():
            raise UserError(
                f"span finder: {folder} is no model directory (no config.json). Give a token-classification directory as hf:DIR."
            )
        import torch
        from transformers import AutoModelForTokenClassification, AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            loaded, info = AutoModelForTokenClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except Exception as error:  # tokenizers and safetensors raise plain Exception for damaged files
            raise UserError(f"span finder: cannot load a token classifier from {folder}: {error}") from error
        if info["missing_keys"]:
            raise UserError(
                f"span finder: {folder} is no token classifier: its weights lack {sorted(info['missing_keys'])[0]}."
            )
        self._model: Any = loaded
        if not self._tokenizer.is_fast:
            raise UserError(f"span finder: the tokenizer in {folder} keeps no offsets (it has no tokenizer.json).")
        self._model.eval()
        self._torch = torch
        self._labels = {int(i): str(label) for i, label in self._model.config.id2label.items()}
        self.name = f"hf:{folder.name}"
        self.identity = f"hf:{hash_files([folder / 'config.json', *folder.glob('*.safetensors')])}"

    def find_all(self, texts: Sequence[str]) -> list[list[Span]]:
        """The spans of every text, in order of their start, none overlapping."""
        found: list[list[Span]] = []
        for first in range(0, len(texts), 32):
            found += self._batch(list(texts[first : first + 32]))
        return found

    def _batch(self, texts: list[str]) -> list[list[Span]]:
        # an embedding table may be longer than what positions allow: leave room for the special tokens
        longest = min(int(self._tokenizer.model_max_length), int(self._model.config.max_position_embeddings) - 2)
        encoded = self._tokenizer(
            texts, return_tensors="pt", padding=True, truncation=True, max_length=longest, return_offsets_mapping=True
        )
        offsets = encoded.pop("offset_mapping").tolist()
        with self._torch.inference_mode():
            best = self._model(**encoded).logits.argmax(-1).tolist()
        return [
            _with_rules(t, self._names(t, labels, where)) for t, labels, where in zip(texts, best, offsets, strict=True)
        ]

    def _names(self, text: str, labels: Sequence[int], offsets: Sequence[tuple[int, int]]) -> list[Span]:
        names: list[Span] = []
        for label, (start, end) in zip(labels, offsets, strict=True):
            prefix, _, bare = self._labels[label].rpartition("-")
            if start == end or bare == "O":
                continue
            start += len(text[start:end]) - len(text[start:end].lstrip())
            kind = LABELS.get(bare.upper(), "NAME")
            previous = names[-1] if names else None
            # pieces of one word always belong together, whatever their prefix says
            if previous and previous.type == kind and (
                start == previous.end or (prefix != "B" and text[previous.end : start].isspace())
            ):  # fmt: skip
                names[-1] = Span(previous.start, end, kind, text[previous.start : end])
            else:
                names.append(Span(start, end, kind, text[start:end]))
        return names
