"""What `lm_eval --log_samples` left behind, read as per-item scores: no model, no GPU, and lm_eval itself is not imported.

A folder holds results_DATE.json and one samples_TASK_DATE.jsonl per task, below a folder named after the model. Rows are
known by the hash of their document and of what was asked, never by their number. What becomes of lm_eval's figures stands in
docs/measure-what-you-have.md.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any

from untax.marks import digest
from untax.readers.lines import Raw, Wishes, line_names, specs_of, unparsed_in
from untax.readers.lm_eval_samples import (
    ROLLING,
    as_number,
    choices_of,
    concerns,
    misshapen,
    row_of,
    score_of,
    texts_of,
    unread,
)
from untax.types import NAN, Request, ScoreRow, Scores, UserError

__all__ = ["is_results_file", "read", "to_scores"]

#: a group with as many tasks is one line, clustered by task; the tasks of a smaller one are lines of their own
MANY = 10

_DATE = r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?"
_RESULTS = re.compile(rf"(?P<stem>.+)_(?P<date>{_DATE})\.json")
_REQUESTS: Mapping[str, Request] = {
    "generate_until": "generate", "multiple_choice": "choices", "loglikelihood": "choices", "loglikelihood_rolling": "text",
}  # fmt: skip
_GUESSED = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "accuracy_amb", "accuracy_disamb", "pct_stereotype")
#: what of a task's configuration decides how an answer is scored; prompts and documents are known by their hashes
_RULES = ("metric_list", "filter_list", "repeats", "process_results", "output_type")
_SECRET = re.compile(r"token|key|secret|password", re.IGNORECASE)
#: sections of a results file that are objects, and those of them that hold one more object per task
_SECTIONS = (
    "results",
    "configs",
    "n-samples",
    "higher_is_better",
    "groups",
    "versions",
    "n-shot",
    "config",
    "group_subtasks",
)
_PER_TASK = ("results", "configs", "n-samples", "higher_is_better", "groups")


@dataclass(frozen=True)
class _Run:
    """One call of lm_eval: when, its results file, and what is in it."""

    date: str
    path: Path
    results: Mapping[str, Any]

    @property
    def model(self) -> str:
        name = self.results.get("model_name") or _model_args(self.results).get("pretrained")
        return str(name or self.results.get("config", {}).get("model", "?"))


# --------------------------------------------------------------------------- a folder


def is_results_file(path: Path) -> bool:
    """Is this the name of an aggregated results file of lm_eval?"""
    return _RESULTS.fullmatch(path.name) is not None


def read(
    path: Path, *, system: str, seed: int | None = None, wishes: Wishes | None = None, only: Sequence[str] = ()
) -> tuple[Scores, list[str]]:
    """The scores of a folder of lm_eval output, or of one results file, and what the user should know about them.

    Of several runs in one folder the newest of each task counts. `only` names tasks or groups.
    Raises: UserError when files are missing, damaged or of several models.
    """
    runs = _runs(path)
    newest: dict[str, _Run] = {}
    for run in runs:
        newest |= dict.fromkeys(_tasks(run), run)
    chosen = _chosen(newest, runs, only, path)
    notes = []
    used = list({run.path: run for run in newest.values() if run in (newest[task] for task in chosen)}.values())
    if len(runs) > 1:
        which = "; ".join(f"{', '.join(task for task in chosen if newest[task] is run)} of {run.date}" for run in used)
        notes.append(
            f"{path} holds {len(runs)} runs of lm_eval. The newest of each task is read: {which}. Name one results file to "
            "read that run alone."
        )
    parts = []
    for run in used:
        tasks = [task for task in chosen if newest[task] is run]
        samples = {task: _samples(run, task) for task in tasks}
        about = {"source": str(run.path)}
        parts.append(_scores(run.results, samples, system=system, seed=seed, wishes=wishes or Wishes(), about=about))
    scores = _merged(parts, path)
    (wishes or Wishes()).check(line_names(scores.specs))
    return scores, notes


def _runs(path: Path) -> list[_Run]:
    """The runs in a folder, oldest first; one when the path is a results file."""
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*.json") if is_results_file(p))
    runs = []
    for file in found:
        told = _json(file)
        named = _RESULTS.fullmatch(file.name)
        if isinstance(told, dict) and isinstance(told.get("results"), dict) and isinstance(told.get("configs"), dict):
            _check_sections(file, told)
            runs.append(_Run(named["date"] if named else "an unknown date", file, told))
    if not runs:
        left = len(list(path.rglob("samples_*.jsonl"))) if path.is_dir() else 0
        why = "there is no results_*.json in it"
        if left:
            why = f"its {left} samples files are of a run that was not finished, or results_*.json was not copied"
        raise UserError(f"{path} holds no finished run of lm_eval: {why}.")
    models = {run.model: run.path.parent for run in runs}
    if len(models) > 1:
        listed = "; ".join(f"{model} in {folder}" for model, folder in sorted(models.items()))
        raise UserError(
            f"{path} holds runs of {len(models)} models ({listed}). Give the folder, or the results file, of one."
        )
    return sorted(runs, key=lambda run: (run.date, str(run.path)))


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged: it is no JSON ({error}). Copy it again, or run lm_eval again.") from error


def _check_sections(file: Path, told: Mapping[str, Any]) -> None:
    """What lm_eval writes as an object must be one: a file that was changed by hand is refused by name."""
    odd = [key for key in _SECTIONS if not isinstance(told.get(key) or {}, dict)]
    for key in set(_PER_TASK) - set(odd):
        odd += [f"{key}.{task}" for task, value in (told.get(key) or {}).items() if not isinstance(value, dict)]
    if not odd:
        below = (told.get("group_subtasks") or {}).items()
        odd += [f"group_subtasks.{group}" for group, tasks in below if not isinstance(tasks, list)]
        given = (told.get("config") or {}).get("model_args")
        odd += ["config.model_args"] if not isinstance(given or {}, dict | str) else []
    if odd:
        raise UserError(f"{file} is damaged: {sorted(odd)[0]} is not what lm_eval writes there. Run lm_eval again.")


def _tasks(run: _Run) -> list[str]:
    """The tasks of a run, without its groups."""
    return [str(task) for task in run.results["configs"] if task in run.results["results"]]


def _chosen(newest: Mapping[str, _Run], runs: Sequence[_Run], only: Sequence[str], path: Path) -> list[str]:
    groups: dict[str, list[str]] = {}
    for run in runs:
        groups |= {group: _leaves(run.results, group) for group in run.results.get("group_subtasks") or {}}
    for name in only:
        if name not in newest and name not in groups:
            known = ", ".join([*sorted(newest), *sorted(groups)])
            raise UserError(f"--only {name}: {path} has no such task. It has: {known}.")
    wanted = {task for name in only for task in ([name] if name in newest else groups[name])}
    return sorted(task for task in newest if not only or task in wanted)


def _samples(run: _Run, task: str) -> list[Mapping[str, Any]]:
    file = run.path.parent / f"samples_{task}_{run.date}.jsonl"
    if not file.is_file():
        raise UserError(
            f"{run.path.parent} has no {file.name}: the scores of the single items of '{task}' were not kept. "
            "Run lm_eval again with --log_samples (and the same --output_path)."
        )
    rows: list[Mapping[str, Any]] = []
    for number, raw in enumerate(file.read_bytes().split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{file}, line {number} is no JSON: {error}. The file is damaged or was cut short; copy it again, or run "
                "lm_eval again."
            ) from error
        if not isinstance(row, dict):
            raise UserError(
                f"{file}, line {number} holds a {type(row).__name__} where a sample of lm_eval should stand."
            )
        rows.append(row)
    return rows


def _merged(parts: Sequence[Scores], path: Path) -> Scores:
    """Several runs of one model as one table; what is said of the run is said by the newest."""
    last = parts[-1]
    for key in ("dtype", "quantization", "model_args", "versions", "max_length"):
        seen = {json.dumps(part.about.get(key), sort_keys=True) for part in parts}
        if len(seen) > 1:
            raise UserError(
                f"{path}: its runs differ in {key} ({' and '.join(sorted(seen))}); they are no one measurement. "
                "Name one results file, or use --only for the tasks of one run."
            )
    about = dict(last.about)
    for key in ("n", "missing", "tasks", "harness_figures", "unparsed"):
        about[key] = {name: value for part in parts for name, value in part.about[key].items()}
    about["skipped"] = [entry for part in parts for entry in part.about["skipped"]]
    about["source"] = ", ".join(str(part.about["source"]) for part in parts)
    specs = tuple(spec for part in parts for spec in part.specs)
    return replace(last, specs=specs, rows=tuple(row for part in parts for row in part.rows), about=about)


# --------------------------------------------------------------------------- results and samples


def to_scores(
    results: Mapping[str, Any],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    system: str,
    seed: int | None = None,
    margins: Mapping[str, float] | None = None,
    about: Mapping[str, Any] | None = None,
    sides: Mapping[str, str] | None = None,
    better: Mapping[str, str] | None = None,
) -> Scores:
    """What `lm_eval.simple_evaluate(..., log_samples=True)` returned, as per-item scores: `results` is all of it, `samples` its
    "samples" (task -> list).

    One line per task, filter and metric with a score per item. `margins`, `sides` and `better` are said by task or by line
    ("arc_easy", "arc_easy/acc"); `about` is added to what is recorded of the run.
    Raises: UserError when samples are incomplete, doubled, or not those of the results.
    """
    wishes = Wishes(margins or {}, sides or {}, better or {})
    return _scores(results, samples, system=system, seed=seed, wishes=wishes, about=about or {})


def _scores(
    results: Mapping[str, Any],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    system: str,
    seed: int | None,
    wishes: Wishes,
    about: Mapping[str, Any],
) -> Scores:
    raws: list[Raw] = []
    skipped: list[Mapping[str, str]] = []
    for task, rows in samples.items():
        made, left = _task_lines(results, task, rows)
        raws += made
        skipped += left
    if not raws:
        tasks = ", ".join(samples) or "none"
        raise UserError(
            f"nothing here has a score per item (tasks: {tasks}). Runs with --predict_only score nothing; run lm_eval "
            "without it."
        )
    raws = _with_groups(results, raws)
    specs = specs_of(raws, wishes)
    told = _about(results, raws)
    told["skipped"] = skipped
    return Scores(
        system=system, specs=tuple(specs), rows=tuple(row for raw in raws for row in raw.rows), seed=seed,
        about={**told, **about},
    )  # fmt: skip


def _task_lines(
    results: Mapping[str, Any], task: str, samples: Sequence[Mapping[str, Any]]
) -> tuple[list[Raw], list[Mapping[str, str]]]:
    """The lines of one task, and the metrics that have no score per item, with the reason."""
    readings: dict[str, list[Mapping[str, Any]]] = {}
    for sample in samples:
        if not isinstance(sample.get("doc_hash"), str) or not isinstance(sample.get("doc_id"), int):
            raise UserError(
                f"'{task}': a sample carries no doc_hash or no doc_id, so that items cannot be paired: they are of an old lm_eval. "
                "Run it again with 0.4.5 or newer."
            )
        odd = misshapen(sample)
        if odd:
            raise UserError(
                f"'{task}': '{odd}' of sample {sample['doc_id']} is not what lm_eval writes there. The samples file is damaged, "
                "or was changed by hand; copy it again, or run lm_eval again."
            )
        readings.setdefault(str(sample.get("filter", "none")), []).append(sample)
    if not readings:
        raise UserError(f"'{task}' has no samples: the file is empty. Run lm_eval again with --log_samples.")
    raws: list[Raw] = []
    skipped: list[Mapping[str, str]] = []
    for name in _in_order(results, task, readings):
        mine = sorted(readings[name], key=lambda sample: (sample["doc_id"], str(sample["doc_hash"])))
        _check_complete(results, task, name, mine)
        request = _request(results, task, mine[0])
        rows = [row_of(sample, key, request) for sample, key in zip(mine, _identities(mine), strict=True)]
        base = Raw(task, "", (), request, name, settings=_settings(results, task, name))
        for metric in dict.fromkeys(metric for sample in mine for metric in _metrics(results, task, sample)):
            raw, why = _line(results, replace(base, metric=metric), mine, rows)
            if raw is not None:
                raws.append(raw)
            else:
                skipped.append({"name": replace(base, metric=metric).name, "reason": why})
        if request == "generate" and name != "none":
            lost = replace(base, metric="unparsed", better="lower")
            scores = [float(unread(sample)) for sample in mine]
            raws.append(
                replace(
                    lost, rows=tuple(_scored(lost.name, row, score) for row, score in zip(rows, scores, strict=True))
                )
            )
    return raws, skipped


def _in_order(results: Mapping[str, Any], task: str, names: Iterable[str]) -> list[str]:
    """The filters of a task as its configuration lists them: rows may stand in the file in any order."""
    listed = ((results.get("configs") or {}).get(task) or {}).get("filter_list") or []
    known = [str(entry.get("name")) for entry in listed if isinstance(entry, Mapping)]
    return sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))


def _scored(name: str, row: ScoreRow, score: float) -> ScoreRow:
    return replace(row, metric=name, score=score if math.isfinite(score) else NAN)


def _check_complete(results: Mapping[str, Any], task: str, name: str, mine: Sequence[Mapping[str, Any]]) -> None:
    numbers = [sample["doc_id"] for sample in mine]
    twice = len(numbers) - len(set(numbers))
    if twice:
        raise UserError(
            f"[duplicate-items] '{task}' (filter {name}): {twice} of {len(numbers)} samples were logged twice (by doc_id). "
            "The samples file was written to by two runs, or doubled by hand. Run lm_eval again into a new folder."
        )
    wanted = ((results.get("n-samples") or {}).get(task) or {}).get("effective")
    if isinstance(wanted, int) and len(numbers) < wanted:
        raise UserError(
            f"[different-items] '{task}' (filter {name}): {len(numbers)} samples were kept of {wanted} that were scored. "
            "The samples file was cut short; copy it again, or run lm_eval again."
        )


def _identities(mine: Sequence[Mapping[str, Any]]) -> list[str]:
    """An id per sample: the hash of its document, with a number behind it where the same document stands twice in the set."""
    seen: dict[str, int] = {}
    found = []
    for sample in mine:
        mark = str(sample["doc_hash"])[:16]
        seen[mark] = seen.get(mark, 0) + 1
        found.append(mark if seen[mark] == 1 else f"{mark}#{seen[mark]}")
    return found


def _metrics(results: Mapping[str, Any], task: str, sample: Mapping[str, Any]) -> list[str]:
    if isinstance(sample.get("metrics"), list | tuple):
        return [str(metric) for metric in sample["metrics"] if metric in sample and metric != "bypass"]
    named = (results.get("higher_is_better") or {}).get(task) or {}
    return [str(metric) for metric in named if metric in sample and metric != "bypass"]


def _line(
    results: Mapping[str, Any], raw: Raw, samples: Sequence[Mapping[str, Any]], asked: Sequence[ScoreRow]
) -> tuple[Raw | None, str]:
    """One metric's scores, or None and why it has none per item."""
    better = _better(results, raw)
    raw = replace(raw, better=better, unit=_unit(raw), note=_caveat(raw))
    if raw.unit == "nats per answer":  # which no tokenizer changes
        raw = replace(raw, settings={**raw.settings, "options": {"per": "answer"}})
    rows, chances, plain = [], [], []
    for sample, row in zip(samples, asked, strict=True):
        if raw.metric not in sample or not concerns(raw, sample):
            continue
        score = score_of(raw, sample)
        if score is None:
            shown = type(sample[raw.metric]).__name__
            return None, f"the harness computes it over all items at once; single items hold a {shown}"
        rows.append(_scored(raw.name, row, score))
        plain.append(as_number(sample[raw.metric]))
        if raw.metric in _GUESSED and raw.request == "choices" and len(texts_of(sample)) > 1:
            chances.append(1 / choices_of(sample))
    if not rows:
        return None, "it has a score for no item"
    _check_mean(results, raw, plain)
    return replace(raw, rows=tuple(rows), chances=tuple(chances)), ""


