"""Makes what a recipe names: its records, its references, and the trained and edited model of each system and seed.

Everything finds its own finished work again: augmented records, rows that the base wrote, trained and edited models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from untax import contamination, files, methods
from untax.recipe import DataSection, MixSection, Plug, Recipe, ReferenceSection, System
from untax.types import Candidate, ContrastiveRecord, RecipeError, UserError

__all__ = [
    "LAB_BASE",
    "Making",
    "Records",
    "ReferenceRows",
    "Shown",
    "base_path_of",
    "building_scorer",
    "data_dir",
    "kept_scorer",
    "lineage",
    "load",
    "trained_on",
]

LAB_BASE = Path(__file__).parent / "lab" / "base"


def data_dir(name: str, out: Path) -> Path:
    """Where relative data paths start: the embedded world, written into the run folder on first use, or a folder."""
    if name == "lab":
        folder = out / "lab"
        # a world that was written by other code is another world
        made_by = _digest("".join(p.read_text(encoding="utf-8") for p in sorted((LAB_BASE.parent).glob("*.py"))))
        mark = folder / "complete"
        if not mark.is_file() or mark.read_text(encoding="utf-8") != made_by:
            from untax.lab import world

            world.write(folder)
            files.write(mark, made_by)
        return folder
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}. Give the folder with your data (data.dir in a recipe, --data on the command line), or 'lab' "
            "for the embedded world."
        )
    return folder


def base_path_of(recipe: Recipe) -> str:
    return str(LAB_BASE) if recipe.model.base == "lab" else recipe.model.base


def load(recipe: Recipe, base_path: str) -> tuple[Any, Any]:
    from untax import models

    return models.load(
        base_path,
        dtype=recipe.model.dtype,
        adapter=recipe.model.adapter,
        device=recipe.model.device,
        trust_remote_code=recipe.model.trust_remote_code,
        allow_network=recipe.allow_network,
    )


def kept_scorer(out: Path) -> Path:
    return out / "data" / "building_scorer.safetensors"


def building_scorer(spec: str, directory: Path, kept: Path) -> Any:
    """The scorer that builds data; what `fit:FILE` fits is written to `kept`, so that others can load it again."""
    from untax import scorers

    scorer = scorers.load(spec, base_dir=directory)
    if isinstance(scorer, scorers.NgramScorer) and spec.startswith("fit:"):
        # fitted anew each time, from the seed: a kept one may be of other texts
        scorer.save(kept)
        return scorers.load(f"ngram:{kept}")
    return scorer


class Records:
    """Training records of each system: systems with the same data section share one reading and one augmentation."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        base_path: str,
        say: Callable[[str], None],
        progress: bool,
        references: ReferenceRows,
    ) -> None:
        self.recipe, self.out, self.base_path = recipe, out, base_path
        self.say, self.progress, self.references = say, progress, references
        self.known: dict[str, list[ContrastiveRecord]] = {}

    def of(self, data: DataSection) -> Shown:
        """Read and augmented records of a data section, and what is mixed in."""
        plain = data.model_copy(update={"mix": []})
        key = plain.model_dump_json()
        if key not in self.known:
            self.known[key] = self._make(plain, "" if not self.known else f"-{_digest(key)}")
        return Shown(self.known[key], [(part, self._mixed(data, part)) for part in data.mix])

    def _mixed(self, data: DataSection, part: MixSection) -> list[ContrastiveRecord]:
        from untax.data import load as loading

        if part.references is not None:
            return self.references.records(part.references)
        file = data_dir(data.dir, self.out) / str(part.data)
        return list(loading.load(file, columns=part.columns, kind="contrastive").records)

    def _make(self, data: DataSection, suffix: str) -> list[ContrastiveRecord]:
        from untax.data import convert
        from untax.data import load as loading

        directory = data_dir(data.dir, self.out)
        # what is no file of data.dir may be the name of a dataset on a hub
        source = (
            directory / data.train if (directory / data.train).exists() or not self.recipe.allow_network else data.train
        )
        loaded = loading.load(
            source, columns=data.columns, on_error=data.on_error, limit=data.limit, kind=data.kind,
            allow_network=self.recipe.allow_network,
        )  # fmt: skip
        for skipped in loaded.skipped[:5]:
            self.say(f"skipped {skipped}")
        if loaded.skipped:
            self.say(f"{len(loaded.skipped)} rows skipped, {len(loaded.records)} read")
        records: list[ContrastiveRecord] = convert.as_records(loaded.records, data.kind)
        if data.augment is not None:
            from untax.data.augment import run as augmenting

            scorer = building_scorer(data.augment.scorer, directory, kept_scorer(self.out))
            made = self.out / "data" / f"augmented{suffix}.jsonl"
            report = augmenting.augment(
                records,
                made,
                kinds=data.augment.kinds,
                seed=0,
                scorer=scorer,
                finder=data.augment.finder,
                lexicon=directory / data.augment.lexicon if data.augment.lexicon else None,
                generators={k: self.base_path if v == "base" else v for k, v in data.augment.generators.items()},
                options=data.augment.options,
                min_relevance=data.augment.min_relevance,
                prompt=data.prompt,
                device=self.recipe.model.device,
                allow_network=self.recipe.allow_network,
                progress=self.progress,
            )
            files.write(self.out / "data" / f"augmented{suffix}.md", report.markdown())
            self.say(f"{report.kept} of {report.read} sources kept; the table of kinds is in {made.with_suffix('.md')}")
            records = list(loading.load(made, kind="contrastive").records)
        return records


