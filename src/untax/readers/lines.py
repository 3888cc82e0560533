"""From the scores of a harness to the lines of a receipt: which side, which unit, which margin, and one verdict per task.

A harness says what it scored, not what for. Here is what untax assumes, and each of it can be said otherwise: the side of a task
(`SIDES`), the one metric of a task that gets a verdict (`PRIMARY`), the default margins (`MARGIN`, `UNITS`). A score whose
scale or direction is not known is watched, not judged. No torch, and no harness is imported.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from untax.types import MetricSpec, RecipeError, Request, ScoreRow

__all__ = ["Raw", "Wishes", "line_names", "specs_of", "unparsed_in"]

Side = Literal["safety", "ability", "watch"]
Better = Literal["higher", "lower"]

#: what may be lost of a share, when nobody says otherwise
MARGIN = 0.02
#: the same for scores that are no shares: about the 0.05 nats per token of untax's own suites
UNITS: Mapping[str, float] = {
    "nats per word": 0.05,
    "nats per answer": 0.05,
    "nats per byte": 0.01,
    "bits per byte": 0.015,
    "Brier score": 0.02,
}

#: Tasks that do not simply measure an ability, by the first words of their names (the longest that fits counts). A side, or
#: a side per metric ("*" for the others), then what to know about it.
SIDES: Mapping[str, tuple[Side | Mapping[str, Side], str]] = {
    "crows_pairs": (
        {"pct_stereotype": "safety", "*": "watch"},
        "One half is no preference; pairs are noisy, and a model that knows no English also scores one half.",
    ),
    "bbq": (
        {"accuracy_amb": "safety", "accuracy_disamb": "ability", "*": "watch"},
        "Ambiguous questions stand on the safety side, answerable ones on the side of ability; of the bias score 0 is best.",
    ),
    "winogender_gotcha": ("safety", "Sentences in which the pronoun goes against the stereotype of the occupation."),
    "winogender": ("watch", "Right answers mix coreference with bias; the gotcha subsets tell them apart."),
    "realtoxicityprompts": ({"score": "safety", "*": "watch"}, "Scored by a remote service whose model changes."),
    "toxigen": ("watch", "Recognising hate is not the same as not writing it."),
    "simple_cooccurrence_bias": ("watch", "Probabilities of single words, not behaviour in use."),
    "discrim_eval": ("watch", "Its effect is estimated over all decisions at once, not per item."),
    "model_written_evals": ("watch", "Which answer is the better one differs from set to set."),
    "wmdp": ("watch", "Hazardous knowledge: whether losing it is a gain is for you to say (--side wmdp=safety --better wmdp=lower)."),
    "hendrycks_ethics": ("ability", "Moral judgement asked as a question; what a model does is another matter."),
    "truthfulqa": ("ability", "Truth asked as a question."),
    "strong_reject": ("safety", "How far harmful requests were answered: lower is safer."),
    "agentharm": ("watch", "Harm and refusal are separate scores; say which side each stands on."),
    "xstest": ("watch", "Refusing is right on one half and wrong on the other; say which with --side and --better."),
    "bold": ("watch", "Sentiment and regard of free text."),
    "stereoset": ("watch", "Its score mixes language modelling with bias."),
}  # fmt: skip

#: of several metrics on the same answers the first of these gets the verdict, the others are watched
PRIMARY = (
    *("acc_norm", "acc", "exact_match", "em", "pass@1", "pass_at_1", "prompt_level_strict_acc", "f1", "mcc", "score"),
    *("bits_per_byte", "byte_perplexity", "word_perplexity", "perplexity", "bleu_acc", "rougeL_acc"),
)
#: of several readings of the same generated text, the one that cares least about its form
FILTERS = ("flexible-extract", "none")

_SHARES = re.compile(
    r"acc(_.*)?|accuracy(_.*)?|exact_match(_.*)?|em|f1|.*_acc|mc[12]|pct_.*|pass(@|_at_)\d+|score|recall|precision|unparsed"
)
_RIGHT = re.compile(r"acc(_.*)?|accuracy(_.*)?|exact_match(_.*)?|em|.*_acc|pass(@|_at_)\d+")


@dataclass(frozen=True)
class Raw:
    """One metric of one task as the harness scored it. `chances` is the chance of a right guess per row, where there is one.

    `better` and `unit` are empty when the harness does not say. `headline` is the metric that the harness puts first. `part`
    is a line that went into another one, of its group: parts are watched.
    """

    task: str
    metric: str
    rows: tuple[ScoreRow, ...]
    request: Request
    filter: str = "none"
    better: str = ""
    unit: str = ""
    chances: tuple[float, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    headline: bool = False
    part: bool = False

    @property
    def name(self) -> str:
        """What stands on the receipt: task/metric, and the filter where there is one."""
        return f"{self.task}/{self.metric}" + ("" if self.filter == "none" else f"/{self.filter}")


@dataclass(frozen=True)
class Wishes:
    """What the user says about lines: keys are names of lines, or of tasks (which means the line that gets the verdict)."""

    margins: Mapping[str, float] = field(default_factory=dict)
    sides: Mapping[str, str] = field(default_factory=dict)
    better: Mapping[str, str] = field(default_factory=dict)

    def check(self, known: Sequence[str]) -> None:
        """Raises: RecipeError for a name that no line or task has, a side or a direction that does not exist."""
        for flag, given in (("--margin", self.margins), ("--side", self.sides), ("--better", self.better)):
            for name in given:
                if name not in known:
                    raise RecipeError(f"{flag} {name}: there is no such line or task. There are: {', '.join(known)}.")
        for name, side in self.sides.items():
            if side not in ("safety", "ability", "watch"):
                raise RecipeError(f"--side {name}={side}: a side is safety, ability or watch.")
        for name, way in self.better.items():
            if way not in ("higher", "lower"):
                raise RecipeError(f"--better {name}={way}: write higher or lower.")
        for name, margin in self.margins.items():
            if not 0 < margin < math.inf:
                raise RecipeError(f"--margin {name}={margin}: a margin is a number above 0, in the metric's own units.")


def line_names(specs: Sequence[MetricSpec]) -> list[str]:
    """Everything that a margin or a side can be given for: the tasks, then the lines."""
    tasks = [str(spec.settings["task"]) for spec in specs if "task" in spec.settings]
    return list(dict.fromkeys([*tasks, *(spec.name for spec in specs)]))


def unparsed_in(raws: Sequence[Raw]) -> dict[str, int]:
    """Line name -> how many of its answers the harness could not read, for the guard `unparsed`; lines where none are left out."""
    counts = {}
    for lost in (raw for raw in raws if raw.metric == "unparsed"):
        count = int(sum(row.score for row in lost.rows if not math.isnan(row.score)))
        for raw in raws:
            reads_the_same = raw.filter == lost.filter or raw.metric.partition(".")[0] == lost.filter
            if count and raw.task == lost.task and raw is not lost and raw.metric != "unparsed" and reads_the_same:
                counts[raw.name] = count
    return counts


# --------------------------------------------------------------------------- the lines of a task


def specs_of(raws: Sequence[Raw], wishes: Wishes) -> list[MetricSpec]:
    """One spec per raw line, in the same order; one line of each task gets the verdict, unless its table or the user says more.

    Raises: RecipeError when the user wants a verdict on a line whose direction or scale is not known.
    """
    tasks: dict[str, list[Raw]] = {}
    for raw in raws:
        tasks.setdefault(raw.task, []).append(raw)
    first = {task: _primary(mine, wishes) for task, mine in tasks.items()}
    return [_spec(raw, wishes, is_first=first[raw.task] is raw) for raw in raws]


def _primary(raws: Sequence[Raw], wishes: Wishes) -> Raw | None:
    """The line of a task that gets the verdict: the headline, else by `PRIMARY`, then by `FILTERS`, then in the given order."""
    able = [raw for raw in raws if raw.metric != "unparsed" and (_better(raw, wishes, is_first=True) and _unit(raw))]
    able = able or [raw for raw in raws if raw.metric != "unparsed" and raw.task in wishes.margins]
    if not able:
        return None
    able = [raw for raw in able if raw.headline] or able
    wanted = [name for name in PRIMARY if any(raw.metric == name for raw in able)]
    metric = wanted[0] if wanted else able[0].metric
    mine = [raw for raw in able if raw.metric == metric]
    return min(mine, key=lambda raw: FILTERS.index(raw.filter) if raw.filter in FILTERS else len(FILTERS))


def _spec(raw: Raw, wishes: Wishes, *, is_first: bool) -> MetricSpec:
    side, asked, why = _side(raw, wishes, is_first=is_first)
    better, unit = _better(raw, wishes, is_first=is_first), _unit(raw)
    margin = _said(wishes.margins, raw, is_first=is_first)
    if not better:
        if asked and side != "watch":
            raise RecipeError(
                f"--side {raw.name}={side}: the logs do not say which way is better. Add --better {raw.name}=higher or =lower."
            )
        side, why = "watch", "The logs do not say which way is better (--better NAME=higher or =lower)."
    elif margin is None and not unit:
        if asked and side != "watch":
            raise RecipeError(
                f"--side {raw.name}={side}: its scale is not known, so it needs a margin: --margin {raw.name}=VALUE."
            )
        side, why = "watch", "Its scale is not known: name a margin to have it judged (--margin NAME=VALUE)."
    notes = [raw.note, why]
    if margin is None:
        margin = 0.0 if side == "watch" else MARGIN if unit.startswith("share") else UNITS[unit]
        if side != "watch":
            notes.append("The margin is the default; name your own with --margin.")
    scores = [row.score for row in raw.rows if not math.isnan(row.score)]
    binary = unit.startswith("share") and all(score in (0.0, 1.0) for score in scores)
    guessed = bool(raw.chances) and binary and not (side == "ability" and better == "lower")
    chance = math.fsum(raw.chances) / len(raw.chances) if guessed else None
    return MetricSpec(
        name=raw.name, metric=raw.metric, request=raw.request, side=side, better="lower" if better == "lower" else "higher",
        margin=margin, unit=unit or raw.metric, chance=chance, binary=binary, settings=dict(raw.settings),
        note=" ".join(note for note in notes if note),
    )  # fmt: skip


def _side(raw: Raw, wishes: Wishes, *, is_first: bool) -> tuple[Side, bool, str]:
    """The side, whether the user named it, and what to know."""
    said = _said(wishes.sides, raw, is_first=is_first)
    if said is not None:
        return said, True, ""
    if raw.metric == "unparsed":
        return "watch", False, "Answers in which the harness found nothing to score; it counts them as wrong."
    if raw.part:
        return "watch", False, "Part of a group that is judged as one."
    entry = next((SIDES[key] for key in sorted(SIDES, key=len, reverse=True) if _begins(raw.task, key)), None)
    if entry is None:
        return ("ability", False, "") if is_first else ("watch", False, "Another reading of the same answers.")
    kind, why = entry
    if isinstance(kind, Mapping):
        return kind.get(raw.metric, kind["*"]), False, why
    return (kind, False, why) if is_first else ("watch", False, "Another reading of the same answers.")


def _begins(task: str, key: str) -> bool:
    name = task.rpartition("/")[2]
    return name == key or name.startswith(f"{key}_")


def _said(given: Mapping[str, Any], raw: Raw, *, is_first: bool) -> Any:
    """What the user said of this line: by its name, or by its task's when it is the one with the verdict."""
    if raw.name in given:
        return given[raw.name]
    return given.get(raw.task) if is_first else None


def _better(raw: Raw, wishes: Wishes, *, is_first: bool) -> str:
    return _said(wishes.better, raw, is_first=is_first) or raw.better


def _unit(raw: Raw) -> str:
    """The unit, "" when the scale is not known: a name that means a share, or scores that all lie from 0 to 1."""
    if raw.unit:
        return raw.unit
    scores = [row.score for row in raw.rows if not math.isnan(row.score)]
    if not all(0 <= score <= 1 for score in scores):
        return ""
    if raw.metric == "unparsed":
        return "share of answers that could not be read"
    if _RIGHT.fullmatch(raw.metric):
        return "share of items right" if raw.better != "lower" else "share of items"
    return "share" if scores or _SHARES.fullmatch(raw.metric) else ""
