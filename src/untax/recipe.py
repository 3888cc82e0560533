"""A recipe: YAML whose sections are the folder names in order of use, checked whole before anything runs.

Unknown keys, wrong types, unknown methods and unknown options are errors that name the key, its place and the nearest
known name. A recipe describes one main system and, under `controls`, the systems it is compared with; all of them are
trained on the same data, with the same budget, and measured with the same prompts.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from untax import methods
from untax.types import RecipeError

__all__ = ["Recipe", "System", "load", "parse", "systems", "to_yaml"]

#: options of gradients, penalties and edits that the plumbing fills
GIVEN = ("references", "model", "adapter", "tokenizer", "texts")
#: kinds of augmentation that are no texts of their own: nothing has to be scored
UNSCORED = {"counterfactual"}
#: what a control may override of the main system
PARTS = ("train", "data", "edits", "decoding")

_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_SYSTEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]*")
T = TypeVar("T", bound=BaseModel)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class ModelSection(_Section):
    """The base model: `lab`, a local directory, or (with allow_network) a hub name."""

    base: str = "lab"
    adapter: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "cpu"
    trust_remote_code: bool = False


class AugmentSection(_Section):
    """How positives and negatives are made; `scorer` builds data and never judges it. Words exchanged for words need none."""

    kinds: list[str] = Field(min_length=1)
    scorer: str | None = None
    finder: str = "rules"
    lexicon: str | None = None
    generators: dict[str, str] = Field(default_factory=dict)
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)  # kind: its own options
    min_relevance: float | None = Field(default=None, ge=0, le=1)

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: list[str]) -> list[str]:
        for kind in kinds:
            methods.get("data/augment", kind)
        return kinds

    @model_validator(mode="after")
    def _of_the_kinds(self) -> AugmentSection:
        from untax.data.augment.run import GIVEN

        if self.scorer is None and set(self.kinds) - UNSCORED:
            raise ValueError(
                "'scorer' is missing: say what leaves toxic texts out (words:FILE, fit:FILE, ngram:FILE, hf:DIR)"
            )
        for key, named in (("generators", self.generators), ("options", self.options)):
            for kind in named:
                if kind not in self.kinds:
                    hint = methods.did_you_mean(kind, self.kinds)
                    raise ValueError(f"{key}: '{kind}' is not among the kinds.{hint} They are: {', '.join(self.kinds)}")
        for kind, given in self.options.items():
            methods.check_options("data/augment", kind, given, where=f"data.augment.options.{kind}", given=GIVEN)
        return self


class MixSection(_Section):
    """Rows of another file, or of a set of `references`, mixed into the training data: replay is a mix.

    Every epoch draws the rows that fill the share anew, going on where the last one stopped.
    """

    data: str | None = None
    references: str | None = None
    share: float = Field(gt=0, lt=1)
    columns: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_of_them(self) -> MixSection:
        if (self.data is None) == (self.references is None):
            raise ValueError("give either 'data' (a file) or 'references' (the name of a set of references)")
        return self

    @property
    def name(self) -> str:
        """What the rows are called in the log and the receipt."""
        return self.references or Path(self.data or "").stem


class SelfReplaySection(_Section):
    """Rows that the base model writes itself, where no general data are at hand."""

    count: int = Field(default=200, gt=0)
    max_new_tokens: int = Field(default=64, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**32)
    scorer: str | None = None  # leaves out what it finds toxic: the base's bad habits would be kept


class ReferenceSection(_Section):
    """A named set of rows that show what must not be lost: a file of `data.dir`, or rows that the base writes itself."""

    data: str | None = None
    self_replay: SelfReplaySection | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    limit: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_of_them(self) -> ReferenceSection:
        if (self.data is None) == (self.self_replay is None):
            raise ValueError("give either 'data' (a file) or 'self_replay' (rows that the base writes)")
        return self


class DataSection(_Section):
    """Training records. Relative paths start at `dir`; `dir: lab` is the embedded world.

    `kind: pairs` reads parallel texts (columns `positives`, `negatives`): their common beginning becomes the source.
    `prompt-completion` and `preference` are TRL's; their prompt becomes the source. `text` has no prompt and no source.
    """

    dir: str = "lab"
    train: str = "train.jsonl"
    kind: Literal["contrastive", "pairs", "prompt-completion", "preference", "text"] = "contrastive"
    columns: dict[str, str] = Field(default_factory=dict)
    limit: int | None = Field(default=None, gt=0)
    on_error: Literal["raise", "skip"] = "raise"
    prompt: str = "{source}\nSummary:"
    augment: AugmentSection | None = None
    mix: list[MixSection] = Field(default_factory=list)

    @field_validator("prompt")
    @classmethod
    def _has_source(cls, prompt: str) -> str:
        if "{source}" not in prompt:
            raise ValueError("the prompt has no {source}: every record would get the same prompt")
        return prompt

    @field_validator("mix")
    @classmethod
    def _leaves_room(cls, mix: list[MixSection]) -> list[MixSection]:
        if sum(part.share for part in mix) >= 1:
            raise ValueError("the shares add up to 1 or more: nothing is left for the training data themselves")
        names = ["main", *(part.name for part in mix)]
        if len(set(names)) < len(names):
            raise ValueError(
                f"each file needs a name of its own, and none may be called 'main': {', '.join(names[1:])}"
            )
        return mix


class Objective(BaseModel):
    """A method of `objectives/` and its options, written flat: `{name: contrastive, alpha: 1.0}`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Decoding(Objective):
    """A method of `decoding/` and its options: it changes what is said, and leaves the weights alone."""

    @model_validator(mode="after")
    def _known_method(self) -> Decoding:
        methods.check_options("decoding", self.name, self.options, where="decoding")
        return self


