"""Drives the kinds over many records, so that a killed run goes on where it stood and ends with the same bytes.

Records are worked on in chunks; a finished chunk is a file, written whole or not at all, and named by a hash of everything
that decides its content. Model answers are remembered by the content of the question, so that even the chunk in hand is
not lost. When all chunks are there, the result is put together, renamed into place, and the chunks are removed.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from untax import files, methods, scorers, spans
from untax.data import words
from untax.data.augment import accept, generators
from untax.data.augment.common import Corpus, Tally, normalise
from untax.data.augment.generators import Generator, Roundtrip
from untax.data.augmented import AugmentReport, KindRow, read_report
from untax.data.formats import record_from, to_dict
from untax.scorers import Scorer
from untax.types import Candidate, ContrastiveRecord, RecipeError, UserError

__all__ = ["POSITIVE_KINDS", "augment"]

#: what the kinds get from the run; everything else is an option
GIVEN = ("seed", "generator", "corpus", "lexicon", "scorer", "finder", "prompt", "tally")
POSITIVE_KINDS = ("reference", "backtranslate", "counterfactual")
#: kinds that toxicity does not rule out: a scorer that judges one group more harshly would throw away the very pairs against it
UNJUDGED = ("reference", "counterfactual")
#: changes when the same settings would give other texts
VERSION = "augment-1"
#: TF-IDF vectors of a text and its summary share less than sentence vectors do
MIN_RELEVANCE = {"tfidf": 0.1, "model": 0.4}


@dataclass(frozen=True)
class _Job:
    """Everything that decides what is made of a record."""

    kinds: tuple[str, ...]
    seed: int
    finder: str
    prompt: str
    scorer: Scorer | None
    generators: Mapping[str, Generator | Roundtrip]
    lexicon: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]]
    max_toxicity: float
    min_relevance: float
    corpus: Corpus | None
    key: str


def augment(
    records: Sequence[ContrastiveRecord],
    out_path: Path,
    *,
    kinds: Sequence[str],
    seed: int = 0,
    scorer: Scorer | None = None,
    finder: str = "rules",
    generators: Mapping[str, str] | None = None,  # kind: model directory
    lexicon: Sequence[str] | Path | None = None,  # words of the kind "toxic" by rules
    prompt: str = "{source}\nSummary:",
    options: Mapping[str, Mapping[str, Any]] | None = None,  # kind: its own options
    max_toxicity: float = 0.5,  # of a reference; the released value
    min_relevance: float | None = None,  # of a reference to its source; 0.4 with a model, 0.1 by TF-IDF
    relevance_model: str | None = None,  # a sentence encoder's directory
    cache_dir: Path | None = None,  # where model answers are remembered; beside the result when not given
    chunk_size: int = 64,
    batch_size: int = 32,
    device: str = "cpu",
    allow_network: bool = False,
    progress: bool = True,
) -> AugmentReport:
    """Make positives and negatives of every record and write them to `out_path`, with a report beside it.

    Plain texts (an empty source) are taken too; no relevance is asked of them, since there is nothing to be relevant to.
    A finished result of the same records and settings is found again and not made anew.

    Raises: UserError when a kind lacks what it needs, a model cannot be loaded, or no source is left.
    """
    if not records:
        raise UserError("augment: there are no records.")
    lexicon = tuple(scorers.read_words(lexicon) if isinstance(lexicon, Path) else lexicon or ())
    _check(kinds, scorer, generators or {}, lexicon, options or {})
    work = out_path.with_name(out_path.name + ".work")
    loaded = _load(generators or {}, cache_dir or work / "answers", batch_size, device, allow_network)
    least = min_relevance if min_relevance is not None else MIN_RELEVANCE["model" if relevance_model else "tfidf"]
    settings: dict[str, Any] = {
        "version": VERSION, "kinds": list(kinds), "seed": seed, "finder": spans.load(finder).identity, "prompt": prompt,
        "scorer": scorer.identity if scorer else None, "lexicon": lexicon, "options": options or {}, "chunk_size": chunk_size,
        "generators": {kind: _identities(generator) for kind, generator in loaded.items()}, "batch_size": batch_size,
        "max_toxicity": max_toxicity, "min_relevance": least, "relevance_model": relevance_model,
    }  # fmt: skip
    if "counterfactual" in kinds:
        settings["words"] = [words.identity(attribute) for attribute in words.ATTRIBUTES]
    key = _hash(settings, [to_dict(record) for record in records])
    report_path = out_path.with_name(out_path.name + ".report.json")
    done = read_report(report_path) if report_path.is_file() and out_path.is_file() else None
    if done is not None and done.key == key and done.result == _hash_file(out_path):
        return done

    job = _Job(
        tuple(kinds), seed, finder, prompt, _Remembering(scorer) if scorer else None, loaded, lexicon, options or {},
        max_toxicity, least, Corpus.of(records, finder=finder) if _needs_corpus(kinds) else None, key,
    )  # fmt: skip
    relevant = _relevance(records, relevance_model, device, allow_network)
    chunks = []
    with tqdm(total=len(records), desc="augment", unit="record", disable=not progress) as bar:
        for number, first in enumerate(range(0, len(records), chunk_size)):
            here = slice(first, first + chunk_size)
            path = work / f"chunk-{number:05d}-{key}.json"
            if not path.is_file():
                files.write(path, json.dumps(_chunk(records[here], relevant[here], job), ensure_ascii=False))
            chunks.append(json.loads(path.read_text(encoding="utf-8")))
            bar.update(len(records[here]))
    return _finish(chunks, out_path, report_path, work, job)


def _finish(
    chunks: Sequence[dict[str, Any]], out_path: Path, report_path: Path, work: Path, job: _Job
) -> AugmentReport:
    counts = [chunk["counts"] for chunk in chunks]
    rows, removed = _balanced([row for chunk in chunks for row in chunk["records"]], job)
    if removed:
        counts.append(_taken_away(removed, job))
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    report = AugmentReport.of(counts, key=job.key)
    if not lines:
        raise UserError(
            f"augment: none of the {report.read} sources can be used: {report.dropped_text()}. Check scorer, references and thresholds"
            + (
                ", and the attribute whose words are swapped (counterfactual)."
                if "counterfactual" in job.kinds
                else "."
            )
        )
    files.write(out_path, "".join(lines))
    report = replace(report, result=_hash_file(out_path))
    files.write(report_path, json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n")
    shutil.rmtree(work, ignore_errors=True)
    return report


def _balanced(rows: list[dict[str, Any]], job: _Job) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The records that stay, in order, and those without a counterfactual that are too many for `neutral_share`."""
    if "counterfactual" not in job.kinds:
        return rows, []
    options = methods.get("data/augment", "counterfactual").options
    default = next(str(option.default) for option in options if option.name == "neutral_share")
    share = float(job.options.get("counterfactual", {}).get("neutral_share", default))
    neutral = [i for i, row in enumerate(rows) if not any(c["kind"] == "counterfactual" for c in row["positives"])]
    others = len(rows) - len(neutral)
    # of n + others records, n are neutral: n <= share * (n + others); the small number mends 0.3 / (1 - 0.3) * 7 = 2.9999...
    most = len(neutral) if share >= 1 else int(share / (1 - share) * others + 1e-9)
    if len(neutral) <= most:
        return rows, []
    stay = set(random.Random(f"{job.seed}\x1fneutral").sample(neutral, most))
    out = set(neutral) - stay
    return [row for i, row in enumerate(rows) if i not in out], [rows[i] for i in sorted(out)]


