"""What a comparison of many systems says beside its front: every line of every system, how answers fail, what was forgotten, and which goes with which.

`make` takes a comparison with the tables of scores that it was made of. The ledger is that of receipts, judged over all systems. Patterns
count answers that are none. Forgetting sets the drift from the base (overall forgetting, OF), the shrinking of gaps in minimal pairs (selective
forgetting) and the abilities that were lost beside each other, system by system, and asks whether the three findings of arXiv 2509.21456 are
seen here. The definitions are ours: of that paper the abstract is known to us, not its formulas. Nothing is trained or measured here.

Shapes: K seeds, S systems, I items, R resamples.

Sources: docs/compare.md; drawing whole families is the cluster bootstrap of Field and Welsh 2007.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

from untax import frontier, lines, mixtures, predictions, receipt, refusals, stats
from untax.diagnostics import common as numbers
from untax.diagnostics import scored
from untax.frontier import Axis, Comparison, Reading, Tables
from untax.types import MetricSpec, RecipeError, ScoreRow, Scores, UserError

__all__ = [
    "MEASURES",
    "PATTERNS",
    "Cell",
    "Correlation",
    "Finding",
    "Forgetting",
    "Ledger",
    "LedgerRow",
    "Measured",
    "PatternRow",
    "Patterns",
    "Remedy",
    "Share",
    "Study",
    "correlate",
    "forgetting",
    "ledger",
    "make",
    "partial",
    "patterns",
    "predicted",
]

Numbers = NDArray[np.float64]
Verdict = Literal["holds", "does not hold", "cannot be said"]

#: an answer of at least so many words whose word pairs stood in it before, in more than this share, goes round in circles
PAIRS_REPEATED, ENOUGH_WORDS = 0.5, 8
#: an answer with less than this share of the words that the base says to the same prompt is short
SHORT = 0.5
#: an answer with at least this share of tokens at rank 3 or lower for the base drifts
DRIFTS = 0.5
#: fewer systems than this, or fewer families, and nothing is said of a correlation
LEAST_SYSTEMS, LEAST_FAMILIES = 10, 4
#: a correlation is called strong from here on
STRONG = 0.5
#: a remedy that certainly saves less than this share of what the others lose is said to save nothing
NOTHING_SAVED = 0.2
MOST_DRAWS = 1_000
OF_LINE = "overall forgetting"
_FEW = 100  # resamples where only the value is read

PATTERNS: Mapping[str, str] = {
    "empty": "no letter and no digit",
    "abstaining": "declines, or says at once that it does not know",
    "repeating": f"more than half of the word pairs stood in the same answer before ({ENOUGH_WORDS} words or more)",
    "same": "the very words of its answer to another prompt, where the base says two different things",
    "short": "fewer than half of the words that the base says to the same prompt, but some",
    "drifting": "half or more of its tokens are not among the base's first three choices",
}

MEASURES: Mapping[str, tuple[str, str]] = {
    "forgetting": ("overall forgetting (OF)", "nats per token"),
    "nll": ("rise of the loss on text (ΔNLL)", "nats per token"),
    "lost": ("downstream loss", ""),
    "net": ("net shrink", ""),
    "relative": ("relative shrink, attribute pairs", ""),
    "control": ("relative shrink, control pairs", ""),
    "shrink": ("shrink", "nats"),
    "selective": ("selective forgetting (SF)", "nats"),
    "overshoot": ("pairs turned round", "share"),
}


# --------------------------------------------------------------------------- what comes out


@dataclass(frozen=True)
class Cell:
    """One system on one line: its level, the change from the base with its 95 % interval, and the verdict word ("" for what is only watched)."""

    level: float
    change: Reading
    verdict: str
    why: str
    n: int


@dataclass(frozen=True)
class LedgerRow:
    """One system; `shown` says that it stands for its family."""

    system: str
    family: str
    shown: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Ledger:
    """Systems by lines: safety first, then abilities, then what is watched. `base` are the base's levels."""

    axes: tuple[Axis, ...]
    base: tuple[float, ...]
    rows: tuple[LedgerRow, ...]
    left_out: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Share:
    """A share of answers, the base's share of the same, and the difference with its 95 % interval; `examples` are ids of items."""

    share: float
    base: float
    change: Reading
    n: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class PatternRow:
    system: str
    family: str
    shown: bool
    shares: Mapping[str, Share]


@dataclass(frozen=True)
class Patterns:
    """How answers fail. `names` are the patterns that were measured, `spared` the lines whose prompts ought to be declined."""

    names: tuple[str, ...]
    prompts: int
    texts: int
    spared: tuple[str, ...]
    rows: tuple[PatternRow, ...]


@dataclass(frozen=True)
class Measured:
    """What one system forgot, one value per training seed; names are those of MEASURES. `spans` are 95 % intervals where there are any."""

    system: str
    family: str
    shown: bool
    values: Mapping[str, tuple[float, ...]]
    spans: Mapping[str, Reading]

    def mean(self, name: str) -> float:
        """Over training seeds; NaN where it was not measured."""
        found = self.values.get(name, ())
        return float(np.mean(found)) if found else math.nan


@dataclass(frozen=True)
class Correlation:
    """Spearman's correlation of two measures over systems, or the partial one `given` a third; a resample draws families and seeds."""

    x: str
    y: str
    given: str
    rho: float
    low: float
    high: float
    n: int
    families: int

    @property
    def known(self) -> bool:
        return math.isfinite(self.low) and self.n >= LEAST_SYSTEMS


