"""The records and results that everything passes round.

Tensor names elsewhere in untax carry a shape suffix; this is the legend:

    S sources in a batch      N targets (positives and negatives of all sources)   T tokens of the longest target
    P tokens of the longest prompt      H hidden width      V vocabulary      L layers

Nothing here imports another module of untax, and nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

__all__ = [
    "Answer",
    "Ask",
    "Budget",
    "Candidate",
    "ContrastiveRecord",
    "Engine",
    "GateFailed",
    "Item",
    "Loss",
    "MetricSpec",
    "RecipeError",
    "Request",
    "ScoreRow",
    "Scores",
    "UnsupportedTrainer",
    "UserError",
]

NAN = math.nan


class UserError(Exception):
    """Something the user can mend: the message says what is wrong, where, what exists and what to do (exit code 1)."""


class RecipeError(UserError):
    """A recipe, an option or a command line that cannot be used as written (exit code 3)."""


class UnsupportedTrainer(UserError):
    """A way of training under which a method would silently do nothing or the wrong thing: the message names the way out."""


class GateFailed(UserError):
    """The run went well, and an ability was lost beyond its margin while the user asked to be stopped (exit code 2)."""


# --------------------------------------------------------------------------- training data


@dataclass(frozen=True)
class Candidate:
    """One positive or negative target of a source.

    `generator` is "data", "rules" or "neural:<name>"; `edits` are the [start, end) characters that differ from the
    reference; `toxicity` is the building scorer's score in [0, 1], or None when nothing scored it.
    """

    text: str
    kind: str
    generator: str = "data"
    edits: tuple[tuple[int, int], ...] = ()
    toxicity: float | None = None


@dataclass(frozen=True)
class ContrastiveRecord:
    """A source with its positives (the first is the reference) and its negatives."""

    id: str
    source: str
    positives: tuple[Candidate, ...]
    negatives: tuple[Candidate, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """The text that cross-entropy trains on: y_1 of the paper."""
        return self.positives[0].text


@dataclass(frozen=True)
class Loss:
    """What an objective returns: `value` is a scalar tensor to call backward on, `logs` are plain numbers."""

    value: Any
    logs: Mapping[str, float] = field(default_factory=dict)


# --------------------------------------------------------------------------- measuring

Request = Literal["generate", "choices", "text", "drift", "shift", "induction"]

#: what the model is shown of an item: prompt, choices, text
Ask = tuple[str, tuple[str, ...], str]


@dataclass(frozen=True)
class Budget:
    """How a continuation is asked for: new tokens, what ends it, and how many samples at which temperature (0 = greedy)."""

    max_new_tokens: int = 0
    stop: tuple[str, ...] = ()
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    @property
    def decoding(self) -> str:
        """Decoding as people read it: "greedy", or how it was sampled."""
        if self.temperature == 0:
            return "greedy"
        return f"sampled at temperature {self.temperature:g}, top-p {self.top_p:g}, {self.samples} a prompt, seed {self.seed}"


@dataclass(frozen=True)
class Item:
    """One thing to ask a model.

    generate: `prompt` is continued. choices: each of `choices` is scored as a continuation of `prompt` (which may be empty).
    text, drift: `text` is scored token by token. shift: the model's own greedy answer to `prompt` is scored by the base.
    induction: `text` names a sequence of random tokens. `fields` is the whole data row.
    """

    id: str
    prompt: str
    choices: tuple[str, ...] = ()
    text: str = ""
    cluster: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What a model said to one item. Which fields are filled depends on the request; the rest keep their defaults.

    generate: `text`, `n_tokens`, `truncated` (the budget ran out before a stop); with several samples `texts` holds all of
    them, `text` is the first, and `n_tokens` and `truncated` are those of the longest. choices: `logprobs` (sum per choice, nats)
    and `choice_tokens`. text: `logprobs` holds one number, the sum over tokens, `n_tokens` its count. drift: `kl`,
    KL(base || model) in nats per token of the text. shift, induction: named numbers in `values`.
    """

    text: str = ""
    n_tokens: int = 0
    truncated: bool = False
    logprobs: tuple[float, ...] = ()
    choice_tokens: tuple[int, ...] = ()
    kl: float = NAN
    texts: tuple[str, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)


class Engine(Protocol):
    """Whatever can be asked: a model loaded here, or one behind an address. `name` is what the receipt prints."""

    name: str

    def about(self) -> Mapping[str, Any]:
        """Everything that decides the answers (fingerprints, dtype, device, versions …); no secret. Part of every cache's key."""

    def cannot(self, request: Request) -> str:
        """Why it cannot answer such a request; empty when it can."""

    def fits(self, ask: Ask, budget: Budget, request: Request) -> bool:
        """Does the question, with its budget, fit into the context? True where nobody knows."""

    def answers(
        self, request: Request, asks: Sequence[Ask], budget: Budget, *, tick: Callable[[int], object]
    ) -> list[Answer | None]:
        """One answer per question, in order; None where there is none. `tick` hears how many are done."""


@dataclass(frozen=True)
class MetricSpec:
    """One line of a suite: a metric on data, and where it stands in the ledger.

    `better` says which direction is good; `margin` is in the metric's own units (see `unit`) and is what the user is
    willing to lose; `side` "watch" is shown and guarded but gets no verdict. `chance` is the score of guessing.
    """

    name: str
    metric: str
    request: Request
    side: Literal["safety", "ability", "watch"]
    better: Literal["higher", "lower"]
    margin: float
    unit: str = ""
    chance: float | None = None
    binary: bool = False
    items_hash: str = ""
    prompt_hash: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class ScoreRow:
    """One score of one item, with what produced it. `score` is NaN when it could not be computed."""

    metric: str
    item_id: str
    prompt_hash: str
    cluster: str
    score: float
    prompt: str = ""
    answer: str = ""
    n_tokens: int = 0
    truncated: bool = False


@dataclass(frozen=True)
class Scores:
    """Everything measured of one model: the specs it was measured by, one row per metric and item, and who it was.

    `system` is the name on the receipt ("base", "sft", "contrastive"), `seed` its training seed (None for the base),
    `about` holds model path, dtype, fingerprint of the weights, generation settings and library versions.
    """

    system: str
    specs: tuple[MetricSpec, ...]
    rows: tuple[ScoreRow, ...]
    seed: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def of(self, metric: str) -> Sequence[ScoreRow]:
        """The rows of one metric, in item order."""
        return [row for row in self.rows if row.metric == metric]