def _taken_away(rows: Sequence[dict[str, Any]], job: _Job) -> dict[str, Any]:
    """What records that go count for, with a minus: added to the counts of the chunks it gives those of the rest."""
    records = [record_from(row, default_id="") for row in rows]
    counts = _counts(records, {kind: Tally() for kind in job.kinds}, job)
    signed: dict[str, Any] = {name: -counts[name] for name in ("kept", "few_positives", "no_negatives")}
    signed["rows"] = [
        {name: -value if isinstance(value, int) else value for name, value in row.items()} for row in counts["rows"]
    ]
    signed["with_spans"] = {name: -value for name, value in counts["with_spans"].items()}
    return {**signed, "read": 0, "dropped": {"with no word to swap, beyond neutral_share": len(rows)}}


# --------------------------------------------------------------------------- before the work


def _needs_corpus(kinds: Sequence[str]) -> bool:
    return any(option.name == "corpus" for kind in kinds for option in methods.get("data/augment", kind).options)


def _check(
    kinds: Sequence[str],
    scorer: Scorer | None,
    models: Mapping[str, str],
    lexicon: Sequence[str],
    options: Mapping[str, Mapping[str, Any]],
) -> None:
    for kind in kinds:
        methods.get("data/augment", kind)
    if len(set(kinds)) < len(kinds):
        raise RecipeError(f"augment: a kind is named twice: {', '.join(kinds)}.")
    for kind in [*models, *options]:
        if kind not in kinds:
            raise RecipeError(
                f"augment: '{kind}' has a generator or options but is not among the kinds ({', '.join(kinds)})."
            )
    for kind, given in options.items():
        methods.check_options("data/augment", kind, given, where=f"options of {kind}", given=GIVEN)
    if "toxic" in kinds and scorer is None:
        raise UserError(
            "augment: the kind 'toxic' needs a scorer that says whether a text is toxic (words:FILE, fit:FILE, ngram:FILE, hf:DIR)."
        )
    if "toxic" in kinds and "toxic" not in models and not lexicon:
        raise UserError(
            "augment: the kind 'toxic' needs a word list (lexicon) or a generator. None is shipped: hand in a licensed one."
        )


