"""Finds a method by folder and file name, and reads what it says of itself without running it.

There is no registry: a method is a file in its folder, its one public name stands in `__all__`, and its keyword-only
arguments are its options. Everything here except `find` reads source text, so listing costs no import of torch.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from untax.types import RecipeError

__all__ = ["FOLDERS", "Method", "Option", "check_options", "did_you_mean", "find", "get", "listing"]

PACKAGE = Path(__file__).parent

#: folder -> what a file in it does
FOLDERS = {
    "data/augment": "make positives and negatives of a record",
    "objectives": "what training minimises",
    "gradients": "what happens to a gradient before the step",
    "penalties": "what holds a model in place while it moves",
    "edits": "weights in, weights out, no training",
    "decoding": "what changes generation only",
    "diagnostics": "what can be known before or without a benchmark",
    "metrics": "answers in, one score per item out",
}

#: files that live in a method folder and are no method: what the methods of that folder share
SHARED = {
    "accept",
    "run",
    "generators",
    "cache",
    "neural",
    "rules",
    "common",
    "subspace",
    "holding",
    "activations",
    "memory",
    "projection",
    "features",
    "scored",
    "shifts",
    "movement",
    "backward",
}


@dataclass(frozen=True)
class Option:
    """One keyword-only argument: its type and default as they stand in the source, and the comment behind it."""

    name: str
    type: str
    default: str | None
    comment: str


@dataclass(frozen=True)
class Method:
    """What a method file says of itself."""

    folder: str
    name: str
    public: str
    summary: str
    docstring: str
    options: tuple[Option, ...]
    path: Path

    @property
    def checked(self) -> bool:
        """Whether it has been checked against its paper: a leading underscore in the file name says not yet."""
        return not self.path.stem.startswith("_")

    @property
    def paper(self) -> str:
        """The `Paper:` part of the docstring on one line, or the empty string."""
        return section(self.docstring, "Paper")


def section(docstring: str, title: str) -> str:
    """The text behind `Title:` in a docstring up to the next such title or blank line, on one line."""
    found = re.search(rf"^{title}:\s*(.*?)(?=^\w+:|^\s*$|\Z)", docstring, flags=re.S | re.M)
    return " ".join(found.group(1).split()) if found else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or the empty string when nothing known is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


@cache
def listing(folder: str) -> tuple[Method, ...]:
    """Every method of a folder, in alphabetical order; a folder that does not exist yet is empty."""
    directory = PACKAGE / folder
    if not directory.is_dir():
        return ()
    found = []
    for path in sorted(directory.glob("*.py")):
        if path.stem in SHARED or path.stem == "__init__":
            continue
        method = _read(folder, path)
        if method is not None:
            found.append(method)
    return tuple(found)


def get(folder: str, name: str) -> Method:
    """One method of a folder.

    Raises: RecipeError when the folder has no such method.
    """
    for method in listing(folder):
        if method.name == name:
            return method
    names = [method.name for method in listing(folder)]
    raise RecipeError(
        f"{folder} has no method '{name}'.{did_you_mean(name, names)} There are: {', '.join(names) or 'none yet'}."
    )


def find(folder: str, name: str) -> Callable[..., Any]:
    """The function or class of a method, imported.

    Raises: RecipeError when the folder has no such method.
    """
    method = get(folder, name)
    module = importlib.import_module(f"untax.{folder.replace('/', '.')}.{method.path.stem}")
    return module.__dict__[method.public]


def check_options(folder: str, name: str, options: Mapping[str, Any], *, where: str, given: Iterable[str] = ()) -> None:
    """Refuse an option that the method does not have, or of another type, before anything runs.

    `given` are options that the plumbing fills.
    Raises: RecipeError that names the option, where it stands and what exists.
    """
    known = {option.name: option.type for option in get(folder, name).options if option.name not in set(given)}
    for key, value in options.items():
        if key not in known:
            raise RecipeError(
                f"{where}: '{name}' has no option '{key}'.{did_you_mean(key, known)} It has: {', '.join(known) or 'none'}."
            )
        if not _fits(value, known[key]):
            raise RecipeError(f"{where}: option '{key}' of '{name}' is {value!r}; it must be {_told(known[key])}.")


def _told(written: str) -> str:
    return f"one of {written[8:-1]}" if written.startswith("Literal[") else f"of type {written}"


def _fits(value: Any, written: str) -> bool:
    """Whether a value is of a type as it stands in the source; what is no plain type is left to the method."""
    if written.endswith(" | None"):
        return value is None or _fits(value, written.removesuffix(" | None"))
    if written.startswith("Literal["):
        choices = ast.literal_eval(written.removeprefix("Literal"))
        return type(value) is str and value in choices
    if written == "float":
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    plain = {"int": int, "bool": bool, "str": str}.get(written)
    return plain is None or type(value) is plain


def _read(folder: str, path: Path) -> Method | None:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    public = _public_names(tree)
    if not public:
        return None
    node = next((n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == public[0]), None)
    if node is None:
        return None
    function = node
    if isinstance(node, ast.ClassDef):
        function = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), node)
    docstring = ast.get_docstring(node) or ast.get_docstring(tree) or ""
    if "Paper:" not in docstring and "Paper:" in (ast.get_docstring(tree) or ""):
        docstring = ast.get_docstring(tree) or ""
    options = _options(function, source.splitlines()) if isinstance(function, ast.FunctionDef) else ()
    summary = docstring.strip().splitlines()[0] if docstring.strip() else ""
    return Method(folder, path.stem.lstrip("_"), public[0], summary, docstring, options, path)


def _public_names(tree: ast.Module) -> list[str]:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets) and isinstance(node, ast.Assign):
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def _options(function: ast.FunctionDef, lines: list[str]) -> tuple[Option, ...]:
    options = []
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        end = (default or argument).end_lineno or argument.lineno
        comment = lines[end - 1].partition("#")[2].strip()
        options.append(
            Option(
                argument.arg,
                ast.unparse(argument.annotation) if argument.annotation else "",
                ast.unparse(default) if default is not None else None,
                comment,
            )
        )
    return tuple(options)
