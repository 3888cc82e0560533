"""The offline tables: contractions, synonyms, opposite verbs with their inflections, comparatives, negation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from untax import spans
from untax.data.augment.common import FUNCTION_WORDS, NAME_TYPES

__all__ = [
    "CONTRACTIONS",
    "SYNONYMS",
    "Verb",
    "Verbs",
    "find_verbs",
    "forms",
    "head_verbs",
    "negated",
    "opposites",
    "swap_words",
]

CONTRACTIONS = tuple(
    tuple(pair.split("|"))
    for pair in [
        "do not|don't",
        "does not|doesn't",
        "did not|didn't",
        "is not|isn't",
        "are not|aren't",
        "was not|wasn't",
        "were not|weren't",
        "has not|hasn't",
        "have not|haven't",
        "had not|hadn't",
        "will not|won't",
        "would not|wouldn't",
        "cannot|can't",
        "could not|couldn't",
        "should not|shouldn't",
        "I am|I'm",
        "I have|I've",
        "I will|I'll",
        "it is|it's",
        "that is|that's",
        "there is|there's",
        "what is|what's",
        "you are|you're",
        "we are|we're",
        "they are|they're",
        "we have|we've",
        "they have|they've",
        "you have|you've",
        "let us|let's",
        "who is|who's",
    ]
)

#: words that may stand for each other without changing who did what; with ">" only the second may replace the first
SYNONYMS = tuple(
    pair
    for entry in [
        "maybe|perhaps",
        "often|frequently",
        "quickly|rapidly",
        "slowly|gradually",
        "almost|nearly",
        "usually|normally",
        "immediately|at once",
        "sometimes>at times",
        "but>yet",
        "although|though",
        "because>since",
        "until|till",
        "whole|entire",
        "big|large",
        "small>little",
        "many>a lot of",
        "several>a number of",
        "begin|start",
        "began|started",
        "begins|starts",
        "finish>end",
        "finished>ended",
        "help|assist",
        "helped|assisted",
        "buy|purchase",
        "bought|purchased",
        "buys|purchases",
        "obtain>get",
        "received>got",
        "receives>gets",
        "build|construct",
        "built|constructed",
        "builds|constructs",
        "closed>shut",
        "need>require",
        "needs|requires",
        "needed|required",
        "asked>inquired",
        "seem|appear",
        "seems|appears",
        "seemed|appeared",
        "try>attempt",
        "tried>attempted",
        "move>relocate",
        "moved>relocated",
        "moves>relocates",
        "donated|gave",
        "donates|gives",
        "beat|defeated",
        "joined>entered",
        "joins>enters",
        "wants to|wishes to",
        "wanted to|wished to",
        "has to>must",
        "have to>must",
        "scared|afraid",
        "show|display",
        "shows|displays",
        "showed|displayed",
        "rents|leases",
        "rented|leased",
        "repaired|fixed",
        "repairs|fixes",
        "lives in|resides in",
        "lived in|resided in",
        "told>informed",
        "shop|store",
        "job|position",
        "mum|mother",
        "dad|father",
        "kids|children",
        "happy|glad",
        "sick|ill",
        "in order to>to",
        "after that|afterwards",
        "right now|at the moment",
        "very much>a lot",
        "upset|unhappy",
        "prize|award",
        "won>secured",
        "flat|apartment",
        "autumn|fall",
        "film|movie",
        "angry|mad",
        "trip|journey",
        "nobody>no one",
        "photo|picture",
    ]
    for pair in ([tuple(entry.split("|"))] if "|" in entry else [(*entry.split(">"), ">")])
)

#: opposite verbs, by their infinitive
OPPOSITES = tuple(
    tuple(pair.split("|"))
    for pair in [
        "buy|sell",
        "win|lose",
        "open|close",
        "join|leave",
        "give|take",
        "hire|dismiss",
        "arrive|depart",
        "accept|reject",
        "start|stop",
        "love|hate",
        "raise|lower",
        "increase|decrease",
        "find|miss",
        "lend|borrow",
        "teach|learn",
        "push|pull",
        "send|receive",
        "build|demolish",
        "save|waste",
        "praise|criticise",
        "allow|forbid",
        "remember|forget",
        "agree|disagree",
        "donate|demand",
        "attack|defend",
        "create|destroy",
        "enter|exit",
        "encourage|discourage",
        "follow|lead",
        "help|hinder",
        "like|dislike",
        "trust|distrust",
        "marry|divorce",
        "pass|fail",
        "repair|break",
        "support|oppose",
        "show|hide",
        "admit|deny",
        "ask|answer",
        "begin|end",
        "call|ignore",
        "come|go",
        "add|remove",
        "approve|veto",
        "confirm|refute",
        "improve|worsen",
        "keep|discard",
        "laugh|cry",
        "rise|fall",
        "praise|blame",
        "rent|own",
        "speed|slow",
        "strengthen|weaken",
        "succeed|fail",
        "tell|conceal",
        "visit|avoid",
        "wake|sleep",
        "want|refuse",
        "work|rest",
        "write|erase",
        "pay|charge",
        "invite|exclude",
        "gain|forfeit",
        "live|die",
        "meet|avoid",
        "order|cancel",
        "plant|uproot",
        "return|vanish",
        "quit|join",
        "shut|open",
        "purchase|sell",
        "discover|overlook",
        "finish|abandon",
        "promote|demote",
        "thank|blame",
        "treat|neglect",
        "use|avoid",
    ]
)
#: verbs that need no opposite: they can be negated
OTHER_VERBS = "move|say|get|make|think|know|need|play|run|travel|walk|watch|wear|ride|drive|cook|eat|drink|read|carry|study|hear|feel"

IRREGULAR = {
    base: (past, participle)
    for base, past, participle in (
        entry.split(" ")
        for entry in [
            "buy bought bought",
            "sell sold sold",
            "win won won",
            "lose lost lost",
            "leave left left",
            "give gave given",
            "take took taken",
            "find found found",
            "lend lent lent",
            "teach taught taught",
            "send sent sent",
            "build built built",
            "forget forgot forgotten",
            "forbid forbade forbidden",
            "lead led led",
            "break broke broken",
            "show showed shown",
            "hide hid hidden",
            "begin began begun",
            "come came come",
            "go went gone",
            "keep kept kept",
            "rise rose risen",
            "fall fell fallen",
            "tell told told",
            "wake woke woken",
            "sleep slept slept",
            "write wrote written",
            "pay paid paid",
            "meet met met",
            "quit quit quit",
            "shut shut shut",
            "say said said",
            "get got got",
            "make made made",
            "think thought thought",
            "know knew known",
            "run ran run",
            "wear wore worn",
            "ride rode ridden",
            "drive drove driven",
            "eat ate eaten",
            "drink drank drunk",
            "read read read",
            "hear heard heard",
            "feel felt felt",
        ]
    )
}
#: past tense only, because the other side needs a second word
PHRASES = (("beat", "lost to"), ("beats", "loses to"), ("defeated", "lost to"))
PAIRS = tuple(
    tuple(pair.split("|"))
    for pair in [
        "before|after",
        "more|less",
        "older|younger",
        "bigger|smaller",
        "larger|smaller",
        "higher|lower",
        "better|worse",
        "longer|shorter",
        "faster|slower",
        "earlier|later",
        "stronger|weaker",
        "richer|poorer",
        "best|worst",
        "most|least",
        "first|last",
        "above|below",
        "always|never",
        "with|without",
        "increase|decrease",
        "over|under",
        "inside|outside",
        "everyone|nobody",
        "everything|nothing",
        "early|late",
        "cheap|expensive",
    ]
)
AUXILIARIES = (
    *(
        "is",
        "are",
        "was",
        "were",
        "has",
        "have",
        "had",
        "will",
        "would",
        "can",
        "could",
        "should",
        "must",
        "may",
        "might",
        "do",
        "does",
        "did",
    ),
)


@dataclass(frozen=True)
class Verb:
    """A verb form found in a text."""

    start: int
    end: int
    text: str
    base: str
    tense: str


@dataclass(frozen=True)
class Verbs:
    """The five forms of a verb."""

    base: str
    present: str
    past: str
    participle: str
    progressive: str

    def form(self, tense: str) -> str:
        """The form of a tense: base, present, past, participle or progressive."""
        return {
            "base": self.base, "present": self.present, "past": self.past, "participle": self.participle, "progressive": self.progressive,
        }[tense]  # fmt: skip


DOUBLED = frozenset(
    ("stop", "plan", "quit", "shut", "win", "get", "run", "forget", "begin", "admit", "forbid", "slip", "refer")
)


@lru_cache(maxsize=1024)
def forms(base: str) -> Verbs:
    """All forms of a verb from its infinitive."""
    consonant_y = base.endswith("y") and base[-2] not in "aeiou"
    if consonant_y:
        present, stem = base[:-1] + "ies", base[:-1] + "i"
    else:
        present = base + ("es" if base.endswith(("s", "x", "z", "ch", "sh", "o")) else "s")
        stem = base + base[-1] if base in DOUBLED else base
    regular = stem + ("d" if base.endswith("e") else "ed")
    past, participle = IRREGULAR.get(base, (regular, regular))
    if base.endswith("ie"):
        progressive = base[:-2] + "ying"
    elif base.endswith("e") and not base.endswith("ee"):
        progressive = base[:-1] + "ing"
    else:
        progressive = (base + base[-1] if base in DOUBLED else base) + "ing"
    return Verbs(base, present, past, participle, progressive)


def _table() -> dict[str, list[tuple[str, str]]]:
    """Every known form: the infinitives and tenses that it may be."""
    table: dict[str, list[tuple[str, str]]] = {}
    bases = dict.fromkeys([base for pair in OPPOSITES for base in pair] + OTHER_VERBS.split("|"))
    for base in bases:
        verb = forms(base)
        for tense in ("past", "present", "participle", "progressive", "base"):
            table.setdefault(verb.form(tense), []).append((base, tense))
    return table


FORMS = _table()
OPPOSITE: dict[str, list[str]] = {}
for _one, _other in OPPOSITES:
    OPPOSITE.setdefault(_one, []).append(_other)
    OPPOSITE.setdefault(_other, []).append(_one)
PERFECT = re.compile(r"\b(?:has|have|had|was|were|is|are|been|be|being|got)(?: not)?(?: \w+ly)? $")
INFINITIVE = re.compile(
    r"\b(?:to|will|would|can|could|should|must|may|might|did|does|do|didn't|doesn't|don't)(?: not)? $"
)
ARTICLE = re.compile(r"\b(?:the|a|an|my|his|her|our|their|its|your|of|in|at|on|for)(?: \w+)? $", re.IGNORECASE)


def find_verbs(text: str) -> list[Verb]:
    """The verb forms of the table that a text holds; a form behind an article is a noun and left out."""
    found = []
    for match in re.finditer(r"(?<![\w'-])[a-z]+(?![\w'-])", text):
        choices = FORMS.get(match.group())
        before = text[max(0, match.start() - 24) : match.start()]
        if not choices or ARTICLE.search(before):
            continue
        wanted = "participle" if PERFECT.search(before) else "base" if INFINITIVE.search(before) else "past"
        base, tense = next((c for c in choices if c[1] == wanted), choices[0])
        # an infinitive without "to" or an auxiliary, and a lone -ing, are more often nouns
        if (
            tense in ("base", "progressive")
            and wanted == "past"
            and not re.search(r"\b(?:I|we|you|they|who) $", before)
        ):
            continue
        found.append(Verb(match.start(), match.end(), match.group(), base, tense))
    return found


def opposites(text: str) -> Iterator[tuple[int, int, str]]:
    """Every way to turn one relation of a text round: a verb, a phrase, a comparative, before and after."""
    for verb in find_verbs(text):
        for other in OPPOSITE.get(verb.base, ()):
            yield verb.start, verb.end, forms(other).form(verb.tense)
    yield from swap_words(text, PAIRS)
    yield from swap_words(text, PHRASES)


def swap_words(text: str, pairs: Sequence[Sequence[str]]) -> Iterator[tuple[int, int, str]]:
    """Every place where one side of a pair stands, with the other side, in the same case; a third member means one way only."""
    for pair in pairs:
        for old, new in ((pair[0], pair[1]), (pair[1], pair[0]))[: 1 if len(pair) == 3 else 2]:
            if old.lower() not in text.lower():
                continue
            for match in re.finditer(rf"(?<![\w'’-]){re.escape(old)}(?![\w'’-])", text, re.IGNORECASE):
                capital = match.group()[0].isupper() and not old[0].isupper()
                yield match.start(), match.end(), new[0].upper() + new[1:] if capital else new


def negated(text: str) -> Iterator[tuple[int, int, str]]:
    """Every way to add or take away one negation."""
    for match in re.finditer(r"\b(did|does|do) not ([a-z]+)\b", text):
        tense = {"did": "past", "does": "present", "do": "base"}[match.group(1)]
        if any(choice == "base" for _, choice in FORMS.get(match.group(2), ())):
            yield match.start(), match.end(), forms(match.group(2)).form(tense)
    for match in re.finditer(rf"\b(?:{'|'.join(AUXILIARIES[:-3])})( not)?\b", text):
        yield (match.start(1), match.end(1), "") if match.group(1) else (match.end(), match.end(), " not")
    for verb in find_verbs(text):
        before = text[max(0, verb.start - 24) : verb.start]
        if verb.tense in ("past", "present") and not PERFECT.search(before):
            yield verb.start, verb.end, f"{'did' if verb.tense == 'past' else 'does'} not {verb.base}"


def head_verbs(text: str, *, finder: str = "rules") -> list[tuple[int, int]]:
    """Where the verbs of a text probably stand: verbs of the table, and lower-case words right behind a name or role."""
    names = [s for s in spans.find(text, finder=finder) if s.type in (*NAME_TYPES, "ROLE")]
    places = {(verb.start, verb.end) for verb in find_verbs(text)}
    for name in names:
        behind = re.match(r" (?:\w+ly )?([a-z]{3,})\b", text[name.end :])
        if behind and behind.group(1) not in FUNCTION_WORDS:
            places.add((name.end + behind.start(1), name.end + behind.end(1)))
    return sorted(places)