@dataclass(frozen=True)
class Shown:
    """What training shows a system: its records, and for each part of the mix the records that it draws from."""

    records: list[ContrastiveRecord]
    mixed: list[tuple[MixSection, list[ContrastiveRecord]]]


def lineage(system: System, every: Sequence[System]) -> list[System]:
    """A system behind those whose models its training began with, the first one first."""
    before = [other for other in every if other.name == system.train.start]
    return [*(one for other in before for one in lineage(other, every)), system]


def trained_on(
    systems: Sequence[System], shown: Mapping[str, Shown], references: ReferenceRows, suite: Any, building: Any
) -> dict[str, Any]:
    """What the receipt's guards must know of the data of a system and of those before it: which test items stand in them, and which scorer chose them."""
    parts = [shown[system.name] for system in systems]
    every = [r for part in parts for r in (*part.records, *(one for _, mixed in part.mixed for one in mixed))]
    texts = [text for r in every for text in (r.source, *(c.text for c in (*r.positives, *r.negatives)))]
    named = list(dict.fromkeys(name for system in systems for name in references.names(system)))
    texts += [text for name in named for text in references.texts(name)]
    found = contamination.overlaps({line.spec.name: line.items for line in suite.lines}, texts)
    lines = {k: {"n": one.n, "of": one.of, "touched": one.touched, "first": one.first} for k, one in found.items()}
    files_read = [name for s in systems for name in (s.data.train, *(part.name for part in s.data.mix))]
    augmented = any(system.data.augment is not None for system in systems)
    built_by = [building.identity] if building is not None and augmented else []
    return {
        "contamination": {"files": list(dict.fromkeys([*files_read, *named])), "lines": lines},
        "built_by": built_by,
    }


