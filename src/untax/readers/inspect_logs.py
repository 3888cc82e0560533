"""What Inspect logged (.eval or .json), read as per-item scores: no model, no GPU; inspect-ai is an optional dependency.

A sample is known by its id and epoch, and by the hash of its input, choices and target. Letters become numbers: C (correct)
1, P (partly) 0.5, I (incorrect) and N (no answer) 0; an error and an unscored sample are NaN and counted. Epochs are several
samples of one prompt: they form a cluster.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from untax.marks import digest
from untax.readers.lines import Raw, Wishes, line_names, specs_of, unparsed_in
from untax.types import NAN, ScoreRow, Scores, UserError

__all__ = ["is_log", "read"]

INSTALL = "pip install inspect-ai"
VALUES: Mapping[str, float] = {
    "C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0,
}  # fmt: skip
ASSUMED = "The logs do not say which way is better: higher was assumed (--better NAME=lower turns it)."
#: settings of a generation that change how it is fetched, not what is said
_TRANSPORT = {
    *("max_retries", "timeout", "attempt_timeout", "stream_idle_timeout", "max_connections", "adaptive_connections"),
    *("cache", "cache_prompt", "batch", "logprobs", "top_logprobs", "prompt_logprobs", "modalities"),
}
_LIMITS = ("message_limit", "token_limit", "turn_limit")
_SECRET = re.compile(r"token$|key|secret|password", re.IGNORECASE)


@dataclass(frozen=True)
class _Log:
    """One log and the name its task has on the receipt."""

    path: Path
    task: str
    log: Any


def is_log(path: Path) -> bool:
    """Does a JSON file begin as Inspect's logs do?"""
    with path.open("rb") as file:
        head = file.read(4096)
    return b'"status"' in head and b'"eval"' in head


def read(
    path: Path, *, system: str, seed: int | None = None, wishes: Wishes | None = None, only: Sequence[str] = ()
) -> tuple[Scores, list[str]]:
    """The scores of a folder of Inspect logs, or of one log, and what the user should know about them.

    Of several logs of one task the newest that finished counts. `only` names tasks.
    Raises: UserError when inspect-ai is missing, and when logs are damaged, unfinished, or of several models.
    """
    logs, notes = _newest(_logs(path), path)
    for name in only:
        if all(entry.task != name for entry in logs):
            raise UserError(
                f"--only {name}: {path} has no such task. It has: {', '.join(entry.task for entry in logs)}."
            )
    logs = [entry for entry in logs if not only or entry.task in only]
    raws: list[Raw] = []
    skipped: list[Mapping[str, str]] = []
    for entry in logs:
        made, left = _task_lines(entry)
        raws += made
        skipped += left
    if not raws:
        raise UserError(f"{path}: no sample has a score. Score the logs first (inspect score LOG).")
    wishes = wishes or Wishes()
    specs = specs_of(raws, wishes)
    wishes.check(line_names(specs))
    rows = tuple(row for raw in raws for row in raw.rows)
    return Scores(system, tuple(specs), rows, seed, {**_about(logs, raws), "skipped": skipped}), notes


# --------------------------------------------------------------------------- files


def _logs(path: Path) -> list[tuple[Path, Any]]:
    try:
        from inspect_ai.log import read_eval_log
    except ImportError as error:
        raise UserError(
            f"{path} holds Inspect logs, and inspect-ai is not installed here. Install it: {INSTALL}"
        ) from error
    if path.is_file():
        found = [path]
    else:
        found = sorted(p for p in path.rglob("*") if p.suffix == ".eval" or (p.suffix == ".json" and is_log(p)))
    logs = []
    for file in found:
        try:
            logs.append(
                (file, read_eval_log(str(file), resolve_attachments="core", exclude_fields={"events", "store"}))
            )
        except Exception as error:  # each part of a log has a parser of its own, with errors of its own
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{file} is no log that inspect-ai can read ({why}). Copy it again, or run the task again."
            ) from error
    return logs