def _check_mean(results: Mapping[str, Any], raw: Raw, values: Sequence[float | None]) -> None:
    """Do these items give the figure that lm_eval printed? Only where it says that the figure is their mean."""
    printed = (results.get("results") or {}).get(raw.task, {}).get(f"{raw.metric},{raw.filter}")
    listed = (results.get("configs") or {}).get(raw.task, {}).get("metric_list") or []
    entry = next((e for e in listed if isinstance(e, Mapping) and e.get("metric") == raw.metric), {})
    numbers = [value for value in values if value is not None]
    if entry.get("aggregation") != "mean" or not isinstance(printed, Real) or len(numbers) < len(values):
        return
    mean, said = math.fsum(numbers) / len(numbers), float(printed)
    if math.isfinite(mean) and math.isfinite(said) and abs(mean - said) > 1e-6 * max(1.0, abs(mean)):
        raise UserError(
            f"[different-items] {raw.name}: the samples give {mean:.6g}, but the results file says {said:.6g}: "
            "they are of two runs, or one was changed. Run lm_eval again into a new folder."
        )


# --------------------------------------------------------------------------- a task


def _request(results: Mapping[str, Any], task: str, sample: Mapping[str, Any]) -> Request:
    kind = str(((results.get("configs") or {}).get(task) or {}).get("output_type"))
    if kind in _REQUESTS:
        return _REQUESTS[kind]
    asked = texts_of(sample)
    return "choices" if asked and len(asked[0]) > 1 else "generate"