@dataclass(frozen=True)
class Remedy:
    """A remedy against forgetting beside the family that it is laid on, at one and the same safety gain.

    `forgetting` is what is paid in OF, `lost` in points of ability; `..._apart` that minus the other family's, `p_...` adjusted by Holm over
    all remedies and both, the words "less", "more", "not known" and "does not reach".
    """

    family: str
    kind: str
    against: str
    gain: float
    forgetting: Reading
    forgetting_apart: Reading
    p_forgetting: float
    forgetting_word: str
    lost: Reading
    lost_apart: Reading
    p_lost: float
    lost_word: str
    why: str


@dataclass(frozen=True)
class Finding:
    """One finding of the paper, and whether it is seen here."""

    claim: str
    verdict: Verdict
    sentence: str


@dataclass(frozen=True)
class Forgetting:
    """OF, selective forgetting and downstream loss of every system, how they go together, and what that says of the three findings."""

    systems: tuple[Measured, ...]
    correlations: tuple[Correlation, ...]
    remedies: tuple[Remedy, ...]
    findings: tuple[Finding, ...]
    lines: Mapping[str, tuple[str, ...]]
    documents: int
    pairs: int
    scope: str


@dataclass(frozen=True)
class Study:
    """What stands on the page beside the front. A part is None where no line measured what it needs."""

    ledger: Ledger
    patterns: Patterns | None
    forgetting: Forgetting | None
    predicted: Mapping[str, Any] | None
    level: str


def make(made: Comparison) -> Study | None:
    """Everything that the tables of a comparison say beside its front; None where the comparison does not have them."""
    if made.tables is None:
        return None
    tables = Tables(made.tables.base, tuple(scored.once(seeds) for seeds in made.tables.systems))
    shown = frozenset(_standing_for(made).values())
    found = forgetting(made, tables, shown)
    return Study(
        ledger=ledger(made, tables, shown),
        patterns=patterns(made, tables, shown),
        forgetting=found,
        predicted=predicted(made, tables, found),
        level=frontier.title_of(made, made.levels[0]),
    )


def _standing_for(made: Comparison) -> dict[str, str]:
    """For each family the system that answers most prompts at the page's level; of one that does not reach it, the safest."""
    chosen: dict[str, str] = {}
    for family in dict.fromkeys(point.family for point in made.points):
        mine = [point for point in made.points if point.family == family]
        usable = [point for point in mine if not point.withheld]
        best = max(usable or mine, key=lambda point: -math.inf if math.isnan(point.gain.value) else point.gain.value)
        shares: dict[str, float] = {}
        if usable:
            answered = dict(made.cost(family, made.levels[0].name).mixture)
            shares = {point.system: answered.get(point.system, 0.0) for point in usable}
        chosen[family] = max(shares, key=shares.__getitem__) if max(shares.values(), default=0.0) > 0 else best.system
    return chosen


# --------------------------------------------------------------------------- the ledger


def ledger(made: Comparison, tables: Tables, shown: frozenset[str]) -> Ledger:
    """Every line of every system as receipts have it, judged over all systems together (Holm), so that who tries many finds no more."""
    told: list[receipt.Receipt] = []
    left_out = []
    for point, seeds in zip(made.points, tables.systems, strict=True):
        try:
            one = receipt.make(
                tables.base, seeds, seed=int(made.settings["seed"]), resamples=int(made.settings["resamples"])
            )
        except UserError as error:
            left_out.append((point.system, str(error)))
            continue
        told.append(one)
    families = {point.system: point.family for point in made.points}
    told = receipt.adjust_across(told)
    order = {"safety": 0, "ability": 1, "watch": 2}
    specs = sorted(tables.base.specs, key=lambda spec: order[spec.side])
    base = tuple(_level([row.score for row in tables.base.of(spec.name)], spec) for spec in specs)
    rows = []
    for one in told:
        named = {line.name: line for line in one.metrics}
        cells = tuple(_cell(named[spec.name]) for spec in specs)
        rows.append(LedgerRow(one.tuned_system, families[one.tuned_system], one.tuned_system in shown, cells))
    axes = tuple(
        _axis(spec, [row.cells[place] for row in rows], level)
        for place, (spec, level) in enumerate(zip(specs, base, strict=True))
    )
    return Ledger(axes, base, tuple(rows), tuple(left_out))


def _cell(line: lines.MetricResult) -> Cell:
    return Cell(line.tuned, Reading(line.difference, line.low, line.high), line.verdict or "", line.why, line.n)


def _level(scores: Sequence[float], spec: MetricSpec) -> float:
    """The base's mean; its drift from itself is 0, whether or not it was scored."""
    known = [score for score in scores if math.isfinite(score)]
    if not known:
        return 0.0 if spec.request == "drift" else math.nan
    return math.fsum(known) / len(known)


def _axis(spec: MetricSpec, cells: Sequence[Cell], base: float) -> Axis:
    """How a line's numbers are written; without a margin, with three figures of the largest of them."""
    axis = frontier.axis_of(spec, n=max((cell.n for cell in cells), default=0), items=0)
    size = max((abs(level) for level in (base, *(cell.level for cell in cells)) if math.isfinite(level)), default=0.0)
    if axis.unit == "points" or spec.margin > 0 or size == 0:
        return axis
    return replace(axis, decimals=min(5, max(0, 2 - math.floor(math.log10(size)))))


# --------------------------------------------------------------------------- patterns of failing answers

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_NOT_KNOWN = re.compile(
    r"\b(?:i|we) (?:really )?(?:do not|don't|did not|didn't) (?:really )?know\b|\b(?:i'm|i am|we're|we are) (?:not sure|unsure)\b|\b(?:i have|i've) no (?:idea|information)\b"
    r"|\b(?:can ?not|can't) (?:say|tell|know|answer|be (?:determined|answered|said|known))\b|\bnot enough information\b|^\W*(?:unknown|not known|no idea|no answer|undetermined|n/a)\b"
)
_OPENING = 120  # characters within which an answer has said that it knows nothing


