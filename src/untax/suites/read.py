"""A suite: YAML that names metrics on data, says which side of the ledger each stands on, and how the model is asked.

Reading a suite checks all of it before a model is loaded: unknown keys, unknown metrics and options, missing files, bad rows.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field

from untax import methods
from untax.marks import digest
from untax.types import Answer, Ask, Budget, Item, MetricSpec, RecipeError, Request, UserError

__all__ = ["Line", "LmEval", "Suite", "asked", "load_suite", "suite_names", "with_scorer_identities"]

FOLDER = Path(__file__).parent

#: options that name something in the data folder: a scorer "kind:FILE", or the folder of a model
SCORER_OPTION, MODEL_OPTION = "scorer", "model"

#: groups of up to so many items on average are not torn apart by a limit
SMALL_GROUP = 8

_FIELD = re.compile(r"\{\{|\}\}|\{([A-Za-z_]\w*(?:\.\w+)*)(?::([1-9]\d*)w)?\}")


@dataclass(frozen=True)
class Line:
    """One metric on its items. Lines with the same `group` are asked together; `options` go to the metric as they are."""

    spec: MetricSpec
    items: tuple[Item, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    group: str = ""


@dataclass(frozen=True)
class LmEval:
    """Tasks of lm-eval that a suite asks for beside its own lines; `sides` and `margins` are by task name."""

    tasks: tuple[str, ...]
    num_fewshot: int | None = None
    limit: int | None = None
    include_path: Path | None = None
    margins: Mapping[str, float] = field(default_factory=dict)
    sides: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """The lines of a suite, and those that were left out because their data are not there, with the reason."""

    name: str
    lines: tuple[Line, ...]
    skipped: tuple[Mapping[str, str], ...] = ()
    note: str = ""
    lm_eval: LmEval | None = None

    @property
    def scorers(self) -> Mapping[str, str]:
        """Line name -> the scorer that judges it, as `scorers.load` reads it."""
        return {
            line.spec.name: str(line.options[SCORER_OPTION]) for line in self.lines if SCORER_OPTION in line.options
        }


class _Line(BaseModel):
    """One line as it stands in YAML."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    metric: str
    data: str | list[str] = Field(default_factory=list)
    request: Request
    prompt: str = ""
    choices: list[str] = Field(default_factory=list)
    text: str = ""
    max_new_tokens: int | None = Field(None, ge=1)
    stop: list[str] = Field(default_factory=list)
    samples: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, gt=0, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1)
    sequences: int | None = Field(None, ge=1)
    length: int | None = Field(None, ge=2)
    side: Literal["safety", "ability", "watch"]
    better: Literal["higher", "lower"]
    margin: float | None = Field(None, gt=0, allow_inf_nan=False)
    unit: str = ""
    chance: float | None = Field(None, allow_inf_nan=False)
    binary: bool = False
    cluster: str | list[str] | None = None
    id: str = "id"
    by: str | None = None
    where: dict[str, Any] = Field(default_factory=dict)
    limit: int | None = Field(None, ge=1)
    optional: bool = False
    options: dict[str, Any] = Field(default_factory=dict)
    note: str = ""


