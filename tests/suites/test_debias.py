"""The suites of the debiasing bench: what they read, that limits tear nothing apart, and a tiny model goes through each."""

from __future__ import annotations

import math
import re

import pytest

import tiny
from untax import measure
from untax.lab import english, world
from untax.metrics.winogender import winogender
from untax.suites.read import load_suite
from untax.types import Answer


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    world.write(folder)
    return load_suite("lab-debias", data_dir=folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("english")
    english.write(folder)
    return load_suite("debias", data_dir=folder)


@pytest.fixture(scope="module")
def real(shared):
    return load_suite("real-debias", data_dir=shared / "data")


def sizes(suite):
    return {line.spec.name: len(line.items) for line in suite.lines}


def check_what_every_bench_has(suite):
    """A pair gap with a verdict, signed gaps of attribute and control without one, and the patterns of failing output."""
    lines = {line.spec.name: line for line in suite.lines}
    gaps = [line for line in suite.lines if line.spec.metric == "pair_gap"]
    absolute = [line.spec.side for line in gaps if line.options.get("score") != "signed"]
    assert "safety" in absolute
    assert "ability" not in absolute
    signed = [line for line in gaps if line.options.get("score") == "signed"]
    assert {line.spec.side for line in signed} == {"watch"}
    assert [line.spec.name for line in signed if line.options.get("control")] == ["signed gap, controls"]
    assert len(signed) == 3
    # the control pairs are those of the grammar line: flattening and lost grammar are read from one asking
    assert lines["signed gap, controls"].items == lines["grammar"].items
    assert {"empty", "repeated", "duplicate", "length", "drift", "token_shift"} <= {
        line.spec.metric for line in suite.lines
    }
    drift = {name.partition(" [")[2] for name in lines if name.startswith("drift")}
    assert drift == {name.partition(" [")[2] for name in lines if name.startswith("perplexity")}
    for line in suite.lines:
        assert line.spec.unit, line.spec.name
        assert line.spec.side == "watch" or line.spec.margin > 0


def test_the_lab_bench(lab):
    check_what_every_bench_has(lab)
    n = sizes(lab)
    assert (n["pronoun gap"], n["stereotype"], n["grammar"]) == (300, 300, 267)
    assert (n["signed gap, trained occupations"], n["signed gap, other occupations"]) == (200, 100)
    assert (n["toxicity"], n["faithfulness"], n["facts"], n["copying"], n["counting"]) == (200, 200, 200, 150, 150)
    assert not any(item.fields["shown"] for line in lab.lines if line.spec.name == "facts" for item in line.items)
    assert {line.spec.name for line in lab.lines if line.spec.side == "safety"} == {
        "pronoun gap",
        "stereotype",
        "toxicity",
    }


def test_the_english_bench(plain):
    check_what_every_bench_has(plain)
    assert not plain.skipped
    assert {line.spec.name for line in plain.lines if line.spec.side == "safety"} == {
        "pronoun gap",
        "stereotype",
        "group gap",
    }


def test_the_real_bench(real):
    check_what_every_bench_has(real)
    n = sizes(real)
    assert (n["CrowS-Pairs"], n["WinoBias"], n["Winogender coreference"], n["grammar"]) == (400, 391, 360, 680)
    assert (n["BBQ lean, context unclear"], n["BBQ, context clear"]) == (90, 45)
    grammar = next(line for line in real.lines if line.spec.name == "grammar")
    assert len({item.cluster for item in grammar.items}) == 34


def test_a_limit_leaves_the_templates_of_winogender_whole(real):
    """Every template has he and she, or its gap is missing: none is. All 60 occupations stay."""
    line = next(line for line in real.lines if line.spec.metric == "winogender")
    answers = [Answer(logprobs=(-1.0, -2.0), choice_tokens=(1, 1))] * len(line.items)
    assert winogender(line.items, answers, **line.options) == [0.0] * 360
    assert len({item.fields["occupation"] for item in line.items}) == 60


def test_bbq_has_all_three_kinds(real):
    for name in ("BBQ lean, context unclear", "BBQ, context clear"):
        line = next(line for line in real.lines if line.spec.name == name)
        kinds = [item.fields["category"] for item in line.items]
        assert len(set(kinds)) == 3
        assert min(map(kinds.count, set(kinds))) >= len(kinds) // 3 - 1


@pytest.mark.parametrize("name", ["lab-debias", "debias", "real-debias"])
def test_a_tiny_model_goes_through_the_whole_bench(tmp_path, request, name):
    if name == "real-debias":
        folder = request.getfixturevalue("shared") / "data"
    else:
        folder = tmp_path
        (world if name == "lab-debias" else english).write(folder)
    suite = load_suite(name, data_dir=folder, max_items=5)
    model = tiny.llama(context=2048)
    scores = measure.measure(
        model, tiny.tokenizer(), suite, system="tuned", base=tiny.llama(1, context=2048), progress=False
    )
    told = {line.spec.name: scores.of(line.spec.name) for line in suite.lines}
    for name, rows in told.items():
        assert 1 <= len(rows) <= 5
        # of few items some have no template whole, no word said, or no second answer
        if not re.search(r"Winogender, towards|toxicity|faithfulness|repeated|twice|copied|shift", name):
            assert any(math.isfinite(row.score) for row in rows), name
    assert all(row.score > 0 for row in told["drift"])
