"""The page of a comparison without a browser: what is in the files, what is escaped, that labels do not overlap."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_page import NASTY, Parsed

from frontier_data import FAMILIES, sweep, twelve_families
from untax import frontier
from untax.frontier import SUMMARY, Comparison
from untax.report import frontier as page
from untax.report import scatter
from untax.types import Scores


@pytest.fixture(scope="module")
def large() -> Comparison:
    return twelve_families()


@pytest.fixture(scope="module")
def written(large: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page.write(large, tmp_path_factory.mktemp("compare"))


def shown(path: Path) -> str:
    return " ".join("".join(Parsed(path.read_text(encoding="utf-8")).text).split())


def test_everything_is_said(large: Comparison, written: Path) -> None:
    text = shown(written)
    for words in (large.sentence, *large.unknown, *large.notes, "ewc@3", "no scores of the training seed 2"):
        assert words in text
    main = large.axis(large.main)
    for point in large.points:
        assert point.system in text
        assert f"[{main.bare(point.taxes[SUMMARY].low)}, {main.bare(point.taxes[SUMMARY].high)}]" in text
    for cost in large.costs:
        versus = cost.versus.get(large.main)
        if versus is not None and versus.verdict in ("not known", "does not reach"):
            assert versus.why in text
    assert text.count("less tax") >= sum(c.versus[SUMMARY].verdict == "less tax" for c in large.costs if c.versus)


def test_what_is_withheld_is_listed(tmp_path: Path) -> None:
    base, systems = sweep(n=30)
    copies = [replace(base, system="copy", seed=seed) for seed in (0, 1, 2)]
    made = frontier.build(base, [*systems, copies], resamples=100)
    text = page.write(made, tmp_path).read_text(encoding="utf-8")
    listed = re.search(r'<section id="gone".*?</section>', text, flags=re.S)
    assert listed is not None
    assert "<b>copy</b>: withheld" in listed[0]
    assert "copy: withheld" in (tmp_path / "compare.md").read_text(encoding="utf-8")
    assert 'data-family="copy"><title>' not in text  # it stands in the table and in no picture


def test_the_page_loads_nothing_and_allows_only_its_own_script(written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    parsed = Parsed(text)
    assert not re.search(r"https?:|//cdn|@import|url\(", text)
    for tag, attributes in parsed.tags:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base", "form")
        assert "src" not in attributes
        assert str(attributes.get("href", "#")).startswith("#")
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    policy = str(next(a["content"] for t, a in parsed.tags if t == "meta" and a.get("http-equiv")))
    style = re.search(r"<style>(.*?)</style>", text, flags=re.S)
    assert style is not None
    for kind, source in (("script", parsed.scripts[-1]), ("style", style[1])):
        code = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{code}'" in policy
    assert "default-src 'none'" in policy
    assert len(text) < 600_000


def hostile(scores: Scores) -> Scores:
    """Every name of a table made hostile."""
    specs = tuple(replace(s, name=f"{s.name} {NASTY}", unit=f"{s.unit} {NASTY}") for s in scores.specs)
    rows = tuple(replace(r, metric=f"{r.metric} {NASTY}") for r in scores.rows)
    about = dict(scores.about)
    if "family" in about:
        about |= {
            "family": f"{about['family']} {NASTY}",
            "strength": {f"a.{NASTY}": f"{v}{NASTY}" for v in about["strength"].values()},
        }
    return replace(scores, system=f"{scores.system} {NASTY}\x00\ud800", specs=specs, rows=rows, about=about)


def test_hostile_names_stay_text(tmp_path: Path, written: Path) -> None:
    base, systems = sweep(n=30)
    made = frontier.build(
        hostile(base),
        [[hostile(s) for s in seeds] for seeds in systems],
        runs=[NASTY],
        left_out=[(NASTY, NASTY)],
        resamples=100,
    )
    text = page.write(made, tmp_path, title=f"{NASTY}\x07\ud800").read_text(encoding="utf-8")
    assert len(Parsed(text).scripts) == len(Parsed(written.read_text(encoding="utf-8")).scripts)
    assert "alert(1)" not in "".join(Parsed(text).scripts)
    assert not re.search(r"[\x00-\x08\ud800]", text)
    for line in (tmp_path / "compare.md").read_text(encoding="utf-8").splitlines():
        assert "<script>" not in line.replace("\\<", "")
    assert json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))["schema"] == frontier.SCHEMA


def test_the_json_holds_the_numbers(large: Comparison, written: Path) -> None:
    told = json.loads((written.parent / "compare.json").read_text(encoding="utf-8"))
    for point, entry in zip(large.points, told["points"], strict=True):
        assert entry["taxes"][SUMMARY]["value"] == pytest.approx(point.taxes[SUMMARY].value)
    for cost, entry in zip(large.costs, told["costs"], strict=True):
        value = entry["taxes"][SUMMARY]["value"]
        assert (value is None) == math.isnan(cost.taxes[SUMMARY].value)
    assert told["settings"] == {"seed": 0, "resamples": 200, "alpha": 0.05, "confidence": 0.95}


def test_markdown_tables_are_whole(large: Comparison, written: Path) -> None:
    text = (written.parent / "compare.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    # levels, systems; then the ledger's two sides and the patterns: a head of two rows, the base, twelve families
    assert len(rows) == 2 * 3 * 14 + 50 + 3 * 15
    counts = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
    assert sorted(set(counts)) == [3, 5, 7, 8, 9]


def test_labels_do_not_overlap(large: Comparison) -> None:
    colours = {family: i for i, family in enumerate(FAMILIES)}
    named = set()
    for (width, height), most in ((page.WIDE, 40), (page.NARROW, 10), (page.SMALL, 8)):
        picture = scatter.draw(large, large.axis(SUMMARY), colours, width=width, height=height, labels=most)
        labels = [mark.label for mark in picture.marks if mark.label is not None]
        assert 4 <= len(labels) <= most
        boxes = []
        for label in labels:
            long = scatter.LETTER * len(label.text)
            x = label.x if label.anchor == "start" else label.x - long if label.anchor == "end" else label.x - long / 2
            boxes.append(scatter.Box(x, label.y - 10, x + long, label.y + 2))
            assert x >= 0
            assert x + long <= width
        assert not [1 for i, one in enumerate(boxes) for other in boxes[:i] if one.meets(other)]
        if width > 1000:
            named = {label.text for label in labels}
    fronts = [p for p in large.points if SUMMARY in p.front]
    assert {f"{p.family} {p.label}" for p in fronts} <= named


def test_marks_stand_where_their_numbers_are(large: Comparison) -> None:
    """Right is safer, up is less tax; ends of crosses lie on either side of their mark, and no two families share colour and shape."""
    colours = {family: i + 1 for i, family in enumerate(FAMILIES)}
    picture = scatter.draw(large, large.axis("perplexity"), colours, width=360, height=300, labels=0)
    places = {mark.title.split(":")[0]: mark for mark in picture.marks}
    assert len(places) == 48
    ordered = sorted(large.points, key=lambda p: p.gain.value)
    assert [places[p.system].x for p in ordered] == sorted(m.x for m in picture.marks)
    ordered = sorted(large.points, key=lambda p: p.taxes["perplexity"].value)
    assert [places[p.system].y for p in ordered] == sorted(m.y for m in picture.marks)
    for mark in picture.marks:
        assert mark.across is not None
        assert mark.down is not None
        assert mark.across[0] <= mark.x <= mark.across[1]
        assert mark.down[0] <= mark.y <= mark.down[1]
        assert mark.label is None
    assert len({(mark.colour % 8, mark.colour % 6) for mark in picture.marks}) == len(FAMILIES)