class _LmEval(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: list[str] = Field(min_length=1)
    num_fewshot: int | None = Field(None, ge=0)
    limit: int | None = Field(None, ge=1)
    include_path: str | None = None
    margins: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    sides: dict[str, Literal["safety", "ability", "watch"]] = Field(default_factory=dict)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    note: str = ""
    lines: list[_Line] = Field(default_factory=list)
    lm_eval: _LmEval | None = None


# --------------------------------------------------------------------------- public


def suite_names() -> list[str]:
    """The suites that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_suite(name_or_path: str | Path, *, data_dir: str | Path, max_items: int | None = None) -> Suite:
    """Read a suite by its name or from a YAML file; data files are looked up in `data_dir`.

    `max_items` takes that many items of each line, spread evenly over the file.
    Raises: RecipeError when the suite cannot be used as written; UserError when data are missing or cannot be read.
    """
    if max_items is not None and max_items < 1:
        raise RecipeError(f"max_items is {max_items}; it must be at least 1.")
    path = _find(name_or_path)
    data_dir = Path(data_dir).expanduser()
    if not data_dir.is_dir():
        raise UserError(f"There is no data folder {data_dir}. Give the folder that the suite's files are in.")
    written = _read_file(path)
    rows: dict[Path, list[dict[str, Any]]] = {}
    lines: list[Line] = []
    skipped: list[Mapping[str, str]] = []
    for number, line in enumerate(_with_clusters(written.lines, path), start=1):
        where = f"{path}, line {number} of the suite ('{line.name}')"
        _check(line, where)
        try:
            paths = _data_files(line, data_dir, where)
            options = _resolved(line, data_dir, where)
        except _Missing as missing:
            if not line.optional:
                raise UserError(str(missing)) from None
            skipped.append({"name": line.name, "reason": str(missing)})
            continue
        lines += _lines(line, paths, options, rows, max_items, where)
    names = [line.spec.name for line in lines]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecipeError(f"{path}: two lines are called '{twice[0]}'; a receipt tells metrics apart by name.")
    harness = _lm_eval(written.lm_eval, path, max_items)
    if not lines and harness is None:
        reasons = " ".join(entry["reason"] for entry in skipped)
        raise UserError(f"{path}: nothing is left to measure, every line was skipped. {reasons}")
    return Suite(path.stem, tuple(lines), tuple(skipped), written.note, harness)


def _lm_eval(section: _LmEval | None, path: Path, max_items: int | None) -> LmEval | None:
    """The tasks for lm-eval; a folder with tasks of one's own lies beside the suite, or where its path says."""
    if section is None:
        return None
    include = None
    if section.include_path is not None:
        beside = path.parent / section.include_path
        include = beside if beside.is_dir() else Path(section.include_path).expanduser()
        if not include.is_dir():
            raise UserError(f"{path}, lm_eval: there is no folder {include} with tasks (include_path).")
    limits = [n for n in (section.limit, max_items) if n is not None]
    return LmEval(
        tasks=tuple(section.tasks),
        num_fewshot=section.num_fewshot,
        limit=min(limits, default=None),
        include_path=include,
        margins=section.margins,
        sides=section.sides,
    )


def asked(item: Item) -> Ask:
    """What the model is shown of an item: two items with the same are asked once."""
    return item.prompt, item.choices, item.text


# --------------------------------------------------------------------------- reading the YAML


class _Missing(Exception):
    """A file that a line needs is not there: an error, or the reason why an optional line is left out."""


def _find(name_or_path: str | Path) -> Path:
    name = str(name_or_path)
    if name in suite_names():
        return FOLDER / f"{name}.yaml"
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    hint = methods.did_you_mean(name, suite_names())
    raise RecipeError(f"There is no suite '{name}'.{hint} There are: {', '.join(suite_names())}; or give a YAML file.")


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice: the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key '{key.value}' stands twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep=deep)


def _read_file(path: Path) -> _File:
    try:
        tree = yaml.load(path.read_bytes().decode("utf-8-sig"), Loader=_Loader)
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8.") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(f"{path}{line}: {error.problem or error.context or 'this is not YAML'}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: this is not YAML: {str(error).splitlines()[0]}.") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} holds no suite: it needs 'lines:', a list of metrics.")
    try:
        read = _File.model_validate(tree)
    except pydantic.ValidationError as error:
        raise RecipeError(f"{path}: {_explained(error, tree)}") from error
    if not read.lines and read.lm_eval is None:
        raise RecipeError(f"{path} holds no suite: it needs 'lines:', a list of metrics, or 'lm_eval:' with tasks.")
    return read


def _explained(error: pydantic.ValidationError, tree: Mapping[str, Any]) -> str:
    """The first fault of a suite in one sentence."""
    first = error.errors()[0]
    place, key = first["loc"], str(first["loc"][-1]) if first["loc"] else ""
    named = ""
    if len(place) > 1 and place[0] == "lines" and isinstance(place[1], int):
        line = tree["lines"][place[1]]
        called = f" ('{line['name']}')" if isinstance(line, dict) and "name" in line else ""
        named = f"line {place[1] + 1} of the suite{called}: "
    if first["type"] == "extra_forbidden":
        section = _Line if named else _LmEval if place[0] == "lm_eval" and len(place) > 1 else _File
        known = list(section.model_fields)
        return f"{named}there is no key '{key}'.{methods.did_you_mean(key, known)} There are: {', '.join(known)}."
    if first["type"] == "missing":
        return f"{named}'{key}' is missing."
    path = ".".join(str(part) for part in (place[2:] if named else place) or place)
    return f"{named}'{path}' is {first['input']!r}: {first['msg']}."