def _load(
    wanted: Mapping[str, str], cache: Path, batch_size: int, device: str, allow_network: bool
) -> dict[str, Generator | Roundtrip]:
    """One generator per kind; kinds that name the same model for the same purpose share it."""
    shared: dict[tuple[str, str], Generator | Roundtrip] = {}
    found = {}
    for kind, where in wanted.items():
        purpose = (str(where), generators.WANTS.get(kind, kind))
        if purpose not in shared:
            shared[purpose] = generators.load(
                kind,
                str(where),
                cache_dir=cache,
                batch_size=batch_size,
                device=device,
                allow_network=allow_network,
                deferred=True,
            )
        found[kind] = shared[purpose]
    return found


def _members(generator: Generator | Roundtrip) -> list[Generator]:
    return generator.generators if isinstance(generator, Roundtrip) else [generator]


def _identities(generator: Generator | Roundtrip) -> list[str]:
    return [member.model.identity for member in _members(generator)]


def _relevance(
    records: Sequence[ContrastiveRecord], model: str | None, device: str, allow_network: bool
) -> list[float]:
    """Of each reference to its source; without a source there is nothing to be relevant to, and no limit is too high."""
    asked = [record for record in records if record.source]
    if not asked:
        return [math.inf] * len(records)
    if model is None:
        found = accept.relevance(asked)
    else:
        from untax.data.augment.neural import SentenceEncoder

        encoder = SentenceEncoder(model, device=device, allow_network=allow_network)
        found = encoder.cosines([(r.source, r.reference) for r in asked])
    cosines = iter(found)
    return [next(cosines) if record.source else math.inf for record in records]


class _Remembering:
    """A scorer that reads no text twice."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self.name, self.identity = scorer.name, scorer.identity
        self._known: dict[str, float] = {}

    def score(self, texts: Sequence[str]) -> list[float]:
        """One score per text."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._scorer.score(new), strict=True))
        return [self._known[text] for text in texts]


def _hash(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=list).encode()).hexdigest()[:16]


