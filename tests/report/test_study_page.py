"""What the page of a comparison says beside its front: in the files, escaped, the same bytes again, and pictures where their numbers are."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_frontier_page import hostile, shown
from test_page import Parsed

from frontier_data import sweep
from study_data import WORLD, world
from untax import frontier, study
from untax.frontier import Comparison
from untax.report import frontier as page
from untax.report import study as study_page
from untax.study import Study

FILES = ("compare.json", "compare.md", "compare.html")


@pytest.fixture(scope="module")
def made() -> Comparison:
    return frontier.build(*world(), resamples=200, runs=["world"])


@pytest.fixture(scope="module")
def whole(made: Comparison) -> Study:
    found = study.make(made)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def written(made: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page.write(made, tmp_path_factory.mktemp("study"))


def section(path: Path, name: str) -> str:
    found = re.search(rf'<section id="{name}".*?</section>', path.read_text(encoding="utf-8"), flags=re.S)
    return found[0] if found else ""


def test_everything_is_said(whole: Study, written: Path) -> None:
    text, markdown = shown(written), (written.parent / "compare.md").read_text(encoding="utf-8")
    assert whole.forgetting is not None
    for one in whole.forgetting.findings:
        for words in (one.claim, one.verdict, one.sentence):
            assert words in text
            assert words in markdown.replace("\\", "")
    assert whole.forgetting.scope in text
    assert {"lines", "patterns", "forgetting", "predicted"} <= set(
        re.findall(r'<section id="(\w+)"', written.read_text())
    )
    for axis in whole.ledger.axes:
        assert section(written, "lines").count(f"<bdi>{axis.name}</bdi>") == 2  # shown ones, and all of them
    for one in whole.forgetting.systems:
        assert f"<bdi>{one.system}</bdi>" in section(written, "forgetting")
    for remedy in whole.forgetting.remedies:
        assert remedy.kind in section(written, "forgetting")
    assert "cosine" in section(written, "predicted")


def test_the_same_scores_give_the_same_bytes(made: Comparison, written: Path, tmp_path: Path) -> None:
    page.write(frontier.build(*world(), resamples=200, runs=["world"]), tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (written.parent / name).read_bytes(), name


def test_the_json_holds_the_study(whole: Study, written: Path) -> None:
    told = json.loads((written.parent / "compare.json").read_text(encoding="utf-8"))
    assert "tables" not in told
    assert set(told["study"]) == {"ledger", "patterns", "forgetting", "predicted", "level"}
    assert whole.forgetting is not None
    for one, entry in zip(whole.forgetting.correlations, told["study"]["forgetting"]["correlations"], strict=True):
        assert entry["rho"] == pytest.approx(one.rho)
    row = told["study"]["ledger"]["rows"][0]["cells"][0]
    assert set(row) == {"level", "change", "verdict", "why", "n"}
    assert "NaN" not in (written.parent / "compare.json").read_text(encoding="utf-8")


def test_parts_appear_only_with_their_lines(tmp_path: Path) -> None:
    base, systems = sweep(n=40)
    path = page.write(frontier.build(base, systems, resamples=100), tmp_path)
    assert section(path, "lines")
    assert section(path, "patterns")
    assert not section(path, "forgetting")
    assert not section(path, "predicted")
    told = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))["study"]
    assert told["forgetting"] is told["predicted"] is None
    assert 'href="#forgetting"' not in path.read_text(encoding="utf-8")
    bare = replace(frontier.build(base, systems, resamples=100), tables=None)
    path = page.write(bare, tmp_path / "bare")
    assert not section(path, "lines")
    assert "study" not in json.loads((tmp_path / "bare" / "compare.json").read_text(encoding="utf-8"))


def test_answers_are_never_printed(made: Comparison, written: Path) -> None:
    """Items are named by their ids: what a model said may be an insult."""
    for name in FILES:
        text = (written.parent / name).read_text(encoding="utf-8")
        assert "answer 3 of" not in text
        assert "Prompt 3" not in text
    assert "shift: shift-" in section(written, "patterns")


def test_hostile_names_stay_text(tmp_path: Path, written: Path) -> None:
    base, systems = world({"sft": WORLD["sft"][:2], "sft-replay-25": WORLD["sft-replay-25"][:2]}, n=30)
    bad = [
        [replace(one, rows=tuple(replace(r, item_id=f"{r.item_id}<img src=x>") for r in one.rows)) for one in seeds]
        for seeds in ([base], *systems)
    ]
    made = frontier.build(hostile(bad[0][0]), [[hostile(s) for s in seeds] for seeds in bad[1:]], resamples=100)
    text = page.write(made, tmp_path).read_text(encoding="utf-8")
    assert len(Parsed(text).scripts) == len(Parsed(written.read_text(encoding="utf-8")).scripts)
    assert "alert(1)" not in "".join(Parsed(text).scripts)
    assert "<img" not in text
    for line in (tmp_path / "compare.md").read_text(encoding="utf-8").splitlines():
        assert "<script>" not in line.replace("\\<", "")
    for tag, attributes in Parsed(text).tags:
        assert tag != "img"
        assert not [name for name in attributes if name.startswith("on") or name == "style"]


def test_markdown_tables_are_whole(written: Path) -> None:
    """Every row of a table has as many cells as its head."""
    width = 0
    for line in (written.parent / "compare.md").read_text(encoding="utf-8").splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not (width and cells) or cells == width, line
        width = cells


def test_dots_stand_where_their_numbers_are(made: Comparison, whole: Study) -> None:
    """More OF is further right and more loss higher up, in proportion; the base stands at 0, and crosses hold their dots."""
    assert whole.forgetting is not None
    colours = {family.name: 1 + place for place, family in enumerate(made.families)}
    for width, height in (study_page.WIDE, study_page.NARROW):
        drawn = study_page.plot(whole.forgetting, made, "forgetting", "lost", colours, width=width, height=height)
        systems = {one.system: one for one in whole.forgetting.systems}
        dots = {dot.title.split(":")[0]: dot for dot in drawn.dots}
        assert set(dots) == set(systems)
        for axis, name in ((0, "forgetting"), (1, "lost")):
            places = [(dot.x, dot.y)[axis] - drawn.base[axis] for dot in dots.values()]
            values = [systems[system].mean(name) for system in dots]
            scale = places[2] / values[2]
            assert (scale > 0) == (axis == 0)
            for place, value in zip(places, values, strict=True):
                assert place == pytest.approx(scale * value, abs=0.2)
        for dot in drawn.dots:
            assert dot.across is not None
            assert dot.down is not None
            assert dot.across[0] <= dot.x <= dot.across[1]
            assert dot.down[1] <= dot.y <= dot.down[0]
            assert drawn.left <= dot.x <= drawn.right
            assert drawn.top <= dot.y <= drawn.bottom
        assert "ρ = " in drawn.rho


def test_bars_are_as_long_as_their_shares(whole: Study, written: Path) -> None:
    assert whole.patterns is not None
    row = next(row for row in whole.patterns.rows if row.shown)
    share = row.shares["drifting"].share
    assert share > 0
    assert math.isfinite(share)
    assert f'<rect class="fill" width="{100 * share:.1f}"' in section(written, "patterns")