class Plug(Objective):
    """A method of `gradients/`, `penalties/` or `edits/` and its options; `references` names sets of the recipe (all, when left out)."""

    references: list[str] | None = None


def _named(value: Any) -> Any:
    """A method that is written as its bare name, as the section that it stands for; in a list each of them."""
    if isinstance(value, list):
        return [_named(one) for one in value]
    return {"name": value} if isinstance(value, str) else value


class TrainSection(BaseModel):
    """The objective, what happens to its gradient, what holds the model, LoRA, and any Hugging Face training argument under its own name.

    `start` names another system: training begins at its model of the same seed instead of the base (SFT, then DPO).
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    objective: Objective
    gradients: Plug | None = None
    penalties: list[Plug] = Field(default_factory=list)
    start: str | None = None
    lora: dict[str, Any] | None = None

    @field_validator("objective", "gradients", "penalties", mode="before")
    @classmethod
    def _bare_names(cls, value: Any) -> Any:
        return _named(value)

    @model_validator(mode="after")
    def _known_method(self) -> TrainSection:
        methods.check_options(
            "objectives", self.objective.name, self.objective.options, where="train.objective", given=("prompt", "tokenizer")
        )  # fmt: skip
        if self.gradients is not None:
            methods.check_options(
                "gradients", self.gradients.name, self.gradients.options, where="train.gradients", given=GIVEN
            )
        for number, penalty in enumerate(self.penalties):
            methods.check_options(
                "penalties", penalty.name, penalty.options, where=f"train.penalties[{number}]", given=GIVEN
            )
        return self

    @property
    def arguments(self) -> dict[str, Any]:
        """Hugging Face training arguments, names verbatim."""
        return dict(self.model_extra or {})


class MeasureSection(_Section):
    """The suite: a name (`untax list suites`) or a YAML file; its data are looked up in `data.dir`.

    `margins` replaces the suite's margins by metric name: what you are willing to lose, in the metric's own units.
    """

    suite: str = "lab"
    max_items: int | None = Field(default=None, gt=0)
    batch_size: int = Field(default=64, gt=0)
    margins: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    allow_same_scorer: bool = False


class FrontSection(_Section):
    """How a sweep is compared: the options of `untax compare`, under the same names."""

    safety: str | None = None
    ability: list[str] = Field(default_factory=list)
    at: list[str] = Field(default_factory=list)
    reference: str | None = None
    resamples: int = Field(default=2_000, ge=100)


class ReportSection(_Section):
    """`predict` names sets of references: what their gradients say of each plain training is kept beside what it cost."""

    title: str | None = None
    predict: list[str] = Field(default_factory=list)
    resamples: int = Field(default=10_000, ge=100)
    front: FrontSection = Field(default_factory=FrontSection)


class Recipe(_Section):
    """Everything one `untax run` does.

    `sweep` gives lists of values for keys of a system (`train.learning_rate: [1e-4, 3e-4]`): the system becomes a family, one member for
    every combination. Controls are swept alike unless they have a `sweep` of their own.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    about: str = ""
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    allow_network: bool = False
    model: ModelSection = Field(default_factory=ModelSection)
    data: DataSection = Field(default_factory=DataSection)
    references: dict[str, ReferenceSection] = Field(default_factory=dict)
    train: TrainSection | None = None
    edits: list[Plug] = Field(default_factory=list)
    decoding: Decoding | None = None
    sweep: dict[str, list[Any]] = Field(default_factory=dict)
    controls: dict[str, dict[str, Any]] = Field(default_factory=dict)
    measure: MeasureSection = Field(default_factory=MeasureSection)
    report: ReportSection = Field(default_factory=ReportSection)

    @field_validator("edits", "decoding", mode="before")
    @classmethod
    def _bare_names(cls, value: Any) -> Any:
        return _named(value)

    @model_validator(mode="after")
    def _does_something(self) -> Recipe:
        if self.train is None and not self.edits and self.decoding is None:
            raise ValueError(
                "'train' is missing, and there are no 'edits' and no 'decoding' either: nothing would be done to the model"
            )
        return self

    @field_validator("references")
    @classmethod
    def _plain_names(cls, references: dict[str, ReferenceSection]) -> dict[str, ReferenceSection]:
        for name in references:  # a file of the run folder is called after it
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
                raise ValueError(f"'{name}' cannot name a set of references: letters, digits, '.', '-' and '_' only")
        return references

    @model_validator(mode="after")
    def _predicts_from_references(self) -> Recipe:
        for name in self.report.predict:
            if name not in self.references:
                raise ValueError(
                    f"report.predict names '{name}', which is no set of references.{methods.did_you_mean(name, self.references)} "
                    f"There are: {', '.join(self.references) or 'none'}"
                )
        return self

    @field_validator("seeds")
    @classmethod
    def _different(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"seeds repeat: {seeds}; the same seed twice is one run counted twice")
        if min(seeds) < 0 or max(seeds) >= 2**32:
            raise ValueError(f"seeds must lie in 0 … 2^32-1: {seeds}")
        return seeds

    @field_validator("controls")
    @classmethod
    def _safe_names(cls, controls: dict[str, Any]) -> dict[str, Any]:
        for name in controls:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) or name == "base":
                raise ValueError(f"'{name}' cannot name a control: letters, digits, '-' and '_' only, and not 'base'")
        return controls


