"""What can be said of a training before it is paid for: figures, their reading in plain words, and how well they foretold real taxes.

`diagnostics/conflict.py` makes a `Prediction`; the page, the terminal and the score tables of a run carry it. Nothing here needs torch.
Signs: a rise of the reference loss is positive, as a tax is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

from untax.types import UserError

__all__ = [
    "CALIBRATION",
    "PREDICTORS",
    "SCHEMA",
    "Lengths",
    "Module",
    "Prediction",
    "Repetition",
    "SetConflict",
    "Span",
    "correlations",
    "measured",
    "reading",
    "stretches",
    "verdict",
]

SCHEMA = "untax.prediction/1"
#: the correlations that were measured for this version; a version that has none says so
CALIBRATION = Path(__file__).parent / "diagnostics" / "calibration.json"

#: a cosine nearer to 0 than this is called neither for nor against; beyond the second one it is called strong
LEANS, STRONG = 0.1, 0.3
#: nats per token: a rise of the reference loss below the first is called small, above the second large
SMALL, LARGE = 0.01, 0.1
#: a share of the safety data above which they are called repetitive; of sign agreement 0.5 is chance
REPETITIVE, SAME_WAY = 0.5, 0.6
#: safety targets whose mean length is this many times shorter (or longer) than that of the references
OTHER_LENGTH = 2.0
#: a stretch of modules with less of the safety gradient's energy is not worth a sentence
WORTH = 0.01

#: predictor -> what it is, in the words of the page
PREDICTORS: Mapping[str, str] = {
    "cosine": "cosine of safety and reference gradients",
    "cosine_mlp": "the same, in the MLPs alone",
    "cosine_attention": "the same, in the attention alone",
    "lowest_cosine": "the lowest cosine of any module with 1 % of the safety gradient",
    "sgd_step": "first-order rise of reference loss in a step of SGD (nats per token)",
    "adam_step": "first-order rise in Adam's first step",
    "adam_all": "the same, times the number of steps",
    "measured_step": "measured rise after one virtual step",
    "measured_far": "measured rise after a virtual step of √steps sizes",
    "batch_cosine": "cosine of safety batches with each other",
    "sign_agreement": "share of weights that two safety batches push the same way",
    "safety_norm": "length of the safety gradient",
    "safety_loss": "safety loss before training (nats per token)",
    "repeated_grams": "share of five-word sequences that repeat",
    "duplicates": "share of targets that stand there more than once",
    "distinct_share": "effective number of distinct targets, divided by the targets",
    "opening": "share of targets with the commonest first three words",
    "compression": "compressed size of the targets, divided by their size",
    "target_tokens": "mean length of the targets (tokens)",
    "length_ratio": "that, divided by the references' mean length",
    "rate_times_steps": "learning rate times steps: no look at the data at all",
}


@dataclass(frozen=True)
class Span:
    """A number over several batches: its mean, its standard deviation, the least and the largest; NaN with too few."""

    mean: float
    sd: float
    low: float
    high: float
    n: int

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return self.sd / math.sqrt(self.n) if self.n > 1 else math.nan


def cosine(dot: float, one: float, other: float) -> float:
    """The cosine from an inner product and two squared lengths; NaN where one of the two is 0."""
    return dot / math.sqrt(one * other) if one > 0 and other > 0 else math.nan


@dataclass(frozen=True)
class Module:
    """The weights of one kind in one layer. `sgd` and `adam` are this module's part of the rise in one step, in nats per token."""

    name: str
    kind: str
    layer: int | None
    parameters: int
    dot: float
    safety_sq: float
    reference_sq: float
    sgd: float
    adam: float

    @property
    def cosine(self) -> float:
        return cosine(self.dot, self.safety_sq, self.reference_sq)


@dataclass(frozen=True)
class SetConflict:
    """One set of references against the safety data; `adam` is the first-order rise in one step, in nats per token."""

    name: str
    rows: int
    tokens: int
    loss: float
    cosine: float
    sgd: float
    adam: float