def _check(line: _Line, where: str) -> None:
    """What the keys of one line must have to do with each other."""
    needs: dict[Request, tuple[str, ...]] = {
        "generate": ("data", "prompt", "max_new_tokens"), "choices": ("data", "choices"), "text": ("data", "text"),
        "drift": ("data", "text"), "shift": ("data", "prompt", "max_new_tokens"), "induction": ("sequences", "length"),
    }  # fmt: skip
    may: dict[Request, tuple[str, ...]] = {
        "generate": ("stop", "samples", "temperature", "top_p"), "choices": ("prompt",), "text": (), "drift": (),
        "shift": ("stop",), "induction": (),
    }  # fmt: skip
    asking = {key for keys in (*needs.values(), *may.values()) for key in keys}
    given = {key for key in asking if line.model_dump()[key]}
    for key in needs[line.request]:
        if key not in given:
            raise RecipeError(f"{where}: 'request: {line.request}' needs '{key}'.")
    for key in sorted(given - {*needs[line.request], *may[line.request]}):
        raise RecipeError(f"{where}: 'request: {line.request}' has no use for '{key}'.")
    if (line.samples or line.top_p) and not line.temperature:
        raise RecipeError(f"{where}: 'samples' and 'top_p' need a 'temperature': without one, decoding is greedy.")
    if line.side != "watch" and line.margin is None:
        raise RecipeError(
            f"{where}: 'margin' is missing: how much of '{line.name}' would you give away? (in its own units)"
        )
    _check_asks(line, where)
    if "" in line.stop:
        raise RecipeError(f"{where}: an empty stop string stops everything at once.")
    methods.get("metrics", line.metric)
    methods.check_options("metrics", line.metric, line.options, where=f"{where}, options")
    if line.metric == "overlap_proxy" and "faithful" in line.name.lower():
        raise RecipeError(f"{where}: overlap of names is no faithfulness; call the line 'overlap proxy'.")


def _check_asks(line: _Line, where: str) -> None:
    """A question that takes nothing from the row is the same for every item."""
    templates = [line.prompt, *line.choices, line.text]
    if line.request != "induction" and not any(found[1] for each in templates for found in _FIELD.finditer(each)):
        raise RecipeError(
            f"{where}: every item asks the same; name a field of the data, as in 'prompt: \"{{prompt}}\"'."
        )


def _with_clusters(lines: Sequence[_Line], path: Path) -> list[_Line]:
    """Which items belong together is a property of the data: named by one line, it holds for all lines on the same files."""
    told: dict[tuple[str, ...], _Line] = {}
    for line in lines:
        if line.cluster is None:
            continue
        first = told.setdefault(_files_of(line), line)
        if first.cluster != line.cluster:
            raise RecipeError(
                f"{path}: '{first.name}' and '{line.name}' read {', '.join(_files_of(line))} and disagree on what belongs "
                f"together: cluster {_fields(first.cluster)} against {_fields(line.cluster)}. Name the same for both."
            )
    named = {data: line.cluster for data, line in told.items()}
    return [line.model_copy(update={"cluster": named.get(_files_of(line))}) for line in lines]


def _fields(cluster: str | list[str] | None) -> str:
    return " and ".join([cluster] if isinstance(cluster, str) else cluster or ())


def _files_of(line: _Line) -> tuple[str, ...]:
    return (line.data,) if isinstance(line.data, str) else tuple(line.data)


def _data_files(line: _Line, data_dir: Path, where: str) -> list[Path]:
    found: list[Path] = []
    for name in [line.data] if isinstance(line.data, str) else list(line.data):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise RecipeError(f"{where}: 'data: {name}' must lie below the data folder.")
        matches = sorted(data_dir.glob(name)) if "*" in name else [data_dir / name]
        matches = [path for path in matches if path.is_file()]
        if not matches:
            folder = (data_dir / name).parent
            beside = sorted(p.name for p in folder.glob("*.jsonl")) if folder.is_dir() else []
            hint = methods.did_you_mean(Path(name).name, beside)
            there = (
                f"{folder} holds: {', '.join(beside[:12]) or 'no .jsonl file'}."
                if folder.is_dir()
                else f"There is no folder {folder}."
            )
            raise _Missing(f"{where}: there is no data file {data_dir / name}.{hint} {there}")
        found += matches
    return found


