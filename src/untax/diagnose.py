"""Diagnoses: what a training on safety data will cost before it is paid, and what one has cost, where and on what.

`before` reads gradients of one model; `after` measures two models by one suite and reads what was forgotten. Both write a page.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from untax import files, predictions, tables
from untax.compare import Loading, is_adapter, other_base, same_dtype
from untax.data.words import forms
from untax.diagnostics.common import Pair, Text
from untax.guards import in_points
from untax.making import LAB_BASE, Records, ReferenceRows, data_dir
from untax.predictions import Prediction
from untax.readers import runs
from untax.recipe import Recipe, System
from untax.report import diagnosis, prediction
from untax.run import environment, quiet_libraries
from untax.suites.read import Suite
from untax.types import Budget, MetricSpec, RecipeError, Scores, UserError

if TYPE_CHECKING:
    from untax.diagnostics.layers import Moved

__all__ = ["After", "Before", "after", "before", "read_rows", "rows_of", "tax_of"]

#: embedded data: the safety rows and the references that stand for each other in their recipes, learning rate and steps
EMBEDDED = {
    "lab": ("private_train.jsonl", "general_train.jsonl", 2.4e-4, 100),
    "english": ("bias_train.jsonl", "general_train.jsonl", 2e-5, 100),
}
LEARNING_RATE, STEPS, BATCH = 2e-5, 100, 8
#: prompts whose answers are read token by token, and tokens of each
MOST_PROMPTS, MOST_TOKENS = 120, 96


@dataclass(frozen=True)
class Before:
    """What `before` left behind: the prediction, the correlations that tell how far to trust it, its page and the text for a terminal."""

    prediction: Prediction
    page: Path
    text: str


@dataclass(frozen=True)
class After:
    """What `after` left behind: the diagnosis, its page and the text for a terminal."""

    diagnosis: diagnosis.Diagnosis
    page: Path
    text: str


@dataclass(frozen=True)
class _Asked:
    """One question: which rows to train on, which to hold, how fast and how long."""

    safety: Any
    references: Mapping[str, Any]
    learning_rate: float
    steps: int
    batch_size: int
    optimizer: str
    notes: tuple[str, ...] = ()


def before(
    name: str,
    *,
    safety: Path | None = None,
    references: Sequence[Path] = (),
    columns: Mapping[str, str] | None = None,
    prompt: str = "{source}",
    learning_rate: float | None = None,
    steps: int | None = None,
    rows: int = 64,
    data: str = "lab",
    out: Path,
    dtype: str = "float32",
    device: str = "cpu",
    seed: int = 0,
    trust_remote_code: bool = False,
    allow_network: bool = False,
    command: str = "",
) -> Before:
    """Foretell what training a model on safety data does to reference data, and write before-training.html, .md and .json into `out`.

    `name` is a model (a directory, an adapter's, 'lab', a hub name) with files of `safety` and `references` rows, or a recipe, which names
    all of them; the embedded data stand in where the model is 'lab' or `data` is 'english'.
    Raises: UserError when something cannot be used; RecipeError when rows are missing.
    """
    if out.exists() and not out.is_dir():
        raise RecipeError(f"{out} is a file; give the folder for the page with --out.")
    if learning_rate is not None and not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise RecipeError(f"--learning-rate is {learning_rate:g}; it must be a number above 0, such as 2e-5.")
    if not allow_network:
        os.environ["HF_HUB_OFFLINE"] = "1"
    quiet_libraries()
    from untax.diagnostics.conflict import predict

    if Path(name).suffix in (".yaml", ".yml"):
        recipe = _recipe(name, safety, references, columns)
        base = str(LAB_BASE) if recipe.model.base == "lab" else recipe.model.base
        loading = Loading(recipe.model.dtype, recipe.model.device, recipe.model.trust_remote_code, recipe.allow_network)
        model, tokenizer = loading.load(base, adapter=recipe.model.adapter)
        asked = _of_recipe(recipe, model, tokenizer, out, base)
    else:
        named = _files(name, safety, references, data, out)
        loading = Loading(dtype, device, trust_remote_code, allow_network)
        model, tokenizer = loading.load(str(LAB_BASE) if name == "lab" else name)
        asked = _of_files(*named, model, tokenizer, columns or {}, prompt, (learning_rate, steps), name, data)
    asked = replace(
        asked, learning_rate=asked.learning_rate if learning_rate is None else learning_rate, steps=steps or asked.steps
    )
    made = predict(
        model, tokenizer, asked.safety, asked.references, rows=rows, batch_size=asked.batch_size, learning_rate=asked.learning_rate,
        steps=asked.steps, optimizer="sgd" if asked.optimizer == "sgd" else "adamw", seed=seed,
    )  # fmt: skip
    measured = predictions.measured()
    told = environment(command)
    path = prediction.write_prediction(
        made, out, title=f"{Path(name).stem}: {asked.safety.name} against {' and '.join(asked.references)}", measured=measured,
        notes=asked.notes, again=_again(made, asked, told, name),
    )  # fmt: skip
    notes = [f"note: {note}" for note in asked.notes]
    text = "\n".join([*notes, prediction.prediction_table(made), "", prediction.correlation_table(measured)])
    return Before(made, path, text)


def _again(made: Prediction, asked: _Asked, told: Mapping[str, Any], name: str) -> list[tuple[str, str]]:
    sets = "; ".join(f"{key}: {len(one.rows)} rows" for key, one in asked.references.items())
    versions = ", ".join(f"{key} {value}" for key, value in told["versions"].items())
    return [
        ("command", told["command"] or "not recorded"),
        ("model", name),
        ("safety data", f"{asked.safety.name}: {len(asked.safety.rows)} rows, {made.safety_rows} of them drawn"),
        ("references", sets),
        ("step", f"{made.optimizer}, learning rate {made.learning_rate:g}, {made.steps} steps, batches of {made.batch_size}, seed {made.seed}"),
        ("versions", versions),
    ]  # fmt: skip


# --------------------------------------------------------------------------- where the rows come from


def _files(name: str, safety: Path | None, references: Sequence[Path], data: str, out: Path) -> tuple[Path, list[Path]]:
    """The two files, or the embedded ones where those fit the model; what is no path is looked for in the data folder."""
    stands_in = EMBEDDED.get(data) if data != "lab" or name == "lab" else None
    if stands_in is None and (safety is None or not references):
        lacking = " and ".join(
            [*(["--safety FILE (what you would train on)"] if safety is None else []),
             *(["--references FILE (texts that show what must not be lost)"] if not references else [])]
        )  # fmt: skip
        raise RecipeError(
            f"--before-training needs {lacking}: JSONL, JSON, CSV or Parquet with 'text', or with 'prompt' and 'completion' (or 'chosen'). "
            "Or give a recipe, or --data english for embedded English rows, or the model 'lab'."
        )
    folder = data_dir(data, out) if stands_in is not None else None
    chosen: list[Path | None] = [safety, *references] if references else [safety, None]
    named = [EMBEDDED[data][0], EMBEDDED[data][1]] if stands_in is not None else []
    found = []
    for place, path in enumerate(chosen):
        if path is None:
            assert folder is not None
            path = folder / named[min(place, 1)]
        elif not path.exists() and folder is not None and (folder / path).is_file():
            path = folder / path
        found.append(path)
    return found[0], found[1:]


def _of_files(
    safety: Path,
    references: Sequence[Path],
    model: Any,
    tokenizer: Any,
    columns: Mapping[str, str],
    prompt: str,
    given: tuple[float | None, int | None],
    name: str,
    data: str,
) -> _Asked:
    from untax import models

    if "{source}" not in prompt:
        raise RecipeError(f"--prompt {prompt!r} has no {{source}}: every row would get the same prompt.")
    room = models.context_length(model)
    ours = _tokenised("--safety", safety.stem, safety, rows_of(safety, columns, prompt), tokenizer, room)
    names = [path.stem if [p.stem for p in references].count(path.stem) == 1 else str(path) for path in references]
    sets = {
        key: _tokenised("--references", key, path, rows_of(path, {}, "{source}"), tokenizer, room)
        for key, path in zip(names, references, strict=True)
    }
    rate, count = (EMBEDDED[data][2:]) if name == "lab" and data == "lab" else (LEARNING_RATE, STEPS)
    assumed = [
        f"{told} {value:g} is assumed ({flag})"
        for told, value, flag, asked in (
            ("a learning rate of", rate, "--learning-rate", given[0]), ("a number of steps of", count, "--steps", given[1]),
        )
        if asked is None
    ]  # fmt: skip
    notes = [*(f"{text[0].upper()}{text[1:]}." for text in assumed), *_cut([ours, *sets.values()], room)]
    return _Asked(ours, sets, rate, count, BATCH, "adamw", tuple(notes))


def _tokenised(flag: str, name: str, path: Path, rows: Sequence[Any], tokenizer: Any, room: int | None) -> Any:
    from untax import references

    try:
        return references.read(name, rows, tokenizer, max_length=room)
    except UserError as error:
        more = " Columns of other names: --column FIELD=COLUMN, as --column text=body." if flag == "--safety" else ""
        raise UserError(f"{flag} {path}: {error}{more}") from error


def _cut(sets: Iterable[Any], room: int | None) -> list[str]:
    """Which sets have rows that were too long to be read whole."""
    return [
        f"{one.cut} of {len(one.rows)} rows of {one.name} are longer than {room} tokens and were cut."
        for one in sets
        if one.cut
    ]


def rows_of(path: Path, columns: Mapping[str, str] | None = None, prompt: str = "{source}") -> list[dict[str, Any]]:
    """The rows of a file under our names, as `references.read` takes them; a source becomes a prompt.

    Raises: UserError for a file or a row that cannot be read, or a column that is not there.
    """
    from untax.data.files import read_rows as reading

    found = []
    for row in reading(path):
        if row.problem:
            raise UserError(f"{path}:{row.line}: {row.problem}")
        fields = dict(row.fields)
        for ours, theirs in (columns or {}).items():
            if theirs not in fields:
                raise UserError(
                    f"{path}:{row.line}: there is no column '{theirs}' (for '{ours}'); the row has: {', '.join(fields)}."
                )
            fields[ours] = fields.pop(theirs)
        if isinstance(fields.get("source"), str) and "prompt" not in fields:
            fields["prompt"] = prompt.replace("{source}", fields["source"])
        found.append(fields)
    return found


def _recipe(name: str, safety: Path | None, references: Sequence[Path], columns: Mapping[str, str] | None) -> Recipe:
    from untax import recipe as recipes

    if safety is not None or references or columns:
        raise RecipeError("A recipe names its data itself: leave out --safety, --references and --column.")
    return recipes.load(Path(name), [])[0]


def _of_recipe(recipe: Recipe, model: Any, tokenizer: Any, out: Path, base: str) -> _Asked:
    """The records, references, rate and steps of a recipe's first system that is trained."""
    from untax import models, references
    from untax.recipe import systems

    system = next((one for one in systems(recipe) if one.train is not None), None)
    if system is None:
        raise RecipeError(
            "The recipe trains nothing, so there is no gradient to look at before: it only edits or decodes."
        )
    directory = data_dir(recipe.data.dir, out)
    rows = ReferenceRows(recipe, out, directory, base, False)
    # what augmentation adds is no target of the likelihood, and costs minutes
    plain = system.data.model_copy(update={"augment": None, "mix": []})
    records = Records(recipe, out, base, lambda text: None, False, rows).of(plain).records
    room = system.train.arguments.get("max_length") if system.train is not None else None
    room = models.context_length(model) if room is None else int(room)
    ours = references.of_records(
        Path(system.data.train).stem, records, tokenizer, prompt=system.data.prompt, max_length=room
    )
    # sets that a recipe foretells from, else all but those that hold the very texts it trains on
    own = {name for name, one in recipe.references.items() if one.data == system.data.train}
    chosen = recipe.report.predict or [name for name in recipe.references if name not in own]
    sets = rows.tokenised(chosen, tokenizer, room)
    notes = [f"Of the recipe's systems {system.name} is looked at."]
    if not sets:
        stands_in = EMBEDDED.get(recipe.data.dir)
        if stands_in is None:
            raise RecipeError(
                "The recipe names no references: give it a section `references` (general: {data: FILE}) with texts that must not be lost."
            )
        sets = {
            "general": references.read(
                "general", rows_of(directory / stands_in[1], {}, "{source}"), tokenizer, max_length=room
            )
        }
        notes.append(f"The recipe names no references; {stands_in[1]} stands in.")
    notes += _cut([ours, *sets.values()], room)
    return _with_arguments(system, ours, sets, len(records), notes)


def _with_arguments(system: System, ours: Any, sets: Mapping[str, Any], records: int, notes: Sequence[str]) -> _Asked:
    """Learning rate, steps and batch size as the training would have them."""
    from untax.train.loop import ARGUMENTS

    assert system.train is not None
    given = ARGUMENTS | system.train.arguments
    rate = float(given["learning_rate"])
    if "learning_rate" not in system.train.arguments and system.train.lora is None:
        rate = LEARNING_RATE
    batch = int(given["per_device_train_batch_size"]) * int(given["gradient_accumulation_steps"])
    steps = int(given["max_steps"])
    if steps <= 0:
        steps = max(1, math.ceil(records / batch * float(given["num_train_epochs"])))
    told = list(notes)
    if system.train.lora is not None:
        told.append("The recipe trains an adapter; the gradients here are those of the weights beneath it.")
    if system.train.objective.name != "sft":
        told.append(
            f"The recipe trains by {system.train.objective.name}; the gradient here is that of its targets' likelihood alone."
        )
    optimizer = "sgd" if str(given["optim"]).startswith("sgd") else "adamw"
    return _Asked(ours, sets, rate, steps, batch, optimizer, tuple(told))


# --------------------------------------------------------------------------- after a training


def after(
    base: str,
    tuned: str,
    *,
    suite: str = "lab",
    data: str = "lab",
    out: Path,
    max_items: int | None = None,
    batch_size: int = 64,
    dtype: str = "float32",
    allow_dtype_mismatch: bool = False,
    device: str = "cpu",
    seed: int = 0,
    trust_remote_code: bool = False,
    allow_network: bool = False,
    command: str = "",
    progress: bool = True,
) -> After:
    """Measure two models by one suite, read what was forgotten, and write diagnosis.html, .md and .json and the scores into `out`.

    Finished groups of answers are kept: a second try goes on where the first one stood.
    Raises: UserError when a model, the suite or its data cannot be used, or the two models cannot be compared.
    """
    from untax import measure

    _check_places(base, tuned, out)
    if not allow_network:
        os.environ["HF_HUB_OFFLINE"] = "1"
    quiet_libraries()
    read = measure.load_suite(suite, data_dir=data_dir(data, out), max_items=max_items)
    first, second = (str(LAB_BASE) if name == "lab" else name for name in (base, tuned))
    loading = Loading(dtype, device, trust_remote_code, allow_network)
    models = _loaded(first, second, loading, allow_dtype_mismatch)
    sides = measure.measure_pair(
        models.after, models.tokenizer, replace(read, lm_eval=None), base=models.before, base_tokenizer=models.base_tokenizer,
        cache_dir=out / "scores" / "cache", batch_size=batch_size, progress=progress,
    )  # fmt: skip
    for scores in sides:
        tables.write(scores, out / "scores" / scores.system)
    told = environment(command)
    files.write_json(out / "environment.json", told)
    made = _diagnosed(models, read, sides, (_called(base), _called(tuned)), batch_size, seed)
    made = replace(made, notes=(*other_base(first, second), *made.notes))
    path = diagnosis.write(
        made, out, title=f"{made.tuned} against {made.base}", again=_again_after(sides, told, read, seed)
    )
    return After(made, path, "\n".join([diagnosis.verdict(made), diagnosis.table_of(made)]))


def _check_places(base: str, tuned: str, out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise RecipeError(f"{out} is a file; give the folder for the page with --out.")
    if (out / "recipe.resolved.yaml").exists():
        raise RecipeError(f"{out} holds a run, whose scores would be overwritten. Give another folder with --out.")
    for name in (base, tuned):
        if not name.strip():
            raise RecipeError("one of the two models has an empty name: give a directory, 'lab' or a hub name.")
        if name.lower().startswith(("http://", "https://")):
            raise RecipeError(
                f"{name} is an address; a diagnosis reads weights and distributions, so it needs the models themselves. `untax measure` "
                "can ask addresses."
            )


def _called(name: str) -> str:
    """What a model is called on the page: its folder, behind the folder above where all models are called alike."""
    path = Path(name).expanduser()
    return "/".join(path.parts[-2:]) if path.name in ("model", "merged", "edited", "adapter") else path.name or name


@dataclass(frozen=True)
class _Models:
    """Two loaded models, or one under an adapter (`before` is None): the adapter is switched off for the base's turn."""

    before: Any | None
    after: Any
    tokenizer: Any
    base_tokenizer: Any | None


def _loaded(base: str, tuned: str, loading: Loading, allow_dtype_mismatch: bool) -> _Models:
    if is_adapter(tuned) and not is_adapter(base):
        model, tokenizer = loading.load(base, adapter=tuned)
        return _Models(None, model, tokenizer, None)
    model, tokenizer = loading.load(tuned)
    before, base_tokenizer = loading.load(base)
    same_dtype(before, model, allowed=allow_dtype_mismatch)
    return _Models(before, model, tokenizer, base_tokenizer)


def _diagnosed(
    loaded: _Models, suite: Suite, sides: tuple[Scores, Scores], names: tuple[str, str], batch_size: int, seed: int
) -> diagnosis.Diagnosis:
    """Everything that the scores tell, and beside it what only the models themselves can: documents, pairs, tokens, weights."""
    from untax.diagnostics.flips import flips
    from untax.diagnostics.forgetting import forgetting
    from untax.diagnostics.scored import of_scores
    from untax.diagnostics.token_shift import token_shift

    scored = of_scores(*sides, seed=seed)
    notes: list[str] = []
    per, sentences = "pair", None
    texts, (pairs, controls) = _texts(suite), _pairs(suite, loaded)
    if texts:
        told = forgetting(
            loaded.before, loaded.after, loaded.tokenizer, texts=texts, pairs=pairs, controls=controls,
            before_tokenizer=loaded.base_tokenizer, batch_size=batch_size, seed=seed,
        )  # fmt: skip
        scored = replace(scored, overall=told.overall)
        if told.selective is not None:
            scored = replace(scored, selective=told.selective, selectivity=told.selectivity)
            per, sentences = "shared token", told.sentences
    else:
        notes.append(
            "The suite reads no ordinary text (no line of perplexity or drift), so overall forgetting is not known."
        )
    prompts, budget = _prompts(suite, loaded)
    shift = None
    if prompts:
        shift = token_shift(
            loaded.before, loaded.after, loaded.tokenizer, prompts, max_new_tokens=budget.max_new_tokens, stop=budget.stop,
            words=forms("gender") if pairs else None, base_tokenizer=loaded.base_tokenizer, batch_size=batch_size, seed=seed,
        )  # fmt: skip
    binary = [
        line.spec.name for line in suite.lines if line.spec.side == "ability" and line.spec.name in scored.transitions
    ]
    return diagnosis.Diagnosis(
        base=names[0], tuned=names[1], scored=scored, per=per, sentences=sentences, shift=shift,
        flips=tuple(flips(*sides, name) for name in binary),
        moved=_moved(loaded, notes), notes=tuple(notes),
    )  # fmt: skip


def _moved(loaded: _Models, notes: list[str]) -> tuple[Moved, ...]:
    """How far each weight moved; nothing, and a note, where that cannot be said: everything else is true all the same."""
    from untax import models
    from untax.diagnostics.layers import layers

    try:
        if loaded.before is not None and models.has_adapter(loaded.before):
            raise UserError("The model before is under an adapter. Merge it into its base first.")
        return tuple(layers(loaded.before, loaded.after))
    except UserError as error:
        notes.append(f"How far the weights moved is not known: {error}")
        return ()


def _texts(suite: Suite) -> list[Text]:
    """The ordinary texts of a suite, each once, with the kind of text that their row or their line names."""
    lines = [line for line in suite.lines if line.spec.request in ("drift", "text")]
    found: dict[str, str] = {}
    for line in lines:
        for item in line.items:
            kind = str(item.fields.get("domain") or "")
            if item.text.strip():
                found[item.text] = found.get(item.text) or kind
    return [Text(text, kind) for text, kind in found.items()]


def _pairs(suite: Suite, loaded: _Models) -> tuple[list[Pair], list[Pair]]:
    """The minimal pairs of the lines of pair_gap, and the control pairs; one that does not fit into the context is left out."""
    from untax.diagnostics.scored import gap_lines

    found: tuple[dict[Any, Pair], dict[Any, Pair]] = ({}, {})
    for side, lines in zip(found, gap_lines(line.spec for line in suite.lines), strict=True):
        # a centred gap is one beside those of other groups: alone it says how frequent words are
        names = {spec.name for spec in lines if (spec.settings.get("options") or {}).get("centre") is None}
        for item in (item for line in suite.lines if line.spec.name in names for item in line.items):
            pair = Pair(item.choices[0], item.choices[1], item.prompt, item.cluster)
            if all(_fits(loaded, item.prompt + choice, 0) for choice in item.choices[:2]):
                side.setdefault((item.prompt, *item.choices), pair)
    return list(found[0].values()), list(found[1].values())


def _prompts(suite: Suite, loaded: _Models) -> tuple[list[str], Budget]:
    """At most MOST_PROMPTS prompts that the suite has answered, the same number of every line as far as they go, and their budget.

    Answers end as the most lines let them end; lines with another way of ending are left out.
    """
    lines = [line for line in suite.lines if line.spec.request in ("generate", "shift") and line.budget.samples == 1]
    if not lines:
        return [], Budget()
    ends = [line.budget.stop for line in lines]
    stop = max(dict.fromkeys(ends), key=ends.count)
    kept = [line for line in lines if line.budget.stop == stop]
    budget = Budget(max_new_tokens=min(MOST_TOKENS, max(line.budget.max_new_tokens for line in kept)), stop=stop)
    asked: dict[str, None] = {}
    for turn in itertools.zip_longest(*({item.prompt: None for item in line.items} for line in kept)):
        asked |= {prompt: None for prompt in turn if prompt and _fits(loaded, prompt, budget.max_new_tokens)}
        if len(asked) >= MOST_PROMPTS:
            break
    return list(asked)[:MOST_PROMPTS], budget


def _fits(loaded: _Models, text: str, more: int) -> bool:
    from untax import models

    limit = models.context_length(loaded.after)
    return limit is None or len(models.prompt_ids(loaded.tokenizer, text)) + more <= limit


def _again_after(sides: Sequence[Scores], told: Mapping[str, Any], suite: Suite, seed: int) -> list[tuple[str, str]]:
    versions = ", ".join(f"{key} {value}" for key, value in told["versions"].items())
    models = [
        (
            scores.system,
            " · ".join(
                str(scores.about[key]) for key in ("model", "fingerprint", "dtype", "device") if scores.about.get(key)
            ),
        )
        for scores in sides
    ]
    return [
        ("command", told["command"] or "not recorded"), *models, ("suite", suite.name),
        ("statistics", f"2,000 resamples, seed {seed}, confidence 95 %"), ("versions", versions),
    ]  # fmt: skip


# --------------------------------------------------------------------------- what was foretold and what was paid


def read_rows(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """One row for each trained system and seed of run folders whose score tables carry a prediction (`about["predicted"]`).

    A row is {"system", "seed", "family", "predictors", "tax"}, as `predictions.correlations` takes them. The tax is the mean over the
    ability lines that are read in points (all of them, where they share another unit) of what was lost against the base, on the items
    that both have a score for. Families of several folders are kept apart: their data differ.
    Raises: UserError when a folder holds no scores.
    """
    found = []
    several = len(folders) > 1
    for folder in folders:
        read = runs.read([folder])
        for seeds in read.systems:
            for scores in seeds:
                told = scores.about.get("predicted")
                if not isinstance(told, Mapping):
                    continue
                family = runs.place(scores)[0]
                found.append(
                    {
                        "system": scores.system,
                        "seed": scores.seed,
                        "family": f"{folder.name}/{family}" if several else family,
                        "predictors": dict(told.get("predictors", told)),
                        "tax": tax_of(read.base, scores),
                    }
                )
    return found


def _main_lines(specs: Iterable[MetricSpec]) -> list[MetricSpec]:
    """The ability lines whose mean is the tax: those in points, higher is better; or all, where they share unit and direction."""
    every = [spec for spec in specs if spec.side == "ability"]
    if not every:
        raise UserError("the suite has no line on the side of ability, so there is no tax to compare with.")
    if len({(in_points(s.unit, binary=s.binary) or s.unit, s.better) for s in every}) == 1:
        return every
    return [s for s in every if in_points(s.unit, binary=s.binary) and s.better == "higher"] or every[:1]


def tax_of(base: Scores, scores: Scores) -> float:
    """What was lost against the base: the mean over the main ability lines, in points where they are shares.

    NaN where a line has no item that both have a score for. Raises: UserError for a suite without abilities.
    """
    losses = []
    for spec in _main_lines(base.specs):
        old = {(row.item_id, row.prompt_hash): row.score for row in base.of(spec.name)}
        both = [
            (old[key], row.score)
            for row in scores.of(spec.name)
            if math.isfinite(row.score) and math.isfinite(old.get(key := (row.item_id, row.prompt_hash), math.nan))
        ]
        if not both:
            return math.nan
        sign = 1.0 if spec.better == "higher" else -1.0
        factor = 100.0 if in_points(spec.unit, binary=spec.binary) else 1.0
        losses.append(factor * sign * math.fsum(a - b for a, b in both) / len(both))
    return math.fsum(losses) / len(losses)