class System(_Section):
    """One row of the comparison: its name and how it is made. Members of a sweep share a `family` and differ in `strength`.

    Without `train` it is the base itself, edited or decoded otherwise: the same for every seed.
    """

    name: str
    train: TrainSection | None
    data: DataSection
    edits: list[Plug] = Field(default_factory=list)
    decoding: Decoding | None = None
    family: str = ""
    strength: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known_edits(self) -> System:
        for number, edit in enumerate(self.edits):
            methods.check_options("edits", edit.name, edit.options, where=f"edits[{number}]", given=GIVEN)
        return self

    @property
    def plugs(self) -> list[tuple[str, Plug]]:
        """Every method with references, and where it stands."""
        found = []
        if self.train is not None:
            found += [] if self.train.gradients is None else [("train.gradients", self.train.gradients)]
            found += [(f"train.penalties[{i}]", one) for i, one in enumerate(self.train.penalties)]
        return found + [(f"edits[{i}]", one) for i, one in enumerate(self.edits)]


def systems(recipe: Recipe) -> list[System]:
    """The main system, named after its objective (without training after its last edit, or its decoding), and its controls.

    A control is the main system with its overrides laid over; `train: null` leaves the base untrained.
    Raises: RecipeError when an override does not make a valid system, two systems share a name, or one starts where none has ended.
    """
    main: dict[str, Any] = {
        "train": None if recipe.train is None else _dump(recipe.train),
        "data": _dump(recipe.data),
        "edits": [_dump(edit) for edit in recipe.edits],
        "decoding": None if recipe.decoding is None else _dump(recipe.decoding),
    }
    found: list[System] = []
    for system in _family(_main_name(recipe), main, recipe.sweep, "recipe"):
        _add(found, system, recipe, "recipe")
    for name, override in recipe.controls.items():
        where = f"controls.{name}"
        unknown = [key for key in override if key not in (*PARTS, "sweep")]
        if unknown:
            raise RecipeError(
                f"{where}: unknown key '{unknown[0]}'.{methods.did_you_mean(unknown[0], PARTS)} A control overrides 'train', 'data', 'edits' and "
                "'decoding' of the main system, and may have a 'sweep' of its own."
            )
        if name == found[0].family:
            raise RecipeError(f"{where}: the main system is already called '{name}' (after its objective); rename it.")
        train = override.get("train", {})
        if train == {} and main["train"] is None:
            train = None
        tree = {
            "train": None if train is None else _lay_over(main["train"] or {}, train, where),
            "data": _lay_over(main["data"], override.get("data", {}), where),
            "edits": _named(override.get("edits", main["edits"])),
            "decoding": _named(override.get("decoding", main["decoding"])),
        }
        for key in ("objective", "gradients", "penalties"):  # a sweep reaches into them
            if tree["train"] is not None and key in tree["train"]:
                tree["train"][key] = _named(tree["train"][key])
        for system in _family(name, tree, override.get("sweep", recipe.sweep), where):
            _add(found, system, recipe, where)
    return found