def _better(results: Mapping[str, Any], raw: Raw) -> str:
    told = ((results.get("higher_is_better") or {}).get(raw.task) or {}).get(raw.metric)
    return "" if told is None else "higher" if told else "lower"


def _unit(raw: Raw) -> str:
    if raw.request == "text" and raw.metric in ROLLING:
        return ROLLING[raw.metric][0]
    if raw.metric == "brier_score":
        return "Brier score"
    return "nats per answer" if raw.metric == "perplexity" and raw.request == "choices" else ""


def _caveat(raw: Raw) -> str:
    if raw.request == "text" and raw.metric in ROLLING:
        return "Mean over documents; lm_eval weights them by their length, and prints its exponential where it says perplexity."
    if _unit(raw) == "nats per answer":
        return "Minus the log-likelihood of the answer; lm_eval prints exp of its mean."
    if raw.task.startswith("realtoxicityprompts"):
        return "A score of exactly 0 is counted as missing: the task writes it where its remote scorer failed."
    return ""


def _settings(results: Mapping[str, Any], task: str, name: str) -> dict[str, Any]:
    """Everything that must be the same on both sides, by the names that `find.alike` compares."""
    config = (results.get("configs") or {}).get(task) or {}
    run = results.get("config") or {}
    shots = (results.get("n-shot") or {}).get(task, config.get("num_fewshot"))
    told = {key: json.dumps(config[key], sort_keys=True, default=str) for key in _RULES if config.get(key) is not None}
    rules = {key: digest(re.sub(r" at 0x[0-9a-f]+", "", text)) for key, text in told.items()}
    return {
        "harness": "lm_eval", "task": task, "filter": name, "version": (results.get("versions") or {}).get(task),
        "num_fewshot": shots, "generation": config.get("generation_kwargs") or {}, "limit": run.get("limit"),
        "chat_template": results.get("chat_template_sha"), "system_instruction": results.get("system_instruction_sha"),
        "fewshot_seed": run.get("fewshot_seed") if shots else None, "rules": rules,
    }  # fmt: skip