class ReferenceRows:
    """The sets of reference rows of a recipe, each read (or written by the base) once."""

    def __init__(self, recipe: Recipe, out: Path, directory: Path, base_path: str, progress: bool) -> None:
        self.recipe, self.out, self.directory = recipe, out, directory
        self.base_path, self.progress = base_path, progress
        self.known: dict[str, list[dict[str, Any]]] = {}

    def names(self, system: System) -> list[str]:
        """The sets that a system's methods look at."""
        every = list(self.recipe.references)
        return list(
            dict.fromkeys(
                name for _, plug in system.plugs for name in (every if plug.references is None else plug.references)
            )
        )

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a set as they were written."""
        if name not in self.known:
            section = self.recipe.references[name]
            self.known[name] = self._own(name, section) if section.self_replay else self._read(section)
        return self.known[name]

    def _read(self, section: ReferenceSection) -> list[dict[str, Any]]:
        from untax.data import files as reading

        path = self.directory / str(section.data)
        rows = []
        for row in reading.read_rows(path):
            if row.problem:
                raise UserError(f"{path}:{row.line}: {row.problem}")
            fields = dict(row.fields)
            for ours, theirs in section.columns.items():
                if theirs not in fields:
                    raise UserError(
                        f"{path}:{row.line}: there is no column '{theirs}' (for '{ours}'); the row has: {', '.join(fields)}."
                    )
            named = {ours: fields[theirs] for ours, theirs in section.columns.items()}
            rows.append({name: value for name, value in fields.items() if name not in section.columns.values()} | named)
            if len(rows) == section.limit:
                break
        return rows

    def _own(self, name: str, section: ReferenceSection) -> list[dict[str, Any]]:
        """Rows that the base writes itself, kept in the run folder: a second try reads them again."""
        from untax import scorers
        from untax.data import files as reading
        from untax.data import self_replay

        asked = section.self_replay
        assert asked is not None
        settings = asked.model_dump_json() + self.recipe.model.model_dump_json()
        kept = self.out / "data" / f"self_replay-{name}-{_digest(settings)}.jsonl"
        if not kept.is_file():
            model, tokenizer = load(self.recipe, self.base_path)
            scorer = scorers.load(asked.scorer, base_dir=self.directory) if asked.scorer else None
            rows = self_replay.self_replay(
                model, tokenizer, count=asked.count, seed=asked.seed, max_new_tokens=asked.max_new_tokens,
                temperature=asked.temperature, keep=None if scorer is None else self_replay.not_toxic(scorer),
            )  # fmt: skip
            self_replay.write(kept, rows)
        found = list(reading.read_rows(kept))
        if len(found) != asked.count or any(row.problem for row in found):
            raise UserError(
                f"{kept} is damaged: it should hold {asked.count} rows. Remove it, and the base writes them again."
            )
        return [dict(row.fields) for row in found][: section.limit]

    def texts(self, name: str) -> list[str]:
        """Everything in the rows that a method sees, for the search for test items."""
        return [text for row in self.rows(name) for text in contamination.strings(row)]

    def tokenised(self, names: Sequence[str], tokenizer: Any, max_length: int | None) -> dict[str, Any]:
        """The named sets as ids."""
        from untax import references

        return {name: references.read(name, self.rows(name), tokenizer, max_length=max_length) for name in names}

    def records(self, name: str) -> list[ContrastiveRecord]:
        """The rows of a set as training records, each with its own prompt: what replay trains on.

        Raises: UserError for a row that is no text behind a prompt.
        """
        from untax.references import PROMPTS, TARGETS

        made = []
        for number, row in enumerate(self.rows(name)):
            if row.get("ended") is False:
                continue  # training would teach that the text ends where only its budget ended
            prompt = next((row[key] for key in PROMPTS if key in row), "")
            text = next((row[key] for key in (*TARGETS, "text") if key in row), None)
            if not isinstance(prompt, str) or not isinstance(text, str):
                raise UserError(
                    f"references '{name}', row {number}: it has {', '.join(row)}; to be replayed it needs texts: 'prompt' with "
                    "'completion', or 'text'."
                )
            if not text.strip():
                continue
            made.append(
                ContrastiveRecord(
                    f"{name}-{number}", prompt, (Candidate(text.strip(), "replay"),), extra={"prompt": prompt}
                )
            )
        if not made:
            raise UserError(f"references '{name}': no row is left to replay: they are empty, or say 'ended: false'.")
        return made


class Making:
    """Makes the model of each system and seed: trained once for all systems that differ in edits alone, then edited."""

    def __init__(
        self,
        recipe: Recipe,
        all_systems: Sequence[System],
        shown: Mapping[str, Shown],
        references: ReferenceRows,
        out: Path,
        base_path: str,
        progress: bool,
    ) -> None:
        self.recipe, self.systems, self.shown = recipe, {s.name: s for s in all_systems}, shown
        self.references, self.out, self.base_path, self.progress = references, out, base_path, progress

    def check(self, tokenizer: Any, base: Any) -> None:
        """Read all references and refuse options that cannot be used with them and the base, before the first training.

        Raises: RecipeError or UserError that names the system and its place in the recipe.
        """
        from untax.edits import run as editing
        from untax.train import loop

        layers = [name for name, _ in base.named_parameters()]

        for system in self.systems.values():
            every = list(self.recipe.references)
            for where, plug in system.plugs:
                try:
                    rows = self.references.tokenised(
                        every if plug.references is None else plug.references, tokenizer, self._room(system)
                    )
                    folder = where.removeprefix("train.").partition("[")[0]
                    if not rows and _wants_rows(folder, plug.name):
                        raise RecipeError(
                            f"'{plug.name}' needs reference rows, and gets none. The recipe's sets of references: {', '.join(every) or 'none'}."
                        )
                    if folder != "edits":
                        loop.check_plugged(folder, loop.Plugged(plug.name, plug.options, rows))
                except RecipeError as error:
                    raise RecipeError(f"{system.name}: {where}: {error}") from error
            if system.edits:
                try:
                    editing.check(_as_mappings(system.edits), names=layers)
                except RecipeError as error:
                    raise RecipeError(f"{system.name}: {error}") from error

    def make(self, system: System, seed: int) -> Any:
        """The trained (and edited) model: a TrainResult."""
        owner = next(o for o in self.systems.values() if (o.train, o.data) == (system.train, system.data))
        trained = self._train(owner, seed)
        if not system.edits:
            return trained
        from untax.edits import run as editing

        base, tokenizer = load(self.recipe, self.base_path)
        edited = editing.apply(
            _as_mappings(system.edits),
            base=base,
            tuned_dir=trained.model_dir,
            out=self.out / "models" / f"{system.name}-seed{seed}" / "edited",
            references=self._references(system, system.edits, tokenizer, base),
            dtype=self.recipe.model.dtype,
            device=self.recipe.model.device,
            trust_remote_code=self.recipe.model.trust_remote_code,
        )
        return replace(trained, model_dir=edited["model_dir"], adapter=edited["adapter"])

    def _train(self, system: System, seed: int) -> Any:
        from untax.train import loop

        model, tokenizer = self._start(system, seed)
        train, shown = system.train, self.shown[system.name]

        def plugged(plug: Plug) -> loop.Plugged:
            return loop.Plugged(plug.name, plug.options, self._references(system, [plug], tokenizer, model))

        trained = loop.train(
            model,
            tokenizer,
            shown.records,
            objective=train.objective.name,
            objective_options=train.objective.options,
            prompt=system.data.prompt,
            seed=seed,
            out=self.out / "models" / f"{system.name}-seed{seed}",
            arguments=train.arguments,
            lora=train.lora,
            gradients=None if train.gradients is None else plugged(train.gradients),
            penalties=[plugged(one) for one in train.penalties],
            replay=[loop.Replay(part.name, records, part.share) for part, records in shown.mixed],
            progress=self.progress,
        )
        # what such an adapter lies on stands nowhere: loaded again it would lie on the base
        return trained if train.start is None or not trained.adapter else _merged(model, tokenizer, trained)

    def _start(self, system: System, seed: int) -> tuple[Any, Any]:
        """The model that training begins with: the base, or what another system has become with the same seed."""
        from untax import models

        if system.train.start is None:
            return load(self.recipe, self.base_path)
        begun = self.make(self.systems[system.train.start], seed)
        model, tokenizer = models.load(
            begun.model_dir, dtype=self.recipe.model.dtype, device=self.recipe.model.device,
            trust_remote_code=self.recipe.model.trust_remote_code,
        )  # fmt: skip
        return (model.merge_and_unload() if begun.adapter else model), tokenizer

    def _references(self, system: System, plugs: Sequence[Plug], tokenizer: Any, model: Any) -> dict[str, Any]:
        from untax import models

        every = list(self.recipe.references)
        names = dict.fromkeys(
            name for plug in plugs for name in (every if plug.references is None else plug.references)
        )
        room = self._room(system)
        return self.references.tokenised(list(names), tokenizer, models.context_length(model) if room is None else room)

    def _room(self, system: System) -> int | None:
        length = system.train.arguments.get("max_length")
        return int(length) if length is not None else None


def _merged(model: Any, tokenizer: Any, trained: Any) -> Any:
    """The model that training began with and the adapter that it gave, as one whole model beside the adapter."""
    from peft import PeftModel

    from untax import models

    folder = trained.model_dir.with_name("merged")
    if not folder.is_dir():
        with models.no_loading_bar():
            models.save(PeftModel.from_pretrained(model, trained.model_dir).merge_and_unload(), tokenizer, folder)
    return replace(trained, model_dir=folder, adapter=False)


def _wants_rows(folder: str, name: str) -> bool:
    """Whether a method cannot do without reference rows; a penalty says so itself when it is made."""
    if folder == "edits":
        return any(option.name == "references" for option in methods.get(folder, name).options)
    return folder == "gradients"


def _as_mappings(edits: Sequence[Plug]) -> list[dict[str, Any]]:
    """Edits as `edits.run` takes them; one that names references gets those alone."""
    named = [{} if edit.references is None else {"references": edit.references} for edit in edits]
    return [{"name": edit.name, **edit.options, **sets} for edit, sets in zip(edits, named, strict=True)]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