def _main_name(recipe: Recipe) -> str:
    if recipe.train is not None:
        return recipe.train.objective.name
    return recipe.decoding.name if recipe.decoding is not None else recipe.edits[-1].name


def _made_of(system: System) -> tuple[Any, ...]:
    """What makes a system another one than its neighbour: data that nobody trains on do not."""
    return (system.train, None if system.train is None else system.data, system.edits, system.decoding)


def _add(found: list[System], system: System, recipe: Recipe, where: str) -> None:
    if system.train is None and not system.edits and system.decoding is None:
        raise RecipeError(
            f"{where}: it is not trained, not edited and not decoded otherwise: it is the base, which is measured anyway. "
            "Give it 'edits' or 'decoding'."
        )
    twin = next((other.name for other in found if _made_of(other) == _made_of(system)), None)
    if twin is not None:
        raise RecipeError(f"{where}: it is made exactly like '{twin}': one system counted twice. Change or remove it.")
    if system.name in [other.name for other in found]:
        raise RecipeError(
            f"{where}: two systems are called '{system.name}'. A name shows six digits of a swept number."
        )
    start = None if system.train is None else system.train.start
    if start is not None and start not in [other.name for other in found]:
        before = [other.name for other in found]
        raise RecipeError(
            f"{where}: train.start is '{start}', and no system of that name stands before it.{methods.did_you_mean(start, before)} "
            f"There are: {', '.join(before) or 'none'}."
        )
    known = list(recipe.references)
    named = [(f"{at}.references", name) for at, plug in system.plugs for name in plug.references or []]
    named += [("data.mix", part.references) for part in system.data.mix if part.references]
    for at, name in named:
        if name not in known:
            raise RecipeError(
                f"{where}: {at} names '{name}', which is no set of references.{methods.did_you_mean(name, known)} "
                f"There are: {', '.join(known) or 'none; name them in the section references'}."
            )
    found.append(system)