# --------------------------------------------------------------------------- groups


def _leaves(results: Mapping[str, Any], group: str, above: tuple[str, ...] = ()) -> list[str]:
    """The tasks below a group, those of its groups too; a group inside of itself (`above`) is not followed."""
    below = results.get("group_subtasks") or {}
    found: list[str] = []
    for child in below.get(group, []):
        if child not in above:
            found += _leaves(results, child, (*above, group)) if child in below and child != group else [child]
    return list(dict.fromkeys(found))


def _with_groups(results: Mapping[str, Any], raws: Sequence[Raw]) -> list[Raw]:
    """The lines with one more per large group that lm_eval aggregates; its parts are marked, so that they are only watched."""
    scored = [str(group) for group in results.get("groups") or {}]
    inner = {child for group in scored for child in _below(results, group)}
    made: list[Raw] = []
    parts: set[str] = set()
    for group in scored:
        tasks = _leaves(results, group)
        if group in inner or len(tasks) < MANY:
            continue
        for key in results["groups"][group]:
            metric, comma, name = str(key).partition(",")
            mine = [raw for raw in raws if raw.task in tasks and (raw.metric, raw.filter) == (metric, name)]
            if not comma or len(mine) < len(tasks):
                continue
            made.append(_group_line(results, group, mine))
            parts |= set(tasks)
    return [*made, *(replace(raw, part=raw.task in parts) for raw in raws)]


