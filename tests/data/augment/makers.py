"""Invented records, and a run over them; imports no torch, so that a process with it starts quickly."""

from untax.data.augment.run import augment
from untax.scorers import WordScorer
from untax.types import Candidate, ContrastiveRecord

NAMES = (
    "Ann Bell",
    "Tom Hart",
    "Jo Fry",
    "Lea Kent",
    "Max Orlan",
    "Ida Voss",
    "Bo Li",
    "Zoe Quill",
    "Robert Hale",
    "Alice Meyer",
)
TOWNS = ("Leeds", "Cardiff", "Hull", "York", "Bristol", "Newcastle", "Oxford", "Dublin", "Glasgow", "London")
RULES = (
    "reference",
    "backtranslate",
    "swap_ent",
    "mask_ent",
    "mask_rel",
    "regen_ent",
    "regen_rel",
    "sys_lowcon",
    "toxic",
)


def records(n=12):
    made = []
    for i in range(n):
        one, two = NAMES[i % 10], NAMES[(i * 3 + 1) % 10]
        town, other = TOWNS[i % 10], TOWNS[(i * 7 + 2) % 10]
        did = ("moved to", "opened a shop in", "closed a bank in")[i % 3]
        source = f"It was a busy day. {one} {did} {town} on {i % 28 + 1} June and sold {i + 10} bikes. {two} of {other} saw it."
        made.append(
            ContrastiveRecord(
                f"r{i}",
                source,
                (Candidate(f"{one} {did} {town} on {i % 28 + 1} June and sold {i + 10} bikes.", "reference"),),
            )
        )
    return made


def make(out, n=12, *, kinds=RULES, **options):
    given = {"scorer": WordScorer(["gleeb"]), "lexicon": ["gleeb"], "progress": False, "chunk_size": 4} | options
    return augment(records(n), out, kinds=kinds, **given)