def _newest(logs: Sequence[tuple[Path, Any]], path: Path) -> tuple[list[_Log], list[str]]:
    """The newest finished log of each task, by name; a task that was run with several arguments is several tasks."""
    models = {str(log.eval.model): file for file, log in logs}
    if len(models) > 1:
        listed = "; ".join(f"{model} in {file.name}" for model, file in sorted(models.items()))
        raise UserError(
            f"{path} holds logs of {len(models)} models ({listed}). Keep the logs of each model in a folder of their own."
        )
    tasks: dict[str, dict[str, list[tuple[Path, Any]]]] = {}
    for file, log in logs:
        arguments = digest(log.eval.task_args)
        tasks.setdefault(str(log.eval.task), {}).setdefault(arguments, []).append((file, log))
    chosen, notes = [], []
    for task, variants in sorted(tasks.items()):
        for mine in variants.values():
            done = sorted(
                (entry for entry in mine if entry[1].status == "success"), key=lambda entry: str(entry[1].eval.created)
            )
            if not done:
                said = mine[-1][1]
                why = f": {said.error.message.splitlines()[0]}" if said.error and said.error.message else ""
                raise UserError(
                    f"{mine[-1][0]}: the task '{task}' did not finish (status {said.status}{why}). Run it again (inspect "
                    "eval-retry LOG)."
                )
            file, log = done[-1]
            said = ", ".join(f"{key}={value}" for key, value in sorted(log.eval.task_args.items()))
            chosen.append(_Log(file, f"{task}({said})" if len(variants) > 1 else task, log))
            if len(mine) > 1:
                notes.append(
                    f"{path} holds {len(mine)} logs of '{task}'; the newest that finished is read: {file.name}."
                )
    return chosen, notes


# --------------------------------------------------------------------------- one log


def _task_lines(entry: _Log) -> tuple[list[Raw], list[Mapping[str, str]]]:
    """One line per scorer, and key where a scorer gives several values; what has no number per sample, with the reason."""
    samples = _samples(entry)
    settings = _settings(entry)
    several = len({sample.epoch for sample in samples}) > 1
    asked = [_row(sample, several=several, budget=settings["generation"].get("max_tokens")) for sample in samples]
    raws: list[Raw] = []
    skipped: list[Mapping[str, str]] = []
    for scorer in dict.fromkeys(name for sample in samples for name in sample.scores or {}):
        scores = [(sample.scores or {}).get(scorer) for sample in samples]
        keys = list(
            dict.fromkeys(key for score in scores if score and isinstance(score.value, dict) for key in score.value)
        )
        for key in keys or [""]:
            metric = f"{scorer}.{key}" if key else scorer
            base = Raw(entry.task, metric, (), "generate", settings=settings, headline=scorer == _headline(entry.log))
            values = [_part(score, key) for score in scores]
            numbers = [number for value in values if (number := _number(value)) is not None]
            if len(numbers) < len(values):
                skipped.append({"name": base.name, "reason": "its values are no numbers and none of C, I, P, N"})
                continue
            letters = all(isinstance(value, str | bool) for value in values if not math.isnan(_number(value) or 0.0))
            note = "" if letters else ASSUMED
            raw = replace(base, better="higher", unit="share of items right" if letters else "", note=note)
            raws.append(replace(raw, rows=_scored(raw.name, asked, numbers)))
            if letters and not key:
                lost = replace(base, metric="unparsed", filter=scorer, better="lower")
                raws.append(replace(lost, rows=_scored(lost.name, asked, [_unread(score) for score in scores])))
    return raws, skipped


def _headline(log: Any) -> str:
    """The scorer that the task puts first."""
    scores = log.results.scores if log.results else []
    return str(scores[0].scorer) if scores else ""


def _scored(name: str, asked: Sequence[ScoreRow], scores: Sequence[float]) -> tuple[ScoreRow, ...]:
    return tuple(replace(row, metric=name, score=score) for row, score in zip(asked, scores, strict=True))


def _samples(entry: _Log) -> list[Any]:
    """All samples, by id and epoch. Raises: UserError when they were not kept, or not all of them."""
    samples = entry.log.samples
    if not samples:
        raise UserError(
            f"{entry.path} holds no samples: '{entry.task}' was run with --no-log-samples. Run it again without."
        )
    wanted = entry.log.results.total_samples if entry.log.results else 0
    if len(samples) < wanted:
        raise UserError(
            f"[different-items] {entry.path} holds {len(samples)} of {wanted} samples of '{entry.task}'. Run it again."
        )
    failed = [sample.error for sample in samples if sample.error is not None]
    if len(failed) == len(samples):
        raise UserError(
            f"{entry.path}: all {len(samples)} samples of '{entry.task}' ended in an error, so that nothing was scored; the first: "
            f"{(failed[0].message.splitlines() or ['no message'])[0]}. Run it again (inspect eval-retry LOG)."
        )
    names = [(str(sample.id), sample.epoch) for sample in samples]
    if len(set(names)) < len(names):
        raise UserError(
            f"[duplicate-items] {entry.path}: {len(names) - len(set(names))} samples of '{entry.task}' stand there twice. "
            "Give every sample its own id."
        )
    return sorted(samples, key=lambda sample: (str(sample.id), sample.epoch))


def _part(score: Any, key: str) -> Any:
    if score is None:
        return None
    return (score.value.get(key) if isinstance(score.value, dict) else None) if key else score.value


