"""A model behind an address that speaks the OpenAI interface (vLLM, `transformers serve`, llama.cpp, a hosted one).

What is asked of it, and kept, is one request at a time: a sample of a prompt, a choice, a text. Each finished answer is on the
disk before the next is asked for, under a hash of everything that decides it: the address, what the model behind it says to two
fixed questions, and the body of the request. The address is part of it because names are not: llama.cpp answers to every
name, and two servers with one name must not share answers. The fixed questions stand for the weights that nobody can see from
here: when another checkpoint comes back at the same address, nothing of the old one is used.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit, urlunsplit

from tqdm import tqdm

from untax import methods
from untax.engines.journal import Journal, mark
from untax.engines.wire import Key, NotFound, Patience, Refused, Wire
from untax.marks import versions
from untax.types import Answer, Ask, Budget, RecipeError, Request, UserError

__all__ = ["Address", "Endpoint", "parse"]

#: changes when the meaning of a kept answer changes
FORMAT = 1
#: what the model is asked to be known again
FIXED = ("The capital of the country is", "1, 2, 3,")
FIXED_TOKENS = 12
#: a server that batches may round its way to another token now and then
TRIES = 4
#: the interface takes at most four stop strings; all of them are looked for here
MOST_STOPS = 4
#: so many refused questions without one answer are no accident of a question
ENOUGH_REFUSED = 8
RESERVED = (
    "model",
    "prompt",
    "messages",
    "max_tokens",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "n",
    "stream",
    "echo",
    "logprobs",
)

T = TypeVar("T")


class Address(NamedTuple):
    """Where a model is served, and under which name; `model` is empty when it was not named."""

    url: str
    model: str


def parse(spec: str) -> Address | None:
    """The parts of `http://host:port/v1#model-name`; None for anything that is no such address.

    Without a path, /v1 is meant. Raises: RecipeError when the address holds a password, a query or a route below /v1.
    """
    if not re.match(r"https?://", spec, flags=re.I):
        return None
    address, _, model = spec.partition("#")
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise RecipeError(f"an address that cannot be read ({error}); write http://host:port/v1#model-name.") from None
    if parts.username is not None or parts.password is not None or parts.query:
        raise RecipeError(
            f"the address of {host} holds a name, a password or a query: what stands in an address ends in logs and receipts. "
            "Put a key into an environment variable and name that (--api-key-env NAME)."
        )
    if not host:
        raise RecipeError(f"'{spec}' names no host; write http://host:port/v1#model-name.")
    path = parts.path.rstrip("/") or "/v1"
    if path.endswith("/completions") or path.endswith("/models"):
        raise RecipeError(f"'{spec}': give the address up to and with /v1; the route below it is chosen here.")
    shown = f"[{host}]" if ":" in host else host
    where = f"{shown}:{port}" if port else shown
    return Address(urlunsplit((parts.scheme.lower(), where, path, "", "")), model.strip())


class Endpoint:
    """One served model, as an engine.

    `chat` puts every prompt into one user's message and lets the server lay its chat template around it; otherwise the prompt is
    continued as it stands. `api_key_env` names the environment variable that holds the key. `keep` is the folder of the
    journal: with it, a measurement that was killed goes on behind the last finished answer. `extra` is added to every request
    (`{"top_k": -1}`). `concurrency` requests are on their way at a time.
    Raises: RecipeError when the address, the name, the key or an option cannot be used as given.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str = "",
        chat: bool = False,
        api_key_env: str | None = None,
        concurrency: int = 8,
        retries: int = 5,
        timeout: float = 300.0,
        patience: float = 300.0,
        keep: str | Path | None = None,
        extra: Mapping[str, Any] | None = None,
        note: Callable[[str], object] | None = None,
    ) -> None:
        address = parse(url)
        if address is None:
            raise RecipeError(f"'{url}' is no address; write http://host:port/v1#model-name.")
        if concurrency < 1 or retries < 0 or timeout <= 0 or patience < 0:
            raise RecipeError("concurrency is at least 1, timeout above 0, retries and patience are not negative.")
        taken = sorted(set(extra or {}) & set(RESERVED))
        if taken:
            raise RecipeError(f"{', '.join(taken)} cannot be added to the requests: the suite decides.")
        self.url = address.url
        self.model = model or address.model
        self.chat = chat
        self.concurrency = concurrency
        self._patience = Patience(timeout=timeout, retries=retries, total=patience)
        self._extra = dict(extra or {})
        self._note = note or partial(tqdm.write, file=sys.stderr)
        self._key = _key(api_key_env)
        self._folder = None if keep is None else Path(keep)
        self._canary = ""
        self._probed: dict[str, str] = {}
        self._opened = False  # whether the server puts a token of its own in front of a text
        if not self.model:
            raise RecipeError(self._unnamed())
        self.name = f"{self.url}#{self.model}"

    # ------------------------------------------------------------------ what an engine says of itself

    def about(self) -> Mapping[str, Any]:
        """Address, name, interface and what was added to requests; `canary` stands for weights that cannot be seen from here."""
        self._meet()
        return {
            "engine": "endpoint",
            "address": self.url,
            "served": self.model,
            "generation": {"interface": "chat" if self.chat else "completions", **self._extra},
            "canary": self._canary,
            "versions": versions(("untax",)),
        }

    def cannot(self, request: Request) -> str:
        """Log-probabilities need a server that gives those of a prompt; what looks into a model needs the model."""
        if request == "generate":
            return ""
        if request not in ("choices", "text"):
            return f"{request} needs the model itself: over an address its probabilities cannot be read"
        if self.chat:
            return (
                "a chat interface gives no log-probabilities of a text that it did not write: measure over completions"
            )
        if "echo" not in self._probed:
            self._probed["echo"] = self._run(self._probe_echo)
        return self._probed["echo"]

    def fits(self, ask: Ask, budget: Budget, request: Request) -> bool:
        """True: only the server knows its tokens. What it refuses as too long has no answer, and is counted."""
        return True

    def answers(
        self, request: Request, asks: Sequence[Ask], budget: Budget, *, tick: Callable[[int], object]
    ) -> list[Answer | None]:
        """One answer per question, in order; None where the server refused one, or failed at it again and again.

        Raises: UserError when the server stays away, refuses everything, or another model answers than before.
        """
        why = self.cannot(request)
        if why:
            raise UserError(f"{self.name}: {why}.")
        if request == "generate":
            _check(budget)
        self._meet()
        if request == "generate" and budget.temperature > 0:
            if "samples" not in self._probed:
                self._probed["samples"] = self._run(self._probe_sampling)
            if self._probed["samples"]:
                raise UserError(f"{self.name}: {self._probed['samples']}")
        journal = self._journal()
        try:
            return self._run(lambda wire: self._ask_all(wire, journal, request, asks, budget, tick))
        finally:
            journal.close()

    # ------------------------------------------------------------------ asking

    async def _ask_all(
        self,
        wire: Wire,
        journal: Journal,
        request: Request,
        asks: Sequence[Ask],
        budget: Budget,
        tick: Callable[[int], object],
    ) -> list[Answer | None]:
        told: dict[Ask, Answer | None] = {}
        waiting = deque(dict.fromkeys(asks))
        times = {ask: 0 for ask in waiting}
        for ask in asks:
            times[ask] += 1
        refusals: list[str] = []
        hard = 0

        async def work() -> None:
            nonlocal hard
            while waiting:
                ask = waiting.popleft()
                try:
                    told[ask] = await self._one(wire, journal, request, ask, budget)
                except Refused as error:
                    told[ask] = None
                    refusals.append(str(error))
                    hard += not isinstance(error, _Unscored)
                    if hard == len(told) and (hard >= ENOUGH_REFUSED or hard == len(times)):
                        raise UserError(f"{self.name} refuses every question: {refusals[0]}") from None
                tick(times[ask] * (len(ask[1]) if request == "choices" else 1))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.concurrency, len(times))):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        if refusals:
            self._note(
                f"{self.name}: {len(refusals)} of {len(times)} questions got no answer; one of them: {refusals[0]}"
            )
        return [told[ask] for ask in asks]

    async def _one(self, wire: Wire, journal: Journal, request: Request, ask: Ask, budget: Budget) -> Answer:
        prompt, choices, text = ask
        if request == "choices":
            return await self._choices(wire, journal, prompt, choices, budget)
        if request == "text":
            return await self._text(wire, journal, text, budget)
        many = []
        for sample in range(budget.samples):
            body = self._body(prompt, budget, sample)
            read = partial(self._read, stop=budget.stop)
            many.append(await self._kept(wire, journal, body, read, decides=["generate", budget.seed, *budget.stop]))
        return Answer(
            text=many[0]["text"],
            n_tokens=max(each["n_tokens"] for each in many),
            truncated=any(each["truncated"] for each in many),
            texts=tuple(each["text"] for each in many) if budget.samples > 1 else (),
        )

    async def _choices(
        self, wire: Wire, journal: Journal, prompt: str, choices: Sequence[str], budget: Budget
    ) -> Answer:
        if not prompt and not self._opened:
            raise _Unscored(
                "the server scores nothing before the first token: an empty prompt leaves that one unscored"
            )
        scored: list[Mapping[str, Any]] = []
        opening: list[str] | None = None if prompt else [""]
        for choice in choices:
            body = self._echo_body(prompt + choice)
            key = self._mark(body, ["choices", budget.seed, prompt])
            kept = journal.get(key)
            if kept is None:
                if opening is None:
                    opening = (await wire.post("/completions", self._echo_body(prompt), _read_echo))[0]
                tokens, logprobs = await wire.post("/completions", body, _read_echo)
                start = _common(opening, tokens) if prompt else 1
                rest = logprobs[start:]
                if not rest or None in rest:
                    raise _Unscored(
                        f"the server gives no log-probability for each token of a choice ({len(rest)} tokens)"
                    )
                kept = {"logprob": math.fsum(value for value in rest if value is not None), "tokens": len(rest)}
                journal.add(key, kept)
            scored.append(kept)
        return Answer(
            logprobs=tuple(each["logprob"] for each in scored), choice_tokens=tuple(each["tokens"] for each in scored)
        )

    async def _text(self, wire: Wire, journal: Journal, text: str, budget: Budget) -> Answer:
        if not text:
            return Answer()
        kept = await self._kept(wire, journal, self._echo_body(text), _read_text, decides=["text", budget.seed])
        return Answer(logprobs=(kept["logprob"],) if kept["n_tokens"] else (), n_tokens=kept["n_tokens"])

    async def _kept(
        self,
        wire: Wire,
        journal: Journal,
        body: Mapping[str, Any],
        read: Callable[[Any], dict[str, Any]],
        *,
        decides: list[Any],
    ) -> Mapping[str, Any]:
        """The kept answer to a request, or the server's, which is then kept."""
        key = self._mark(body, decides)
        kept = journal.get(key)
        if kept is None:
            kept = await wire.post(self._route, body, read)
            journal.add(key, kept)
        return kept

    def _mark(self, body: Mapping[str, Any], decides: list[Any]) -> str:
        # a greedy request carries no seed, but who measures twice to see the noise names another one and wants to ask again
        return mark([FORMAT, self.url, self.chat, self._canary, body, decides])

    @property
    def _route(self) -> str:
        return "/chat/completions" if self.chat else "/completions"

    def _body(self, prompt: str, budget: Budget, sample: int = 0) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": budget.max_new_tokens,
            "temperature": budget.temperature,
            # 0 switches off the repetition penalty that a model's own generation_config asks `transformers serve` for
            "frequency_penalty": 0.0,
            **self._extra,
        }
        if self.chat:
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
        if budget.stop:
            body["stop"] = list(budget.stop[:MOST_STOPS])
        if budget.temperature > 0:
            luck = hashlib.sha256(f"{budget.seed}:{sample}:{prompt}".encode("utf-8", "surrogatepass")).digest()
            body["top_p"] = budget.top_p
            body["seed"] = int.from_bytes(luck[:4], "big") >> 1
        return body

    def _echo_body(self, text: str) -> dict[str, Any]:
        # one token is generated and thrown away: not every server takes 0
        return {
            "model": self.model, "prompt": text, "max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": 1, **self._extra,
        }  # fmt: skip

    def _read(self, told: Any, *, stop: Sequence[str]) -> dict[str, Any]:
        """One continuation: its text up to the first stop string, the server's count of tokens, and whether the budget ran out."""
        choice = _first(told)
        text = _field(choice, "message", dict).get("content") if self.chat else choice.get("text")
        text = _sound("" if text is None and self.chat else text)
        if choice.get("finish_reason") == "content_filter":
            raise Refused("the server's filter took the answer away")
        count = _field(_field(told, "usage", dict), "completion_tokens", int)
        ends = [text.index(each) for each in stop if each in text]
        return {
            "text": text[: min(ends)] if ends else text,
            "n_tokens": count,
            "truncated": choice.get("finish_reason") == "length" and not ends,
        }

    # ------------------------------------------------------------------ knowing the server

    def _run(self, work: Callable[[Wire], Coroutine[Any, Any, T]]) -> T:
        """Run something that asks, with connections of its own, also where an event loop runs already (a notebook)."""

        async def whole() -> T:
            async with Wire(
                self.url, key=self._key, patience=self._patience, connections=self.concurrency, note=self._note,
                look=self._look, advice=self._advice(),
            ) as wire:  # fmt: skip
                return await work(wire)

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(whole())
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, whole()).result()

    def _advice(self) -> str:
        if self._folder is None:
            return (
                "Start it and try again; with a folder to keep answers in, a second try goes on where the first stood."
            )
        return f"Start it and give the same command: it goes on where it stood (answers are kept in {self._folder})."

    def _meet(self) -> None:
        """Ask the fixed questions once: is anybody there, is it the right address, and who is it?"""
        if not self._canary:
            self._run(lambda wire: wire.wait_until_up())

    async def _look(self, wire: Wire) -> None:
        """Who answers? The first time it is remembered; later it must be the same. Kept answers of the same model are found."""
        seen = await self._fixed(wire)
        known = {self._canary} if self._canary else self._kept_canaries()
        for _ in range(TRIES - 1):
            if not known or seen in known:
                break
            seen = await self._fixed(wire)
        if self._canary and seen != self._canary:
            raise UserError(
                f"{self.name}: another model answers than before (the fixed questions are answered differently), so the answers "
                "of two would be mixed. Serve one model for the whole measurement; the same command then asks what is missing."
            )
        if known and seen not in known:
            self._note(f"{self.name}: the kept answers are those of another model than the one served now; asking anew")
        self._canary = seen

    async def _fixed(self, wire: Wire) -> str:
        said = []
        for prompt in FIXED:
            body = self._body(prompt, Budget(max_new_tokens=FIXED_TOKENS))
            try:
                said.append(await wire.once(self._route, body, partial(self._read, stop=())))
            except NotFound as error:
                raise UserError(await self._unknown(wire, str(error))) from None
            except Refused as error:
                raise UserError(f"{self.name} refuses a simple question: {error}{await self._offer(wire)}") from None
        return mark(said)[:16]

    def _kept_canaries(self) -> set[str]:
        if self._folder is None:
            return set()
        return {path.stem.rpartition("-")[2] for path in self._folder.glob(f"endpoint-{self._identity}-*.jsonl")}

    @property
    def _identity(self) -> str:
        return mark([FORMAT, self.url, self.model, self.chat, self._extra])[:12]

    def _journal(self) -> Journal:
        if self._folder is None:
            return Journal(None)
        journal = Journal(self._folder / f"endpoint-{self._identity}-{self._canary}.jsonl")
        if journal.damaged:
            self._note(f"{journal.path}: {journal.damaged} damaged lines are asked again")
        return journal

    async def _probe_echo(self, wire: Wire) -> str:
        """Why the server cannot score a text that it is given, or the empty string."""
        await wire.wait_until_up()
        text = "One two three four"
        without = "the server gives no log-probabilities of a prompt (`echo` with `logprobs`, as vLLM does)"
        try:
            tokens, logprobs = await wire.post("/completions", self._echo_body(text), _read_echo)
        except Refused as error:
            return f"{without}: {error}"
        if len(tokens) < 2 or None in logprobs[1:]:
            return without
        self._opened = not tokens[0] or not text.startswith(tokens[0])
        return ""

    async def _probe_sampling(self, wire: Wire) -> str:
        """Why the server cannot sample, or the empty string: some go on greedily whatever the temperature."""
        await wire.wait_until_up()
        budget = Budget(max_new_tokens=FIXED_TOKENS, temperature=1.5)
        said = set()
        for sample in range(TRIES):
            body = self._body(FIXED[0], budget, sample)
            try:
                said.add((await wire.post(self._route, body, partial(self._read, stop=())))["text"])
            except Refused as error:
                return f"the server does not sample: {error}"
        if len(said) > 1:
            return ""
        return (
            "the server answers the same at temperature 1.5 whatever the seed: it does not sample. `transformers serve` does so "
            'only where the model\'s generation_config.json says "do_sample": true.'
        )

    async def _offer(self, wire: Wire) -> str:
        """What the server says it serves, as the end of a sentence."""
        names, _ = await wire.peek("/models", _read_models)
        near = methods.did_you_mean(self.model, names) if names and self.model not in names else ""
        return f" It serves: {', '.join(names[:20])}.{near}" if names else ""

    async def _unknown(self, wire: Wire, told: str) -> str:
        other = "without --chat" if self.chat else "with --chat"
        return (
            f"{self.url} knows no model '{self.model}', or not this interface ({told}).{await self._offer(wire)} "
            f"Name the model after '#'; if the name is right, try {other}."
        )

    def _unnamed(self) -> str:
        """What to say when no model was named: which there are."""
        names, why = self._run(lambda wire: wire.peek("/models", _read_models))
        ask = f"{self.url} needs the name of a model: write {self.url}#model-name."
        if names:
            return f"{ask} It serves: {', '.join(names)}."
        return f"{ask} Asked what it serves, it named none{f' ({why})' if why else ''}."