def _below(results: Mapping[str, Any], group: str, above: tuple[str, ...] = ()) -> list[str]:
    below = results.get("group_subtasks") or {}
    found = [str(child) for child in below.get(group, []) if child != group and child not in above]
    return found + [inner for child in found for inner in _below(results, child, (*above, group))]


def _group_line(results: Mapping[str, Any], group: str, mine: Sequence[Raw]) -> Raw:
    """All items of a group, clustered by task."""
    first = mine[0]
    raw = replace(first, task=group, note="Items of all tasks of the group, in clusters by task.")
    raw = replace(
        raw, better=_better(results, raw) or (first.better if len({part.better for part in mine}) == 1 else ""),
        rows=tuple(
            replace(row, metric=raw.name, item_id=f"{part.task}:{row.item_id}", cluster=part.task)
            for part in mine
            for row in part.rows
        ),
        chances=tuple(chance for part in mine for chance in part.chances),
        settings={"harness": "lm_eval", "task": group, "filter": first.filter, "subtasks": sorted(part.task for part in mine)},
    )  # fmt: skip
    printed = results["groups"][group].get(f"{first.metric},{first.filter}")
    scores = [row.score for row in raw.rows]
    if isinstance(printed, Real) and abs(math.fsum(scores) / len(scores) - float(printed)) > 1e-6:
        raw = replace(raw, note=f"{raw.note} lm_eval averages the tasks, this line the items.")
    return raw


