"""Every recipe in recipes/ is read, and runs for one step."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from untax import recipe

CHECKOUT = Path(__file__).resolve().parents[1]
RECIPES = sorted((CHECKOUT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_a_recipe_is_read_and_says_what_it_is(path):
    checked, notes = recipe.load(path)
    assert checked.name == path.stem
    assert checked.about
    assert notes == []
    assert len(recipe.systems(checked)) >= 2, "a recipe without a control shows nothing"


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_a_recipe_runs_for_one_step(path, request, tmp_path):
    """Every system of it; of a sweep the first member of each family."""
    checked, _ = recipe.load(path)
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section in (tree, *tree.get("controls", {}).values()):
        section.get("sweep", {}).update({key: values[:1] for key, values in section.get("sweep", {}).items()})
    for one in tree.get("references", {}).values():
        if "data" in one:
            one["limit"] = min(one.get("limit", 400), 400)
    path = tmp_path / path.name
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    overrides = ["seeds=[0]", "data.limit=8", "train.max_steps=1", "measure.max_items=8", "report.resamples=200"]
    if checked.model.base != "lab":
        overrides.append(f"model.base={request.getfixturevalue('shared') / 'models' / 'pocket-lm'}")
    if checked.data.dir == "DATA_DIRECTORY":
        overrides.append(f"data.dir={request.getfixturevalue('shared') / 'data'}")
    command = [sys.executable, "-m", "untax", "run", str(path), *overrides, "--out", str(tmp_path / "run"), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "receipt.html").is_file()