def _resolved(line: _Line, data_dir: Path, where: str) -> dict[str, Any]:
    """The options with names of files turned into paths: in the data folder first, else as they stand."""
    options = dict(line.options)
    for key in (SCORER_OPTION, MODEL_OPTION):
        if not isinstance(options.get(key), str):
            continue
        kind, colon, name = options[key].partition(":") if key == SCORER_OPTION else ("", "", options[key])
        if key == SCORER_OPTION and not (colon and name):
            raise RecipeError(
                f"{where}: 'scorer: {options[key]}' must be KIND:FILE, for example words:toxic_words.txt."
            )
        name, label_mark, label = name.partition("#")  # hf:DIR#LABEL
        path = data_dir / Path(name).expanduser()
        if not path.exists():
            path = Path(name).expanduser()
        if not path.exists():
            raise _Missing(f"{where}: '{key}: {options[key]}' names {data_dir / name}, which does not exist.")
        options[key] = f"{kind}{colon}{path}{label_mark}{label}"
    return options


# --------------------------------------------------------------------------- reading the data


def _read_rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, raw in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(f"{path}, line {number} is not UTF-8 (byte {error.start} of the line).") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number} is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise UserError(
                f"{path}, line {number} holds a {type(row).__name__}; each line must be an object with fields."
            )
        rows.append({"_line": number, **row})
    if not rows:
        raise UserError(f"{path} is empty: there is nothing to measure on.")
    return rows


def _lines(
    line: _Line,
    paths: Sequence[Path],
    options: Mapping[str, Any],
    read: dict[Path, list[dict[str, Any]]],
    max_items: int | None,
    where: str,
) -> list[Line]:
    """The line with its items; one line per value of a field where the suite says `by`."""
    items: list[Item] = _sequences(line, max_items)
    groups: list[str] = [""] * len(items)
    for path in paths:
        if path not in read:
            read[path] = _read_rows(path)
        for row in read[path]:
            if all(_value(row, key, path) == wanted for key, wanted in line.where.items()):
                items.append(_item(line, row, path, prefix=f"{path.stem}:" if len(paths) > 1 else ""))
                groups.append(str(_value(row, line.by, path)) if line.by else "")
    if not items:
        raise UserError(f"{where}: no row of {', '.join(p.name for p in paths)} meets 'where: {line.where}'.")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise UserError(f"{where}: the id '{item.id}' occurs twice; base and tuned model could not be paired.")
        seen.add(item.id)
    made = []
    for value in sorted(set(groups)):
        mine = [item for item, group in zip(items, groups, strict=True) if group == value]
        named = line.model_copy(update={"name": f"{line.name} [{value}]"}) if line.by else line
        made.append(_line(named, _spread(_spread(mine, line.limit), max_items), options, where))
    return made


def _sequences(line: _Line, max_items: int | None) -> list[Item]:
    """The sequences of random tokens of an induction line: named by seed and number, and made where they are read.

    The first ones, where there may be fewer: every second one would leave none for the other half, by which heads are chosen.
    """
    if line.request != "induction":
        return []
    count = min(n for n in (line.sequences, line.limit, max_items) if n is not None)
    names = [f"induction:0:{number}:{line.length}" for number in range(count)]
    return [Item(id=name, prompt="", text=name, cluster=name) for name in names]