def _hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


# --------------------------------------------------------------------------- one chunk


def _chunk(records: Sequence[ContrastiveRecord], relevant: Sequence[float], job: _Job) -> dict[str, Any]:
    """The finished records of a chunk and what is to be counted of them, as plain JSON."""
    tallies: dict[str, Tally] = {kind: Tally() for kind in job.kinds}
    kept, dropped = _keep(records, relevant, job)
    kept = [_with_scores(replace(r, negatives=()), r.negatives, job) for r in kept]
    for kind in sorted(job.kinds, key=lambda k: k not in POSITIVE_KINDS):
        positive = kind in POSITIVE_KINDS
        made = _make(kept, kind, job, tallies[kind])
        judged = _judge(made, kind, positive, job, tallies[kind])
        kept = [
            _add(record, candidates, positive, tallies[kind]) for record, candidates in zip(kept, judged, strict=True)
        ]
    for generator in job.generators.values():
        for member in _members(generator):
            member.forget()
    counts = {**_counts(kept, tallies, job), "read": len(records), "dropped": dict(dropped)}
    return {"records": [to_dict(record) for record in kept], "counts": counts}


def _counts(kept: Sequence[ContrastiveRecord], tallies: Mapping[str, Tally], job: _Job) -> dict[str, Any]:
    """What the report says of finished records, as plain JSON."""
    rows = [asdict(_row(kind, kept, tallies[kind], job)) for kind in job.kinds]
    given = [c for record in kept for c in (*record.positives, *record.negatives) if c.kind not in job.kinds]
    rows += [asdict(row) for row in _given_rows(given, kept, job)]
    texts = {"reference": [r.reference for r in kept], "source": [r.source for r in kept if r.source]}
    notes: Counter[str] = Counter()
    for tally in tallies.values():
        notes.update(tally.notes)
    return {
        "kept": len(kept), "rows": rows, "notes": dict(notes),
        "with_spans": {name: sum(map(bool, spans.find_all(of, finder=job.finder))) for name, of in texts.items() if of},
        "few_positives": sum(len(r.positives) < 2 for r in kept), "no_negatives": sum(not r.negatives for r in kept),
    }  # fmt: skip


def _keep(
    records: Sequence[ContrastiveRecord], relevant: Sequence[float], job: _Job
) -> tuple[list[ContrastiveRecord], Counter[str]]:
    toxicity = job.scorer.score([r.reference for r in records]) if job.scorer else [0.0] * len(records)
    kept, dropped = [], Counter[str]()
    for record, toxic, cosine in zip(records, toxicity, relevant, strict=True):
        reason = accept.source_reason(toxic, cosine, max_toxicity=job.max_toxicity, min_relevance=job.min_relevance)
        if reason:
            dropped[reason] += 1
        else:
            kept.append(record)
    return kept, dropped


