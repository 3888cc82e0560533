"""Carries a recipe out: lab, augmentation, training, measuring, receipt. Every step finds its own finished work again.

A run folder holds recipe.resolved.yaml, environment.json, log.jsonl, data/ (augmented records and their table), models/,
scores/ (one score per item), receipt.json, receipt.md and receipt.html. Killed anywhere, the same command goes on where it
stood and ends with the same receipt.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from untax import files, making, methods, tables
from untax import receipt as receipts
from untax import recipe as recipes
from untax.diagnostics import scored
from untax.making import LAB_BASE, data_dir
from untax.marks import versions
from untax.recipe import FrontSection, Recipe, System
from untax.report import examples, page
from untax.types import GateFailed, RecipeError, Scores, UserError

__all__ = [
    "LAB_BASE",
    "Outcome",
    "data_dir",
    "environment",
    "outcome_of",
    "quiet_libraries",
    "receipt_of_folders",
    "run",
    "table",
]

LIBRARIES = (
    "untax",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "numpy",
    "scipy",
    "scikit-learn",
)


#: systems whose curves and examples stand on the page; more would make it too heavy to open
MOST_SHOWN = 12

#: prompts on which a method that acts while decoding must be seen to act
TRIED = 32

#: a step of fewer seconds did no work: it found what an earlier try had finished
FOUND_AGAIN = 1.0


@dataclass(frozen=True)
class Outcome:
    """What a run left behind: its folder, the page, one verdict sentence per system, the table, and what a gate stops at.

    `paid` are the abilities of the first system that were certainly paid beyond their margin; `withheld` those whose verdict a guard
    withheld, because answers or scores are broken or the comparison is none. An ability that the base does not have is in neither.
    Of a sweep `front` is the page that compares its systems, and table and sentence are of that.
    """

    folder: Path
    page: Path
    verdicts: Mapping[str, str]
    paid: tuple[str, ...]
    withheld: tuple[str, ...]
    table: str
    front: Path | None = None

    def gate(self) -> None:
        """Raise GateFailed when an ability was lost, or nobody can say because a guard withheld the verdict."""
        if self.paid:
            raise GateFailed(f"paid beyond the margin: {', '.join(self.paid)}")
        if self.withheld:
            raise GateFailed(
                f"no verdict on {', '.join(self.withheld)}: a guard withheld it, and the receipt says which and what to do"
            )


class _Journal:
    """Prints a numbered line per step, with what is left, and appends it to log.jsonl with the seconds it took."""

    def __init__(self, path: Path, steps: int) -> None:
        self.path, self.steps, self.number = path, steps, 0
        self.start = self.last = time.monotonic()
        self.taken: dict[str, list[float]] = {}
        self.kind = ""

    def step(self, text: str) -> None:
        now = time.monotonic()
        if now - self.last > FOUND_AGAIN:
            self.taken.setdefault(self.kind, []).append(now - self.last)
        self.last, self.kind = now, text.rpartition(": ")[2]
        self.number += 1
        seconds = now - self.start
        left = self._left()
        told = f"{_time(seconds)} so far" + (f", about {_time(left)} left" if left else "")
        print(f"[{self.number}/{self.steps}] {text}  ({told})", file=sys.stderr, flush=True)
        entry = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "step": text,
            "elapsed_s": round(seconds, 1),
        }
        with self.path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")

    def _left(self) -> float:
        """Seconds, from the steps that did work so far; 0 while nobody can say."""
        known = [self.taken.get(kind, []) for kind in ("train", "measure")]
        if not all(known):
            return 0.0
        pairs = (self.steps - self.number) / 2
        return pairs * sum(sum(times) / len(times) for times in known)

    def say(self, text: str) -> None:
        print(f"      {text}", file=sys.stderr, flush=True)


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def run(recipe: Recipe, out: Path, *, command: str = "", progress: bool = True) -> Outcome:
    """Do everything a recipe says and write the receipt into `out`; finished steps of an earlier try are not repeated.

    Raises: UserError when something the user gave cannot be used; RecipeError when `out` holds another recipe's run.
    """
    _check_places(recipe)
    _claim(recipe, out)
    if not recipe.allow_network:
        os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    all_systems = recipes.systems(recipe)
    journal = _Journal(out / "log.jsonl", steps=4 + 2 * len(_works(all_systems, recipe.seeds)))
    files.write_json(out / "environment.json", environment(command))

    from untax import measure

    directory = data_dir(recipe.data.dir, out)
    quiet_libraries()
    suite = measure.load_suite(recipe.measure.suite, data_dir=directory, max_items=recipe.measure.max_items)
    base_path = making.base_path_of(recipe)
    building = making.building_scorers(recipe, all_systems, directory, out)
    _check_all(recipe, all_systems, suite, base_path, building)

    journal.step("data: read, augment, check")
    references = making.ReferenceRows(recipe, out, directory, base_path, progress)
    prepared = making.Records(recipe, out, base_path, journal.say, progress, references)
    records = {system.name: prepared.of(system.data) for system in all_systems}

    seen = {
        s.name: making.trained_on(making.lineage(s, all_systems), records, references, suite, building)
        for s in all_systems
    }

    journal.step("references: read and tokenise")
    base, tokenizer = making.load(recipe, base_path)
    maker = making.Making(recipe, all_systems, records, references, out, base_path, progress)
    maker.check(tokenizer, base)
    journal.step("base: measure")
    base_scores = measure.measure(
        base, tokenizer, suite, system="base", base=base, cache_dir=out / "scores" / "base" / "cache",
        batch_size=recipe.measure.batch_size, progress=progress,
    )  # fmt: skip
    tables.write(base_scores, out / "scores" / "base")
    if all(
        s.train is not None and s.train.lora is not None and s.train.start is None and not s.edits for s in all_systems
    ):
        base = None  # an adapter that is switched off is the base: one load serves both

    measured, curves = _measured(recipe, all_systems, maker, suite, (base, tokenizer), seen, journal, out, progress)

    journal.step("receipt")
    swept = _fronted(recipe, all_systems)
    made = _receipts(
        base_scores,
        measured,
        seed=0,
        resamples=recipe.report.resamples,
        margins=recipe.measure.margins,
        controls=not swept,
    )
    shown = _shown(all_systems)
    path = page.write(
        made,
        out,
        title=recipe.report.title or recipe.about or recipe.name,
        curves={f"{name}-seed{seed}": curves[f"{name}-seed{seed}"] for name in shown for seed in recipe.seeds},
        # embedded data are clean by construction; elsewhere prompts of safety metrics are blurred too
        examples=[
            example
            for name in shown
            for example in examples.collect(
                base_scores, measured[name], prompts_are_safe=recipe.data.dir in making.EMBEDDED
            )
        ],
        forgotten={name: scored.of_scores(base_scores, measured[name]) for name in shown},
        environment=environment(command),
        command=command,
    )
    outcome = outcome_of(out, path, made)
    return _with_front(outcome, recipe) if swept else outcome


def _fronted(recipe: Recipe, all_systems: Sequence[System]) -> bool:
    """Whether the systems are compared on one page: a sweep, or what the recipe names a front for."""
    named = recipe.report.front != FrontSection()
    return len(all_systems) > 1 and (named or any(system.strength for system in all_systems))


def _shown(all_systems: Sequence[System]) -> list[str]:
    """The systems that the page shows in detail: all of a few, of a sweep the first of each family."""
    if len(all_systems) <= MOST_SHOWN:
        return [system.name for system in all_systems]
    first = {system.family: system.name for system in reversed(all_systems)}
    return [system.name for system in all_systems if system.name in first.values()][:MOST_SHOWN]


def _works(all_systems: Sequence[System], seeds: Sequence[int]) -> list[tuple[int, System]]:
    """What has to be made and measured, in order: every system with every seed, and once what no seed can change."""
    return [(seed, system) for seed in seeds for system in all_systems if system.train is not None or seed == seeds[0]]


def _measured(
    recipe: Recipe,
    all_systems: Sequence[System],
    maker: making.Making,
    suite: Any,
    base: tuple[Any, Any],
    seen: Mapping[str, Mapping[str, Any]],
    journal: _Journal,
    out: Path,
    progress: bool,
) -> tuple[dict[str, list[Scores]], dict[str, Sequence[Mapping[str, float]]]]:
    """Every system made and measured with every seed, and what was logged while it was trained; `seen` is about its data."""
    from untax import measure

    measured: dict[str, list[Scores]] = {system.name: [] for system in all_systems}
    curves: dict[str, Sequence[Mapping[str, float]]] = {}
    prompts = _some_prompts(suite)
    for seed, system in _works(all_systems, recipe.seeds):
        name = f"{system.name}-seed{seed}"
        journal.step(f"{name}: {'make' if system.train is None else 'train'}")
        made = maker.make(system, seed)
        curves[name] = made.log
        foretold = maker.predicted(system, made)
        journal.step(f"{name}: measure")
        with maker.opened(system, made, prompts, seed) as (tuned, wrapped, told):
            scores = measure.measure(
                tuned, base[1], suite, system=system.name, seed=seed, base=None if made.adapter else base[0],
                cache_dir=out / "scores" / name / "cache", batch_size=recipe.measure.batch_size, wrapped=wrapped,
                progress=progress,
            )  # fmt: skip
        if foretold is not None:
            told["predicted"] = foretold
        about = {**scores.about, **seen[system.name], **told, "family": system.family, "strength": system.strength}
        scores = replace(scores, about=about)
        # what no seed changes stands beside every seed of the others
        for same in [seed] if system.train is not None else recipe.seeds:
            measured[system.name].append(replace(scores, seed=same))
            tables.write(measured[system.name][-1], out / "scores" / f"{system.name}-seed{same}")
            curves.setdefault(f"{system.name}-seed{same}", made.log)
    return measured, curves


def _some_prompts(suite: Any) -> list[str]:
    """A few of the suite's own prompts (or texts, where it asks none): what a method that acts while decoding is tried on."""
    items = [item for line in suite.lines for item in line.items]
    found = dict.fromkeys(item.prompt for item in items if item.prompt) or dict.fromkeys(
        text for item in items for text in (item.text, *item.choices) if text
    )
    every = list(found)
    return every[:: max(1, len(every) // TRIED)][:TRIED]


def _with_front(outcome: Outcome, recipe: Recipe) -> Outcome:
    """A sweep is read from its front; the receipt of every system stands beside it."""
    from untax import frontier
    from untax.report import frontier as front_page

    wanted = recipe.report.front
    try:
        made = frontier.compare(
            [outcome.folder], safety=wanted.safety, ability=wanted.ability, at=wanted.at, reference=wanted.reference,
            resamples=wanted.resamples,
        )  # fmt: skip
    except UserError as error:
        print(f"no comparison: every system is measured, and cannot be compared: {error}", file=sys.stderr)
        return outcome
    written = front_page.write(made, outcome.folder)
    return replace(outcome, table=front_page.table_of(made), verdicts={"compared": made.sentence}, front=written)


def quiet_libraries() -> None:
    """Our own bars say what is going on; the libraries' per-shard bars would only break them up."""
    import transformers

    transformers.utils.logging.disable_progress_bar()


def environment(command: str = "") -> dict[str, Any]:
    """Versions and machine, for the reader who wants the same numbers again."""
    return {
        "command": command,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "versions": versions(LIBRARIES),
    }


def _claim(recipe: Recipe, out: Path) -> None:
    """Make the folder ours, or find out that it is: the resolved recipe decides."""
    resolved = recipes.to_yaml(recipe)
    marker = out / "recipe.resolved.yaml"
    if marker.is_file():
        if marker.read_bytes() == resolved.encode():
            return
        if any(
            any(out.glob(made)) for made in ("data/augmented*.jsonl", "data/self_replay*.jsonl", "models/*", "scores/*")
        ):
            raise RecipeError(
                f"{out} holds the run of another recipe (or of this one before it was changed). "
                "Give another folder with --out, or remove that one."
            )
        # a recipe that was refused before any work leaves nothing to protect
        files.write(marker, resolved)
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecipeError(
            f"{out} exists and is no run folder; nothing in it was touched. Give another folder with --out."
        )
    out.mkdir(parents=True, exist_ok=True)
    files.write(marker, resolved)


def _check_places(recipe: Recipe) -> None:
    """Refuse a recipe whose places of model and data nobody has filled in."""
    wanted = {"model.base": (recipe.model.base, "MODEL_DIRECTORY"), "data.dir": (recipe.data.dir, "DATA_DIRECTORY")}
    unset = [key for key, (value, placeholder) in wanted.items() if value == placeholder]
    if unset:
        told = " ".join(f"{key}=path/to/{key.partition('.')[0]}" for key in unset)
        raise RecipeError(f"this recipe leaves {' and '.join(unset)} to you: add {told} to the command.")


def _check_all(
    recipe: Recipe, all_systems: Sequence[System], suite: Any, base_path: str, building: Mapping[str, Any]
) -> None:
    """Everything that can be refused before work begins."""
    from untax import models

    _check_margins(recipe.measure.margins, [line.spec.name for line in suite.lines])
    _check_prompts(all_systems, suite)
    _check_training(all_systems)
    _check_front(recipe, all_systems, suite)
    models.check(
        base_path, adapter=recipe.model.adapter, device=recipe.model.device, allow_network=recipe.allow_network
    )
    for scorer in building.values():
        _check_apart(recipe, suite, scorer)


def _check_training(all_systems: Sequence[System]) -> None:
    """Refuse what training would refuse, before the data are made."""
    from untax.edits import run as editing
    from untax.references import References
    from untax.train import loop

    for system in all_systems:
        try:
            if system.train is not None:
                loop.check_objective(system.train.objective.name, system.train.objective.options)
                loop.check_arguments(system.train.arguments, system.train.lora)
            for where, plug in system.plugs:
                if not where.startswith("edits"):  # its rows are read later
                    folder = where.removeprefix("train.").partition("[")[0]
                    loop.check_plugged(folder, loop.Plugged(plug.name, plug.options, {"": References("", ())}))
            editing.check([{"name": edit.name, **edit.options} for edit in system.edits])
        except RecipeError as error:
            main = system.family == all_systems[0].family
            raise RecipeError(f"{'train' if main else f'controls.{system.family}'}: {error}") from error


def _check_front(recipe: Recipe, all_systems: Sequence[System], suite: Any) -> None:
    """A line or a family that does not exist would be found after the last training."""
    from untax import frontier

    wanted = recipe.report.front
    if suite.lm_eval is not None or not _fronted(recipe, all_systems):
        return
    try:
        frontier.check(
            [line.spec for line in suite.lines], list(dict.fromkeys(system.family for system in all_systems)),
            safety=wanted.safety, ability=wanted.ability, at=wanted.at, reference=wanted.reference,
        )  # fmt: skip
    except RecipeError as error:
        raise RecipeError(f"report.front (the options of `untax compare`): {error}") from error


def _check_margins(margins: Mapping[str, float], known: Sequence[str]) -> None:
    for name in margins:
        if name not in known:
            raise RecipeError(
                f"measure.margins: the suite has no metric '{name}'.{methods.did_you_mean(name, known)} "
                f"It has: {', '.join(known)}."
            )


def _check_prompts(all_systems: Sequence[System], suite: Any) -> None:
    """A system must be asked as it was trained: a suite's prompt around a source is that of its data, where they have sources."""
    trained = {s.name: s.data.prompt for s in all_systems if s.train is not None and s.data.kind != "text"}
    for line in suite.lines:
        prompt = str(line.spec.settings.get("prompt", ""))
        for name, own in trained.items():
            if "{source}" in prompt and prompt != own:
                raise RecipeError(
                    f"data.prompt is {own!r} for '{name}', but the suite asks '{line.spec.name}' with {prompt!r}: "
                    "the model would be trained on one prompt and measured on another. Make them equal."
                )


def _check_apart(recipe: Recipe, suite: Any, building: Any) -> None:
    """The scorer that builds data must not judge the result, unless the recipe insists."""
    from untax import scorers

    for spec in sorted(set(suite.scorers.values())):
        scorers.refuse_same(building, scorers.load(spec), force=recipe.measure.allow_same_scorer)


def _receipts(
    base: Scores,
    measured: Mapping[str, Sequence[Scores]],
    *,
    seed: int,
    resamples: int,
    margins: Mapping[str, float],
    controls: bool,
) -> list[receipts.Receipt]:
    """Every system against the base, then (with `controls`) the main system against each control, seed against the same seed.

    p values are adjusted over all systems that stand beside one base: who tunes many and shows the best has compared more often.
    """
    names = list(measured)
    # copies of what no seed changes are no further evidence
    sides: list[tuple[Scores | Sequence[Scores], Sequence[Scores]]] = [
        (base, scored.once(measured[name])) for name in names
    ]
    sides += [(measured[name], measured[names[0]]) for name in names[1:] if controls]
    made = [receipts.make(*side, seed=seed, resamples=resamples, margins=margins) for side in sides]
    return receipts.adjust_across(made)


#: guards that say of an ability that the base does not have it: nothing can be lost, nothing is broken
NOTHING_TO_LOSE = ("chance", "floor")


def outcome_of(folder: Path, page_path: Path, made: Sequence[receipts.Receipt]) -> Outcome:
    """What the command line prints of these receipts, and what its gate stops at: the first system against the base."""
    first = [receipt for receipt in made if receipt.against_base]
    return Outcome(
        folder=folder,
        page=page_path,
        verdicts={receipt.tuned_system: receipt.verdict for receipt in first},
        paid=tuple(dict.fromkeys(name for receipt in first[:1] for name in receipt.paid_beyond)),
        withheld=tuple(dict.fromkeys(name for receipt in first[:1] for name in _withheld(receipt))),
        table=table(made),
    )


def _withheld(receipt: receipts.Receipt) -> list[str]:
    if receipt.refused:
        return ["anything"]
    broken = {g.metric for g in receipt.guards if g.severity == "refuse" and g.name not in NOTHING_TO_LOSE}
    return [line.name for line in receipt.metrics if line.side == "ability" and line.name in broken]


def table(made: Sequence[receipts.Receipt]) -> str:
    """The ledger on a terminal: each metric's mean, and in brackets the 95 % interval of its difference from the base.

    Shares are in percent, their differences in points; what is only watched stands on the page.
    """
    columns = [receipt for receipt in made if receipt.against_base] or list(made)
    rows = [["metric", "side", columns[0].base_system, *(receipt.tuned_system for receipt in columns)]]
    for line in columns[0].metrics:
        if line.side == "watch":
            continue
        unit = receipts.unit_of(line)
        share = unit == "points"
        cells = [line.name if share or not unit else f"{line.name} ({unit})", line.side, _level(line, line.base)]
        for receipt in columns:
            mine = receipt.of(line.name)
            ends = [receipts.bare(mine, end, signed=True) for end in (mine.low, mine.high)]
            cells.append(f"{_level(mine, mine.tuned)} [{ends[0]}, {ends[1]}] {mine.verdict}")
        rows.append(cells)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _level(line: receipts.MetricResult, value: float) -> str:
    return receipts.bare(line, value) + (" %" if receipts.unit_of(line) == "points" else "")


def receipt_of_folders(
    base: Path,
    tuned: Sequence[Path],
    *,
    out: Path,
    margins: Mapping[str, float] | None = None,
    sides: Mapping[str, str] | None = None,
    better: Mapping[str, str] | None = None,
    only: Sequence[str] = (),
    allow_dtype_mismatch: bool = False,
    seed: int = 0,
    resamples: int = 10_000,
    command: str = "",
) -> Outcome:
    """Compare result folders that exist already (lm_eval, Inspect, untax) and write the receipt into `out`; no model is loaded.

    Several `tuned` folders are training seeds of one system.
    Raises: UserError when a folder cannot be read or the sides do not match; RecipeError for names that nothing has.
    """
    from untax.readers import find
    from untax.readers.lines import Wishes

    if out.exists() and not out.is_dir():
        raise RecipeError(f"{out} is a file; give the folder for the receipt with --out.")
    if (out / "recipe.resolved.yaml").exists():
        raise RecipeError(f"{out} holds a run, whose receipt would be overwritten. Give another folder with --out.")
    wishes = Wishes(margins or {}, sides or {}, better or {})
    before, after, notes = find.read_sides(base, tuned, wishes=wishes, only=only)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    made = receipts.make(before, after, seed=seed, resamples=resamples, allow_dtype_mismatch=allow_dtype_mismatch)
    for number, scores in enumerate((before, *after)):
        if "harness" in scores.about:  # tables of untax stay where they are
            name = "base" if number == 0 else "tuned" if len(after) == 1 else f"tuned-seed{scores.seed}"
            tables.write(scores, out / "scores" / name)
    files.write_json(out / "environment.json", environment(command))
    path = page.write(
        [made], out, title=f"{_called(after[0])} against {_called(before)}", examples=examples.collect(before, after),
        forgotten={after[0].system: scored.of_scores(before, after)}, environment=environment(command), command=command, notes=notes,
    )  # fmt: skip
    return outcome_of(out, path, [made])


def _called(scores: Scores) -> str:
    return Path(str(scores.about.get("model") or scores.system)).name


def augment_file(
    source: Path,
    out: Path,
    *,
    kinds: Sequence[str],
    scorer: str | None,
    lexicon: Path | None,
    finder: str,
    generators: Mapping[str, str],
    columns: Mapping[str, str],
    limit: int | None,
    on_error: Literal["raise", "skip"],
    seed: int,
    progress: bool,
    rows: str = "contrastive",
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Read records, make positives and negatives, write them as JSONL; returns the table of what was made and rejected."""
    from untax.data import convert
    from untax.data import load as loading
    from untax.data.augment import run as augmenting

    for kind in kinds:
        methods.get("data/augment", kind)
    if out.is_dir():
        raise RecipeError(f"{out} is a folder; give the file for the records with --out.")
    if out.exists() and source.exists() and out.samefile(source):
        raise RecipeError(f"{out} is the file that is read; give another file with --out.")
    if out.exists() and not out.with_name(out.name + ".report.json").exists():
        raise RecipeError(
            f"{out} exists and was not made by augmenting; nothing was touched. Give another file with --out."
        )
    loaded = loading.load(source, columns=dict(columns), on_error=on_error, limit=limit, kind=rows)
    records = convert.as_records(loaded.records, rows)
    building = (
        making.building_scorer(scorer, Path(), out.with_name(out.name + ".scorer.safetensors")) if scorer else None
    )
    report = augmenting.augment(
        records, out, kinds=list(kinds), seed=seed, scorer=building, finder=finder, lexicon=lexicon,
        generators=dict(generators), options=options, progress=progress,
    )  # fmt: skip
    return f"{loaded.summary()}\n{report}\nWrote {out}"


def examine() -> tuple[dict[str, str], list[str]]:
    """What is installed and what works here: facts to show, and problems that stop the main job."""
    import shutil

    facts: dict[str, str] = {"python": platform.python_version(), "platform": platform.platform()}
    problems = []
    installed = versions(LIBRARIES)
    for library in LIBRARIES:
        facts[library] = installed.get(library, "missing")
        if library not in installed:
            problems.append(f"{library} is not installed: pip install --constraint constraints.txt --editable .")
    for library, what in (("lm_eval", "benchmarks"), ("spacy", "spans by a tagger"), ("detoxify", "a toxicity scorer")):
        found = importlib.util.find_spec(library) is not None
        facts[library] = "installed" if found else f"not installed (optional: {what})"
    import torch

    facts["threads"] = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    facts["accelerator"] = (
        torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none (everything runs on the CPU)"
    )
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    facts["free disk here"] = f"{free:.1f} GiB"
    if free < 1:
        problems.append(
            "less than 1 GiB of disk is free: a run of the quickstart needs about 0.2 GiB, real models far more"
        )
    facts["lab base model"] = "present" if (LAB_BASE / "model.safetensors").is_file() else "missing"
    if facts["lab base model"] == "missing":
        problems.append(
            f"the embedded model is not at {LAB_BASE}: install untax again, or make it with `untax lab build --out {LAB_BASE}`"
        )
    return facts, problems
