"""An engine and a suite in, one score per item out: every system gets the same items, the same prompts, the same budget.

Answers are asked for once per group (request, data, budget), whatever the number of metrics that read them, and kept under a
key of everything that decides them: a measurement that was killed goes on behind the last finished group.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from untax import files, methods, models, selfcheck
from untax.engines.local import Local
from untax.marks import digest
from untax.suites.read import Line, LmEval, Suite, asked, load_suite, suite_names, with_scorer_identities
from untax.types import NAN, Answer, Ask, Engine, Item, RecipeError, Request, ScoreRow, Scores, UserError

__all__ = ["Line", "Suite", "load_suite", "measure", "measure_engine", "measure_pair", "suite_names"]

#: requests whose answers depend on the base too
AGAINST_BASE = ("drift", "shift")
#: fields of an answer that JSON gives back as lists
TUPLES = ("logprobs", "choice_tokens", "texts")


def measure(
    model: Any,
    tokenizer: Any,
    suite: Suite,
    *,
    system: str,
    seed: int | None = None,
    base: Any | None = None,
    base_tokenizer: Any | None = None,
    cache_dir: str | Path | None = None,
    batch_size: int = 64,
    wrapped: Mapping[str, Any] | None = None,
    check: bool = True,
    progress: bool = True,
) -> Scores:
    """Ask a loaded model everything that a suite asks, and score every answer.

    `base` is what drift is measured from; without it, an adapter is switched off for the purpose. To measure the base itself,
    give it as `base` too: its drift is 0. Where there is neither, drift is NaN and `about["missing"]` says why.
    `wrapped` says what lies round the model beside its weights, where something does: it is part of what decides the answers.
    `cache_dir` keeps finished groups of answers. `check` asks a few items in a batch, alone and in parts (selfcheck.py).
    Raises: UserError when no item fits into the model's context, or the model's numbers are not finite.
    """
    if batch_size < 1:
        raise RecipeError(f"batch_size is {batch_size}; it must be at least 1.")
    engine = Local(model, tokenizer, base=base, base_tokenizer=base_tokenizer, batch_size=batch_size, wrapped=wrapped)
    scores = measure_engine(engine, suite, system=system, seed=seed, cache_dir=cache_dir, progress=progress)
    checked = _selfcheck(engine, suite, cache_dir) if check else {}
    scores = replace(scores, about={**scores.about, "batch_size": batch_size, **checked})
    if suite.lm_eval is None:
        return scores
    return _with_tasks(scores, model, tokenizer, suite.lm_eval, cache_dir, batch_size, progress, wrapped)


def _with_tasks(
    scores: Scores,
    model: Any,
    tokenizer: Any,
    section: LmEval,
    cache_dir: Any,
    batch_size: int,
    progress: bool,
    wrapped: Mapping[str, Any] | None,
) -> Scores:
    """The scores with those of lm-eval's tasks behind them, asked of the same loaded model."""
    from untax.engines import harness
    from untax.readers import lm_eval as reader

    results, samples = harness.evaluate(
        model, tokenizer, section.tasks, num_fewshot=section.num_fewshot, limit=section.limit,
        include_path=section.include_path, batch_size=batch_size, cache_dir=cache_dir, wrapped=wrapped, progress=progress,
    )  # fmt: skip
    more = reader.to_scores(
        results, samples, system=scores.system, seed=scores.seed, margins=section.margins, sides=section.sides
    )
    about = {**scores.about, "lm_eval": {k: v for k, v in more.about.items() if k not in scores.about}}
    return replace(scores, specs=(*scores.specs, *more.specs), rows=(*scores.rows, *more.rows), about=about)