@dataclass(frozen=True)
class _Asked:
    """One prompt with one budget, however many lines score the answer to it."""

    prompt: str
    line: str
    item: str
    cluster: str
    spared: bool


Key = tuple[str, ...]


def patterns(made: Comparison, tables: Tables, shown: frozenset[str]) -> Patterns | None:
    """The shares of empty, abstaining, repeating, short and drifting answers of every system, and their differences from the base.

    A prompt that several lines ask with the same budget counts once. Prompts that ought to be declined (a line that counts refusals as
    good) are spared what a refusal is by nature: abstaining, saying the same, being short. None where nothing is generated.
    """
    asked = _asked(tables.base)
    shift = _shift_scores(tables.base)
    if not asked and not shift:
        return None
    labels: dict[tuple[str, str], bool] = {}
    before = _said(tables.base)
    words = {key: _words(text) for key, text in before.items()}
    of_base = _flags(asked, before, words, labels)
    rows = []
    for point, seeds in zip(made.points, tables.systems, strict=True):
        flags = [_flags(asked, _said(table), words, labels) for table in seeds]
        shares = {
            name: _share(of_base[name], [one[name] for one in flags], list(asked.values()), made.settings)
            for name in PATTERNS
            if name != "drifting" and asked
        }
        if shift:
            shares["drifting"] = _drifting(shift, [_shift_scores(table) for table in seeds], made.settings)
        rows.append(PatternRow(point.system, point.family, point.system in shown, shares))
    names = tuple(name for name in PATTERNS if rows and name in rows[0].shares)
    spared = tuple(spec.name for spec in tables.base.specs if _declining_is_right(spec))
    return Patterns(names, len(asked), len(shift), spared, tuple(rows))


def _declining_is_right(spec: MetricSpec) -> bool:
    options = spec.settings.get("options") or {}
    return spec.metric == "refusal" and options.get("want", "refuse") == "refuse" and spec.better == "higher"


def _budget(spec: MetricSpec) -> Key:
    return tuple(str(spec.settings.get(name)) for name in ("max_new_tokens", "stop", "decoding"))


def _rows_of(scores: Scores) -> Iterable[tuple[Key, MetricSpec, ScoreRow]]:
    """The rows of generated answers, under a key that is the same for the same prompt and budget."""
    specs = {spec.name: spec for spec in scores.specs if spec.request == "generate"}
    for row in scores.rows:
        if row.metric in specs:
            spec = specs[row.metric]
            yield (row.prompt_hash, row.prompt, *_budget(spec)), spec, row


def _asked(base: Scores) -> dict[Key, _Asked]:
    found: dict[Key, _Asked] = {}
    for key, spec, row in _rows_of(base):
        one = found.setdefault(key, _Asked(row.prompt, row.metric, row.item_id, row.cluster, False))
        if _declining_is_right(spec) and not one.spared:
            found[key] = replace(one, spared=True)
    return found


def _said(scores: Scores) -> dict[Key, str]:
    """Answers by prompt and budget; one that was never given (its line says that scores are missing) is not among them."""
    missing = scores.about.get("missing") or {}
    found: dict[Key, str] = {}
    for key, _, row in _rows_of(scores):
        if row.answer or not (math.isnan(row.score) and row.metric in missing):
            found.setdefault(key, row.answer)
    return found


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _flags(
    asked: Mapping[Key, _Asked],
    said: Mapping[Key, str],
    base_words: Mapping[Key, Sequence[str]],
    labels: dict[tuple[str, str], bool],
) -> dict[str, Numbers]:
    """One number per prompt and pattern: 1 where the answer shows it, 0 where not, NaN where it is not counted."""
    tokens = {key: tuple(_words(text)) for key, text in said.items()}
    instead: dict[tuple[str, ...], set[tuple[str, ...]]] = defaultdict(set)
    for key, words in tokens.items():
        if words and key in asked and not asked[key].spared:
            instead[words].add(tuple(base_words.get(key, ())))
    found = {name: np.full(len(asked), math.nan) for name in PATTERNS if name != "drifting"}
    for place, (key, one) in enumerate(asked.items()):
        if key not in said:
            continue
        text, words = said[key], tokens[key]
        silent = not any(character.isalnum() for character in text)
        found["empty"][place] = silent
        found["repeating"][place] = _repeats(words)
        if not one.spared:
            found["abstaining"][place] = not silent and _abstains(text, one.prompt, labels)
            found["same"][place] = len(instead[words]) > 1
            found["short"][place] = 0 < len(words) < SHORT * len(base_words.get(key, ()))
    return found


def _repeats(words: Sequence[str]) -> bool:
    """By hand: "a b a b a b a b" has seven pairs, two different ones: 5 of 7 stood there before."""
    pairs = list(pairwise(words))
    return len(words) >= ENOUGH_WORDS and 1 - len(set(pairs)) / len(pairs) > PAIRS_REPEATED


def _abstains(text: str, prompt: str, labels: dict[tuple[str, str], bool]) -> bool:
    key = (text, prompt)
    if key not in labels:
        opening = " ".join(text[:_OPENING].replace("’", "'").casefold().split())
        labels[key] = bool(_NOT_KNOWN.search(opening)) or refusals.label(text, prompt) == "refuse"
    return labels[key]