def _family(name: str, tree: Mapping[str, Any], sweep: Any, where: str) -> list[System]:
    """One system, or one for every combination of the values that are swept."""
    if not isinstance(sweep, Mapping):
        raise RecipeError(f"{where}: sweep: {sweep!r} is no section of keys with lists of values.")
    for key, values in sweep.items():
        if not isinstance(values, list) or not values:
            raise RecipeError(f"{where}: sweep.{key}: give a list of values, not {values!r}.")
        if any(values.count(value) > 1 for value in values):
            raise RecipeError(f"{where}: sweep.{key}: {values!r} names one value twice.")
    made = []
    for combination in itertools.product(*sweep.values()):
        strength = dict(zip(sweep, combination, strict=True))
        one = copy.deepcopy(dict(tree))
        for key, value in strength.items():
            _set(one, key, value, where)
        shown = "-".join(f"{v:g}" if isinstance(v, float) else str(v) for v in combination)
        member = f"{name}@{shown}" if shown else name
        if not _SYSTEM.fullmatch(member):
            raise RecipeError(f"{where}: sweep: the value {shown!r} cannot be part of a folder's name.")
        try:
            made.append(_validate(System, {"name": member, **one, "family": name, "strength": strength}, where))
        except RecipeError as error:
            # a method's own complaint names the section, not the control
            raise RecipeError(text if (text := str(error)).startswith(where) else f"{where}: {text}") from None
    return made


def _set(tree: dict[str, Any], dotted: str, value: Any, where: str) -> None:
    """Put a value at a dotted key; a number in it is a place in a list. Only the last key may be new."""
    keys = dotted.split(".")
    if len(keys) < 2 or keys[0] not in tree:
        raise RecipeError(f"{where}: sweep.{dotted}: a key begins with 'train.', 'data.', 'edits.' or 'decoding.'.")
    place: Any = tree
    for key in keys[:-1]:
        inner: Any = None
        if isinstance(place, list):
            inner = place[int(key)] if key.isdigit() and int(key) < len(place) else None
        elif isinstance(place, dict):
            inner = place.get(key)
        if not isinstance(inner, dict | list):
            raise RecipeError(f"{where}: sweep.{dotted}: there is no section '{key}' to set anything in.")
        place = inner
    if isinstance(place, list):
        raise RecipeError(f"{where}: sweep.{dotted}: '{keys[-1]}' is a place in a list, not a key.")
    place[keys[-1]] = value


