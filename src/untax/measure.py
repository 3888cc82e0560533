"""A model and a suite in, one score per item out: every system gets the same items, the same prompts, the same budget.

Answers are asked for once per group (request, data, budget), whatever the number of metrics that read them, and kept under a
key of everything that decides them: a measurement that was killed goes on behind the last finished group.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from untax import files, methods, models
from untax.suites.read import Line, Suite, asked, digest, load_suite, suite_names, with_scorer_identities
from untax.types import NAN, Answer, Item, RecipeError, ScoreRow, Scores, UserError

__all__ = ["Line", "Suite", "load_suite", "measure", "measure_pair", "suite_names"]

LIBRARIES = ("untax", "torch", "transformers", "tokenizers", "peft")

Ask = tuple[str, tuple[str, ...], str]


@dataclass(frozen=True)
class _Who:
    """Everything about the models that decides their answers."""

    model: str
    tokenizer: str
    base: str | None
    dtype: str
    device: str
    versions: Mapping[str, str]


def measure(
    model: Any,
    tokenizer: Any,
    suite: Suite,
    *,
    system: str,
    seed: int | None = None,
    base: Any | None = None,
    cache_dir: str | Path | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> Scores:
    """Ask a model everything that a suite asks, and score every answer.

    `base` is what drift is measured from; without it, an adapter is switched off for the purpose. To measure the base itself,
    give it as `base` too: its drift is 0. Where there is neither, drift is NaN and `about["missing"]` says why.
    `cache_dir` keeps finished groups of answers.
    Raises: UserError when no item fits into the model's context, or the model's numbers are not finite.
    """
    if batch_size < 1:
        raise RecipeError(f"batch_size is {batch_size}; it must be at least 1.")
    suite = with_scorer_identities(suite)
    who = _who(model, tokenizer, base, drifts=any(line.spec.request == "drift" for line in suite.lines))
    answers: dict[str, dict[Ask, Answer | None]] = {}
    reasons: dict[str, str] = {}
    for group, lines in _groups(suite).items():
        items = list({asked(item): item for line in lines for item in line.items}.values())
        if lines[0].spec.request == "drift" and who.base is None:
            answers[group] = dict.fromkeys(map(asked, items))
            reasons[group] = "no base model was given to measure the drift from"
            continue
        fit = [item for item in items if _fits(model, tokenizer, lines[0], item)]
        if not fit:
            raise UserError(
                f"'{lines[0].spec.name}': no item fits into the model's context of {models.context_length(model)} tokens "
                f"with {lines[0].max_new_tokens} new ones. Use shorter prompts or a smaller max_new_tokens."
            )
        if len(fit) < len(items):
            reasons[group] = (
                f"{len(items) - len(fit)} prompts do not fit into the context of {models.context_length(model)} tokens"
            )
        asks = [asked(item) for item in fit]
        found = _answers(model, tokenizer, base, who, lines, asks, system, cache_dir, batch_size, progress)
        answers[group] = {asked(item): None for item in items} | dict(zip(asks, found, strict=True))
    rows, missing = [], {}
    for line in suite.lines:
        mine = _rows(line, answers[line.group])
        rows += mine
        lost = sum(row.score != row.score for row in mine)
        if lost:
            missing[line.spec.name] = {
                "n": lost,
                "of": len(mine),
                "reason": reasons.get(line.group, "the metric gave no score"),
            }
    about = {
        "model": str(model.config.name_or_path),
        **{key: value for key, value in asdict(who).items() if key != "model"},
        "fingerprint": who.model,
        "suite": suite.name,
        "batch_size": batch_size,
        "decoding": "greedy",
        "n": {line.spec.name: len(line.items) for line in suite.lines},
        "missing": missing,
        "skipped": [dict(entry) for entry in suite.skipped],
    }
    return Scores(system, tuple(line.spec for line in suite.lines), tuple(rows), seed, about)


def measure_pair(
    model: Any,
    tokenizer: Any,
    suite: Suite,
    *,
    base: Any | None = None,
    base_tokenizer: Any | None = None,
    system: str = "tuned",
    seed: int | None = None,
    cache_dir: str | Path | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> tuple[Scores, Scores]:
    """Measure a base model and what became of it; with an adapter and no `base`, one loaded model is both.

    Returns base, then tuned. `base_tokenizer` is for a base that reads text with another tokenizer than the tuned model.
    Raises: UserError when there is neither a base nor an adapter.
    """
    if base is None and not models.has_adapter(model):
        raise UserError("Nothing to compare with: give the base model too (this one has no adapter to switch off).")
    # the adapter is off for the whole of the base's turn; as its own base it drifts by exactly 0
    with models.adapter_off(model) if base is None else nullcontext(base) as first:
        before = measure(
            first, base_tokenizer or tokenizer, suite, system="base", base=first, cache_dir=cache_dir, batch_size=batch_size,
            progress=progress,
        )  # fmt: skip
    after = measure(
        model,
        tokenizer,
        suite,
        system=system,
        seed=seed,
        base=base,
        cache_dir=cache_dir,
        batch_size=batch_size,
        progress=progress,
    )
    return before, after


# --------------------------------------------------------------------------- asking


def _who(model: Any, tokenizer: Any, base: Any | None, *, drifts: bool) -> _Who:
    fingerprint = models.fingerprint(model)
    origin = None
    if drifts and base is model:
        origin = fingerprint
    elif drifts and base is not None:
        origin = models.fingerprint(base)
    elif drifts and models.has_adapter(model):
        with models.adapter_off(model):
            origin = models.fingerprint(model)
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return _Who(
        model=fingerprint,
        tokenizer=models.tokenizer_fingerprint(tokenizer),
        base=origin,
        dtype=str(model.dtype).removeprefix("torch."),
        device=model.device.type,
        versions=versions,
    )


def _groups(suite: Suite) -> dict[str, list[Line]]:
    groups: dict[str, list[Line]] = {}
    for line in suite.lines:
        groups.setdefault(line.group, []).append(line)
    return groups


def _fits(model: Any, tokenizer: Any, line: Line, item: Item) -> bool:
    limit = models.context_length(model)
    if limit is None or line.spec.request in ("text", "drift"):  # long texts are read in pieces
        return True
    longest = max((len(models.target_ids(tokenizer, choice)) for choice in item.choices), default=line.max_new_tokens)
    return len(models.prompt_ids(tokenizer, item.prompt)) + longest <= limit


def _answers(
    model: Any,
    tokenizer: Any,
    base: Any | None,
    who: _Who,
    lines: Sequence[Line],
    asks: Sequence[Ask],
    system: str,
    cache_dir: str | Path | None,
    batch_size: int,
    progress: bool,
) -> list[Answer]:
    """The answers of one group, from the cache when all that decides them is the same."""
    line = lines[0]
    key = {
        **asdict(who),
        "base": who.base if line.spec.request == "drift" else None,
        "settings": models.settings_fingerprint(model),
        "request": line.spec.request,
        "asks": digest(asks),
        "max_new_tokens": line.max_new_tokens,
        "stop": list(line.stop),
    }
    path = None if cache_dir is None else Path(cache_dir) / f"{digest(key)}.json"
    if path is not None:
        kept = _read_cache(path, key, len(asks))
        if kept is not None:
            return kept
    total = sum(len(ask[1]) for ask in asks) or len(asks)
    with tqdm(total=total, desc=f"{system}: {line.spec.name}", unit="row", leave=False, disable=not progress) as bar:
        found = _ask(model, tokenizer, base, line, asks, batch_size, bar)
    if path is not None:
        _write_cache(path, key, found)
    return found


def _ask(
    model: Any, tokenizer: Any, base: Any | None, line: Line, asks: Sequence[Ask], batch_size: int, bar: Any
) -> list[Answer]:
    prompts, choices, texts = [ask[0] for ask in asks], [ask[1] for ask in asks], [ask[2] for ask in asks]
    try:
        if line.spec.request == "generate":
            return models.generate(
                model,
                tokenizer,
                prompts,
                max_new_tokens=line.max_new_tokens,
                stop=line.stop,
                batch_size=batch_size,
                tick=bar.update,
            )
        if line.spec.request == "choices":
            return models.choice_logprobs(model, tokenizer, prompts, choices, batch_size=batch_size, tick=bar.update)
        if line.spec.request == "text":
            return models.text_logprobs(model, tokenizer, texts, batch_size=batch_size, tick=bar.update)
        return models.drift_from(base, model, tokenizer, texts, batch_size=batch_size, tick=bar.update)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"'{line.spec.name}': the device's memory ran out. Use a batch_size below {batch_size}."
        ) from error


def _rows(line: Line, answers: Mapping[Ask, Answer | None]) -> list[ScoreRow]:
    """One row per item; an item without an answer has the score NaN and is not shown to the metric."""
    metric = methods.find("metrics", line.spec.metric)
    given = [(item, answer) for item in line.items if (answer := answers[asked(item)]) is not None]
    scored = metric([item for item, _ in given], [answer for _, answer in given], **line.options) if given else []
    if len(scored) != len(given):
        raise UserError(f"the metric '{line.spec.metric}' gave {len(scored)} scores for {len(given)} answers.")
    scores = {item.id: float(score) for (item, _), score in zip(given, scored, strict=True)}
    return [_row(line, item, answers[asked(item)] or Answer(), scores.get(item.id, NAN)) for item in line.items]


def _row(line: Line, item: Item, answer: Answer, score: float) -> ScoreRow:
    said = answer.text
    if item.choices and len(answer.logprobs) == len(item.choices):
        said = item.choices[max(range(len(item.choices)), key=lambda i: answer.logprobs[i])]
    return ScoreRow(
        metric=line.spec.name,
        item_id=item.id,
        prompt_hash=digest([line.spec.request, line.max_new_tokens, list(line.stop), asked(item)]),
        cluster=item.cluster,
        score=score,
        prompt=item.prompt or item.text or " / ".join(item.choices),
        answer=said,
        n_tokens=answer.n_tokens,
        truncated=answer.truncated,
    )


# --------------------------------------------------------------------------- the cache


def _read_cache(path: Path, key: Mapping[str, Any], n: int) -> list[Answer] | None:
    """The kept answers, or None when there are none that answer exactly this."""
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_bytes())
        if told["key"] != key or len(told["answers"]) != n:
            return None
        return [
            Answer(**{**answer, "logprobs": tuple(answer["logprobs"]), "choice_tokens": tuple(answer["choice_tokens"])})
            for answer in told["answers"]
        ]
    except (ValueError, KeyError, TypeError):  # a damaged file costs one group, asked again
        return None


def _write_cache(path: Path, key: Mapping[str, Any], answers: Sequence[Answer]) -> None:
    files.write(path, json.dumps({"key": key, "answers": [asdict(answer) for answer in answers]}))