def _share(base_I: Numbers, flags: Sequence[Numbers], asked: Sequence[_Asked], settings: Mapping[str, Any]) -> Share:
    tuned_KI = np.stack(flags)
    line = _compared(np.broadcast_to(base_I, tuned_KI.shape), tuned_KI, [one.cluster for one in asked], settings)
    new_I = np.where(np.isfinite(base_I) & (base_I == 0), np.nansum(tuned_KI, axis=0), 0.0)
    first = [place for place in np.argsort(-new_I, kind="stable")[:2] if new_I[place] > 0]
    examples = tuple(f"{asked[place].line}: {asked[place].item}" for place in first)
    return Share(line.tuned, line.base, Reading(line.difference, line.low, line.high), line.n, examples)


def _compared(
    base_KI: Numbers, tuned_KI: Numbers, clusters: Sequence[str], settings: Mapping[str, Any]
) -> lines.MetricResult:
    """The statistics of a receipt for 0/1 flags: seeds and items are drawn."""
    spec = MetricSpec("pattern", "pattern", "generate", "watch", "lower", 0.0, "share of answers", binary=True)
    return lines.figures(
        spec, base_KI, tuned_KI, clusters=clusters, seeds=[None] * len(tuned_KI), seed=int(settings["seed"]),
        resamples=int(settings["resamples"]),
    )  # fmt: skip


def _shift_scores(scores: Scores) -> dict[Key, tuple[ScoreRow, float]]:
    """The share of shifted tokens of each answer that the base was shown."""
    named = {
        spec.name
        for spec in scores.specs
        if spec.request == "shift"
        and spec.metric == "token_shift"
        and (spec.settings.get("options") or {}).get("score", "shifted") == "shifted"
    }
    return {(row.metric, row.item_id, row.prompt_hash): (row, row.score) for row in scores.rows if row.metric in named}


def _drifting(
    base: Mapping[Key, tuple[ScoreRow, float]],
    tuned: Sequence[Mapping[Key, tuple[ScoreRow, float]]],
    settings: Mapping[str, Any],
) -> Share:
    """An answer drifts where at least half of its tokens stand at rank 3 or lower for the base; the base's own do not."""
    keys = list(base)
    shares_KI = np.array([[one[key][1] if key in one else math.nan for key in keys] for one in tuned])
    flags = np.where(np.isfinite(shares_KI), (shares_KI >= DRIFTS).astype(float), math.nan)
    asked = [_Asked(row.prompt, row.metric, row.item_id, row.cluster, False) for row, _ in base.values()]
    return _share(np.zeros(len(keys)), list(flags), asked, settings)


# --------------------------------------------------------------------------- forgetting


@dataclass(frozen=True)
class _Table:
    """Scores of some lines as matrices: keys by column, the base's row and one per seed of each system."""

    keys: tuple[Key, ...]
    clusters: tuple[str, ...]
    base_I: Numbers
    systems: tuple[Numbers, ...]

    def keep(self, usable: Sequence[bool]) -> NDArray[np.bool_]:
        """The items with a score of the base and of every system that is used."""
        kept = np.isfinite(self.base_I)
        for values_KI, used in zip(self.systems, usable, strict=True):
            if used:
                kept &= np.isfinite(values_KI).all(axis=0)
        return kept


def _table(tables: Tables, specs: Sequence[MetricSpec], *, zero: bool = False) -> _Table:
    """All rows of some lines; an item that two of them share (the same question) counts once. `zero`: the base has 0 by definition."""
    names = {spec.name for spec in specs}

    def scores(table: Scores) -> dict[Key, float]:
        found: dict[Key, float] = {}
        for row in table.rows:
            if row.metric in names:
                found.setdefault((row.prompt_hash, row.prompt), row.score)
        return found

    clusters: dict[Key, str] = {(r.prompt_hash, r.prompt): r.cluster for r in tables.base.rows if r.metric in names}
    base = scores(tables.base)
    keys = tuple(base)
    systems = []
    for seeds in tables.systems:
        told = [scores(table) for table in seeds]
        systems.append(np.array([[one.get(key, math.nan) for key in keys] for one in told], dtype=np.float64))
    base_I = np.zeros(len(keys)) if zero else np.array([base[key] for key in keys], dtype=np.float64)
    return _Table(keys, tuple(clusters[key] for key in keys), base_I, tuple(systems))


def forgetting(made: Comparison, tables: Tables, shown: frozenset[str]) -> Forgetting | None:
    """What every system forgot, and the three findings of arXiv 2509.21456; None where neither drift nor gaps of pairs were measured."""
    chosen = _lines_of(made, tables.base.specs)
    if not chosen["forgetting"] and not chosen["attribute"]:
        return None
    usable = [not point.withheld for point in made.points]
    drift = _table(tables, chosen["forgetting"], zero=True)
    pairs = _table(tables, chosen["attribute"])
    values: list[dict[str, tuple[float, ...]]] = [{} for _ in made.points]
    spans: list[dict[str, Reading]] = [{} for _ in made.points]
    if chosen["forgetting"]:
        _mean_of(drift, drift.keep(usable), "forgetting", values, spans, made.settings)
    if chosen["nll"]:
        nll = _table(tables, chosen["nll"])
        _mean_of(nll, nll.keep(usable), "nll", values, spans, made.settings)
    _lost(made, tables, chosen["lost"], usable, values, spans)
    if chosen["attribute"]:
        signed = scored.is_signed(chosen["attribute"][0])
        _gaps(pairs, _table(tables, chosen["control"]), signed, usable, values, spans, made.settings)
    systems = tuple(
        Measured(point.system, point.family, point.system in shown, found, span)
        for point, found, span in zip(made.points, values, spans, strict=True)
    )
    used = [one for one, used in zip(systems, usable, strict=True) if used]
    found_correlations = _correlations(used, made.settings)
    remedies = _remedies(made, tables) if chosen["forgetting"] else ()
    return Forgetting(
        systems=systems, correlations=found_correlations, remedies=remedies,
        findings=(_first(found_correlations), _second(found_correlations), _third(remedies, made)),
        lines={name: tuple(spec.name for spec in specs) for name, specs in chosen.items()},
        documents=int(drift.keep(usable).sum()), pairs=int(pairs.keep(usable).sum()),
        scope=_scope(made, used),
    )  # fmt: skip