def measure_engine(
    engine: Engine,
    suite: Suite,
    *,
    system: str,
    seed: int | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> Scores:
    """Ask whatever can be asked (a loaded model, an address) everything that a suite asks, and score every answer.

    What the engine cannot answer is NaN, and `about["missing"]` says why.
    Raises: UserError when no item of a line fits into the model's context, or the engine fails.
    """
    suite = with_scorer_identities(suite)
    who = engine.about()
    context = f" of {who['context']} tokens" if who.get("context") else ""
    taken = max(map(len, (who.get("wrapped") or {}).get("prefixes", ())), default=0)
    if context and taken:
        context += f" (the decoding method's longest prefix takes {taken} of {who['context'] + taken})"
    answers: dict[str, dict[Ask, Answer | None]] = {}
    reasons: dict[str, str] = {}
    for group, lines in _groups(suite).items():
        line = lines[0]
        items = list({asked(item): item for each in lines for item in each.items}.values())
        refusal = engine.cannot(line.spec.request)
        if refusal:
            answers[group] = dict.fromkeys(map(asked, items))
            reasons[group] = refusal
            continue
        fit = [item for item in items if engine.fits(asked(item), line.budget, line.spec.request)]
        if not fit:
            raise UserError(
                f"'{line.spec.name}': no item fits into the model's context{context} with {line.budget.max_new_tokens} new "
                "ones. Use shorter prompts or a smaller max_new_tokens."
            )
        asks = [asked(item) for item in fit]
        found = _answers(engine, who, line, asks, system, cache_dir, progress)
        answers[group] = {**{asked(item): None for item in items}, **dict(zip(asks, found, strict=True))}
        told = []
        if len(fit) < len(items):
            told.append(f"{len(items) - len(fit)} prompts do not fit into the context{context}")
        if any(answer is None for answer in found):
            told.append(f"{sum(answer is None for answer in found)} questions got no answer")
        if told:
            reasons[group] = "; ".join(told)
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
    skipped = [dict(entry) for entry in suite.skipped]
    if suite.lm_eval is not None and not isinstance(engine, Local):
        skipped.append({"name": "lm_eval", "reason": "lm-eval's tasks need the model itself, not an address"})
    silent = {line.spec.name: _silent(line, answers[line.group]) for line in suite.lines if line.budget.samples > 1}
    about = {
        "model": engine.name,
        **who,
        "suite": suite.name,
        "decoding": _decoding(suite),
        "n": {line.spec.name: len(line.items) for line in suite.lines},
        "missing": missing,
        "skipped": skipped,
        **({"silent": silent} if silent else {}),
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
    check: bool = True,
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
            check=check, progress=progress,
        )  # fmt: skip
    after = measure(
        model,
        tokenizer,
        suite,
        system=system,
        seed=seed,
        base=base,
        base_tokenizer=base_tokenizer,
        cache_dir=cache_dir,
        batch_size=batch_size,
        check=check,
        progress=progress,
    )
    return before, after


# --------------------------------------------------------------------------- asking


def _selfcheck(engine: Local, suite: Suite, cache_dir: str | Path | None) -> dict[str, Any]:
    """Whether a batch is as good as one at a time, asked with a few of the suite's own items."""
    who = engine.about()
    asks: dict[Request, list[Ask]] = {}
    for line in suite.lines:
        fit = [asked(item) for item in line.items if engine.fits(asked(item), line.budget, line.spec.request)]
        asks.setdefault(line.spec.request, []).extend(fit)
    # a batch of one cannot differ from one alone: what was found there says nothing of larger ones
    key = {**who, "selfcheck": digest(sorted(asks.items())), "by": selfcheck.CODE, "batch_size": engine.batch_size}
    path = None if cache_dir is None else Path(cache_dir) / f"{digest(key)}.selfcheck.json"
    if path is not None and path.is_file():
        try:
            return {"selfcheck": list(json.loads(path.read_bytes()))}
        except ValueError:  # a damaged file costs a few questions, asked again
            pass
    found = selfcheck.check(engine, asks, dtype=str(who["dtype"]))
    if path is not None:
        files.write(path, json.dumps(found))
    return {"selfcheck": found}


def _groups(suite: Suite) -> dict[str, list[Line]]:
    groups: dict[str, list[Line]] = {}
    for line in suite.lines:
        groups.setdefault(line.group, []).append(line)
    return groups


def _decoding(suite: Suite) -> str:
    """How the suite's continuations were decoded; the greedy ones first."""
    used = {line.budget.decoding for line in suite.lines if line.spec.request in ("generate", "shift")}
    return "; ".join(sorted(used, key=lambda words: (words != "greedy", words))) or "greedy"


def _answers(
    engine: Engine,
    who: Mapping[str, Any],
    line: Line,
    asks: Sequence[Ask],
    system: str,
    cache_dir: str | Path | None,
    progress: bool,
) -> list[Answer | None]:
    """The answers of one group, from the cache when all that decides them is the same."""
    request = line.spec.request
    key = {
        **{name: value for name, value in who.items() if name != "base" or request in AGAINST_BASE},
        "request": request,
        "asks": digest(asks),
        "budget": asdict(line.budget),
    }
    key = json.loads(json.dumps(key, default=str))  # as the file gives it back
    path = None if cache_dir is None else Path(cache_dir) / f"{digest(key)}.json"
    if path is not None:
        kept = _read_cache(path, key, len(asks))
        if kept is not None:
            return kept
    total = sum(len(ask[1]) for ask in asks) or len(asks)
    with tqdm(total=total, desc=f"{system}: {line.spec.name}", unit="row", leave=False, disable=not progress) as bar:
        try:
            found = engine.answers(request, asks, line.budget, tick=bar.update)
        except UserError as error:
            raise UserError(f"'{line.spec.name}': {error}") from error
    if path is not None and None not in found:  # what got no answer is asked again the next time
        files.write(path, json.dumps({"key": key, "answers": [asdict(a) for a in found if a is not None]}))
    return found


def _rows(line: Line, answers: Mapping[Ask, Answer | None]) -> list[ScoreRow]:
    """One row per item; an item without an answer has the score NaN and is not shown to the metric."""
    metric = methods.find("metrics", line.spec.metric)
    given = [(item, answer) for item in line.items if (answer := answers[asked(item)]) is not None]
    scored = metric([item for item, _ in given], [answer for _, answer in given], **line.options) if given else []
    if len(scored) != len(given):
        raise UserError(f"the metric '{line.spec.metric}' gave {len(scored)} scores for {len(given)} answers.")
    scores = {item.id: _finite(score) for (item, _), score in zip(given, scored, strict=True)}
    odd = next(
        (score for score in scores.values() if line.spec.binary and score not in (0.0, 1.0) and score == score), None
    )
    if odd is not None:
        raise UserError(
            f"'{line.spec.name}' is 'binary: true' in the suite, but '{line.spec.metric}' gave a score of {odd:g}, which is "
            "neither 0 nor 1. Leave 'binary' out."
        )
    return [_row(line, item, answers[asked(item)] or Answer(), scores.get(item.id, NAN)) for item in line.items]


def _silent(line: Line, answers: Mapping[Ask, Answer | None]) -> dict[str, int]:
    """Samples without a word, and samples: a row shows one that says something, where there is one."""
    texts = [text for item in line.items if (answer := answers[asked(item)]) is not None for text in answer.texts]
    return {"n": sum(not text.strip() for text in texts), "of": len(texts)}


def _finite(score: float) -> float:
    """A score that is infinite could not be computed: NaN, which is counted."""
    return float(score) if math.isfinite(score) else NAN


def _row(line: Line, item: Item, answer: Answer, score: float) -> ScoreRow:
    # of several samples the row shows the first that says something
    said = next((text for text in (answer.text, *answer.texts) if text.strip()), answer.text)
    if item.choices and len(answer.logprobs) == len(item.choices):
        sizes = _sizes(line, item, answer)
        said = item.choices[max(range(len(item.choices)), key=lambda i: answer.logprobs[i] / sizes[i])]
    return ScoreRow(
        metric=line.spec.name,
        item_id=item.id,
        prompt_hash=digest([line.spec.request, asdict(line.budget), asked(item)]),
        cluster=item.cluster,
        score=score,
        prompt=item.prompt or item.text or " / ".join(item.choices),
        answer=said,
        n_tokens=answer.n_tokens,
        truncated=answer.truncated,
    )


def _sizes(line: Line, item: Item, answer: Answer) -> Sequence[int]:
    """What the line's metric divides a choice's log-probability by, so that the row shows the choice that was scored as likeliest."""
    options = line.options
    per_token = options.get("per_token", line.spec.metric == "stereoset")
    if per_token or options.get("normalise") == "token" or options.get("form") == "continuation":
        return [max(1, size) for size in answer.choice_tokens]
    if options.get("normalise") == "character":
        return [max(1, len(choice)) for choice in item.choices]
    return [1] * len(item.choices)


# --------------------------------------------------------------------------- the cache


def _read_cache(path: Path, key: Mapping[str, Any], n: int) -> list[Answer | None] | None:
    """The kept answers, or None when there are none that answer exactly this."""
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_bytes())
        if told["key"] != key or len(told["answers"]) != n:
            return None
        return [Answer(**answer | {name: tuple(answer[name]) for name in TUPLES}) for answer in told["answers"]]
    except (ValueError, KeyError, TypeError):  # a damaged file costs one group, asked again
        return None