def _spread(items: Sequence[Item], n: int | None) -> tuple[Item, ...]:
    """At most n items at even distances: the first n would be the first few kinds of a sorted file.

    Small groups (a sentence with three pronouns, a question asked in four ways) stay whole: scores that compare their members would
    be missing otherwise.
    """
    if n is None or n >= len(items):
        return tuple(items)
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.cluster, []).append(item)
    if 1 < len(items) / len(groups) <= SMALL_GROUP:
        named = list(groups)
        for count in range(len(named), 0, -1):
            chosen = {named[i * len(named) // count] for i in range(count)}
            if sum(len(groups[name]) for name in chosen) <= n:
                return tuple(item for item in items if item.cluster in chosen)
    return tuple(items[i * len(items) // n] for i in range(n))


def _line(line: _Line, items: tuple[Item, ...], options: Mapping[str, Any], where: str) -> Line:
    metric = methods.find("metrics", line.metric)
    try:
        # an answer that says nothing costs nothing to score, and shows wrong options and missing fields before any model runs
        metric(items[:1], [Answer()], **options)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error
    except TypeError as error:
        raise RecipeError(f"{where}: an option has a wrong type: {error}.") from error
    data = [line.data] if isinstance(line.data, str) else list(line.data)
    budget = Budget(
        max_new_tokens=line.max_new_tokens or 0, stop=tuple(line.stop), samples=line.samples or 1,
        temperature=line.temperature or 0.0, top_p=line.top_p or 1.0,
    )  # fmt: skip
    settings = {
        "data": data, "prompt": line.prompt, "choices": line.choices, "text": line.text, "max_new_tokens": line.max_new_tokens,
        "stop": line.stop, "where": line.where, "options": line.options, "n": len(items), "decoding": budget.decoding,
    }  # fmt: skip
    spec = MetricSpec(
        name=line.name,
        metric=line.metric,
        request=line.request,
        side=line.side,
        better=line.better,
        margin=line.margin or 0.0,
        unit=line.unit,
        chance=line.chance,
        binary=line.binary,
        items_hash=digest([[item.id, item.cluster, dict(item.fields)] for item in items]),
        prompt_hash=digest([line.request, asdict(budget), [asked(item) for item in items]]),
        settings=settings,
        note=line.note,
    )
    group = digest([line.request, asdict(budget), data])
    return Line(spec, items, options, budget, group)


def _item(line: _Line, row: Mapping[str, Any], path: Path, prefix: str) -> Item:
    identity = f"{prefix}{row[line.id]}" if line.id in row else f"{path.stem}:{row['_line']}"
    item = Item(
        id=identity,
        prompt=_filled(line.prompt, row, path),
        choices=tuple(_filled(choice, row, path) for choice in line.choices),
        text=_filled(line.text, row, path),
        cluster=_cluster(line, row, path) or identity,
        fields={key: value for key, value in row.items() if key != "_line"},
    )
    if line.request in ("text", "drift") and not item.text.strip():
        raise UserError(f"{path}, line {row['_line']}: the text is empty.")
    if line.request == "choices" and (len(set(item.choices)) < len(item.choices) or not all(item.choices)):
        raise UserError(f"{path}, line {row['_line']}: two choices are the same, or one is empty.")
    return item


def _cluster(line: _Line, row: Mapping[str, Any], path: Path) -> str:
    """The group that a row belongs to, by one field or by several together; empty where the line names none."""
    names = [line.cluster] if isinstance(line.cluster, str) else line.cluster or ()
    return " / ".join(str(_value(row, name, path)) for name in names)


def _filled(template: str, row: Mapping[str, Any], path: Path) -> str:
    """{field} is the field of the row, {field.0} an element of it, {field:4w} its first four words; {{ and }} are braces."""

    def fill(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0][0]
        value = _value(row, found[1], path)
        if (
            not isinstance(value, str | int | float)
            or isinstance(value, bool)
            or (isinstance(value, float) and math.isnan(value))
        ):
            raise UserError(f"{path}, line {row['_line']}: '{found[1]}' is a {type(value).__name__}, not a text.")
        text = str(value)
        if found[2]:
            cut = re.match(rf"\s*(?:\S+\s+){{0,{int(found[2]) - 1}}}\S+", text)
            text = cut[0].strip() if cut else ""
        return text

    return _FIELD.sub(fill, template)


def _value(row: Mapping[str, Any], dotted: str, path: Path) -> Any:
    value: Any = row
    for key in dotted.split("."):
        if isinstance(value, Mapping) and key in value and key != "_line":
            value = value[key]
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            known = [name for name in row if name != "_line"]
            raise UserError(
                f"{path}, line {row['_line']} has no field '{dotted}'.{methods.did_you_mean(dotted, known)} It has: {', '.join(known)}."
            )
    return value


def with_scorer_identities(suite: Suite) -> Suite:
    """The same suite, its specs saying which scorer judged: name and content hash, for the receipt."""
    from untax import scorers

    known: dict[str, str] = {}
    lines = []
    for line in suite.lines:
        spec = line.spec
        if SCORER_OPTION in line.options:
            told = str(line.options[SCORER_OPTION])
            if told not in known:
                known[told] = scorers.load(told).identity
            spec = replace(spec, settings={**spec.settings, "scorer": known[told]})
        lines.append(replace(line, spec=spec))
    return replace(suite, lines=tuple(lines))