def _lines_of(made: Comparison, specs: Sequence[MetricSpec]) -> dict[str, list[MetricSpec]]:
    """Which lines each measure is read from."""
    attribute, control = scored.gap_lines(specs)
    main = made.axis(made.main)
    return {
        "forgetting": [spec for spec in specs if spec.request == "drift" and spec.metric == "drift"],
        "nll": [spec for spec in specs if spec.metric == "perplexity" and spec.request == "text"],
        "lost": [spec for spec in specs if spec.name in main.lines],
        "attribute": attribute,
        "control": control,
    }


def _mean_of(
    table: _Table,
    keep_I: NDArray[np.bool_],
    name: str,
    values: Sequence[dict[str, tuple[float, ...]]],
    spans: Sequence[dict[str, Reading]],
    settings: Mapping[str, Any],
) -> None:
    """The mean difference from the base over the kept items, per seed, with its interval."""
    clusters = [cluster for cluster, kept in zip(table.clusters, keep_I, strict=True) if kept]
    for place, tuned_KI in enumerate(table.systems):
        apart_KI = (tuned_KI - table.base_I)[:, keep_I]
        values[place][name] = tuple(_mean(row) for row in apart_KI)
        if apart_KI.size and np.isfinite(apart_KI).all():
            spans[place][name] = _read(
                numbers.mean(
                    apart_KI, clusters=clusters, resamples=int(settings["resamples"]), seed=int(settings["seed"])
                )
            )


def _read(found: numbers.Estimate) -> Reading:
    return Reading(found.value, found.low, found.high)


def _mean(values: Numbers) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def _lost(
    made: Comparison,
    tables: Tables,
    specs: Sequence[MetricSpec],
    usable: Sequence[bool],
    values: Sequence[dict[str, tuple[float, ...]]],
    spans: Sequence[dict[str, Reading]],
) -> None:
    """Ability lost per seed, the mean over the lines of the page's axis; the interval is that of the front."""
    per_line = []
    for spec in specs:
        table = _table(tables, [spec])
        keep_I = table.keep(usable)
        sign = -1.0 if spec.better == "higher" else 1.0
        per_line.append([[sign * _mean(row) for row in (v - table.base_I)[:, keep_I]] for v in table.systems])
    for place, point in enumerate(made.points):
        seeds = range(len(tables.systems[place]))
        values[place]["lost"] = tuple(float(np.mean([line[place][k] for line in per_line])) for k in seeds)
        spans[place]["lost"] = point.taxes[made.main]


def _gaps(
    pairs: _Table,
    control: _Table,
    signed: bool,
    usable: Sequence[bool],
    values: Sequence[dict[str, tuple[float, ...]]],
    spans: Sequence[dict[str, Reading]],
    settings: Mapping[str, Any],
) -> None:
    """Gaps of minimal pairs before and after. Without their signs nothing is known of SF and of pairs that were turned round."""
    sides = [(table, table.keep(usable)) for table in (pairs, control)]
    names = [[c for c, kept in zip(t.clusters, keep_I, strict=True) if kept] for t, keep_I in sides]
    for place in range(len(pairs.systems)):
        after = [table.systems[place][:, keep_I] for table, keep_I in sides]
        before = [
            np.broadcast_to(table.base_I[keep_I], new.shape) for (table, keep_I), new in zip(sides, after, strict=True)
        ]

        def figures(seeds: slice, resamples: int, old: Any = before, new: Any = after) -> dict[str, Reading]:
            found = numbers.selective(
                old[0][seeds], new[0][seeds], old[1][seeds], new[1][seeds],
                clusters=names[0], control_clusters=names[1], resamples=resamples, seed=int(settings["seed"]),
            )  # fmt: skip
            one, other = found.attribute, found.control
            told = {"net": found.net, "relative": one.relative_shrink, "shrink": one.shrink}
            told |= {"control": other.relative_shrink} if other else {}
            told |= {"selective": one.drop, "overshoot": one.overshoot} if signed else {}
            return {name: _read(estimate) for name, estimate in told.items()}

        spans[place].update(figures(slice(None), int(settings["resamples"])))
        each = [figures(slice(k, k + 1), _FEW) for k in range(len(after[0]))]
        values[place].update({name: tuple(one[name].value for one in each) for name in each[0]})


# --------------------------------------------------------------------------- which goes with which


def partial(xy: float, xz: float, yz: float) -> float:
    """The correlation of x and y given z, from the three plain ones; NaN where z settles one of the two.

    By hand: S = (X + e) / sqrt(2) and Y = -X + e' / 2 have corr(S, Y) = -.632456, corr(X, Y) = -.894427 and corr(S, X) = .707107:
    given X, S and Y have 0; given S, X and Y have -.816497.
    """
    rest = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / math.sqrt(rest) if rest > 1e-12 else math.nan


