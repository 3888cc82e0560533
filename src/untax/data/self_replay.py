"""Rows that a model writes itself, for users without general data: what it said before training is what must not be lost.

They serve as references of a projection or a penalty, and as replay rows of a mix. A base repeats its bad habits too: let a scorer leave
them out (`drop_toxic`, or `keep=not_toxic(...)`), and not the one that judges the result.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from untax import models
from untax.data.files import write_jsonl
from untax.scorers import Scorer
from untax.types import Candidate, ContrastiveRecord, UserError

__all__ = ["as_records", "drop_toxic", "not_toxic", "self_replay", "write"]

log = logging.getLogger(__name__)

#: texts that are drawn at most for each row that is wanted
TRIES = 10

Ask = tuple[str, int]  # a prompt, and which of its samples


def self_replay(
    model: Any,
    tokenizer: Any,
    *,
    count: int,
    seed: int = 0,
    prompts: Sequence[str] | None = None,  # what it continues, in turn; None: it begins by itself, from BOS
    max_new_tokens: int = 64,
    temperature: float = 1.0,  # 1: the model's own distribution
    top_p: float = 1.0,
    batch_size: int = 64,
    whole: bool = False,  # only texts that the model ended itself
    keep: Callable[[str], bool] | None = None,  # only texts of which this is true
) -> list[dict[str, Any]]:
    """`count` distinct rows of `prompt`, `completion` and `ended` (whether the model ended the text, or the budget did).

    Prompt and completion joined are what the model wrote. Left out are empty texts, repetitions, and behind a prompt that ends in a word what
    does not begin with a space or goes on with two: it would be joined otherwise than it was written. The rows depend on model,
    prompts, seed and sampling alone, not on the batches (up to the last bits of the arithmetic); those of a smaller count are the first ones of a larger.
    Raises: UserError when fewer distinct rows come out of ten tries for each, or a prompt and the budget exceed the context.
    """
    if count < 1 or batch_size < 1 or max_new_tokens < 1:
        raise UserError(
            f"self-replay: count {count}, max_new_tokens {max_new_tokens}, batch_size {batch_size}; all must be at least 1."
        )
    if temperature <= 0 or not 0 < top_p <= 1:
        raise UserError(
            f"self-replay: temperature {temperature}, top_p {top_p}: above 0, and top_p at most 1; the likeliest text is one text."
        )
    prompts = [""] if prompts is None else list(dict.fromkeys(prompts))
    if not prompts:
        raise UserError(
            "self-replay: the list of prompts is empty; leave it out to begin from the tokenizer's opening."
        )
    _check_room(model, tokenizer, prompts, max_new_tokens)
    sampling = models._Sampling(temperature, top_p, seed)
    spaced = models.adds_space(tokenizer)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    left: Counter[str] = Counter()
    drawn = 0
    while len(rows) < count and drawn < TRIES * count:
        wanted = min(max(count - len(rows), 16), TRIES * count - drawn)
        asks = [(prompts[i % len(prompts)], i // len(prompts)) for i in range(drawn, drawn + wanted)]
        drawn += wanted
        for (prompt, _), (text, ended) in zip(
            asks, _told(model, tokenizer, asks, sampling, max_new_tokens, batch_size), strict=True
        ):
            why = _unfit(prompt, text, spaced)
            if not why and whole and not ended:
                why = "not ended"
            if not why and (prompt, text) in rows:
                why = "repeated"
            if not why and keep is not None and not keep(text):
                why = "refused by 'keep'"
            if why:
                left[why] += 1
            elif len(rows) < count:
                rows[prompt, text] = {"prompt": prompt, "completion": text, "ended": ended}
    told = ", ".join(f"{number} {why}" for why, number in sorted(left.items())) or "none left out"
    if len(rows) < count:
        raise UserError(
            f"self-replay: {drawn} texts gave {len(rows)} distinct rows of the {count} that are wanted ({told}). "
            "Ask for fewer, raise the temperature or max_new_tokens, or give (more) prompts."
        )
    log.info("self-replay: %d rows of %d texts (%s)", count, drawn, told)
    return list(rows.values())


def _check_room(model: Any, tokenizer: Any, prompts: Sequence[str], max_new_tokens: int) -> None:
    limit = models.context_length(model)
    for number, prompt in enumerate(prompts):
        length = len(models.prompt_ids(tokenizer, prompt))
        if limit is not None and length + max_new_tokens > limit:
            raise UserError(
                f"self-replay: prompt {number} has {length} tokens; with {max_new_tokens} new ones it exceeds the model's "
                f"context of {limit}."
            )


def _unfit(prompt: str, text: str, spaced: bool) -> str:
    if not text.strip():
        return "empty"
    glued = bool(prompt) and not prompt[-1].isspace() and not spaced
    if glued and (not text.startswith(" ") or text[1:2].isspace()):
        return "not behind one space"
    return ""


def _told(
    model: Any, tokenizer: Any, asks: Sequence[Ask], sampling: Any, budget: int, batch_size: int
) -> Iterator[tuple[str, bool]]:
    """What the model writes to each ask, and whether it ended by itself, in the order of the asks."""
    ids = {prompt: models.prompt_ids(tokenizer, prompt) for prompt, _ in asks}
    order = sorted(range(len(asks)), key=lambda i: (-len(ids[asks[i][0]]), i))
    found: dict[int, tuple[str, bool]] = {}
    with models.asking(model):
        for begin in range(0, len(order), batch_size):
            chosen = order[begin : begin + batch_size]
            luck = sampling.luck([asks[i] for i in chosen], budget)
            told = models.continued(model, tokenizer, [ids[asks[i][0]] for i in chosen], budget, (), sampling, luck)
            for i, (tokens, ended) in zip(chosen, told, strict=True):
                # where the budget cuts a character in two, half of one is left
                text = models.decoded(tokenizer, tokens)
                found[i] = text if ended else text.rstrip("\ufffd"), ended
    return (found[i] for i in range(len(asks)))


def not_toxic(scorer: Scorer, threshold: float = 0.5) -> Callable[[str], bool]:
    """For `keep`: whether a scorer finds a text at most so toxic; what it cannot score is not kept."""
    return lambda text: bool(drop_toxic([{"completion": text}], scorer, threshold))


def drop_toxic(rows: Sequence[Mapping[str, Any]], scorer: Scorer, threshold: float = 0.5) -> list[dict[str, Any]]:
    """The rows whose completion a scorer finds at most so toxic; what it cannot score (NaN) is left out too.

    Raises: UserError for a threshold outside [0, 1).
    """
    if not 0 <= threshold < 1:
        raise UserError(f"self-replay: threshold is {threshold}; it must lie in [0, 1).")
    scores = scorer.score([row["completion"] for row in rows]) if rows else []
    # NaN is not at most anything
    kept = [dict(row) for row, score in zip(rows, scores, strict=True) if score <= threshold]
    if len(kept) < len(rows):
        log.info("%s left out %d of %d rows", scorer.name, len(rows) - len(kept), len(rows))
    return kept


def as_records(rows: Sequence[Mapping[str, Any]]) -> list[ContrastiveRecord]:
    """The rows as training records for a mix. Training closes every text with EOS, so those that the budget cut off are left out.

    Raises: UserError when none is left.
    """
    records = [
        ContrastiveRecord(
            id=f"self-replay-{number}",
            source=row["prompt"],
            # training puts the space between prompt and text itself
            positives=(Candidate(_behind(row["prompt"], row["completion"]), "reference", "neural:self_replay"),),
            extra={"prompt": row["prompt"]},
        )
        for number, row in enumerate(rows)
        if row.get("ended", True)
    ]
    if not records:
        raise UserError(
            f"self-replay: the model ended none of its {len(rows)} texts within the budget, and a text that was cut off would teach "
            "it to stop in the middle. Raise max_new_tokens."
        )
    return records


def _behind(prompt: str, text: str) -> str:
    return text if not prompt or prompt[-1].isspace() else text.removeprefix(" ")


def write(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> int:
    """Write the rows as JSONL, whole or not at all; how many there were."""
    return write_jsonl(Path(path), rows)
