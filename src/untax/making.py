"""Makes what a recipe names: its records, its references, and the trained and edited model of each system and seed.

Everything finds its own finished work again: augmented records, rows that the base wrote, trained and edited models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from untax import contamination, files, methods
from untax.marks import digest
from untax.recipe import DataSection, MixSection, Plug, Recipe, ReferenceSection, System
from untax.types import Candidate, ContrastiveRecord, RecipeError, UserError

__all__ = [
    "EMBEDDED",
    "LAB_BASE",
    "Made",
    "Making",
    "Records",
    "ReferenceRows",
    "Shown",
    "base_path_of",
    "building_scorer",
    "building_scorers",
    "data_dir",
    "kept_scorer",
    "lineage",
    "load",
    "trained_on",
]

LAB_BASE = Path(__file__).parent / "lab" / "base"

#: objectives that train on every positive of a record
BOTH_MEMBERS = ("fairness",)

#: data that come with untax: a world of its own with its model, and plain English sentences for any model
EMBEDDED = ("lab", "english")


def data_dir(name: str, out: Path) -> Path:
    """Where relative data paths start: embedded data, written into the run folder on first use, or a folder."""
    if name in EMBEDDED:
        folder = out / name
        # data that were written by other code are other data
        made_by = _digest("".join(p.read_text(encoding="utf-8") for p in sorted((LAB_BASE.parent).glob("*.py"))))
        mark = folder / "complete"
        if not mark.is_file() or mark.read_text(encoding="utf-8") != made_by:
            from untax.lab import english, world

            (world if name == "lab" else english).write(folder)
            files.write(mark, made_by)
        return folder
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}. Give the folder with your data (data.dir in a recipe, --data on the command line), or 'lab' "
            "for the embedded world, or 'english' for the embedded sentences that any English model can be asked."
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


def kept_scorer(out: Path, spec: str) -> Path:
    return out / "data" / f"building_scorer-{_digest(spec)}.safetensors"


def building_scorer(spec: str, directory: Path, kept: Path) -> Any:
    """The scorer that builds data; what `fit:FILE` fits is written to `kept`, so that others can load it again."""
    from untax import scorers

    scorer = scorers.load(spec, base_dir=directory)
    if isinstance(scorer, scorers.NgramScorer) and spec.startswith("fit:"):
        # fitted anew each time, from the seed: a kept one may be of other texts
        scorer.save(kept)
        return scorers.load(f"ngram:{kept}")
    return scorer


def building_scorers(recipe: Recipe, systems: Sequence[System], directory: Path, out: Path) -> dict[str, Any]:
    """Every scorer that chooses training data or reference rows, by how the recipe calls it."""
    specs = [name for system in systems for name in _scorers_of(recipe, system)]
    return {spec: building_scorer(spec, directory, kept_scorer(out, spec)) for spec in dict.fromkeys(specs)}


def _scorers_of(recipe: Recipe, system: System) -> list[str]:
    """The scorers that chose what a system is trained on or held to."""
    found = []
    if system.train is not None and system.data.augment is not None:
        found.append(system.data.augment.scorer)
    sets = list(recipe.references) if any(plug.references is None for _, plug in system.plugs) else []
    sets += [name for _, plug in system.plugs for name in plug.references or []]
    sets += [part.references for part in system.data.mix if part.references and system.train is not None]
    found += [own.scorer for name in sets if (own := recipe.references[name].self_replay) is not None]
    return [spec for spec in found if spec is not None]


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

            spec = data.augment.scorer
            scorer = None if spec is None else building_scorer(spec, directory, kept_scorer(self.out, spec))
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
    start = None if system.train is None else system.train.start
    before = [other for other in every if other.name == start]
    return [*(one for other in before for one in lineage(other, every)), system]


def trained_on(
    systems: Sequence[System],
    shown: Mapping[str, Shown],
    references: ReferenceRows,
    suite: Any,
    building: Mapping[str, Any],
) -> dict[str, Any]:
    """What the receipt's guards must know of the data of a system and of those before it: which test items stand in them, and which scorer chose them."""
    trained = [system for system in systems if system.train is not None]
    parts = [shown[system.name] for system in trained]
    every = [r for part in parts for r in (*part.records, *(one for _, mixed in part.mixed for one in mixed))]
    texts = [text for r in every for text in (r.source, *(c.text for c in (*r.positives, *r.negatives)))]
    named = list(dict.fromkeys(name for system in systems for name in references.names(system)))
    texts += [text for name in named for text in references.texts(name)]
    lines = references.searched(texts, suite)
    files_read = [name for s in trained for name in (s.data.train, *(part.name for part in s.data.mix))]
    chose = dict.fromkeys(spec for system in systems for spec in _scorers_of(references.recipe, system))
    built_by = [building[spec].identity for spec in chose]
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
        self.searches: dict[str, dict[str, dict[str, Any]]] = {}

    def searched(self, texts: Sequence[str], suite: Any) -> dict[str, dict[str, Any]]:
        """Which items of each line stand in the texts; systems that have read the same are looked through once."""
        key = digest([suite.name, sorted(set(texts))])
        if key not in self.searches:
            found = contamination.overlaps({line.spec.name: line.items for line in suite.lines}, dict.fromkeys(texts))
            self.searches[key] = {
                name: {"n": one.n, "of": one.of, "touched": one.touched, "first": one.first}
                for name, one in found.items()
            }
        return self.searches[key]

    def names(self, system: System) -> list[str]:
        """The sets that a system's methods look at; a method that takes no rows has seen none."""
        every = list(self.recipe.references)
        return list(
            dict.fromkeys(
                name
                for where, plug in system.plugs
                if plug.references is not None or _wants_rows(_folder(where), plug)
                for name in (every if plug.references is None else plug.references)
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

    def plain(self, name: str) -> list[str]:
        """The rows of a set as plain texts, each behind its prompt: what an edit looks for words in.

        Raises: UserError for a row that is no text.
        """
        return [f"{record.source} {record.reference}".strip() for record in self.records(name)]

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


@dataclass(frozen=True)
class Made:
    """What became of a system: its model's folder (None: the base itself), what was logged while it was trained, and the projection of an edit that could not be folded."""

    model_dir: Path | None
    adapter: bool = False
    log: Sequence[Mapping[str, float]] = ()
    projection: Path | None = None


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
            self._check_begun(system)
            every = list(self.recipe.references)
            for where, plug in system.plugs:
                try:
                    rows = self.references.tokenised(
                        every if plug.references is None else plug.references, tokenizer, self._room(system)
                    )
                    folder = _folder(where)
                    if not rows and _wants_rows(folder, plug):
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
            if system.decoding is not None:
                with (
                    _naming(system.name),
                    methods.find("decoding", system.decoding.name)(base, tokenizer, **system.decoding.options),
                ):
                    pass  # options that cannot be used, and prefixes that are too long, are told on entering

    def _check_begun(self, system: System) -> None:
        """Refuse a start, or an edit of the base, that would be refused when it is due."""
        if system.edits and system.train is None and self.recipe.model.adapter is not None:
            raise RecipeError(
                f"{system.name}: the base is a model with an adapter, and an edit of it needs a whole model. Merge the adapter first."
            )
        begun = None if system.train is None or system.train.start is None else self.systems[system.train.start]
        if begun is not None and begun.train is None and not begun.edits:
            raise RecipeError(_nothing_to_begin(system))

    def make(self, system: System, seed: int) -> Made:
        """The trained (and edited) model of a system; one that is not trained is the same for every seed."""
        made = Made(None)
        if system.train is not None:
            owner = next(o for o in self.systems.values() if (o.train, o.data) == (system.train, system.data))
            trained = self._train(owner, seed)
            made = Made(trained.model_dir, trained.adapter, trained.log)
        return self._edited(system, made, seed) if system.edits else made

    def _edited(self, system: System, made: Made, seed: int) -> Made:
        from untax import models
        from untax.edits import run as editing

        base, tokenizer = load(self.recipe, self.base_path)
        place = made.model_dir or models.locate(self.base_path, self.recipe.allow_network)
        with _naming(system.name):
            edited = editing.apply(
                _as_mappings(system.edits),
                base=base,
                tuned_dir=place,
                out=self.out / "models" / f"{system.name}-seed{seed}" / "edited",
                references=self._references(system, system.edits, tokenizer, base),
                texts={name: self.references.plain(name) for name in self._named(_readers(system.edits))},
                dtype=self.recipe.model.dtype,
                device=self.recipe.model.device,
                trust_remote_code=self.recipe.model.trust_remote_code,
            )
        return Made(edited["model_dir"], edited["adapter"], made.log, edited["projection"])

    @contextmanager
    def opened(
        self, system: System, made: Made, prompts: Sequence[str], seed: int
    ) -> Iterator[tuple[Any, dict[str, Any] | None, dict[str, Any]]]:
        """The model of a system as it is measured: loaded, projected, decoded as the system says.

        Yields the model, what lies round it in plain values (None: nothing), and what the receipt's guards must know: whether that
        changes anything on `prompts`, and whether an instruction opens each of them. Prompts that do not fit into the context are left out.
        """
        from untax import models

        if made.model_dir is None:
            model, tokenizer = load(self.recipe, self.base_path)
        else:
            try:
                model, tokenizer = models.load(
                    made.model_dir, dtype=self.recipe.model.dtype, device=self.recipe.model.device,
                    trust_remote_code=self.recipe.model.trust_remote_code,
                )  # fmt: skip
            except UserError as error:
                place = self.out / "models" / f"{system.name}-seed{seed}"
                raise UserError(f"{error} Or remove {place}, to train it again.") from error
        about: dict[str, Any] = {} if system.train is not None else {"trained": False}
        with ExitStack() as stack:
            wrapped: dict[str, Any] = {}
            prompts = _fitting(model, tokenizer, prompts)
            plain = _next_logits(model, tokenizer, prompts) if made.projection or system.decoding else None
            if made.projection is not None:
                from untax.edits import projection

                stack.enter_context(projection.load(made.projection).applied(model))
                # the weights do not show it: answers kept under another projection are not these
                wrapped["projection"] = hashlib.sha256(made.projection.read_bytes()).hexdigest()[:16]
                about["wrapper"] = f"projection ({', '.join(edit.name for edit in system.edits)})"
            applied = None
            if system.decoding is not None:
                method = methods.find("decoding", system.decoding.name)
                applied = stack.enter_context(method(model, tokenizer, **system.decoding.options))
                about["wrapper"] = applied.name
                wrapped |= applied.settings
            if plain is not None:
                about |= _seen_to_act(model, tokenizer, prompts, plain, applied)
            yield model, wrapped or None, about

    def predicted(self, system: System, made: Made) -> dict[str, float | None] | None:
        """What the gradients of the base say of a training before it, by name; None where more than its objective decides what it costs.

        Kept in the run folder: the same training is looked at once for all seeds.
        """
        train = system.train
        if not self.recipe.report.predict or train is None or not _is_plain(system):
            return None
        from untax import references as rows
        from untax.diagnostics import conflict

        rate, steps = float(train.arguments.get("learning_rate", 2e-5)), len(made.log)
        optimizer: Literal["adamw", "sgd"] = "sgd" if str(train.arguments.get("optim")).startswith("sgd") else "adamw"
        targets = _targets(self.shown[system.name].records, train.objective.name)
        seen = [asdict(one) for one in targets], [self.references.rows(name) for name in self.recipe.report.predict]
        told = [
            rate,
            steps,
            optimizer,
            system.data.prompt,
            self._room(system),
            self.recipe.report.predict,
            self.recipe.model.model_dump(),
        ]
        kept = self.out / "data" / f"predicted-{_digest(json.dumps([told, seen], default=str))}.json"
        found = _kept_figures(kept)
        if found is None:
            model, tokenizer = load(self.recipe, self.base_path)
            made_of = conflict.predict(
                model, tokenizer,
                rows.of_records("safety", targets, tokenizer, prompt=system.data.prompt, max_length=self._room(system)),
                self.references.tokenised(self.recipe.report.predict, tokenizer, self._room(system)),
                learning_rate=rate, steps=steps, optimizer=optimizer,
            )  # fmt: skip
            found = made_of.as_dict()["predictors"]
            files.write_json(kept, found)
        return found

    def _train(self, system: System, seed: int) -> Any:
        from untax.train import loop

        model, tokenizer = self._start(system, seed)
        train, shown = system.train, self.shown[system.name]
        assert train is not None

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

        if system.train is None or system.train.start is None:
            return load(self.recipe, self.base_path)
        begun = self.make(self.systems[system.train.start], seed)
        if begun.model_dir is None or begun.projection is not None:
            raise RecipeError(_nothing_to_begin(system))
        model, tokenizer = models.load(
            begun.model_dir, dtype=self.recipe.model.dtype, device=self.recipe.model.device,
            trust_remote_code=self.recipe.model.trust_remote_code,
        )  # fmt: skip
        return (model.merge_and_unload() if begun.adapter else model), tokenizer

    def _references(self, system: System, plugs: Sequence[Plug], tokenizer: Any, model: Any) -> dict[str, Any]:
        from untax import models

        room = self._room(system)
        names = self._named(plugs)
        return self.references.tokenised(names, tokenizer, models.context_length(model) if room is None else room)

    def _named(self, plugs: Sequence[Plug]) -> list[str]:
        """The sets of references that some methods get."""
        every = list(self.recipe.references)
        return list(
            dict.fromkeys(name for plug in plugs for name in (every if plug.references is None else plug.references))
        )

    def _room(self, system: System) -> int | None:
        length = None if system.train is None else system.train.arguments.get("max_length")
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


@contextmanager
def _naming(system: str) -> Iterator[None]:
    """What goes wrong inside is told with the system that it goes wrong for."""
    try:
        yield
    except UserError as error:
        told = str(error) if str(error).startswith(f"{system}:") else f"{system}: {error}"
        raise (RecipeError if isinstance(error, RecipeError) else UserError)(told) from error


def _kept_figures(kept: Path) -> dict[str, float | None] | None:
    """Figures by name that an earlier try wrote; None where there are none, or they are damaged."""
    try:
        found = json.loads(kept.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or not all(value is None or type(value) in (int, float) for value in found.values()):
        return None
    return found


def _nothing_to_begin(system: System) -> str:
    assert system.train is not None
    return f"{system.name}: train.start is '{system.train.start}', which changes no weights: there is nothing to begin with."


def _is_plain(system: System) -> bool:
    """Whether a training is what its gradients at the start speak of: nothing holds the model, nothing is mixed in or edited."""
    train = system.train
    plain = (
        train is not None and train.gradients is None and not train.penalties and train.lora is None and not train.start
    )
    return plain and not system.edits and not system.data.mix and system.decoding is None


def _targets(records: Sequence[ContrastiveRecord], objective: str) -> list[ContrastiveRecord]:
    """What a training shows, one text a record: the references, and where an objective trains on both members of a pair the other, too."""
    if objective not in BOTH_MEMBERS:
        return list(records)
    return [replace(record, positives=(one,)) for record in records for one in record.positives]


def _folder(where: str) -> str:
    """The folder of methods that a place in a recipe speaks of: `train.penalties[0]` is of `penalties`."""
    return where.removeprefix("train.").partition("[")[0]


def _wants_rows(folder: str, plug: Plug) -> bool:
    """Whether a method cannot do without reference rows; a penalty says so itself when it is made without any."""
    if folder == "edits":
        return any(option.name in ("references", "texts") for option in methods.get(folder, plug.name).options)
    if folder == "gradients":
        return True
    from untax.train import loop

    try:
        loop.check_plugged(folder, loop.Plugged(plug.name, {}, {}))
    except RecipeError:
        return True
    return False


def _readers(edits: Sequence[Plug]) -> list[Plug]:
    """The edits that look for words in plain texts."""
    return [edit for edit in edits if any(o.name == "texts" for o in methods.get("edits", edit.name).options)]


def _next_logits(model: Any, tokenizer: Any, prompts: Sequence[str]) -> Any:
    from untax.decoding import common

    return common.next_logits(model, tokenizer, prompts)


def _fitting(model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """The prompts that the model can read, and what lies round it leaves room for."""
    from untax import models

    room = models.context_length(model)
    return [one for one in prompts if room is None or len(models.prompt_ids(tokenizer, one)) <= room]


def _seen_to_act(model: Any, tokenizer: Any, prompts: Sequence[str], plain: Any, applied: Any) -> dict[str, Any]:
    """Whether what lies round the model moves its logits on some prompts, and whether an instruction opens what it is given."""
    from untax import models, selfcheck

    fitting = set(_fitting(model, tokenizer, prompts))
    if not fitting:
        return {}  # the guards say that nobody looked
    plain = plain[[place for place, prompt in enumerate(prompts) if prompt in fitting]]
    prompts = [prompt for prompt in prompts if prompt in fitting]
    about: dict[str, Any] = {"effect": selfcheck.effect(plain, _next_logits(model, tokenizer, prompts))}
    if applied is not None and applied.prefix_ids:
        rows = [models.prompt_ids(tokenizer, prompt) for prompt in prompts]
        opening = len(models.opening_ids(tokenizer))
        about["prefix"] = selfcheck.prefix(applied.asked(rows), applied.prefix_ids, opening=opening)
    return about


def _as_mappings(edits: Sequence[Plug]) -> list[dict[str, Any]]:
    """Edits as `edits.run` takes them; one that names references gets those alone."""
    named = [{} if edit.references is None else {"references": edit.references} for edit in edits]
    return [{"name": edit.name, **edit.options, **sets} for edit, sets in zip(edits, named, strict=True)]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