def correlate(
    x: Sequence[Sequence[float]],
    y: Sequence[Sequence[float]],
    given: Sequence[Sequence[float]] | None = None,
    *,
    families: Sequence[str],
    resamples: int = MOST_DRAWS,
    seed: int = 0,
) -> tuple[float, float, float, int, int]:
    """Spearman's correlation over systems with its 95 % interval, how many systems there are, and how many families.

    Each of x, y and `given` has for every system its values by training seed (one, where no seed changes it). A system counts once, with the mean
    over its seeds. A resample draws whole families, with all their systems, and the training seeds, the same for all systems: neither strengths of
    one family nor seeds of one system count as if they were independent. The interval is that of the
    resamples' quantiles, its ends stretched away from rho by t (families - 1) / z, as in `stats.bootstrap`. In simulations of 4 to 20 families it held
    the truth in 96 to 99 %, where plain quantiles held it in 90 to 98 and BCa in 81 to 98 %.
    """
    columns = [x, y] if given is None else [x, y, given]
    kept = [s for s in range(len(families)) if all(all(map(math.isfinite, c[s])) and len(c[s]) for c in columns)]
    seeds = max((len(c[s]) for c in columns for s in kept), default=1)
    values = [np.array([_spread(c[s], seeds) for s in kept]) for c in columns]
    members: dict[str, list[int]] = {}
    for place, s in enumerate(kept):
        members.setdefault(families[s], []).append(place)
    groups = [np.array(group) for group in members.values()]
    if not kept:
        return math.nan, math.nan, math.nan, 0, 0
    rho = _rho([value.mean(axis=1) for value in values])
    none = (rho, math.nan, math.nan, len(kept), len(groups))
    if not math.isfinite(rho) or len(groups) < LEAST_FAMILIES:
        return none
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(min(resamples, MOST_DRAWS)):
        drawn = np.concatenate([groups[g] for g in rng.integers(0, len(groups), len(groups))])
        shares_K = rng.multinomial(seeds, np.full(seeds, 1 / seeds)) / seeds
        draws.append(_rho([value[drawn] @ shares_K for value in values]))
    known = np.array(draws)[np.isfinite(draws)]
    if len(known) < 0.9 * len(draws):
        return none
    few = float(distributions.t.ppf(0.975, len(groups) - 1) / distributions.norm.ppf(0.975))
    ends_2 = np.clip(rho + few * (np.quantile(known, [0.025, 0.975]) - rho), -1.0, 1.0)
    return rho, float(ends_2[0]), float(ends_2[1]), len(kept), len(groups)


def _spread(values: Sequence[float], seeds: int) -> Sequence[float]:
    """What no seed changes stands beside every seed of the others."""
    return list(values) * seeds if len(values) == 1 else values


def _rho(columns: Sequence[Numbers]) -> float:
    """Spearman's correlation of two columns, or the partial one given the third; NaN where one of them does not vary."""
    if len(columns[0]) < 3:
        return math.nan
    ranks = [_ranks(column) for column in columns]
    if any(float(np.ptp(rank)) == 0 for rank in ranks):
        return math.nan
    apart = [rank - rank.mean() for rank in ranks]
    unit = [rank / math.sqrt(float(rank @ rank)) for rank in apart]
    plain = float(unit[0] @ unit[1])
    return plain if len(unit) == 2 else partial(plain, float(unit[0] @ unit[2]), float(unit[1] @ unit[2]))


def _ranks(values: Numbers) -> Numbers:
    """Ranks from 1; ties share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[place])


#: what is correlated, given what
PAIRS = (
    ("forgetting", "lost", ""),
    ("net", "forgetting", ""),
    ("relative", "forgetting", ""),
    ("selective", "forgetting", ""),
    ("net", "lost", ""),
    ("forgetting", "lost", "net"),
    ("net", "lost", "forgetting"),
)


def _correlations(systems: Sequence[Measured], settings: Mapping[str, Any]) -> tuple[Correlation, ...]:
    found = []
    for x, y, given in PAIRS:
        wanted = [name for name in (x, y, given) if name]
        if not all(any(math.isfinite(one.mean(name)) for one in systems) for name in wanted):
            continue
        columns = [[one.values.get(name, ()) for one in systems] for name in wanted]
        found.append(
            Correlation(
                x, y, given,
                *correlate(*columns, families=[one.family for one in systems], resamples=int(settings["resamples"]), seed=int(settings["seed"])),
            )
        )  # fmt: skip
    return tuple(found)


def predicted(made: Comparison, tables: Tables, found: Forgetting | None) -> Mapping[str, Any] | None:
    """How well what was said before training (`about["predicted"]` of the tables) foretold the real tax; None where nothing was said."""
    rows = []
    for place, (point, seeds) in enumerate(zip(made.points, tables.systems, strict=True)):
        told = [table.about["predicted"] for table in seeds if isinstance(table.about.get("predicted"), Mapping)]
        if not told or point.withheld:
            continue
        names = dict.fromkeys(name for one in told for name in one)
        means = {name: _mean(np.array([_number(one.get(name)) for one in told])) for name in names}
        tax = found.systems[place].mean("lost") if found else point.taxes[made.main].value
        rows.append({"system": point.system, "family": point.family, "predictors": means, "tax": tax})
    if not rows:
        return None
    axis = made.axis(made.main)
    return predictions.correlations(
        rows, unit=axis.unit, target=f"tax on {axis.title}", scope=f"{len(rows)} systems of this comparison, training seeds averaged", resamples=int(made.settings["resamples"]), seed=int(made.settings["seed"])
    )  # fmt: skip


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


# --------------------------------------------------------------------------- remedies at equal safety

#: what the name of a family, or the setting that its recipe sweeps over, says of the remedy; the first that fits
KINDS: tuple[tuple[str, str], ...] = (
    (r"interpol|towards_base|wise.?ft|soup|\bema\b", "interpolation"),
    (r"replay|\bmix\b|rehears", "replay"),
    (r"dropout", "dropout"),
    (r"kl|anchor|l2|ewc|penalt|regulari|weight_decay|alignguard", "regularisation"),
    (r"ogpsa|pcgrad|a-?gem|null.?space|project|update|gradient", "gradients"),
    (r"lora|rank", "low rank"),
    (r"\bfew(er)?\b|less|\bhalf\b|quarter", "less data"),
    (r"\bmore\b|double|data\.limit|max_steps|epochs", "more data"),
)


def _kind(text: str) -> str:
    plain = re.sub(r"[-_ /]+", " ", text.casefold())
    return next(
        (kind for pattern, kind in KINDS if re.search(pattern, text.casefold()) or re.search(pattern, plain)), ""
    )


def _laid_on(made: Comparison) -> list[tuple[str, str, str]]:
    """Families that are a remedy, what kind of one, and the family that it is laid on: (cda-replay-25, replay, cda).

    A name that begins with that of another family is that family with something added. `about["mitigation"]` of a table says it outright.
    """
    tables = made.tables.systems if made.tables else ()
    told = {
        point.family: str(seeds[0].about["mitigation"])
        for point, seeds in zip(made.points, tables, strict=True)
        if seeds[0].about.get("mitigation")
    }
    names, keys = [family.name for family in made.families], {family.name: family.key for family in made.families}
    found = []
    for name in names:
        parents = [other for other in names if name.startswith((f"{other}-", f"{other} ", f"{other}_"))]
        parent = max(parents, key=len, default=made.reference)
        if name == parent or name == made.reference:
            continue
        own = name[len(parent) :] if parents else name
        key = keys[name] if keys[name] != keys.get(parent) else ""
        kind = told.get(name) or _kind(own) or _kind(key)
        if kind:
            found.append((name, kind, parent))
    return found


def _remedies(made: Comparison, tables: Tables) -> tuple[Remedy, ...]:
    """Each remedy beside the family that it is laid on, at the page's first level: OF is one more axis of the mixtures of `frontier`."""
    every = _laid_on(made)
    found: list[Remedy] = []
    for parent in dict.fromkeys(parent for _, _, parent in every):
        mine = {name: kind for name, kind, other in every if other == parent}
        found += _beside(made, tables, parent, mine)
    adjusted = iter(stats.holm([p for one in found for p in (one.p_forgetting, one.p_lost)]))
    return tuple(_worded(replace(one, p_forgetting=next(adjusted), p_lost=next(adjusted))) for one in found)