def load(path: Path, overrides: Sequence[str] = ()) -> tuple[Recipe, list[str]]:
    """Read a recipe file and lay `section.key=value` overrides over it.

    Returns the recipe and notes on what was read differently from how it was written (YAML reads 1e-5 as a string).
    Raises: RecipeError for anything that cannot be used as written.
    """
    if path.is_dir():
        raise RecipeError(f"{path} is a folder, not a recipe; a recipe is a YAML file.")
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise RecipeError(
            f"There is no recipe at {path}.{methods.did_you_mean(path.name, beside)}"
            + (f" That folder holds: {', '.join(beside)}." if beside else "")
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8.") from error
    return parse(text, overrides, where=str(path))


def parse(text: str, overrides: Sequence[str] = (), *, where: str = "recipe") -> tuple[Recipe, list[str]]:
    """The same as `load`, from the text of a recipe."""
    tree = _read_yaml(text, where)
    if tree is None:
        raise RecipeError(f"{where} is empty.")
    if not isinstance(tree, dict):
        raise RecipeError(f"{where} holds a {type(tree).__name__}, not sections. A recipe begins with 'name: ...'.")
    for override in overrides:
        _apply_override(tree, override)
    notes: list[str] = []
    tree = _mend_floats(tree, "", notes)
    recipe = _validate(Recipe, tree, where)
    systems(recipe)
    return recipe, notes


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe, every default written out, in the order of its sections."""
    return yaml.safe_dump(_dump(recipe), sort_keys=False, allow_unicode=True)


def _dump(section: BaseModel) -> dict[str, Any]:
    return section.model_dump(mode="json")


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice: the second would silently win."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise RecipeError(f"line {line}: the key {key!r} is not a word; write it in quotes.")
        if key in seen:
            raise RecipeError(f"line {line}: '{key}' stands twice in one section (first in line {seen[key]}).")
        seen[key] = line
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _read_yaml(text: str, where: str) -> Any:
    if "\0" in text:
        raise RecipeError(f"{where} holds a NUL character: it is not a text file.")
    try:
        return yaml.load(text, Loader=_Loader)
    except RecipeError as error:
        raise RecipeError(f"{where}, {error}") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(f"{where}{line}: this is not YAML: {error.problem or error.context}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{where}: this is not YAML: {str(error).splitlines()[0]}.") from None


def _apply_override(tree: dict[str, Any], override: str) -> None:
    dotted, equals, raw = override.partition("=")
    if not equals or not dotted.strip():
        raise RecipeError(
            f"'{override}' is not an override: write section.key=value, for example train.learning_rate=2e-5."
        )
    keys = dotted.strip().split(".")
    place = tree
    for key in keys[:-1]:
        below = place.setdefault(key, {})
        if isinstance(below, str) and key == "objective":
            below = place[key] = {"name": below}
        if not isinstance(below, dict):
            raise RecipeError(f"override '{dotted}': '{key}' holds {below!r}, not a section.")
        place = below
    try:
        place[keys[-1]] = _read_yaml(raw, f"override '{dotted}'")
    except RecipeError:
        place[keys[-1]] = raw  # "{source}\nSummary:" is a text to whoever types it; the types are checked next


def _mend_floats(value: Any, place: str, notes: list[str]) -> Any:
    if isinstance(value, dict):
        return {k: _mend_floats(v, f"{place}.{k}".lstrip("."), notes) for k, v in value.items()}
    if isinstance(value, list):
        return [_mend_floats(v, f"{place}[{i}]", notes) for i, v in enumerate(value)]
    if isinstance(value, str) and _FLOAT.fullmatch(value.strip()):
        notes.append(
            f"{place}: YAML reads {value} as text; taken as the number {float(value)} (write {float(value):.1e} to be plain)"
        )
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{place} is {value}; a number of a recipe is finite.")
    return value


def _lay_over(below: dict[str, Any], above: Any, where: str) -> dict[str, Any]:
    if not isinstance(above, Mapping):
        raise RecipeError(f"{where}: {above!r} is not a section.")
    merged = copy.deepcopy(below)
    for key, value in above.items():
        # a method is one choice, and so are the columns of a file: those of the main one mean nothing to another
        whole = key in ("objective", "gradients", "columns")
        if isinstance(value, Mapping) and isinstance(merged.get(key), dict) and not whole:
            merged[key] = _lay_over(merged[key], value, f"{where}.{key}")
        else:
            merged[key] = value
    return merged


def _validate(kind: type[T], tree: Any, where: str) -> T:
    try:
        return kind.model_validate(tree)
    except pydantic.ValidationError as error:
        raise RecipeError("\n".join(_sentence(kind, e, where) for e in error.errors()[:8])) from None


def _sentence(kind: type[BaseModel], error: Mapping[str, Any], where: str) -> str:
    location = [part for part in error["loc"] if part not in ("function-after", "[key]")]
    place = ".".join(str(part) for part in location) or "the recipe"
    if error["type"] == "extra_forbidden":
        known = _keys_at(kind, [str(part) for part in location[:-1]])
        name = str(location[-1])
        return f"{where}: unknown key '{place}'.{methods.did_you_mean(name, known)} Known here: {', '.join(known)}."
    if error["type"] == "missing":
        return f"{where}: '{place}' is missing."
    message = str(error["msg"]).removeprefix("Value error, ")
    shown = repr(error.get("input"))
    return f"{where}: {place}: {message} (got {shown if len(shown) < 80 else shown[:77] + '...'})."


def _keys_at(kind: type[BaseModel], location: Sequence[str]) -> list[str]:
    for part in location:
        field = kind.model_fields.get(part)
        if field is None:  # a place in a list, or a name that the user gave
            continue
        candidates = [field.annotation, *get_args(field.annotation)]
        inner = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if inner is None:
            return list(kind.model_fields)
        kind = inner
    return list(kind.model_fields)
