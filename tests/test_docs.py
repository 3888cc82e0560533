"""What README and docs show can be run: Python blocks are executed, commands and make targets exist, links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PAGES = [CHECKOUT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((CHECKOUT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.S | re.M)


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (f"{page.name}:{page.read_text('utf-8')[: found.start()].count(chr(10)) + 1}", found[2])
        for page in PAGES
        for found in BLOCK.finditer(page.read_text(encoding="utf-8"))
        if found[1] == language
    ]


def commands() -> list[tuple[str, str]]:
    found = []
    for place, block in blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip() and not line.strip().startswith("#"):
                found.append((place, line.split("  #")[0].strip()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("place", "code"), blocks("python"), ids=[place for place, _ in blocks("python")])
def test_python_blocks_run(place, code, tmp_path):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, f"{place}: {done.stderr[-2000:]}"


def test_there_is_a_python_block():
    assert len(blocks("python")) >= 1


@pytest.mark.parametrize(("place", "line"), commands(), ids=[f"{place} {line[:40]}" for place, line in commands()])
def test_commands_exist_with_their_options(place, line):
    words = line.split()
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
        assert next(word for word in words[1:] if "=" not in word) in targets, f"{place}: {line}"
        return
    if words[0] in ("python", ".venv/bin/python"):
        script = next((word for word in words[1:] if word.endswith(".py")), None)
        assert script is None or (CHECKOUT / script).is_file(), f"{place}: {line}"
        return
    assert words[0] in ("untax", ".venv/bin/untax"), f"{place}: what is this? {line}"
    command = words[1:3] if words[1] == "lab" else words[1:2]
    shown = subprocess.run(
        [sys.executable, "-m", "untax", *command, "--help"], capture_output=True, text=True, timeout=60
    )
    assert shown.returncode == 0, f"{place}: {line}\n{shown.stderr}"
    for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", line):
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", shown.stdout), (
            f"{place}: {command} has no {option}"
        )
    for recipe in re.findall(r"recipes/\S+\.yaml", line):
        assert (CHECKOUT / recipe).is_file(), f"{place}: {recipe}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_tree_names_every_module():
    tree = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    for path in (CHECKOUT / "src" / "untax").iterdir():
        if not path.name.startswith("_") and path.suffix in ("", ".py"):
            assert path.name in tree, f"the README's tree has no {path.name}"


def test_the_ci_script_runs_the_test_command_of_the_readme():
    assert "`make test`" in (CHECKOUT / "README.md").read_text(encoding="utf-8")
    assert (CHECKOUT / ".ci" / "run").read_text(encoding="utf-8").strip().splitlines()[-1] == "make test"