def _beside(made: Comparison, tables: Tables, parent: str, kinds: Mapping[str, str]) -> list[Remedy]:
    chosen = [
        [_with_forgetting(table) for table in seeds]
        for point, seeds in zip(made.points, made.tables.systems if made.tables else (), strict=True)
        if point.family in (parent, *kinds) and not point.withheld
    ]
    level = made.levels[0]
    wish = f"{100 * level.share:g}%" if level.share is not None else f"{level.gain * made.safety.factor:g}"
    try:
        beside = frontier.build(
            _with_forgetting(tables.base), chosen, safety=made.safety.name, ability=[*made.axis(made.main).lines, OF_LINE], at=[wish],
            reference=parent, resamples=int(made.settings["resamples"]), seed=int(made.settings["seed"]),
        )  # fmt: skip
    except (UserError, RecipeError):
        return []
    found = []
    reference = beside.cost(parent, beside.levels[0].name)
    for name, kind in kinds.items():
        cost = beside.cost(name, beside.levels[0].name)
        apart = {axis: cost.versus[axis] for axis in (OF_LINE, beside.main)}
        surely = [one for one in (reference, cost) if not one.mixture or one.reached < 1 - mixtures.UNREACHED]
        why = ""
        if surely:
            why = f"{surely[0].family} is not sure to reach this level (in {100 * surely[0].reached:.0f} % of the resamples)"
        found.append(
            Remedy(
                family=name, kind=kind, against=parent, gain=beside.levels[0].gain,
                forgetting=cost.taxes[OF_LINE], forgetting_apart=apart[OF_LINE].difference, p_forgetting=apart[OF_LINE].p,
                forgetting_word="does not reach" if apart[OF_LINE].verdict == "does not reach" else "",
                lost=cost.taxes[beside.main], lost_apart=apart[beside.main].difference, p_lost=apart[beside.main].p,
                lost_word="does not reach" if apart[beside.main].verdict == "does not reach" else "", why=why,
            )
        )  # fmt: skip
    return found


def _with_forgetting(scores: Scores) -> Scores:
    """The same table with one ability more: OF, over every document of the lines that measure drift."""
    drift = [spec for spec in scores.specs if spec.request == "drift" and spec.metric == "drift"]
    names = {spec.name for spec in drift}
    seen: set[Key] = set()
    rows: list[ScoreRow] = []
    for row in scores.rows:
        key = (row.prompt_hash, row.prompt)
        if row.metric in names and key not in seen:
            seen.add(key)
            rows.append(replace(row, metric=OF_LINE, item_id=f"{len(rows)}", answer=""))
    spec = MetricSpec(OF_LINE, "drift", "drift", "ability", "lower", 0.01, "nats per token of OF")
    return replace(scores, specs=(*scores.specs, spec), rows=(*scores.rows, *rows))


def _worded(one: Remedy) -> Remedy:
    """The word for each of the two differences, after Holm."""

    def word(given: str, apart: Reading, p: float) -> str:
        if given or one.why:
            return given or "not known"
        if p < frontier.ALPHA and apart.known and (apart.high < 0 or apart.low > 0):
            return "less" if apart.high < 0 else "more"
        return "not known"

    return replace(
        one,
        forgetting_word=word(one.forgetting_word, one.forgetting_apart, one.p_forgetting),
        lost_word=word(one.lost_word, one.lost_apart, one.p_lost),
    )


# --------------------------------------------------------------------------- findings

CLAIMS = (
    "Downstream performance is strongly correlated with overall forgetting",
    "Overall forgetting rises with selective forgetting",
    "General remedies (more data, regularisation) neither lower overall forgetting nor help downstream performance",
)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−") if math.isfinite(value) else "?"