class _Unscored(Refused):
    """The server would answer; what it says cannot be used."""


def _key(name: str | None) -> Key:
    if name is None:
        return Key()
    value = os.environ.get(name, "").strip()
    if not value:
        raise RecipeError(f"the environment variable {name} that should hold the key is not set, or empty.")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise RecipeError(f"the environment variable {name} holds no key: it has characters that no header can carry.")
    return Key(value)


def _check(budget: Budget) -> None:
    if budget.max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {budget.max_new_tokens}; it must be at least 1.")
    if budget.samples > 1 and budget.temperature == 0:
        raise UserError(f"{budget.samples} samples at temperature 0 are the same answer: name a temperature.")


# --------------------------------------------------------------------------- reading what a server says


def _field(told: Any, name: str, kind: type[T]) -> T:
    value = told.get(name) if isinstance(told, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"it has no '{name}' that is a {kind.__name__}")
    return value


def _first(told: Any) -> dict[str, Any]:
    choices = _field(told, "choices", list)
    if not choices or not isinstance(choices[0], dict):
        raise ValueError("it has no choice")
    return choices[0]


def _sound(text: Any) -> str:
    """The text as it can be written to any file: half of a surrogate pair becomes the sign for an unknown character."""
    if not isinstance(text, str):
        raise ValueError("it has no text")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _read_echo(told: Any) -> tuple[list[str], list[float | None]]:
    """The tokens of a prompt and their log-probabilities in nats; the first has none unless the server put one before it.

    Raises: Refused when the server ignored the question, ValueError when the answer makes no sense.
    """
    count = _field(_field(told, "usage", dict), "prompt_tokens", int)
    inner = _first(told).get("logprobs")
    if not isinstance(inner, dict) or not isinstance(inner.get("tokens"), list):
        raise _Unscored("the answer has no log-probabilities of the prompt")
    tokens, logprobs = inner["tokens"], _field(inner, "token_logprobs", list)
    if len(tokens) != len(logprobs) or not count <= len(tokens) <= count + 1:
        raise _Unscored(f"log-probabilities of {len(logprobs)} tokens for a prompt of {count}")
    for value in logprobs[:count]:
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
            raise ValueError("a log-probability that is no number")
    return [str(token) for token in tokens[:count]], logprobs[:count]


def _read_text(told: Any) -> dict[str, Any]:
    """A whole text: the sum over the tokens that have a log-probability, and their number."""
    _, logprobs = _read_echo(told)
    if None in logprobs[1:]:
        raise _Unscored("a token of the text has no log-probability")
    known = [value for value in logprobs if value is not None]
    return {"logprob": math.fsum(known), "n_tokens": len(known)}


def _read_models(told: Any) -> list[str]:
    return [str(each["id"]) for each in _field(told, "data", list) if isinstance(each, dict) and "id" in each]


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """With how many equal tokens two rows begin."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
