"""The little English that swapping words needs: what "her" stands for, whether a name is one, who is called black, a or an.

Closed classes of words and a look at the neighbours, no tagger: what cannot be told that way is said to be uncertain.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

__all__ = [
    "BEFORE_A_NOUN",
    "OPENERS",
    "article",
    "cased",
    "is_given_name",
    "is_of_a_person",
    "noun_follows",
    "opens_sentence",
    "stands_as_noun",
]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PREPOSITIONS = _words(
    "about above across after against along alongside among amongst amid around as at before behind below beneath beside besides "
    "between beyond by despite during except for from in into near of off on onto out over per since through throughout till to "
    "toward towards under underneath until up upon via with within without unlike versus down"
)
CONJUNCTIONS = _words(
    "and but or nor so yet because although though while whereas if unless than that whether when where wherever whenever why how "
    "who whom whose which what lest"
)
DETERMINERS = _words("a an the this these those some any no every each either neither both another enough such all")
PRONOUNS = _words(
    "i you he she it we they me him her us them my your his its our their mine yours hers ours theirs myself yourself himself herself "
    "itself ourselves yourselves themselves someone somebody something anyone anybody anything everyone everybody everything nobody "
    "nothing none"
)
AUXILIARIES = _words(
    "is was are were am has had have does did do would could should shall cannot isn't wasn't aren't weren't hasn't hadn't haven't "
    "doesn't didn't don't wouldn't couldn't shouldn't can't won't not never"
)
ADVERBS = _words(
    "now then today tonight yesterday tomorrow again soon later ago once twice always ever often sometimes already anymore forever "
    "afterwards afterward meanwhile too also here there away together instead anyway maybe perhaps please everywhere nowhere"
)
#: behind these no noun can begin that the word in front would own
NO_NOUN = PREPOSITIONS | CONJUNCTIONS | DETERMINERS | PRONOUNS | AUXILIARIES | ADVERBS
#: behind these one can, but need not
EITHER = _words(
    "past inside outside like back home right left well still present alone many few more most less several half very just only even "
    "quite rather can may might will must being own opposite upstairs downstairs next first last better best"
)
#: words in -ly that are no adverbs, and so can begin a noun phrase
NO_ADVERBS = _words(
    "only early daily weekly monthly yearly nightly hourly lovely lonely friendly family elderly ugly silly holy deadly lively likely "
    "belly jelly curly bully ally reply supply assembly anomaly butterfly costly cowardly orderly worldly heavenly earthly motherly "
    "fatherly sisterly brotherly womanly manly july italy"
)
#: behind these verbs "her" is often the object, whatever follows
FRAMES = _words(
    "let lets letting make makes made making see sees saw seen seeing watch watches watched watching hear hears heard hearing help "
    "helps helped helping have had keep keeps kept keeping find finds found finding leave leaves left leaving call calls called "
    "calling name named consider considers considered get gets got getting give gives gave given giving tell tells told telling show "
    "shows showed shown showing send sends sent sending buy buys bought buying bring brings brought bringing offer offers offered "
    "offering teach teaches taught teaching ask asks asked asking pay pays paid paying lend lends lent cost costs wish wished owe owed "
    "hand hands handed pass passed feed fed read reads cook cooked write writes wrote grant granted promise promised deny denied want "
    "wants wanted need needed"
)
#: and with one of these behind it, it mostly is
STATES = _words(
    "happy sad angry cry laugh smile feel look go leave run walk know think come sleep wait stay sit stand stop try eat drink speak "
    "talk see hear say do be become get take make give have proud sick nervous jealous crazy mad sure safe alive afraid famous "
    "uncomfortable comfortable busy ready awake asleep guilty pregnant responsible fall play dance sing"
)
MOVES = _words(
    "take takes took taken taking bring brings brought pull pulled push pushed hold held send sent drive drove want"
)
PLACES = _words("back home inside outside upstairs downstairs")
#: words that stand in front of a noun, or of an adjective and a noun
BEFORE_A_NOUN = DETERMINERS - _words("all both enough") | _words(
    "my your his her its our their one fellow first new of and or bride"
)
#: words that begin with a capital where a sentence or a greeting begins, and are no names
OPENERS = NO_NOUN | EITHER | _words("dear old young great good yes poor little sweet long hello hi oh")

NEXT = re.compile(r"(?P<gap>\s*)(?P<open>[\"“‘'(\[]*)(?P<word>\w+(?:[-'’]\w+)*)")
#: "his or her", "her/his": the noun stands behind both
OTHER = re.compile(r"\s*(?:/|or\s|and\s)\s*(?:his|hers|her|him)(?!\w)", re.IGNORECASE)
BEFORE = re.compile(r"(\w+)\W{1,2}\Z")
ENDING = re.compile(r"['’](?:s|d|ll|re|ve|m)?\Z")
SENTENCE = re.compile(r"(?:\A|[.!?:\n]|[.!?]['\"”’)]+)[\s\"“‘'(\[*-]*\Z")


def _before(text: str, start: int) -> str:
    """The word that stands directly in front, in lower case; nothing over more than two characters."""
    found = BEFORE.search(text[max(0, start - 40) : start])
    return found.group(1).lower() if found else ""


# --------------------------------------------------------------------------- her, his


def noun_follows(text: str, start: int, end: int) -> tuple[bool, bool]:
    """Whether a noun can follow the pronoun text[start:end], and whether that is certain."""
    word = text[start:end].lower()
    if word in ("her", "his") and (other := OTHER.match(text, end)):
        joined = "and" not in other.group()
        can, sure = _noun_behind(text, other.end())
        return (can, joined and sure) if can else _noun_behind(text, end)
    can, sure = _noun_behind(text, end)
    if not can or word != "her":
        return can, sure or word == "his"
    before = _before(text, start)
    following = NEXT.match(text, end)
    after = following["word"] if following else ""
    if before in MOVES and after.lower() in PLACES:
        return False, False
    if before in FRAMES:
        named = before in ("call", "calls", "called", "calling", "name", "named") and after[:1].isupper()
        return not (named or after.lower() in STATES), False
    return True, sure


def _noun_behind(text: str, end: int) -> tuple[bool, bool]:
    found = NEXT.match(text, end)
    if not found or not found["gap"] or found["gap"].count("\n") > 1:
        return False, True
    word = found["word"].lower().replace("’", "'")
    bare = ENDING.sub("", word)
    if word in NO_NOUN or bare in NO_NOUN:
        return False, not found["open"]
    if bare.endswith("ly") and bare not in NO_ADVERBS:
        can = _noun_behind(text, found.end())[0]
        return can, not can
    return True, not (found["open"] or bare in EITHER or bare[0].isdigit())


def stands_as_noun(text: str, start: int, end: int) -> bool:
    """Whether "Christian" and the like is a noun of its own here: behind an article, or in the possessive, and no noun follows."""
    if re.match(r"['’]s?(?!\w)", text[end:]):
        return True
    before = _before(text, start)
    follows = _noun_behind(text, end)[0] and text[end : end + 1] != "-"
    return not follows and text[end : end + 1] != "-" and before in BEFORE_A_NOUN


# --------------------------------------------------------------------------- names

SURNAME_TITLES = _words(
    "mr mrs ms miss dr prof professor president senator judge governor general captain sergeant detective mx"
)
SAINTS = _words("st saint san santa fort mount lake port")
SITES = _words(
    "street st avenue road lane river lake island islands county city town hospital university college school church cathedral palace "
    "bridge park square airport bay stadium hotel falls mountain mountains award prize"
)


def is_given_name(text: str, start: int, end: int, is_name: Callable[[str], bool]) -> bool:
    """Whether a word of the list of names is used as one: with a capital, not as a surname, not within a name of a place."""
    if not text[start].isupper() or "-" in (text[max(0, start - 1) : start], text[end : end + 1]):
        return False
    behind = re.match(r" (\w+)", text[end:])
    if behind and behind.group(1)[0].isupper() and behind.group(1).lower() in SITES:
        return False
    before = re.search(r"(\w+)\.? \Z", text[max(0, start - 40) : start])
    if not before or not before.group(1)[0].isupper():
        return True
    word = before.group(1)
    initial = len(word) == 1 and before.group().endswith(". ")
    return not (
        initial or word.lower() in SURNAME_TITLES | SAINTS or (is_name(word) and before.group().endswith(word + " "))
    )


# --------------------------------------------------------------------------- people

STEP = re.compile(r"(?:[ -]|, |/|\n)(\w+)")
BE = r"(?:is|was|are|were|am|be|been|being|['’](?:s|re|m))"
SUBJECT = re.compile(
    rf"\b(\w+)(?: {BE}|['’](?:s|re|m))(?: (?:not|also|both|all|mostly|only|either))?(?: \w+ (?:and|or))? \Z",
    re.IGNORECASE,
)
SUBJECTS = _words("i you he she we they who")


@cache
def _people() -> tuple[frozenset[str], frozenset[str]]:
    """The words for people, and the modifiers that may stand in front of them."""
    rows = (Path(__file__).parent / "wordlists" / "people.txt").read_text(encoding="utf-8").lower().splitlines()
    rows = [row for row in rows if row and not row.startswith("#")]
    cut = rows.index("modifiers")
    return _words(" ".join(rows[:cut])), _words(" ".join(rows[cut + 1 :]).replace("-", " "))


def is_of_a_person(text: str, start: int, end: int, is_group: Callable[[str], bool]) -> bool:
    """Whether an adjective such as "black" is said of people: one follows soon, or is its subject."""
    people, modifiers = _people()
    at = end
    for _ in range(6):
        step = STEP.match(text, at)
        if not step:
            break
        word = step.group(1).lower()
        if word in people:
            return True
        if word not in modifiers and word not in ("and", "or", "but") and not is_group(word):
            break
        at = step.end()
    if _noun_behind(text, end)[0] or re.match(r" (?:with|as|from|in)\b", text[end:]):
        return False
    subject = SUBJECT.search(text[max(0, start - 60) : start])
    return subject is not None and (subject.group(1).lower() in SUBJECTS | people)


# --------------------------------------------------------------------------- letters


def opens_sentence(text: str, start: int) -> bool:
    """Whether a sentence begins here."""
    return bool(SENTENCE.search(text[max(0, start - 8) : start]))


def cased(word: str, stored: str, new: str, *, opens: bool) -> str:
    """A new word in the case of the old one; `stored` is the old one as its list has it, so "Asian" is no capital of the writer's."""
    if len(word) > 1 and word.isupper():
        return new.upper()
    if stored[0].isupper():
        if word[0].islower():
            return new.lower()
        return new[0].upper() + new[1:] if opens else new
    return new[0].upper() + new[1:] if word[0].isupper() else new


def article(old: str, new: str, given: str) -> str:
    """ "a" or "an" in front of the new word, in its own case; as it was when both words begin alike."""
    if _vowel(old) == _vowel(new):
        return given
    wanted = "an" if _vowel(new) else "a"
    if given.isupper() and len(given) > 1:
        return wanted.upper()
    return wanted.capitalize() if given[0].isupper() else wanted


def _vowel(word: str) -> bool:
    low = word.lower()
    if low.startswith(("eu", "uni", "us", "ewe", "one")):
        return False
    return low[0] in "aeiou" or low.startswith(("heir", "hour", "hono"))