def _with_scores(record: ContrastiveRecord, negatives: Sequence[Candidate], job: _Job) -> ContrastiveRecord:
    """The texts that came with the record, scored where they were not."""

    def scored(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
        if job.scorer is None:
            return tuple(candidates)
        values = job.scorer.score([c.text for c in candidates])
        return tuple(
            replace(c, toxicity=_rounded(v)) if c.toxicity is None else c
            for c, v in zip(candidates, values, strict=True)
        )

    return replace(record, positives=scored(record.positives), negatives=scored(negatives))


def _make(records: Sequence[ContrastiveRecord], kind: str, job: _Job, tally: Tally) -> list[list[Candidate]]:
    """What a kind makes of each record; asked again while its model still owes answers."""
    function = methods.find("data/augment", kind)
    known = {option.name for option in methods.get("data/augment", kind).options}
    generator = job.generators.get(kind)
    if generator is not None and "generator" not in known:
        raise UserError(f"augment: the kind '{kind}' takes no generator.")
    while True:
        fresh = Tally()
        given: dict[str, Any] = {
            "seed": job.seed, "generator": generator, "corpus": job.corpus, "lexicon": job.lexicon, "scorer": job.scorer,
            "finder": job.finder, "prompt": job.prompt, "tally": fresh,
        }  # fmt: skip
        usable = {name: value for name, value in given.items() if name in known} | dict(job.options.get(kind, {}))
        made = [function(record, **usable) for record in records]
        if generator is None or not sum(member.settle() for member in _members(generator)):
            tally.made += fresh.made if "tally" in known else sum(map(len, made))
            tally.rejected.update(fresh.rejected)
            tally.notes.update(fresh.notes)
            return made


def _judge(made: list[list[Candidate]], kind: str, positive: bool, job: _Job, tally: Tally) -> list[list[Candidate]]:
    """The toxicity limits, for all texts of a chunk in one call of the scorer."""
    if job.scorer is None or kind == "reference":
        return made
    scores = iter(job.scorer.score([candidate.text for candidates in made for candidate in candidates]))
    judged = []
    for candidates in made:
        kept = []
        for candidate in candidates:
            score = next(scores)
            reason = "" if kind in UNJUDGED else accept.toxicity_reason(kind, score, positive=positive)
            if reason:
                tally.rejected[reason] += 1
            else:
                kept.append(replace(candidate, toxicity=_rounded(score)))
        judged.append(kept)
    return judged


def _rounded(score: float) -> float | None:
    """Six digits: the last bits of a score differ between machines, and a file should not."""
    return None if score != score else round(score, 6)


def _add(record: ContrastiveRecord, candidates: Sequence[Candidate], positive: bool, tally: Tally) -> ContrastiveRecord:
    """The record with what a kind made; the reference is there already, and no text comes twice."""
    kept = []
    seen = {normalise(c.text) for c in (*record.positives, *record.negatives)}
    for candidate in candidates:
        if candidate.kind == "reference":
            continue
        if normalise(candidate.text) in seen:
            tally.rejected["repeats another text"] += 1
            continue
        seen.add(normalise(candidate.text))
        kept.append(candidate)
    if positive:
        return replace(record, positives=(*record.positives, *kept))
    return replace(record, negatives=(*record.negatives, *kept))


# --------------------------------------------------------------------------- counting


def _row(kind: str, records: Sequence[ContrastiveRecord], tally: Tally, job: _Job) -> KindRow:
    generator = job.generators.get(kind)
    if generator is not None:
        name = "neural:" + ",".join(member.model.name for member in _members(generator))
    else:
        name = "data" if kind == "reference" else "rules"
    return _count(kind, name, records, lambda c: c.kind == kind, job, tally)


def _given_rows(given: Sequence[Candidate], records: Sequence[ContrastiveRecord], job: _Job) -> list[KindRow]:
    """A row for each kind of text that the records brought along."""
    rows = []
    for kind in dict.fromkeys(c.kind for c in given):
        if kind != "reference":
            number = sum(c.kind == kind for c in given)
            rows.append(_count(kind, "data", records, lambda c, kind=kind: c.kind == kind, job, Tally(made=number)))  # type: ignore[misc]
    return rows


def _count(
    kind: str,
    generator: str,
    records: Sequence[ContrastiveRecord],
    wanted: Callable[[Candidate], bool],
    job: _Job,
    tally: Tally,
) -> KindRow:
    texts = [c for r in records for c in (*r.positives, *r.negatives) if wanted(c)]
    negative = {id(c) for r in records for c in r.negatives}
    found = spans.find_all([c.text for c in texts], finder=job.finder)
    blind = sum(id(c) in negative and spans.is_blind(s, c.edits) for c, s in zip(texts, found, strict=True))
    negatives = sum(id(c) in negative for c in texts)
    rejected = dict(sorted(tally.rejected.items(), key=lambda item: (-item[1], item[0])))
    return KindRow(kind, generator, tally.made, len(texts), rejected, sum(map(bool, found)), blind, negatives)