def _said_of(one: Correlation) -> str:
    ends = f"95 % interval {_signed(one.low)} to {_signed(one.high)}" if math.isfinite(one.low) else "no interval"
    return f"ρ = {_signed(one.rho)} ({ends}; {one.n} systems of {one.families} families)"


def _judged(claim: str, one: Correlation | None, words: str, missing: str) -> Finding:
    """Positive with an interval above 0: it holds. Below 0: it does not. Anything else: nothing can be said."""
    if one is None:
        return Finding(claim, "cannot be said", missing)
    told = f"{words}: {_said_of(one)}"
    if one.n < LEAST_SYSTEMS:
        return Finding(claim, "cannot be said", f"{told}; fewer than {LEAST_SYSTEMS} systems.")
    if not math.isfinite(one.low):
        return Finding(claim, "cannot be said", f"{told}; too few families for an interval.")
    if one.low <= 0 <= one.high:
        return Finding(claim, "cannot be said", f"{told}; the interval holds 0.")
    return Finding(claim, "holds" if one.low > 0 else "does not hold", f"{told}.")


def _of(found: Sequence[Correlation], x: str, y: str, given: str = "") -> Correlation | None:
    return next((one for one in found if (one.x, one.y, one.given) == (x, y, given)), None)


def _first(found: Sequence[Correlation]) -> Finding:
    main = _of(found, "forgetting", "lost")
    made = _judged(CLAIMS[0], main, "OF and downstream loss", "No line measures drift from the base.")
    more = []
    if main is not None and made.verdict == "holds":
        sure = "it is certainly strong" if main.low >= STRONG else "how strong it is, is not sure"
        more.append(f"Strong means {STRONG:g} or more: {sure}.")
    rest = (_of(found, "forgetting", "lost", "net"), _of(found, "net", "lost", "forgetting"))
    if rest[0] is not None:
        more.append(f"Given net shrink: {_said_of(rest[0])}.")
    if rest[1] is not None:
        more.append(f"Net shrink and downstream loss, given OF: {_said_of(rest[1])}.")
    return replace(made, sentence=" ".join([made.sentence, *more]))


def _second(found: Sequence[Correlation]) -> Finding:
    net, whole = _of(found, "net", "forgetting"), _of(found, "relative", "forgetting")
    one, words = (net, "Net shrink and OF") if net is not None else (whole, "Relative shrink and OF")
    made = _judged(CLAIMS[1], one, words, "No line measures gaps of minimal pairs beside drift.")
    if net is None and one is not None:
        return replace(
            made, sentence=f"{made.sentence} There are no control pairs: a flatter model alone could do this."
        )
    return made


def _third(found: Sequence[Remedy], made: Comparison) -> Finding:
    """Refuted by one remedy that certainly lowers OF or the loss at equal safety; confirmed where all of them certainly save next to nothing."""
    claim = CLAIMS[2]
    if not found:
        return Finding(claim, "cannot be said", "No family is a remedy laid on another one, or none reaches the level.")
    lower, kinder, worse, idle = [], [], [], 0
    for one in found:
        # of a family with less data it is the other one that has more
        turn, better = (1, "less") if one.kind != "less data" else (-1, "more")
        other = {"less": "more", "more": "less"}[better]
        lower += [one] if one.forgetting_word == better else []
        kinder += [one] if one.lost_word == better else []
        worse += [one] if other in (one.forgetting_word, one.lost_word) else []
        saved = [(one.forgetting, one.forgetting_apart), (one.lost, one.lost_apart)]
        idle += not one.why and all(_saves_nothing(paid, apart, turn) for paid, apart in saved)
    count = (
        f"Of {len(found)} {'remedy' if len(found) == 1 else 'remedies'} at {frontier.title_of(made, made.levels[0])}"
    )
    cost = (
        f" {len(worse)} cost{'s' if len(worse) == 1 else ''} more of one of the two ({_listed(worse, made)})."
        if worse
        else ""
    )
    if lower or kinder:
        parts = [(lower, "overall forgetting"), (kinder, "downstream loss")]
        told = ", ".join(
            f"{len(who)} lower {what} ({_listed(who, made)})" if who else f"none lowers {what}" for who, what in parts
        )
        return Finding(claim, "does not hold", f"{count}, after Holm: {told}.{cost}")
    if idle == len(found):
        told = (
            f"{count}, each certainly saves less than {100 * NOTHING_SAVED:.0f} % of OF and of downstream loss.{cost}"
        )
        return Finding(claim, "holds", told)
    told = f"{count}, none is shown to lower overall forgetting or downstream loss, and {len(found) - idle} may still do so.{cost}"
    return Finding(claim, "cannot be said", told)


def _saves_nothing(paid: Reading, apart: Reading, turn: int) -> bool:
    """Is what a remedy saves certainly less than a fifth of what is paid without it? `turn` -1: it is the other family that is the remedy."""
    if not apart.known:
        return False
    other = paid.value - apart.value
    saved, other = (-apart.low, other) if turn > 0 else (apart.high, paid.value)
    return saved < NOTHING_SAVED * abs(other)


def _listed(found: Sequence[Remedy], made: Comparison) -> str:
    return ", ".join(one.family + (f" beside {one.against}" if one.against != made.reference else "") for one in found)


def _scope(made: Comparison, used: Sequence[Measured]) -> str:
    families = len(dict.fromkeys(one.family for one in used))
    return (
        f"Scope: one base ({made.base}), {len(used)} systems of {families} families, safety as {made.safety.name}; another model, size, attribute, language or objective may differ. "
        "The definitions are ours: of arXiv 2509.21456 we know the abstract, its formulas are not verified. A correlation over families says nothing of causes."
    )