@dataclass(frozen=True)
class Lengths:
    """Lengths of targets in tokens."""

    n: int
    mean: float
    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Repetition:
    """How often the targets of a set say the same, and how long they are; shares lie between 0 and 1."""

    targets: int
    distinct: int
    effective: float
    duplicates: float
    repeated_grams: float
    opening: float
    compression: float
    tokens: Lengths
    reference_tokens: Lengths

    @property
    def distinct_share(self) -> float:
        return self.effective / self.targets if self.targets else math.nan

    @property
    def length_ratio(self) -> float:
        return self.tokens.mean / self.reference_tokens.mean if self.reference_tokens.mean > 0 else math.nan


@dataclass(frozen=True)
class Prediction:
    """Everything that was computed of one model, its safety data and its references, before any training.

    `optimizer` decides which step was taken virtually: `measured_step` is the rise of the reference loss (nats per token) after one step
    of `learning_rate`, `measured_far` after one of sqrt(`steps`) times that size. `batches` are the cosines of safety batches with the
    references, `alike` those of safety batches with each other, `adam_batches` the first-order rise of Adam's first step batch by batch.
    """

    learning_rate: float
    steps: int
    optimizer: str
    seed: int
    safety_rows: int
    batch_size: int
    safety_loss: float
    reference_loss: float
    modules: tuple[Module, ...]
    sets: tuple[SetConflict, ...]
    batches: Span
    alike: Span
    adam_batches: Span
    sign_agreement: float
    measured_step: float
    measured_far: float
    data: Repetition

    def of(self, modules: Iterable[Module]) -> float:
        """The cosine over several modules together."""
        chosen = list(modules)
        sums = [math.fsum(part) for part in zip(*((m.dot, m.safety_sq, m.reference_sq) for m in chosen), strict=True)]
        return cosine(*sums) if sums else math.nan

    @property
    def cosine(self) -> float:
        return self.of(self.modules)

    @property
    def safety_sq(self) -> float:
        return math.fsum(module.safety_sq for module in self.modules)

    @property
    def sgd_step(self) -> float:
        """First-order rise of the reference loss in one step of plain SGD, in nats per token."""
        return math.fsum(module.sgd for module in self.modules)

    @property
    def adam_step(self) -> float:
        """First-order rise in Adam's first step, where every weight moves by the learning rate, in nats per token."""
        return math.fsum(module.adam for module in self.modules)

    @property
    def step(self) -> float:
        """The first-order rise of the optimiser that was named."""
        return self.sgd_step if self.optimizer == "sgd" else self.adam_step

    @property
    def predictors(self) -> dict[str, float]:
        """One number for each of PREDICTORS."""
        weighty = [m for m in self.modules if m.safety_sq >= WORTH * self.safety_sq]
        cosines = [m.cosine for m in weighty if math.isfinite(m.cosine)]
        found = {
            "cosine": self.cosine,
            "cosine_mlp": self.of(m for m in self.modules if m.kind == "mlp"),
            "cosine_attention": self.of(m for m in self.modules if m.kind in ("q", "k", "v", "o", "qkv")),
            "lowest_cosine": min(cosines, default=math.nan),
            "sgd_step": self.sgd_step,
            "adam_step": self.adam_step,
            "adam_all": self.adam_step * self.steps,
            "measured_step": self.measured_step,
            "measured_far": self.measured_far,
            "batch_cosine": self.alike.mean,
            "sign_agreement": self.sign_agreement,
            "safety_norm": math.sqrt(self.safety_sq),
            "safety_loss": self.safety_loss,
            "repeated_grams": self.data.repeated_grams,
            "duplicates": self.data.duplicates,
            "distinct_share": self.data.distinct_share,
            "opening": self.data.opening,
            "compression": self.data.compression,
            "target_tokens": self.data.tokens.mean,
            "length_ratio": self.data.length_ratio,
            "rate_times_steps": self.learning_rate * self.steps,
        }
        return {name: found[name] for name in PREDICTORS}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: NaN is None; `predictors` is flat."""
        plain = asdict(self)
        plain["modules"] = [asdict(module) | {"cosine": module.cosine} for module in self.modules]
        made: dict[str, Any] = _plain({"schema": SCHEMA, "predictors": self.predictors, **plain})
        return made


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.10g}") if math.isfinite(value) else None
    return value


# --------------------------------------------------------------------------- in plain words


@dataclass(frozen=True)
class Stretch:
    """Neighbouring layers of one kind that lean the same way, seen as one; `share` is its part of the safety gradient's energy."""

    name: str
    cosine: float
    share: float
    dot: float