# --------------------------------------------------------------------------- the run


def _model_args(results: Mapping[str, Any]) -> dict[str, Any]:
    """How the model was loaded, without anything that looks like a key."""
    given = (results.get("config") or {}).get("model_args") or {}
    if isinstance(given, str):
        given = dict(part.partition("=")[::2] for part in given.split(",") if part)
    return {str(key): value for key, value in given.items() if not _SECRET.search(str(key))}


def _about(results: Mapping[str, Any], raws: Sequence[Raw]) -> dict[str, Any]:
    """Who was measured and how, as `guards.pair_guards` compares it."""
    run, arguments = results.get("config") or {}, _model_args(results)
    dtype = str(run.get("model_dtype") or arguments.get("dtype") or "").removeprefix("torch.")
    torch = re.search(r"PyTorch version: (\S+)", str(results.get("pretty_env_info", "")))
    versions = {key: results.get(f"{key}_version") for key in ("lm_eval", "transformers")} | {
        "torch": torch and torch[1]
    }
    quantized = {key: value for key, value in arguments.items() if re.search(r"load_in|gptq|awq|gguf|quant|bnb", key)}
    marks = [run.get(key) for key in ("model_sha", "model_revision", "peft_sha", "delta_sha")]
    figures = {
        raw.name: value for raw in raws
        if (value := (results.get("results") or {}).get(raw.task, {}).get(f"{raw.metric},{raw.filter}")) is not None
    }  # fmt: skip
    missing = {}
    for raw in raws:
        lost = sum(math.isnan(row.score) for row in raw.rows)
        if lost:
            missing[raw.name] = {"n": lost, "of": len(raw.rows), "reason": "the harness gave no number"}
    tokens = {key: (results.get(f"tokenizer_{key}_token") or [None])[0] for key in ("bos", "eos", "pad")}
    return {
        "harness": "lm_eval", "model": str(results.get("model_name") or arguments.get("pretrained") or run.get("model", "?")),
        "model_args": arguments, "dtype": "" if dtype == "auto" else dtype,
        "quantization": ", ".join(f"{key}={value}" for key, value in sorted(quantized.items())) or "none",
        "device": str(run.get("device") or "").partition(":")[0],
        "fingerprint": f"hub-{digest([marks, arguments])}" if run.get("model_sha") else "",
        "tokenizer": ", ".join(f"{key} {token}" for key, token in tokens.items() if token), "max_length": results.get("max_length"),
        "versions": {key: str(value) for key, value in versions.items() if value}, "git_hash": results.get("git_hash"),
        "seeds": {key: run.get(key) for key in ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")},
        "batch_size": str(run.get("batch_size")), "date": results.get("date"),
        "tasks": {
            raw.task: {key: raw.settings.get(key) for key in ("version", "num_fewshot", "limit")}
            for raw in raws if "subtasks" not in raw.settings
        },
        "n": {raw.name: len(raw.rows) for raw in raws}, "missing": missing, "harness_figures": figures, "unparsed": unparsed_in(raws),
        **({"chat_template": results["chat_template_sha"] or ""} if "chat_template_sha" in results else {}),
    }  # fmt: skip
