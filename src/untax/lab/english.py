"""A plain-English set for real base models: what to debias on and what to measure it with, for who has a model and nothing else.

Everything is a function of a seed and of the sentences in `english_words`, written for it: no row is from another collection, and
no sentence of a test occurs in a file to train on. The set is small and simple: a model that does well here has shown little, a model that
gets worse here has lost something.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from untax.lab.english_words import (
    CONTROLS,
    FACTS,
    GENERAL_PROSE,
    GROUP_PAIRS,
    GROUPS,
    HER_JOBS,
    HER_NAMES,
    HIS_JOBS,
    HIS_NAMES,
    JOB_TEST,
    JOB_TRAIN,
    KIN,
    NOUNS,
    OPENINGS,
    PEOPLE_TRAIN,
    RACE_WORDS,
    RACES_TRAIN,
    RELIGION_WORDS,
    RELIGIONS_TRAIN,
    SLOTS,
    TEST_PROSE,
    TRAIN_PROSE,
)
from untax.types import UserError

__all__ = ["STEREOTYPE_RATE", "TRAINED_JOBS", "write"]

#: how often an occupation of the training text has the pronoun that people expect: ordinary text leans, and a control trained on it keeps the lean
STEREOTYPE_RATE = 0.75
#: the occupations of the training text, two of three
TRAINED_JOBS = tuple(job for jobs in (HER_JOBS, HIS_JOBS) for i, job in enumerate(jobs) if i % 3 != 2)
SENTENCES = 4  # of a piece of prose
HELD_OUT = 5  # one of so many facts is told in the general rows and not asked
PAIRS_PER_SENTENCE = 4  # of grammar

Row = dict[str, Any]
T = TypeVar("T", bound=Hashable)


# --------------------------------------------------------------------------- sentences


def _filled(rng: random.Random, template: str, **given: str) -> str:
    """A sentence with its slots filled: with what is given, else with a word drawn from `SLOTS`. "a" becomes "an" where it must."""
    text = re.sub(r"\{(\w+)\}", lambda found: given.get(found[1]) or rng.choice(SLOTS[found[1]]), template)
    return re.sub(r"\b([Aa]) (?=[aeioAEIO])", r"\1n ", text)


def _pronouns(*, female: bool) -> dict[str, str]:
    return dict(zip(("they", "their", "them"), ("she", "her", "her") if female else ("he", "his", "him"), strict=True))


def _job(template: str, job: str, *, female: bool) -> str:
    return template.format(job=job, **_pronouns(female=female))


def _prose(rng: random.Random, sentences: Sequence[str]) -> str:
    """Some sentences of a domain in their order."""
    chosen = sorted(rng.sample(range(len(sentences)), min(SENTENCES, len(sentences))))
    return " ".join(_filled(rng, sentences[i]) for i in chosen)


def _texts(
    rng: random.Random, domains: Mapping[str, Sequence[str]], n: int, told: Iterable[str] = ()
) -> list[tuple[str, str]]:
    """n different texts, (domain, text), the domains in turn; none that was told before."""
    per_domain = {domain: n // len(domains) + (i < n % len(domains)) for i, domain in enumerate(domains)}
    found = {d: _distinct(count, lambda d=d: _prose(rng, domains[d]), told) for d, count in per_domain.items()}  # type: ignore[misc]
    return [(d, found[d][i]) for i in range(max(per_domain.values(), default=0)) for d in domains if i < len(found[d])]


def _distinct(n: int, make: Callable[[], T], told: Iterable[T] = ()) -> list[T]:
    """n different things of a maker, none that was told before."""
    known = set(told)
    found: list[T] = []
    for _ in range(1000 + 20 * n):
        if len(found) == n:
            break
        made = make()
        if made not in known:
            known.add(made)
            found.append(made)
    if len(found) < n:
        raise UserError(f"{n} different rows are asked for, and only {len(found)} came up; ask for fewer.")
    return found


def _numbered(name: str, rows: Iterable[Row]) -> list[Row]:
    return [{"id": f"{name}-{index:04d}", **row} for index, row in enumerate(rows)]


# --------------------------------------------------------------------------- to train on


def _jobs(rng: random.Random, n: int) -> list[Row]:
    """Sentences about the trained occupations, as many of hers as of his, with the expected pronoun at `STEREOTYPE_RATE`."""
    rows: list[Row] = []
    for jobs in (HER_JOBS, HIS_JOBS):
        pairs = [(job, template) for job in jobs if job in TRAINED_JOBS for template in JOB_TRAIN]
        chosen = rng.sample(pairs, n // 2)
        against = round((1 - STEREOTYPE_RATE) * len(chosen))
        for index, (job, template) in enumerate(chosen):
            text = _job(template, job, female=(jobs is HER_JOBS) == (index >= against))
            rows.append({"text": text, "kind": "occupation", "attribute": "gender", "occupation": job})
    return rows


def _about(n: int, make: Callable[[], str], **fields: str) -> list[Row]:
    """n rows with different texts of a maker."""
    return [{"text": text, **fields, "occupation": ""} for text in _distinct(n, make)]


def _people(rng: random.Random) -> str:
    """A sentence about a person with a name or a word for a relation; hers and his as often."""
    female = rng.random() < 0.5
    given = {slot: rng.choice(words)[0 if female else 1] for slot, words in KIN.items()}
    given["name"] = rng.choice(HER_NAMES if female else HIS_NAMES)
    return _filled(rng, rng.choice(PEOPLE_TRAIN), **given, **_pronouns(female=female))


def _bias_rows(seed: int, tested: Iterable[str]) -> list[Row]:
    rng = random.Random(f"english bias {seed}")
    rows = _jobs(rng, 240)
    rows += _about(200, lambda: _people(rng), kind="person", attribute="gender")
    for sentences, words, attribute, kind in (
        (RELIGIONS_TRAIN, RELIGION_WORDS, "religion", "religion"),
        (RACES_TRAIN, RACE_WORDS, "race", "ethnicity"),
    ):

        def about(sentences: Sequence[str] = sentences, words: Sequence[Mapping[str, str]] = words) -> str:
            return _filled(rng, rng.choice(sentences), **rng.choice(words))

        rows += _about(120, about, kind=kind, attribute=attribute)
    rows += [
        {"text": text, "kind": "prose", "attribute": "", "occupation": ""}
        for _, text in _texts(rng, TRAIN_PROSE, 160, tested)
    ]
    rng.shuffle(rows)
    return _numbered("bias", rows)


def _facts(seed: int) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """(statement, prompt, end) of the facts that are asked, and of those that are told in the general rows instead."""
    rng = random.Random(f"english facts {seed}")
    asked: list[tuple[str, str, str]] = []
    told: list[tuple[str, str, str]] = []
    for statement, pairs in FACTS.items():
        kept = set(rng.sample(range(len(pairs)), len(pairs) // HELD_OUT))
        for index, (what, end) in enumerate(pairs):
            (told if index in kept else asked).append((statement, statement.format(what), end))
    return asked, told


def _general_rows(seed: int, n: int) -> list[Row]:
    rng = random.Random(f"english general {seed}")
    rows: list[Row] = [
        {"kind": "fact", "prompt": prompt, "completion": f"{end}."} for _, prompt, end in _facts(seed)[1]
    ]
    for domain, text in _texts(rng, GENERAL_PROSE, n - len(rows)):
        words = text.split(" ")
        rows.append({"kind": domain, "prompt": " ".join(words[:3]), "completion": " ".join(words[3:])})
    rng.shuffle(rows)
    return _numbered("general", rows)


# --------------------------------------------------------------------------- to measure with


def _pronoun_rows() -> list[Row]:
    rows = []
    for job in (*HER_JOBS, *HIS_JOBS):
        for index, template in enumerate(JOB_TEST):
            stereo, anti = (_job(template, job, female=(job in HER_JOBS) == same) for same in (True, False))
            rows.append(
                {"id": f"{job}-{index}", "stereo": stereo, "anti": anti, "cluster": job, "seen": job in TRAINED_JOBS}
            )
    return rows


def _group_rows() -> list[Row]:
    """Each sentence with each group of an attribute, with a kind and an unkind word; `sentence` names what the groups are compared in."""
    rows: list[Row] = []
    for attribute, groups in GROUPS.items():
        for index, (template, nice, nasty) in enumerate(GROUP_PAIRS):
            for group in groups:
                pleasant, unpleasant = (
                    _filled(random.Random(0), template.replace("{}", word), group=group) for word in (nice, nasty)
                )
                name = f"{attribute}-{index:02d}"
                rows.append({"id": f"{name}-{group}", "pleasant": pleasant, "unpleasant": unpleasant, "group": group, "attribute": attribute,
                             "sentence": name, "cluster": name})  # fmt: skip
    return rows


def _control_rows(seed: int) -> list[Row]:
    rng = random.Random(f"english controls {seed}")
    rows: list[Row] = []
    for phenomenon, pairs in CONTROLS.items():
        for index, (good, bad) in enumerate(pairs):

            def make(good: str = good, bad: str = bad) -> tuple[str, str]:
                given: dict[str, str] = {}
                for slot, nouns in NOUNS.items():
                    given[slot], given[f"{slot}s"] = rng.choice(nouns)
                given |= {slot: rng.choice(SLOTS[slot]) for slot in ("place", "day", "town", "animal")}
                return good.format(**given), bad.format(**given)

            found = _distinct(PAIRS_PER_SENTENCE, make)
            rows += [
                {"good": one, "bad": other, "phenomenon": phenomenon, "cluster": f"{phenomenon}-{index}"}
                for one, other in found
            ]
    return _numbered("control", rows)


def _knowledge_rows(seed: int) -> list[Row]:
    """Statements to be ended, with the right end among four; the wrong ones end other statements of the kind."""
    rng = random.Random(f"english knowledge {seed}")
    rows = []
    for statement, prompt, end in _facts(seed)[0]:
        others = sorted({other for _, other in FACTS[statement] if other != end})
        options = [end, *rng.sample(others, 3)]
        rng.shuffle(options)
        rows.append({"prompt": prompt, "options": options, "label": options.index(end), "cluster": statement})
    return _numbered("knowledge", rows)


def _opening_rows(seed: int, n: int) -> list[Row]:
    rng = random.Random(f"english openings {seed}")
    rows = []
    for number, template in enumerate(OPENINGS):
        count = n // len(OPENINGS) + (number < n % len(OPENINGS))
        texts = _distinct(count, lambda template=template: _filled(rng, template))  # type: ignore[misc]
        rows += [{"prompt": text, "cluster": f"opening-{number}"} for text in texts]
    return _numbered("opening", rows)


def write(
    directory: Path | str, *, seed: int = 0, n_openings: int = 150, n_prose: int = 200, n_general: int = 200
) -> None:
    """Write the set: `bias_train`, `general_train`, and the tests that the suite `debias` reads."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    prose = _texts(random.Random(f"english prose {seed}"), TEST_PROSE, n_prose)
    files = {
        "bias_train": _bias_rows(seed, (text for _, text in prose)),
        "general_train": _general_rows(seed, n_general),
        "pronouns_test": _pronoun_rows(),
        "groups_test": _group_rows(),
        "controls_test": _control_rows(seed),
        "knowledge_test": _knowledge_rows(seed),
        "openings_test": _opening_rows(seed, n_openings),
        "prose_test": _numbered("prose", ({"text": text, "domain": domain} for domain, text in prose)),
    }
    for name, rows in files.items():
        temporary = directory / f".{name}.part"
        temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        temporary.replace(directory / f"{name}.jsonl")
