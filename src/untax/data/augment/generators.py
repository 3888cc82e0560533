"""Asks models for text in batches, and remembers every answer on disk by the content of the question.

A kind is written for one record and asks as it goes. In a run, the first asking of a batch of records only collects the
questions (`ask` answers None), `settle` puts them to the model together, and the second asking finds the answers. So a
kind stays as short as its algorithm, and the model still sees full batches. An answer file belongs to one batch of
questions, because with sampling the answers depend on the batch that they were drawn in: a run that was killed meets the
same batches again, and ends with the same texts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from untax import files
from untax.types import UserError

__all__ = ["Answer", "Generator", "Model", "Request", "Roundtrip", "load", "needs_model", "say_wrong"]

Tick = Callable[[int], None]
#: what a kind expects of a model
WANTS = {
    "backtranslate": "translation",
    "mask_ent": "masked",
    "mask_rel": "masked",
    "regen_ent": "continuing",
    "regen_rel": "continuing",
    "sys_lowcon": "causal",
    "toxic": "causal",
}


@dataclass(frozen=True)
class Request:
    """One question to a model: continue, translate, or fill the masks of a text (written as MASK)."""

    text: str
    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    beams: int = 1
    max_new_tokens: int = 64
    top_k: int = 5
    stop: tuple[str, ...] = ()
    seed: int = 0
    #: seq2seq models are asked for the words that belong at this sign of `text`; others continue `text`
    gap: bool = False


#: stands for a masked word in the text of a request, whatever the model's own sign is
MASK = "\x02"
#: stands for the missing words in a request with `gap`
GAP = "\x03"


@dataclass(frozen=True)
class Answer:
    """What a model said: texts, or the best words for every mask; `tokens` are (character, probability) of each text's tokens."""

    texts: tuple[str, ...] = ()
    fills: tuple[tuple[str, ...], ...] = ()
    tokens: tuple[tuple[tuple[int, float], ...], ...] = ()


class Model(Protocol):
    """A loaded model that answers a batch of equal-natured requests."""

    name: str
    identity: str
    continues: bool

    def run(self, requests: Sequence[Request], seed: int) -> list[Answer]:
        """One answer per request; the same batch and seed give the same answers."""
        ...


@dataclass
class Generator:
    """A model with its memory. `deferred` collects questions instead of answering them at once."""

    model: Model
    cache_dir: Path | None = None
    batch_size: int = 32
    deferred: bool = False
    asked: int = 0
    _answers: dict[Request, Answer] = field(default_factory=dict)
    _pending: dict[Request, None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What stands in `Candidate.generator`."""
        return f"neural:{self.model.name}"

    def ask(self, request: Request) -> Answer | None:
        """The answer, or None when it will be known after the next `settle`."""
        if request not in self._answers:
            self._pending[request] = None
            if self.deferred:
                return None
            self.settle()
        return self._answers[request]

    def settle(self, tick: Tick | None = None) -> int:
        """Answer everything that was asked; how many questions there were."""
        pending = list(self._pending)
        groups: dict[str, list[Request]] = {}
        for request in pending:
            settings = {key: value for key, value in asdict(request).items() if key != "text"}
            groups.setdefault(json.dumps(settings, sort_keys=True), []).append(request)
        for group in groups.values():
            ordered = sorted(group, key=lambda request: (len(request.text), request.text))
            for first in range(0, len(ordered), self.batch_size):
                self._run(ordered[first : first + self.batch_size])
                if tick:
                    tick(len(ordered[first : first + self.batch_size]))
        self._pending.clear()
        return len(pending)

    def forget(self) -> None:
        """Drop the answers from memory; those on disk stay."""
        self._answers.clear()

    def _run(self, batch: Sequence[Request]) -> None:
        content = json.dumps([self.model.identity, [asdict(request) for request in batch]], sort_keys=True)
        key = hashlib.sha256(content.encode()).hexdigest()[:32]
        path = self.cache_dir / key[:2] / f"{key}.json" if self.cache_dir else None
        if path is not None and path.is_file():
            answers = [_answer(value) for value in json.loads(path.read_text(encoding="utf-8"))]
        else:
            answers = self.model.run(batch, int(key[:12], 16))
            self.asked += len(batch)
            if path is not None:
                files.write(path, json.dumps([asdict(answer) for answer in answers], ensure_ascii=False))
        self._answers.update(zip(batch, answers, strict=True))


@dataclass
class Roundtrip:
    """Pairs of translation models, there and back."""

    pairs: Sequence[tuple[Generator, Generator]]

    @property
    def generators(self) -> list[Generator]:
        """Every model of every pair."""
        return [generator for pair in self.pairs for generator in pair]


def _answer(value: dict[str, list]) -> Answer:  # type: ignore[type-arg]
    tokens = tuple(tuple((int(place), float(p)) for place, p in text) for text in value["tokens"])
    return Answer(tuple(value["texts"]), tuple(tuple(fill) for fill in value["fills"]), tokens)


# --------------------------------------------------------------------------- loading


def load(
    kind: str,
    where: str,
    *,
    cache_dir: Path | None = None,
    batch_size: int = 32,
    device: str = "cpu",
    allow_network: bool = False,
    deferred: bool = False,
) -> Generator | Roundtrip:
    """The generator of a kind from a model directory; for backtranslate "THERE>BACK", several with commas, or a folder of such pairs.

    Raises: UserError when the kind takes no model, or the model cannot be loaded as what the kind needs.
    """
    from untax.data.augment import neural

    if kind not in WANTS:
        raise UserError(f"the kind '{kind}' takes no generator; these do: {', '.join(WANTS)}.")

    def make(name: str) -> Generator:
        model = neural.load(name, WANTS[kind], device=device, allow_network=allow_network)
        return Generator(model, cache_dir, batch_size, deferred)

    if kind != "backtranslate":
        return make(where)
    return Roundtrip([(make(there), make(back)) for there, back in _translation_pairs(where)])


def needs_model(kind: str, wanted: str) -> UserError:
    """The error of a kind that was called with neither model nor rules to make anything."""
    return UserError(f"{kind}: without {wanted} there is nothing to make it from. Give one, or leave the kind out.")


def say_wrong(kind: str, generator: object, wanted: str) -> UserError:
    """The error of a kind that got the wrong sort of generator."""
    return UserError(f"{kind}: it needs {wanted}, not a {type(generator).__name__}.")


def _translation_pairs(where: str) -> list[tuple[str, str]]:
    if ">" in where:
        pairs = [part.split(">") for part in where.split(",")]
        if any(len(pair) != 2 or not pair[0].strip() or not pair[1].strip() for pair in pairs):
            raise UserError(f"backtranslate: '{where}' is not understood. Write THERE>BACK, several with commas.")
        return [(pair[0].strip(), pair[1].strip()) for pair in pairs]
    folder = Path(where).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"backtranslate: there is no folder {folder}. Write THERE>BACK, or a folder with models named ...en-de and ...de-en."
        )
    names = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()}
    found = []
    for name, path in names.items():
        stem, _, language = name.rpartition("en-")
        if stem or name.startswith("en-"):
            back = names.get(f"{stem}{language}-en")
            if back is not None:
                found.append((str(path), str(back)))
    if not found:
        raise UserError(
            f"backtranslate: {folder} holds no pair of models named like ...en-de and ...de-en; in it: {', '.join(names) or 'no folder'}."
        )
    return found
