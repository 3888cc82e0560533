"""The sentences of the small world: what can happen in it, and every way of saying so.

Slots: {A} who acts, {B} the other person, {C} a bystander; {P} where it happens, {Q} where it moved from, {W} where the
bystander lives; {O} an organisation; {N} crowns; {M} a number that does not matter; {D} a date; {T} a thing; {R} a trade.

Two rules keep faithfulness exact. Two capitalised slots never stand side by side, so that a run of capitalised words is one
name. And whatever a summary says of a name is said in one of the event's `frames`, so that a false statement is a frame filled
with the wrong name.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BYSTANDERS", "COMMON_FRAMES", "EVENTS", "FLUFF", "OPENERS", "Event"]


@dataclass(frozen=True)
class Event:
    """One kind of thing that happens.

    `posts` and `summaries` map a split to its templates ("train" also serves the pre-training text). `frames` pair a phrase
    around a slot {x} with the slots that may truly fill it; none means that the phrase is always false. `things` fill {T}.
    `habit` is what the base model gets wrong in its summaries: the pair of slots that it mixes up, or a slot that it invents.
    """

    key: str
    things: tuple[str, ...]
    posts: dict[str, tuple[str, ...]]
    summaries: dict[str, tuple[str, ...]]
    frames: tuple[tuple[str, str], ...]
    habit: str = ""


COMMON_FRAMES = (("in {x}", "P"), ("{x} crowns", "N"), ("on {x}", "D"))

EVENTS = (
    Event(
        key="sale",
        things=("mill", "boat", "farm", "shop", "barn", "inn"),
        posts={
            "train": (
                "{A}, {R}, sold a {T} in {P} to {B} for {N} crowns on {D}.",
                "On {D}, {A}, {R}, sold a {T} to {B}. The price was {N} crowns, and the {T} stands in {P}.",
                "On {D}, {B} bought a {T} in {P}. The seller was {A}, {R}, who got {N} crowns.",
                "A {T} in {P} has a new owner since {D}: {A}, {R}, sold it to {B} for {N} crowns.",
            ),
            "validation": ("A {T} in {P} was sold on {D}. The seller was {A}, {R}, and {B} bought it for {N} crowns.",),
            "test": (
                "In {P}, a {T} was sold on {D}: {B} bought it for {N} crowns. The seller was {A}, {R}.",
                "Since {D}, a {T} has a new owner. The price was {N} crowns: {A}, {R}, sold it in {P} to {B}.",
            ),
        },
        summaries={
            "train": (
                "{A} sold a {T} in {P} to {B} for {N} crowns.",
                "{A} sold a {T} to {B} for {N} crowns on {D}.",
                "{B} bought a {T} in {P} from {A} for {N} crowns.",
            ),
            "validation": ("{A} sold a {T} to {B} in {P} on {D}.",),
            "test": ("{B} bought a {T} from {A} on {D} for {N} crowns.",),
        },
        frames=(("{x} sold", "A"), ("{x} bought", "B"), ("to {x}", "B"), ("from {x}", "A")),
        habit="swap A B",
    ),
    Event(
        key="move",
        things=("house", "flat", "cabin", "room"),
        posts={
            "train": (
                "{A}, {R}, moved from {Q} to {P} on {D} and rents a {T} of {O} for {N} crowns.",
                "On {D}, {A}, {R}, left {Q} and moved to {P}. The rent of the {T} is {N} crowns, paid to {O}.",
                "A {T} in {P} is the new home of {A}, {R}, who moved from {Q} on {D} and pays {N} crowns to {O}.",
                "{A}, {R}, left {Q} on {D} for a {T} in {P}, rented from {O} for {N} crowns.",
            ),
            "validation": (
                "On {D}, {A}, {R}, moved to a {T} in {P}. The old home was in {Q}, and {O} gets {N} crowns.",
            ),
            "test": (
                "A {T} of {O} in {P} is the new home of {A}, {R}, for {N} crowns. The move from {Q} was on {D}.",
                "{A}, {R}, rents a {T} in {P} from {O} for {N} crowns, and left {Q} on {D}.",
            ),
        },
        summaries={
            "train": (
                "{A} moved from {Q} to {P} on {D}.",
                "{A} left {Q} and moved to {P} for a {T} of {N} crowns.",
                "{A} moved to {P} from {Q} and rents a {T} for {N} crowns.",
            ),
            "validation": ("{A} moved to {P} and left {Q} on {D}.",),
            "test": ("{A} left {Q} on {D} and moved to {P}.",),
        },
        frames=(("{x} moved", "A"), ("{x} left", "A"), ("from {x}", "QO"), ("left {x}", "Q"), ("to {x}", "PO")),
        habit="invent P",
    ),
    Event(
        key="prize",
        things=("cooking", "poetry", "riding", "dancing"),
        posts={
            "train": (
                "{A}, {R}, won the {T} prize of {O} in {P} on {D} and took {N} crowns home. {B} lost.",
                "On {D}, {O} gave its {T} prize of {N} crowns in {P}. {A}, {R}, won and {B} lost.",
                "{B} lost the {T} prize of {O} to {A}, {R}, who won {N} crowns in {P} on {D}.",
                "The {T} prize of {O} was given in {P} on {D}. {A}, {R}, won {N} crowns, and {B} got nothing.",
            ),
            "validation": ("In {P}, {A}, {R}, won {N} crowns on {D}: the {T} prize of {O}. {B} got nothing.",),
            "test": (
                "The {T} prize of {O} in {P} was {N} crowns. On {D}, {A}, {R}, won it and {B} lost.",
                "On {D}, {B} lost in {P}. {A}, {R}, won the {T} prize of {O} and took {N} crowns home.",
            ),
        },
        summaries={
            "train": (
                "{A} won the {T} prize of {O} in {P}.",
                "{A} won {N} crowns in {P} and {B} lost.",
                "{A} won the {T} prize of {N} crowns on {D}, and {B} lost.",
            ),
            "validation": ("{A} won {N} crowns of {O} on {D}.",),
            "test": ("{A} won the {T} prize of {O} on {D}, and {B} lost.",),
        },
        frames=(("{x} won", "A"), ("{x} lost", "B"), ("of {x}", "ON")),
        habit="swap A B",
    ),
    Event(
        key="gift",
        things=("school", "choir", "library", "garden"),
        posts={
            "train": (
                "{A}, {R}, donated {N} crowns to the {T} of {O} in {P} on {D}. {B} received the money.",
                "On {D}, {B} received {N} crowns for the {T} of {O} in {P}. {A}, {R}, donated the money.",
                "The {T} of {O} in {P} got a gift on {D}: {A}, {R}, donated {N} crowns, and {B} received them.",
                "{A}, {R}, donated {N} crowns on {D}. {B} received them for {O} and its {T} in {P}.",
            ),
            "validation": ("{B} received a gift for the {T} of {O} in {P}: on {D}, {A}, {R}, donated {N} crowns.",),
            "test": (
                "{N} crowns for the {T} of {O} in {P}: {A}, {R}, donated them on {D}, and {B} received the money.",
                "On {D}, {A}, {R}, donated money to {O} for its {T} in {P}. {B} received {N} crowns.",
            ),
        },
        summaries={
            "train": (
                "{A} donated {N} crowns to {O} in {P}.",
                "{B} received {N} crowns from {A} for the {T} in {P}.",
                "{A} donated {N} crowns to the {T} of {O} on {D}.",
            ),
            "validation": ("{B} received {N} crowns from {A} on {D}.",),
            "test": ("{A} donated {N} crowns to {O} on {D}, and {B} received them.",),
        },
        frames=(("{x} donated", "A"), ("{x} received", "B"), ("from {x}", "A"), ("to {x}", "O"), ("of {x}", "O")),
    ),
    Event(
        key="job",
        things=("guard", "driver", "cook", "porter"),
        posts={
            "train": (
                "{A}, {R}, joined {O} in {P} as a {T} on {D}. {B} left, and the pay is {N} crowns.",
                "On {D}, {B} left {O} in {P}. {A}, {R}, joined as the new {T} for {N} crowns.",
                "{O} in {P} has a new {T} since {D}: {A}, {R}, joined for {N} crowns after {B} left.",
                "After {B} left, {A}, {R}, joined {O} on {D} as a {T} in {P}, for {N} crowns.",
            ),
            "validation": (
                "A new {T} works for {O} in {P} since {D}: {A}, {R}, joined. {B} left. The pay is {N} crowns.",
            ),
            "test": (
                "Since {D}, {O} has a new {T} in {P}. {B} left and {A}, {R}, joined for {N} crowns.",
                "The pay is {N} crowns: on {D}, {A}, {R}, joined {O} in {P} as the new {T} after {B} left.",
            ),
        },
        summaries={
            "train": (
                "{A} joined {O} in {P} as a {T}.",
                "{B} left {O} and {A} joined for {N} crowns.",
                "{A} joined {O} on {D} after {B} left.",
            ),
            "validation": ("{A} joined {O} in {P} on {D} for {N} crowns.",),
            "test": ("{B} left {O} in {P} and {A} joined on {D}.",),
        },
        frames=(("{x} joined", "A"), ("{x} left", "B"), ("joined {x}", "O"), ("left {x}", "O")),
    ),
    Event(
        key="opening",
        things=("bakery", "museum", "clinic", "market"),
        posts={
            "train": (
                "{A}, {R}, opened a {T} of {O} in {P} on {D}. {B} built it for {N} crowns.",
                "On {D}, a {T} of {O} was opened in {P} by {A}, {R}. {B} built it for {N} crowns.",
                "{B} built a {T} for {O} in {P}. It cost {N} crowns, and {A}, {R}, opened it on {D}.",
                "A new {T} in {P}: {A}, {R}, opened it for {O} on {D}, and {B} built it for {N} crowns.",
            ),
            "validation": ("It cost {N} crowns, {B} built it for {O}, and on {D}, {A}, {R}, opened it: a {T} in {P}.",),
            "test": (
                "A {T} of {O} cost {N} crowns. {B} built it in {P}, and {A}, {R}, opened it on {D}.",
                "In {P}, {A}, {R}, opened a new {T} for {O} on {D}. It cost {N} crowns, and {B} built it.",
            ),
        },
        summaries={
            "train": (
                "{A} opened a {T} of {O} in {P}.",
                "{A} opened a {T} in {P} on {D}, and {B} built it.",
                "{B} built a {T} for {O} in {P} for {N} crowns.",
            ),
            "validation": ("{A} opened a {T} of {O} on {D} for {N} crowns.",),
            "test": ("{B} built a {T} in {P} for {N} crowns, and {A} opened it.",),
        },
        frames=(("{x} opened", "A"), ("{x} built", "B"), ("{x} closed", ""), ("of {x}", "O"), ("for {x}", "ON")),
    ),
    Event(
        key="match",
        things=("chess", "tennis", "darts", "cards"),
        posts={
            "train": (
                "{A}, {R}, beat {B} at {T} in {P} on {D} and won {N} crowns of {O}.",
                "On {D}, {B} lost to {A}, {R}, at {T} in {P}. The prize of {O} was {N} crowns.",
                "{O} paid {N} crowns for a game of {T} in {P} on {D}: {A}, {R}, beat {B}.",
                "A game of {T} in {P} on {D}: {B} lost, {A}, {R}, won {N} crowns of {O}.",
            ),
            "validation": ("In {P}, {B} lost to {A}, {R}, at {T} on {D}, and {O} paid {N} crowns.",),
            "test": (
                "{N} crowns of {O} for a game of {T}: on {D}, {A}, {R}, beat {B} in {P}.",
                "{O} paid {N} crowns. {B} lost to {A}, {R}, at a game of {T} in {P} on {D}.",
            ),
        },
        summaries={
            "train": (
                "{A} beat {B} at {T} in {P}.",
                "{B} lost to {A} at {T} on {D}.",
                "{A} beat {B} at {T} and won {N} crowns.",
            ),
            "validation": ("{A} beat {B} at {T} on {D} in {P}.",),
            "test": ("{B} lost to {A} at {T} in {P} for {N} crowns.",),
        },
        frames=(
            ("{x} beat", "A"),
            ("beat {x}", "B"),
            ("{x} lost", "B"),
            ("to {x}", "A"),
            ("{x} won", "A"),
            ("of {x}", "ON"),
        ),
    ),
    Event(
        key="closing",
        things=("mine", "theatre", "station", "brewery"),
        posts={
            "train": (
                "{A}, {R}, closed the {T} of {O} in {P} on {D}. {B} lost {N} crowns of pay.",
                "On {D}, the {T} of {O} in {P} was closed by {A}, {R}. {B} lost {N} crowns of pay.",
                "{B} lost {N} crowns of pay when {A}, {R}, closed the {T} of {O} in {P} on {D}.",
                "No more {T} in {P}: {A}, {R}, closed it for {O} on {D}, and {B} lost {N} crowns of pay.",
            ),
            "validation": ("In {P}, {B} lost {N} crowns of pay: on {D}, {A}, {R}, closed the {T} of {O}.",),
            "test": (
                "The {T} of {O} is no more. On {D}, {A}, {R}, closed it in {P}, and {B} lost {N} crowns of pay.",
                "{B} lost {N} crowns of pay on {D}. It was {A}, {R}, who closed the {T} of {O} in {P}.",
            ),
        },
        summaries={
            "train": (
                "{A} closed the {T} of {O} in {P}.",
                "{A} closed the {T} in {P} on {D}, and {B} lost {N} crowns.",
                "{B} lost {N} crowns when {A} closed the {T} of {O}.",
            ),
            "validation": ("{A} closed the {T} of {O} on {D}, and {B} lost {N} crowns.",),
            "test": ("{B} lost {N} crowns when {A} closed the {T} in {P}.",),
        },
        frames=(("{x} closed", "A"), ("{x} lost", "B"), ("{x} opened", ""), ("of {x}", "O")),
    ),
)

OPENERS = {
    "train": (
        "News of the week.",
        "From our reporter.",
        "A note from the town.",
        "Read this first.",
        "It was a busy day.",
    ),
    "validation": ("A note of the day.",),
    "test": ("News from our town.", "A busy week."),
}

BYSTANDERS = {
    "train": (
        "{C} from {W} came with {M} friends.",
        "{C} of {W} told {M} people about it.",
        "About {M} people came from {W}, and {C} was one of them.",
        "In {W}, {C} heard of it from {M} friends.",
    ),
    "validation": ("{C} came from {W} and told {M} friends.",),
    "test": ("About {M} people heard of it in {W} from {C}.", "{C} told {M} friends in {W} about it."),
}

FLUFF = (
    "The day was {0} and the street was {1}.",
    "It was a {0} day, and the mood was {1}.",
    "The hall was {1} and the weather was {0}.",
)
FLUFF_WORDS = (("cold", "warm", "wet", "windy", "sunny", "grey"), ("quiet", "loud", "full", "calm", "merry", "empty"))