def stretches(made: Prediction) -> list[Stretch]:
    """Where the safety data pull against the references: runs of layers with a cosine below -LEANS, the heaviest pull first."""
    found = []
    total = made.safety_sq or math.nan
    for kind in dict.fromkeys(module.kind for module in made.modules):
        run: list[Module] = []
        mine = sorted((m for m in made.modules if m.kind == kind), key=lambda m: -1 if m.layer is None else m.layer)
        for module in [*mine, None]:
            leans = module is not None and module.cosine <= -LEANS
            follows = not run or (module is not None and module.layer == (run[-1].layer or 0) + 1)
            if module is not None and leans and follows:
                run.append(module)
                continue
            if run:
                share = math.fsum(m.safety_sq for m in run) / total
                found.append(Stretch(_called(run), made.of(run), share, math.fsum(m.dot for m in run)))
            run = [module] if module is not None and leans else []
    return sorted((one for one in found if one.share >= WORTH), key=lambda one: one.dot)


WORDS = {
    "q": "the queries",
    "k": "the keys",
    "v": "the values",
    "o": "the attention's output",
    "qkv": "queries, keys and values",
    "mlp": "the MLP",
    "embedding": "the embedding",
    "head": "the output layer",
    "norm": "the norms",
}


def _called(run: Sequence[Module]) -> str:
    name = WORDS.get(run[0].kind, run[0].name)
    if run[0].layer is None:
        return name
    first, last = run[0].layer, run[-1].layer
    return f"{name} of layer {first}" if first == last else f"{name} of layers {first} to {last}"


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign and a true minus; a question mark where it is not known."""
    if not math.isfinite(value):
        return "?"
    text = f"{abs(value):.{digits}f}"
    return ("" if not text.strip("0.") else "−" if value < 0 else "+") + text


def nats(value: float) -> str:
    """A rise with its sign, as short as it can be read: "+0.012" or "−3.1e-5"."""
    if not math.isfinite(value):
        return "?"
    size = abs(value)
    text = f"{size:.1e}".replace("e-0", "e-") if 0 < size < 1e-3 else f"{size:.3g}"
    return ("" if not size else "−" if value < 0 else "+") + text


def verdict(made: Prediction) -> str:
    """Two sentences: what is to be expected of the reference loss, and whether the safety data pull against the references."""
    where = stretches(made)[:1]
    told = f"; against them most in {where[0].name} ({signed(where[0].cosine)})" if where else ""
    expected = _expected(made)
    lean = f"The safety data {_lean(made)} the references (cosine of the gradients {signed(made.cosine)}{told})."
    return f"{expected[0].upper()}{expected[1:]}. {lean}"


def _lean(made: Prediction) -> str:
    value, error = made.cosine, made.batches.error
    if not math.isfinite(value):
        return "have no gradient that could be compared with"
    if abs(value) < LEANS or (math.isfinite(error) and abs(value) < 2 * error):
        return "pull neither with nor against"
    strongly = "strongly " if abs(value) >= STRONG else ""
    return f"pull {strongly}{'against' if value < 0 else 'with'}"


def _expected(made: Prediction) -> str:
    """What the virtual steps say; where the slope alone says something else, the curvature decides."""
    first, near, far = made.step, made.measured_step, made.measured_far
    if not math.isfinite(near) or not math.isfinite(far):
        return "the rise of the reference loss could not be measured"
    grade = "a small" if abs(far) < SMALL else "a large" if abs(far) > LARGE else "a visible"
    told = (
        f"expect {grade} {'rise' if far > 0 else 'fall'} of the reference loss ({nats(near)} nats per token after one virtual step, {nats(far)} "
        f"after one {_times(math.sqrt(made.steps))} as long)"
    )
    if (first > 0) != (near > 0) or abs(near) > 3 * abs(first):
        return f"{told}; the slope alone would say {nats(first)} for one step, so the curvature decides"
    return told


def _times(factor: float) -> str:
    return f"{factor:.0f} times" if factor >= 1.5 else "as"


def reading(made: Prediction) -> list[str]:
    """What the figures mean, one sentence each; every threshold stands in its sentence."""
    return [*_of_gradients(made), *_of_steps(made), *_of_data(made)]


def _of_gradients(made: Prediction) -> list[str]:
    told = []
    where = stretches(made)
    if where:
        parts = ", ".join(
            f"{one.name} (cosine {signed(one.cosine)}, {100 * one.share:.0f} % of the safety gradient)"
            for one in where[:4]
        )
        told.append(
            f"Where they pull against the references: {parts}. A cosine below −{LEANS:g} is called against, below −{STRONG:g} strongly."
        )
    elif math.isfinite(made.cosine):
        told.append(
            f"In no part of the model that takes part do they pull against the references (no cosine below −{LEANS:g})."
        )
    if made.batches.n > 1 and math.isfinite(made.batches.mean):
        sure = abs(made.cosine) >= 2 * made.batches.error
        told.append(
            f"In {made.batches.n} batches of up to {made.batch_size} safety rows the cosine lies between {signed(made.batches.low)} and {signed(made.batches.high)} "
            f"(standard error {made.batches.error:.3f}): "
            + (
                "its sign is no accident of the batch."
                if sure
                else "it cannot be told from 0 (less than two standard errors away)."
            )
        )
    if math.isfinite(made.alike.mean):
        same = made.alike.mean >= REPETITIVE or made.sign_agreement >= SAME_WAY
        told.append(
            f"Two safety batches push {100 * made.sign_agreement:.0f} % of the weights the same way (chance 50 %), their gradients have a cosine of "
            f"{signed(made.alike.mean)}: "
            + (
                "every step repeats the last one, so steps add up."
                if same
                else f"steps differ, so they add up more slowly than their number (above {100 * SAME_WAY:.0f} % or {REPETITIVE:g} they would repeat)."
            )
        )
    return told


def _of_steps(made: Prediction) -> list[str]:
    far = math.sqrt(made.steps)
    return [
        f"One step at the learning rate {made.learning_rate:g}: to first order {nats(made.adam_step)} nats per token with Adam, {nats(made.sgd_step)} "
        f"with SGD; after one virtual step of {'SGD' if made.optimizer == 'sgd' else 'Adam'} the reference loss is {nats(made.measured_step)} from "
        f"{made.reference_loss:.3f}.",
        f"If all {made.steps} steps went the way of the first one along the slope: {nats(made.step * made.steps)}. A virtual step {_times(far)} as long, which "
        f"is how far {made.steps} steps in random directions come: {nats(made.measured_far)}; below {SMALL:g} that is called small, above {LARGE:g} large. "
        "Both assume the same learning rate throughout; neither is a forecast, for training turns, slows down and ends.",
    ]


def _of_data(made: Prediction) -> list[str]:
    data = made.data
    repeats = data.distinct_share < 1 - REPETITIVE or data.repeated_grams > REPETITIVE
    told = [
        f"{data.targets} targets, {data.distinct} different ones, as varied as {data.effective:.1f} equally common ones; {100 * data.duplicates:.0f} % stand "
        f"there more than once, {100 * data.repeated_grams:.0f} % of their five-word sequences repeat, {100 * data.opening:.0f} % begin with the same three words: "
        + (
            f"repetitive (above {100 * REPETITIVE:.0f} %), so training can learn the wording and give it to other questions too."
            if repeats
            else "varied enough."
        )
    ]
    ours, theirs, ratio = data.tokens, data.reference_tokens, data.length_ratio
    if math.isfinite(ratio):
        other = ratio <= 1 / OTHER_LENGTH or ratio >= OTHER_LENGTH
        word = "shorter" if ratio < 1 else "longer"
        told.append(
            f"Targets have {ours.mean:.1f} tokens (middle half {ours.low:.0f} to {ours.high:.0f}), the references {theirs.mean:.1f} "
            f"({theirs.low:.0f} to {theirs.high:.0f}): "
            + (
                f"{max(ratio, 1 / ratio):.1f} times {word}, so watch the length of answers."
                if other
                else f"of like length (less than {OTHER_LENGTH:g} times apart)."
            )
        )
    return told


# --------------------------------------------------------------------------- how well it foretold


def correlations(
    rows: Sequence[Mapping[str, Any]],
    *,
    resamples: int = 2_000,
    seed: int = 0,
    made: str = "",
    command: str = "",
    unit: str = "points",
    target: str = "mean ability lost against the base",
    scope: str = "",
) -> dict[str, Any]:
    """Spearman's correlation of every predictor with the tax that was paid, with its 95 % interval.

    A row is one run: {"system", "seed", "family", "predictors": {name: number}, "tax": number}. The runs of a family share data and method,
    so whole families are drawn by the bootstrap; of few families that says too little, so the interval is never narrower than
    that of as many independent runs as there are families. It is None for fewer than four. Rows without the predictor are left out.
    Raises: UserError for a row without a family, predictors or a tax.
    """
    for number, row in enumerate(rows):
        missing = [key for key in ("family", "predictors", "tax") if key not in row]
        if missing:
            raise UserError(
                f"run {number} of those to correlate has no {missing[0]}: it has {', '.join(map(str, row))}."
            )
    entries = [_correlation(name, rows, resamples, seed) for name in _names(rows)]
    return _plain(
        {
            "schema": SCHEMA,
            "made": made,
            "command": command,
            "n": len(rows),
            "unit": unit,
            "target": target,
            "entries": entries,
            "scope": scope,
        }
    )


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    found = dict.fromkeys(name for row in rows for name in row["predictors"])
    return [name for name in PREDICTORS if name in found] + [name for name in found if name not in PREDICTORS]


def _correlation(name: str, rows: Sequence[Mapping[str, Any]], resamples: int, seed: int) -> dict[str, Any]:
    kept = [row for row in rows if _known(row["predictors"].get(name)) and _known(row["tax"])]
    x_R = np.array([float(row["predictors"][name]) for row in kept])
    y_R = np.array([float(row["tax"]) for row in kept])
    families: dict[str, list[int]] = {}
    for place, row in enumerate(kept):
        families.setdefault(str(row["family"]), []).append(place)
    value = spearman(x_R, y_R)
    low, high = _few(value, len(families))
    if math.isfinite(low):
        rng = np.random.default_rng(seed)
        members = list(families.values())
        draws = rng.integers(0, len(members), size=(resamples, len(members)))
        drawn = [
            spearman(x_R[index], y_R[index]) for index in (np.concatenate([members[i] for i in one]) for one in draws)
        ]
        known = [one for one in drawn if math.isfinite(one)]
        if known:  # a resample of one value only has no correlation
            ends = np.quantile(known, [0.025, 0.975])
            low, high = min(low, float(ends[0])), max(high, float(ends[1]))
    return {"predictor": name, "spearman": value, "low": low, "high": high, "n": len(kept), "families": len(families)}


def _few(value: float, n: int) -> tuple[float, float]:
    """The interval of a rank correlation of n independent units: Fisher's z with the error of Bonett and Wright 2000; NaN for n < 4.

    A correlation of 1 would have no error: it is taken as 1 - 1/(2n). By hand: .8 and n = 13: z = 1.098612, error sqrt(1.32 / 10) = .363318,
    so tanh(.386522) = .368 to tanh(1.810703) = .948.
    """
    if n < 4 or not math.isfinite(value):
        return math.nan, math.nan
    most = 1 - 1 / (2 * n)
    z = math.atanh(max(-most, min(most, value)))
    error = math.sqrt((1 + value**2 / 2) / (n - 3))
    low, high = math.tanh(z - 1.96 * error), math.tanh(z + 1.96 * error)
    return min(low, value), max(high, value)


def _known(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def spearman(x_R: NDArray[np.float64], y_R: NDArray[np.float64]) -> float:
    """The correlation of ranks, ties sharing the mean of theirs; NaN for fewer than 3 values or where one side does not vary."""
    if len(x_R) < 3:
        return math.nan
    ranks = [distributions.rankdata(values) for values in (x_R, y_R)]
    apart = [rank - rank.mean() for rank in ranks]
    length = math.sqrt(float((apart[0] ** 2).sum()) * float((apart[1] ** 2).sum()))
    return float((apart[0] * apart[1]).sum()) / length if length > 0 else math.nan


def measured(path: Path = CALIBRATION) -> dict[str, Any] | None:
    """The correlations that were measured and packaged, or None where there are none.

    Raises: UserError for a file that is none of ours.
    """
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(told, dict) or told.get("schema") != SCHEMA or not isinstance(told.get("entries"), list):
        raise UserError(f"{path} holds no correlations of the schema {SCHEMA}.")
    return told
