"""The shape of the house: imports point one way, `__init__` files are empty, methods say what they must and stay short."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from untax import methods

PACKAGE = Path(methods.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

#: rooms in order of use: a room may import rooms of a lower number, and its own files
ORDER = {
    "types": 0,
    "calibration": 1, "contamination": 1, "explain": 1, "selfcheck": 1, "lines": 1, "files": 1, "predictions": 1, "guards": 1, "guards_base": 1, "guards_sides": 1, "guards_text": 1, "marks": 1, "mixtures": 1, "power": 1, "refusals": 1, "methods": 1, "models": 1, "stats": 1, "scorers": 1, "spans": 1, "tables": 1,
    "prefix": 2,
    "data": 3, "prefix_lm": 3, "probes": 3, "references": 3,
    "objectives": 4, "gradients": 4, "penalties": 4, "edits": 4, "decoding": 4, "diagnostics": 4, "metrics": 4, "suites": 4,
    "train": 5, "engines": 5, "readers": 5,
    "measure": 6,
    "receipt": 7,
    "frontier": 8,
    "study": 8.5,
    "report": 9,
    "recipe": 10,
    "making": 11,
    "run": 12,
    "compare": 13,
    "diagnose": 14,
    "cli": 15,
}  # fmt: skip
#: the lab may use everything up to the receipt, and only these may use the lab
LAB_MAY_USE = ORDER["receipt"]
MAY_USE_LAB = {"making", "recipe", "run", "compare", "diagnose", "cli"}
NO_TORCH = {
    "marks",
    "mixtures",
    "types",
    "calibration",
    "contamination",
    "explain",
    "files",
    "guards",
    "power",
    "predictions",
    "readers",
    "refusals",
    "methods",
    "stats",
    "tables",
    "receipt",
    "frontier",
    "study",
    "report",
    "recipe",
}
METHOD_FOLDERS = [folder for folder in methods.FOLDERS if (PACKAGE / folder).is_dir()]
MAX_METHOD_LINES = 200
MAX_FUNCTION_LINES = 80


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, int]]:
    """Every imported module of a file with its line, those inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write it from untax on"
            module = node.module or ""
            if module == "untax":
                found += [(f"untax.{alias.name}", node.lineno) for alias in node.names]
            else:
                found.append((module, node.lineno))
    return found


def violation(importer: str, imported: str) -> str | None:
    """Why one room may not import another, or None."""
    if importer == imported:
        return None
    if imported == "lab":
        return None if importer in MAY_USE_LAB else f"{importer} may not use the lab"
    if importer == "lab":
        return None if ORDER[imported] <= LAB_MAY_USE else f"the lab may not use {imported}"
    if ORDER[imported] >= ORDER[importer] and not (ORDER[importer] == ORDER[imported] == 1):
        return f"{importer} ({ORDER[importer]}) imports {imported} ({ORDER[imported]})"
    return None


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    if path.parent == PACKAGE and path.name in ("__init__.py", "__main__.py"):
        return
    importer = room(path)
    assert importer in ORDER or importer == "lab", f"{importer} is a room without a place in ORDER"
    for module, line in imports(path):
        if module.startswith("untax."):
            why = violation(importer, module.split(".")[1])
            assert why is None, f"{path}:{line}: {why}"


def test_the_order_check_can_fail():
    assert violation("stats", "report")
    assert violation("metrics", "objectives")
    assert violation("metrics", "lab")
    assert violation("lab", "report")
    assert violation("run", "lab") is None


def test_low_rooms_import_each_other_without_a_cycle():
    low = [path for path in MODULES if ORDER.get(room(path)) == 1]
    needs = {room(path): {m.split(".")[1] for m, _ in imports(path) if m.startswith("untax.")} for path in low}
    done: set[str] = {"types"}
    while len(done) < len(needs) + 1:
        ready = {name for name, wanted in needs.items() if name not in done and wanted <= done}
        assert ready, f"cycle among {sorted(set(needs) - done)}"
        done |= ready


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "__init__.py" and p.parent != PACKAGE], ids=str)
def test_init_files_are_empty(path):
    assert path.read_text(encoding="utf-8").strip() == ""


@pytest.mark.parametrize("name", sorted(NO_TORCH))
def test_rooms_that_need_no_torch_import_none(name):
    for path in MODULES:
        if room(path) == name:
            for module, line in imports(path):
                assert module.split(".")[0] not in ("torch", "transformers", "peft", "trl"), f"{path}:{line}"


def test_only_train_touches_trainers():
    for path in MODULES:
        if room(path) == "train":
            continue
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(from|import) trl\b", text, flags=re.M), path
        assert not re.search(r"import .*\bTrainer\b", text), path


@pytest.mark.parametrize(
    "method", [m for folder in METHOD_FOLDERS for m in methods.listing(folder)], ids=lambda m: f"{m.folder}/{m.name}"
)
def test_a_method_says_what_it_must(method):
    for part in ("Paper:", "Differs:", "Shapes:", "Raises:"):
        assert part in method.docstring, f"{method.path}: the docstring has no '{part}'"
    assert len(method.summary) > 20, f"{method.path}: the first line must say in plain words what it does"
    lines = len(method.path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_METHOD_LINES, f"{method.path}: {lines} lines"


@pytest.mark.parametrize("folder", METHOD_FOLDERS)
def test_every_file_of_a_method_folder_is_a_method_or_named_as_shared(folder):
    names = {m.path.name for m in methods.listing(folder)}
    for path in (PACKAGE / folder).glob("*.py"):
        assert path.name in names or path.stem in methods.SHARED or path.stem == "__init__", f"{path} is neither"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_are_short_and_probe_nothing(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{path}:{node.lineno}: {node.name} has {length} lines"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("hasattr", "eval", "exec"), f"{path}:{node.lineno}: {node.func.id}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path}:{node.lineno}: bare except"


def test_nothing_is_unpickled():
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\b(pickle|joblib|dill|marshal|shelve)\b\s*\.", text), path
        for call in re.finditer(r"torch\.load\(.*", text):
            assert "weights_only=True" in call.group(0), f"{path}: {call.group(0)}"


def test_help_and_list_need_no_torch():
    code = (
        "import sys; from untax import cli; cli.app(['list'], standalone_mode=False); "
        "bad = {'torch', 'transformers', 'scipy', 'trl', 'datasets'} & set(sys.modules); assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "contrastive" in done.stdout