def _number(value: Any) -> float | None:
    """NaN where there is no score, None where a value means no number."""
    if value is None:
        return NAN
    if isinstance(value, bool | int | float):
        return float(value) if math.isfinite(value) else NAN
    if isinstance(value, str):
        if value in VALUES or value.lower() in VALUES:
            return VALUES.get(value, VALUES.get(value.lower(), NAN))
        try:
            number = float(value)
        except ValueError:
            return None
        return number if math.isfinite(number) else NAN
    return None


def _unread(score: Any) -> float:
    """1 where the scorer found no answer to judge (which it counts as wrong), NaN where there is no score."""
    return NAN if score is None else float(score.value == "N" or not str(score.answer or "").strip())


def _row(sample: Any, *, several: bool, budget: int | None) -> ScoreRow:
    """A sample as a row that waits for its metric and score."""
    if isinstance(sample.input, str):
        asked = [["user", sample.input]]
    else:
        asked = [[message.role, message.text] for message in sample.input]
    output = sample.output
    count = output.usage.output_tokens if output.usage else 0
    return ScoreRow(
        metric="", item_id=f"{sample.id}#{sample.epoch}" if several else str(sample.id),
        prompt_hash=digest([asked, sample.choices, sample.target]), cluster=str(sample.id) if several else "",
        score=NAN, prompt="\n".join(text for _, text in asked), answer=output.completion or "",
        n_tokens=count, truncated=_cut(sample, budget),
    )  # fmt: skip


def _cut(sample: Any, budget: int | None) -> bool:
    """Did the token budget end the answer? Where the model does not say why it stopped, a full budget says it."""
    output = sample.output
    if not output.choices or output.stop_reason in ("stop", "tool_calls", "content_filter"):
        return False
    spent = output.usage.output_tokens if output.usage else 0
    return output.stop_reason in ("max_tokens", "model_length") or (budget is not None and spent >= budget)


# --------------------------------------------------------------------------- settings


def _settings(entry: _Log) -> dict[str, Any]:
    """Everything that must be the same on both sides, by the names that `find.alike` compares."""
    spec, config = entry.log.eval, entry.log.eval.config
    generation = spec.model_generate_config.model_dump(exclude_none=True) | entry.log.plan.config.model_dump(
        exclude_none=True
    )
    generation = {key: value for key, value in generation.items() if key not in _TRANSPORT}
    limits = {key: value for key, value in config.model_dump(include=set(_LIMITS)).items() if value is not None}
    steps = [[step.solver, _named(step.params)] for step in entry.log.plan.steps]
    return {
        "harness": "inspect", "task": entry.task, "filter": "none", "version": spec.task_version, "args": _named(spec.task_args),
        "dataset": {"name": spec.dataset.name, "samples": spec.dataset.samples},
        "limit": config.limit if config.limit is not None else config.sample_id, "epochs": config.epochs or 1, "solver": steps,
        "generation": {**generation, **limits},
        "rules": {scorer.name: digest(_named(scorer.options or {})) for scorer in spec.scorers or []},
    }  # fmt: skip


def _named(given: Mapping[str, Any]) -> dict[str, str]:
    """Arguments as text, without keys and without addresses in memory."""
    return {str(k): re.sub(r" at 0x[0-9a-f]+", "", str(v)) for k, v in given.items() if not _SECRET.search(str(k))}


def _about(logs: Sequence[_Log], raws: Sequence[Raw]) -> dict[str, Any]:
    spec = logs[-1].log.eval
    arguments = {str(key): value for key, value in spec.model_args.items() if not _SECRET.search(str(key))}
    dtype = str(arguments.get("torch_dtype") or arguments.get("dtype") or "").removeprefix("torch.")
    quantized = {key: value for key, value in arguments.items() if re.search(r"load_in|gptq|awq|gguf|quant|bnb", key)}
    missing = {}
    for raw in raws:
        lost = sum(math.isnan(row.score) for row in raw.rows)
        if lost:
            missing[raw.name] = {
                "n": lost,
                "of": len(raw.rows),
                "reason": "the sample ended in an error, or was not scored",
            }
    errors = sum(sample.error is not None for entry in logs for sample in entry.log.samples or [])
    return {
        "harness": "inspect", "model": str(spec.model), "model_args": arguments, "dtype": "" if dtype == "auto" else dtype,
        "quantization": ", ".join(f"{key}={value}" for key, value in sorted(quantized.items())) or "none",
        "device": str(arguments.get("device") or "").partition(":")[0], "versions": dict(spec.packages),
        "git_hash": spec.revision.commit if spec.revision else None, "date": str(spec.created), "errors": errors,
        "source": ", ".join(str(entry.path) for entry in logs),
        "tasks": {raw.task: {key: raw.settings.get(key) for key in ("version", "epochs", "limit")} for raw in raws},
        "n": {raw.name: len(raw.rows) for raw in raws}, "missing": missing, "unparsed": unparsed_in(raws),
    }  # fmt: skip
