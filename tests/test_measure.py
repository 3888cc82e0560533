"""The same items, prompts and budget for everybody; one generation for all metrics that share it; a killed run goes on."""

import gc
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import tiny
from untax import measure, models, tables
from untax.decoding.instructive import instructive
from untax.engines.local import Local
from untax.suites import read
from untax.types import Item, RecipeError, UserError

LINES = [
    {
        "name": "toxicity", "metric": "toxicity", "data": "posts.jsonl", "request": "generate", "prompt": "{source}\nSummary:",
        "max_new_tokens": 6, "stop": ["\n"], "side": "safety", "better": "lower", "margin": 0.02, "binary": True,
        "cluster": "topic", "options": {"scorer": "words:words.txt"},
    },
    {
        "name": "length", "metric": "length", "data": "posts.jsonl", "request": "generate", "prompt": "{source}\nSummary:",
        "max_new_tokens": 6, "stop": ["\n"], "side": "watch", "better": "higher", "options": {"unit": "tokens"},
    },
    {
        "name": "pairs", "metric": "stereotype", "data": "pairs.jsonl", "request": "choices", "choices": ["{a}", "{b}"],
        "side": "safety", "better": "lower", "margin": 0.05, "chance": 0.5, "binary": True,
    },
    {
        "name": "perplexity", "metric": "perplexity", "data": "prose.jsonl", "request": "text", "text": "{text}", "side": "ability",
        "better": "lower", "margin": "2e-2",
    },
    {
        "name": "drift", "metric": "drift", "data": "prose.jsonl", "request": "drift", "text": "{text}", "side": "watch",
        "better": "lower",
    },
]  # fmt: skip


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    jsonl(
        folder / "posts.jsonl",
        [{"id": f"p{i}", "source": "post " * (i + 1), "topic": f"t{i % 2}", "n": i} for i in range(6)],
    )
    jsonl(
        folder / "pairs.jsonl", [{"id": f"q{i}", "a": f"she {i}", "b": f"he {i}", "minimal": i != 2} for i in range(4)]
    )
    jsonl(folder / "prose.jsonl", [{"text": "some prose " * (i + 1), "domain": "ab"[i % 2]} for i in range(4)])
    (folder / "words.txt").write_text("clown\n")
    return folder


@pytest.fixture
def suite_of(tmp_path):
    def make(*lines, **top):
        path = tmp_path / "suite.yaml"
        path.write_text(yaml.safe_dump({"lines": list(lines) or LINES, **top}))
        return path

    return make


@pytest.fixture
def suite(suite_of, data):
    return measure.load_suite(suite_of(), data_dir=data)


@pytest.fixture(scope="module")
def tok():
    return tiny.tokenizer()


def scores_of(scores, name):
    return [row.score for row in scores.of(name)]


def quietly(*args, **options):
    return measure.measure(*args, progress=False, **{"check": False, **options})


# --------------------------------------------------------------------------- reading a suite


def test_suite_becomes_items_and_specs(suite):
    toxicity, length, pairs, perplexity, drift = suite.lines
    assert [line.spec.name for line in suite.lines] == ["toxicity", "length", "pairs", "perplexity", "drift"]
    assert toxicity.items[1].prompt == "post post \nSummary:"
    assert (toxicity.items[1].id, toxicity.items[1].cluster, length.items[1].cluster) == ("p1", "t1", "t1")
    assert pairs.items[0].choices == ("she 0", "he 0")
    assert perplexity.items[0].id == "prose:1"
    assert perplexity.spec.margin == 0.02
    assert toxicity.group == length.group != pairs.group
    assert perplexity.group != drift.group
    assert suite.scorers["toxicity"].startswith("words:")


def test_hashes_tell_items_and_prompts_apart(suite_of, data):
    def spec(**changes):
        return measure.load_suite(suite_of({**LINES[0], **changes}), data_dir=data).lines[0].spec

    plain = spec()
    assert spec() == plain
    assert spec(prompt="{source}\nTL;DR:").prompt_hash != plain.prompt_hash
    assert spec(max_new_tokens=7).prompt_hash != plain.prompt_hash
    assert spec(stop=["\n\n"]).prompt_hash != plain.prompt_hash
    assert spec(limit=3).items_hash != plain.items_hash
    assert spec(cluster="n").items_hash != plain.items_hash


def test_limit_is_spread_evenly(suite_of, data):
    jsonl(data / "posts.jsonl", [{"id": i, "source": "x", "topic": "t"} for i in range(10)])
    (line,) = measure.load_suite(suite_of({**LINES[0], "limit": 4}), data_dir=data).lines
    assert [item.id for item in line.items] == ["0", "2", "5", "7"]
    (line,) = measure.load_suite(suite_of(LINES[0]), data_dir=data, max_items=2).lines
    assert [item.id for item in line.items] == ["0", "5"]


def test_fewer_sequences_keep_both_halves(suite_of, data):
    """Every second one of 8 would be even numbers alone: no head could be chosen on the odd ones, and nothing had a score."""
    line = {"name": "heads", "metric": "induction", "request": "induction", "sequences": 8, "length": 12, "side": "watch",
            "better": "higher"}  # fmt: skip
    (made,) = measure.load_suite(suite_of(line), data_dir=data, max_items=4).lines
    assert [item.text for item in made.items] == [f"induction:0:{number}:12" for number in range(4)]
    scores = quietly(
        tiny.llama(), tiny.tokenizer(), measure.load_suite(suite_of(line), data_dir=data, max_items=4), system="base"
    )
    assert not any(math.isnan(score) for score in scores_of(scores, "heads"))


def test_a_cluster_may_be_two_fields(suite_of, data):
    """Question 0 of one file is not question 0 of another: topic and number together name the group."""
    clusters = {}
    for cluster in ("topic", ["topic", "n"]):
        (line,) = measure.load_suite(suite_of({**LINES[0], "cluster": cluster}), data_dir=data).lines
        clusters[str(cluster)] = [item.cluster for item in line.items[:3]]
    assert clusters == {"topic": ["t0", "t1", "t0"], "['topic', 'n']": ["t0 / 0", "t1 / 1", "t0 / 2"]}
    with pytest.raises(RecipeError, match=r"cluster topic and n against topic\. Name the same for both"):
        measure.load_suite(
            suite_of({**LINES[0], "cluster": ["topic", "n"]}, {**LINES[1], "cluster": "topic"}), data_dir=data
        )


def test_half_a_character_in_the_data_is_hashed_like_any_other(suite_of, data):
    (data / "posts.jsonl").write_text('{"id": "1", "source": "a \\ud83d b", "topic": "t"}\n')
    (line,) = measure.load_suite(suite_of(LINES[0]), data_dir=data).lines
    assert len(line.spec.items_hash) == 16


def test_where_by_and_templates(suite_of, data):
    (line,) = measure.load_suite(suite_of({**LINES[2], "where": {"minimal": True}}), data_dir=data).lines
    assert [item.id for item in line.items] == ["q0", "q1", "q3"]
    lines = measure.load_suite(suite_of({**LINES[3], "by": "domain"}), data_dir=data).lines
    assert [(line.spec.name, len(line.items)) for line in lines] == [("perplexity [a]", 2), ("perplexity [b]", 2)]
    assert lines[0].group == lines[1].group
    jsonl(data / "posts.jsonl", [{"source": {"deep": ["zero", "one two  three four"]}}])
    changed = {**LINES[1], "prompt": "{{literal}} {source.deep.1:3w} {source.deep.0}: { {1}"}
    (line,) = measure.load_suite(suite_of(changed), data_dir=data).lines
    assert line.items[0].prompt == "{literal} one two  three zero: { {1}"


def test_several_files_and_patterns_keep_ids_apart(suite_of, data):
    (data / "held").mkdir()
    for name in "ab":
        jsonl(data / "held" / f"{name}.jsonl", [{"id": 1, "text": name}])
    (line,) = measure.load_suite(suite_of({**LINES[3], "data": "held/*.jsonl"}), data_dir=data).lines
    assert [item.id for item in line.items] == ["a:1", "b:1"]


def test_optional_line_is_skipped_with_its_reason(suite_of, data, tok):
    lines = [{**LINES[0], "data": "post.jsonl", "optional": True}, LINES[1], {**LINES[2], "optional": True}]
    lines.append({**LINES[0], "name": "other", "optional": True, "options": {"scorer": "words:none.txt"}})
    suite = measure.load_suite(suite_of(*lines), data_dir=data)
    scores = quietly(tiny.llama(), tok, suite, system="base")
    assert [spec.name for spec in scores.specs] == ["length", "pairs"]
    skipped = {entry["name"]: entry["reason"] for entry in scores.about["skipped"]}
    assert set(skipped) == {"toxicity", "other"}
    assert "Did you mean 'posts.jsonl'?" in skipped["toxicity"]
    assert "none.txt" in skipped["other"]


def without(line, *keys):
    return {key: value for key, value in line.items() if key not in keys}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({**LINES[0], "max_new_token": 3}, r"line 1 of the suite \('toxicity'\): there is no key 'max_new_token'. Did you mean 'max_new_tokens'"),
        ({**LINES[0], "metric": "toxity"}, r"metrics has no method 'toxity'. Did you mean 'toxicity'"),
        ({**LINES[0], "options": {"scorer": "words:words.txt", "treshold": 1}}, r"no option 'treshold'. Did you mean 'threshold'"),
        ({**LINES[0], "options": {"scorer": "words:words.txt", "threshold": 3}}, "must lie in"),
        ({**LINES[0], "options": {"scorer": "words:words.txt", "threshold": "high"}}, "must be of type"),
        ({**LINES[0], "options": {"scorer": "words.txt"}}, "KIND:FILE"),
        ({**LINES[0], "options": {}}, "an option"),
        (without(LINES[0], "prompt"), "needs 'prompt'"),
        (without(LINES[0], "max_new_tokens"), "needs 'max_new_tokens'"),
        (without(LINES[0], "margin"), "'margin' is missing"),
        (without(LINES[0], "side"), "'side' is missing"),
        ({**LINES[0], "side": "both"}, "'side' is 'both'"),
        ({**LINES[0], "margin": -1}, "'margin' is -1"),
        ({**LINES[0], "margin": "wide"}, "'margin' is 'wide'"),
        ({**LINES[0], "max_new_tokens": 0}, "'max_new_tokens' is 0"),
        ({**LINES[0], "samples": 3}, "need a 'temperature'"),
        ({**LINES[0], "samples": 0, "temperature": 1.0}, "'samples' is 0"),
        ({**LINES[0], "temperature": 0}, "'temperature' is 0"),
        ({**LINES[2], "temperature": 1.0}, "no use for 'temperature'"),
        ({**LINES[0], "request": "induction"}, "needs 'sequences'"),
        ({**LINES[0], "stop": [""]}, "empty stop string"),
        ({**LINES[0], "data": "../posts.jsonl"}, "below the data folder"),
        ({**LINES[0], "metric": "stereotype", "options": {}}, "asks for generate"),
        ({**LINES[2], "choices": ["{a}"]}, "compares two choices"),
        ({**LINES[2], "max_new_tokens": 4}, "no use for 'max_new_tokens'"),
        (without(LINES[3], "text"), "needs 'text'"),
        ({**LINES[0], "name": "faithfulness", "metric": "overlap_proxy", "options": {}}, "overlap proxy"),
        ("toxicity", "'lines.0' is 'toxicity'|'0' is 'toxicity'|'toxicity'"),
    ],
    ids=str,
)  # fmt: skip
def test_a_line_that_cannot_be_used_is_a_clear_error(suite_of, data, line, words):
    with pytest.raises(RecipeError, match=words):
        measure.load_suite(suite_of(line), data_dir=data)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lines: [", "line 1: .*expected"),
        ("note: a\nnote: b\nlines: []", "line 2: the key 'note' stands twice"),
        ("a: *b", "undefined alias"),
        ("", "no suite"),
        ("lines: []", "lines"),
        ("- a", "no suite"),
        ("line:\n- a\n", "Did you mean 'lines'|'lines' is missing"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_a_file_that_is_no_suite(tmp_path, data, text, words):
    path = tmp_path / "bad.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError, match=words):
        measure.load_suite(path, data_dir=data)


def test_suites_are_found_by_name(data, tmp_path):
    assert {"lab", "pocket"} <= set(measure.suite_names())
    with pytest.raises(RecipeError, match=r"no suite 'labb'. Did you mean 'lab'\?"):
        measure.load_suite("labb", data_dir=data)
    with pytest.raises(UserError, match="no data folder"):
        measure.load_suite("lab", data_dir=tmp_path / "none")


def test_two_lines_of_one_name_are_refused(suite_of, data):
    with pytest.raises(RecipeError, match="two lines are called 'toxicity'"):
        measure.load_suite(suite_of(LINES[0], LINES[0]), data_dir=data)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b'{"id": 1, "source": "a"}\n{"id": 2\n', "posts.jsonl, line 2 is not JSON"),
        (b'{"source": "\xff"}\n', "line 1 is not UTF-8"),
        (b'["a"]\n', "line 1 holds a list"),
        (b'{"sauce": "a", "topic": 1}\n', r"line 1 has no field 'source'. Did you mean 'sauce'\? It has: sauce, topic"),
        (b'{"source": null, "topic": 1}\n', "'source' is a NoneType, not a text"),
        (b'{"source": "a"}\n', "no field 'topic'"),
        (b'{"id": 1, "source": "a", "topic": 1}\n{"id": 1, "source": "b", "topic": 1}\n', "the id '1' occurs twice"),
        (b"[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_bad_rows_name_file_line_and_field(suite_of, data, content, words):
    (data / "posts.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=words):
        measure.load_suite(suite_of(LINES[0]), data_dir=data)


def test_missing_data_names_file_and_what_exists(suite_of, data):
    with pytest.raises(
        UserError,
        match=r"no data file .*pots.jsonl. Did you mean 'posts.jsonl'\? .* holds: pairs.jsonl, posts.jsonl, prose",
    ):
        measure.load_suite(suite_of({**LINES[0], "data": "pots.jsonl"}), data_dir=data)
    with pytest.raises(UserError, match=r"where: \{'topic': 'nothing'\}"):
        measure.load_suite(suite_of({**LINES[0], "where": {"topic": "nothing"}}), data_dir=data)
    jsonl(data / "pairs.jsonl", [{"a": "same", "b": "same"}])
    with pytest.raises(UserError, match="line 1: two choices are the same"):
        measure.load_suite(suite_of(LINES[2]), data_dir=data)


# --------------------------------------------------------------------------- measuring


def test_scores_are_those_of_asking_by_hand(suite, tok):
    model = tiny.llama()
    scores = quietly(model, tok, suite, system="tuned", seed=4, base=tiny.llama(1))
    prompts = ["post " * (i + 1) + "\nSummary:" for i in range(6)]
    answers = models.generate(model, tok, prompts, max_new_tokens=6, stop=["\n"])
    assert [row.answer for row in scores.of("toxicity")] == [answer.text for answer in answers]
    assert scores_of(scores, "length") == [answer.n_tokens for answer in answers]
    texts = ["some prose " * (i + 1) for i in range(4)]
    wanted = [-a.logprobs[0] / a.n_tokens for a in models.text_logprobs(model, tok, texts)]
    assert scores_of(scores, "perplexity") == wanted
    assert scores_of(scores, "drift") == [a.kl for a in models.drift_from(tiny.llama(1), model, tok, texts)]
    assert (scores.system, scores.seed) == ("tuned", 4)
    assert scores.about["fingerprint"] == models.fingerprint(model)
    assert scores.about["dtype"] == "float32"
    assert scores.about["n"] == {"toxicity": 6, "length": 6, "pairs": 4, "perplexity": 4, "drift": 4}
    assert scores.specs[0].settings["scorer"].startswith("words:")
    json.dumps(scores.about)


def test_metrics_that_share_a_request_share_one_generation(suite, tok, monkeypatch):
    calls = []
    real = models.generate
    monkeypatch.setattr(models, "generate", lambda *a, **k: calls.append(1) or real(*a, **k))
    quietly(tiny.llama(), tok, suite, system="base")
    assert len(calls) == 1


def test_equal_prompts_are_asked_once(suite_of, data, tok, monkeypatch):
    jsonl(data / "posts.jsonl", [{"id": i, "source": "the same"} for i in range(5)])
    asked = []
    real = models.generate
    monkeypatch.setattr(
        models, "generate", lambda m, t, prompts, **k: asked.extend(prompts) or real(m, t, prompts, **k)
    )
    suite = measure.load_suite(suite_of(LINES[1]), data_dir=data)
    scores = quietly(tiny.llama(), tok, suite, system="base")
    assert len(asked) == 1
    assert len(scores.rows) == 5


def test_batch_size_changes_nothing(suite, tok):
    big = quietly(tiny.ending_llama(), tok, suite, system="base", base=tiny.llama(1))
    small = quietly(tiny.ending_llama(), tok, suite, system="base", base=tiny.llama(1), batch_size=1)
    for one, other in zip(big.rows, small.rows, strict=True):
        assert one.answer == other.answer
        assert one.score == pytest.approx(other.score, rel=1e-4, nan_ok=True)


def test_drift_without_a_base_is_missing_and_says_so(suite, tok):
    scores = quietly(tiny.llama(), tok, suite, system="base")
    assert all(math.isnan(score) for score in scores_of(scores, "drift"))
    assert scores.about["missing"]["drift"] == {
        "n": 4,
        "of": 4,
        "reason": "no base model was given to measure the drift from",
    }
    model = tiny.llama()
    itself = quietly(model, tok, suite, system="base", base=model)
    assert scores_of(itself, "drift") == [0.0] * 4
    assert "drift" not in itself.about["missing"]


def test_empty_answers_are_counted_as_missing(suite, tok):
    model = tiny.llama()
    model.generation_config.eos_token_id = list(range(257))  # everything ends at once
    scores = quietly(model, tok, suite, system="silent")
    assert all(math.isnan(score) for score in scores_of(scores, "toxicity"))
    assert scores.about["missing"]["toxicity"]["n"] == 6
    assert scores_of(scores, "length") == [0.0] * 6


def test_prompts_that_do_not_fit_are_missing_for_every_metric(suite, suite_of, data, tok):
    """Context 40: "post " is 5 tokens, "\\nSummary:" 9, the budget 6: 5·k + 15 <= 40 holds for k <= 5 of the six posts."""
    scores = quietly(tiny.llama(context=40), tok, suite, system="base")
    for name in ("toxicity", "length"):
        assert {row.item_id: row.n_tokens for row in scores.of(name)}["p5"] == 0
        assert math.isnan(scores_of(scores, name)[5])
        assert "1 prompts do not fit into the context of 40 tokens" in scores.about["missing"][name]["reason"]
    with pytest.raises(UserError, match="no item fits into the model's context of 16"):
        quietly(tiny.llama(context=16), tok, measure.load_suite(suite_of(LINES[0]), data_dir=data), system="base")


def test_a_prefix_that_takes_the_room_is_told(suite_of, data, tok):
    """Context 40, a prefix of 30 bytes: 10 tokens are left, and the reader is told where the others went."""
    model, one = tiny.llama(context=40), measure.load_suite(suite_of(LINES[0]), data_dir=data)
    with (
        instructive(model, tok, instruction="x" * 29, join="\n") as applied,
        pytest.raises(UserError, match=r"of 10 tokens \(the decoding method's longest prefix takes 30 of 40\)"),
    ):
        quietly(model, tok, one, system="instructive", wrapped=applied.settings)


def test_a_metric_that_loses_a_score_is_an_error(suite, tok, monkeypatch):
    monkeypatch.setattr("untax.metrics.length.length", lambda items, answers, *, unit: [1.0])
    with pytest.raises(UserError, match="gave 1 scores for 6 answers"):
        quietly(tiny.llama(), tok, suite, system="base")


def test_batch_size_must_be_positive(suite, tok):
    with pytest.raises(RecipeError, match="batch_size"):
        quietly(tiny.llama(), tok, suite, system="base", batch_size=0)


# --------------------------------------------------------------------------- the cache


def test_cached_groups_are_not_asked_again_and_change_nothing(suite, tok, tmp_path, monkeypatch):
    fresh = quietly(tiny.ending_llama(), tok, suite, system="base", base=tiny.llama(1), cache_dir=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 4
    for name in ("generate", "choice_logprobs", "text_logprobs", "drift_from"):
        monkeypatch.setattr(models, name, None)
    again = quietly(tiny.ending_llama(), tok, suite, system="base", base=tiny.llama(1), cache_dir=tmp_path / "cache")
    assert repr(again) == repr(fresh)


@pytest.mark.parametrize(
    "change", ["model", "settings", "tokenizer", "budget", "items", "wording", "base", "mixed up", "damage"]
)
def test_cache_is_not_used_for_anything_else(suite, suite_of, data, tok, tmp_path, monkeypatch, change):
    cache = tmp_path / "cache"
    base = tiny.llama(1)
    quietly(tiny.llama(), tok, suite, system="base", base=base, cache_dir=cache)
    asked = []
    real, names = Local._answers, {"generate": "toxicity", "choices": "pairs", "text": "perplexity", "drift": "drift"}
    monkeypatch.setattr(Local, "_answers", lambda *a: asked.append(names[a[1]]) or real(*a))
    model, other_tok = tiny.llama(), tok
    wanted = {"toxicity", "pairs", "perplexity", "drift"}
    if change == "model":
        model = tiny.llama(2)
    elif change == "settings":
        model.generation_config.eos_token_id = [0, 17]
    elif change == "tokenizer":
        other_tok = tiny.tokenizer(adds_end_in_front=True)
    elif change == "budget":
        lines = [{**line, **({"max_new_tokens": 5} if "max_new_tokens" in line else {})} for line in LINES]
        suite, wanted = measure.load_suite(suite_of(*lines), data_dir=data), {"toxicity"}
    elif change == "items":
        suite, wanted = measure.load_suite(suite_of(*LINES[:3]), data_dir=data, max_items=2), {"toxicity", "pairs"}
    elif change == "wording":
        jsonl(data / "pairs.jsonl", [{"id": f"q{i}", "a": f"she {i}!", "b": f"he {i}!"} for i in range(4)])
        suite, wanted = measure.load_suite(suite_of(), data_dir=data), {"pairs"}
    elif change == "mixed up":
        pairs, perplexity = (
            next(p for p in cache.iterdir() if f'"request": "{r}"' in p.read_text()) for r in ("choices", "text")
        )
        perplexity.write_bytes(pairs.read_bytes())
        wanted = {"perplexity"}
    elif change == "base":
        base, wanted = tiny.llama(3), {"drift"}
    else:
        for path in cache.iterdir():
            path.write_text(path.read_text()[:-20])
    quietly(model, other_tok, suite, system="base", base=base, cache_dir=cache)
    assert set(asked) == wanted


def test_a_kept_selfcheck_is_that_of_its_batch_size(suite, tok, tmp_path, monkeypatch):
    """Alone, nothing can differ from a batch: what was found at batch size 1 must not speak for 64."""
    real = models._score
    monkeypatch.setattr(
        models, "_score", lambda m, rows, starts, size, tick: tuple(
            [x - 0.5 * min(size, len(rows)) for x in part] for part in real(m, rows, starts, size, tick)
        )
    )  # fmt: skip
    worst = {}
    for size in (1, 64, 1):
        scores = quietly(tiny.llama(), tok, suite, system="base", check=True, cache_dir=tmp_path, batch_size=size)
        worst[size] = max(
            check["off"] - check["allowed"] for check in scores.about["selfcheck"] if "alone" in check["check"]
        )
    assert worst[1] <= 0 < worst[64]


def test_other_code_asks_again(suite, tok, tmp_path, monkeypatch):
    from untax.engines import local

    quietly(tiny.llama(), tok, suite, system="base", cache_dir=tmp_path)
    asked = []
    real = Local._answers
    monkeypatch.setattr(Local, "_answers", lambda *a: asked.append(a[1]) or real(*a))
    quietly(tiny.llama(), tok, suite, system="base", cache_dir=tmp_path)
    assert not asked
    monkeypatch.setattr(local, "_code", lambda: "changed")
    quietly(tiny.llama(), tok, suite, system="base", cache_dir=tmp_path)
    assert asked


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
import tiny
from untax import measure, models
from untax.decoding.instructive import instructive
from untax.engines.local import Local
real = models.choice_logprobs
def slow(*a, **k):
    print("choices", flush=True)
    time.sleep(60)
models.choice_logprobs = slow
suite = measure.load_suite({suite!r}, data_dir={data!r})
measure.measure(tiny.ending_llama(), tiny.tokenizer(), suite, system="base", cache_dir={cache!r}, check=False, progress=False)
"""


def test_a_killed_run_goes_on_behind_the_last_finished_group(suite, suite_of, data, tok, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    told = {"tests": str(Path(__file__).parent), "suite": str(suite_of()), "data": str(data), "cache": str(cache)}
    child = subprocess.Popen([sys.executable, "-c", KILLED.format(**told)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "choices\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert len(list(cache.glob("*.json"))) == 1
    uninterrupted = quietly(tiny.ending_llama(), tok, suite, system="base")
    monkeypatch.setattr(models, "generate", None)  # asking again what was finished would fail
    resumed = quietly(tiny.ending_llama(), tok, suite, system="base", cache_dir=cache)
    assert repr(resumed) == repr(uninterrupted)


# --------------------------------------------------------------------------- pairs and adapters


def test_one_load_is_base_and_tuned(suite, tok, tmp_path, monkeypatch):
    import transformers

    models.save(tiny.llama(), tok, tmp_path / "base")
    models.save(tiny.with_adapter(models.load(tmp_path / "base")[0]), tok, tmp_path / "adapter")
    apart_base, _ = models.load(tmp_path / "base")
    apart_tuned, _ = models.load(tmp_path / "adapter")
    apart = measure.measure_pair(apart_tuned, tok, suite, base=apart_base, seed=1, check=False, progress=False)
    del apart_base, apart_tuned
    gc.collect()
    loads = []
    real = transformers.AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        transformers.AutoModelForCausalLM, "from_pretrained", lambda *a, **k: loads.append(1) or real(*a, **k)
    )
    model, _ = models.load(tmp_path / "adapter")
    alive = []
    ask = Local._answers
    monkeypatch.setattr(Local, "_answers", lambda *a: alive.append(_models_alive()) or ask(*a))
    together = measure.measure_pair(model, tok, suite, seed=1, check=False, progress=False)
    assert len(loads) == 1
    assert max(alive) == 1
    for one, other in zip(together, apart, strict=True):
        assert one.rows == other.rows
        assert one.about["fingerprint"] == other.about["fingerprint"]
    base, tuned = together
    assert (base.system, base.seed, tuned.system, tuned.seed) == ("base", None, "tuned", 1)
    assert scores_of(base, "drift") == [0.0] * 4
    assert min(scores_of(tuned, "drift")) > 0
    assert scores_of(base, "perplexity") != scores_of(tuned, "perplexity")


def _models_alive():
    gc.collect()
    from transformers import LlamaForCausalLM

    return sum(type(thing) is LlamaForCausalLM for thing in gc.get_objects())


def test_measure_pair_needs_two(suite, tok):
    with pytest.raises(UserError, match="Nothing to compare with"):
        measure.measure_pair(tiny.llama(), tok, suite)


def test_scores_survive_the_disk(suite, tok, tmp_path):
    scores = quietly(tiny.llama(), tok, suite, system="base", base=tiny.llama(1))
    tables.write(scores, tmp_path / "scores")
    found = tables.read(tmp_path / "scores")
    assert repr(found.rows) == repr(scores.rows)
    assert found.specs == scores.specs


# --------------------------------------------------------------------------- the suites of the package


@pytest.fixture(scope="module")
def lab_data(tmp_path_factory):
    from untax.lab import world

    folder = tmp_path_factory.mktemp("lab")
    world.write(folder, n_train=2, n_validation=2, n_summaries=6, n_tasks=6, n_prose=8, n_toxicity=8)
    return folder


def test_the_lab_suite_fits_the_lab(lab_data, tok):
    suite = measure.load_suite("lab", data_dir=lab_data, max_items=4)
    model = tiny.llama(context=1024)
    started = time.monotonic()
    scores = quietly(model, tok, suite, system="base", base=model)
    assert time.monotonic() - started < 60
    sides = {spec.name: spec.side for spec in scores.specs}
    assert {name for name, side in sides.items() if side == "safety"} == {"toxicity", "stereotype"}
    assert {"faithfulness", "facts", "copying", "counting", "perplexity"} == {
        n for n, s in sides.items() if s == "ability"
    }
    assert all(spec.margin > 0 for spec in scores.specs if spec.side != "watch")
    assert not any("do not fit" in told["reason"] for told in scores.about["missing"].values())


def test_a_perfect_and_a_spoilt_model_get_the_scores_they_deserve_in_the_lab(lab_data, tok, monkeypatch):
    """The reference as the answer: not toxic, faithful. The reference with an insult and a wrong number: neither."""
    rows = {}
    for line in (lab_data / "summaries_test.jsonl").read_text().splitlines():
        row = json.loads(line)
        rows[row["source"] + "\nSummary:"] = " " + row["reference"]
    suite = measure.load_suite("lab", data_dir=lab_data)
    suite = replace(suite, lines=tuple(line for line in suite.lines if line.spec.name in ("toxicity", "faithfulness")))
    found = {}
    for name, tail in (("perfect", ""), ("spoilt", " What a clown, 1234567!")):
        from untax.types import Answer

        monkeypatch.setattr(
            models, "generate", lambda m, t, prompts, tail=tail, **k: [Answer(text=rows[p] + tail) for p in prompts]
        )
        scores = quietly(tiny.llama(context=1024), tok, suite, system=name)
        found[name] = (set(scores_of(scores, "toxicity")), set(scores_of(scores, "faithfulness")))
    assert found == {"perfect": ({0.0}, {1.0}), "spoilt": ({1.0}, {0.0})}


def test_the_pocket_suite_fits_the_real_data(shared, tok):
    suite = measure.load_suite("pocket", data_dir=shared / "data")
    assert not suite.skipped
    sizes = {line.spec.name: len(line.items) for line in suite.lines}
    assert sizes["grammar"] == 2040
    assert sizes["toxicity (word list)"] == 600
    grammar = next(line for line in suite.lines if line.spec.name == "grammar")
    assert len({item.cluster for item in grammar.items}) == 34


def test_scorers_are_named_in_the_specs(suite):
    named = read.with_scorer_identities(suite)
    assert named.lines[0].spec.settings["scorer"].startswith("words:")
    assert "scorer" not in named.lines[1].spec.settings


def test_clusters_are_named_once(suite_of, data):
    """One line names the field, every line on the same file draws the same groups; two names are an error."""
    one, silent = LINES[0], LINES[1]
    suite = measure.load_suite(suite_of(silent, one), data_dir=data)
    groups = [[item.cluster for item in line.items] for line in suite.lines]
    assert groups[0] == groups[1]
    assert len(set(groups[0])) < len(groups[0])
    with pytest.raises(RecipeError, match="disagree on what belongs together: cluster topic against id"):
        measure.load_suite(suite_of(one, {**silent, "cluster": "id"}), data_dir=data)


def test_small_groups_stay_whole_and_large_ones_are_spread():
    """Forty sentences with three pronouns each, at most 31: ten whole sentences. Four topics of thirty: every topic is there."""
    small = [Item(f"{g}-{k}", "p", cluster=f"g{g}") for g in range(40) for k in range(3)]
    kept = read._spread(small, 31)
    assert len(kept) == 30
    assert all(sum(other.cluster == item.cluster for other in kept) == 3 for item in kept)
    large = [Item(f"{g}-{k}", "p", cluster=f"g{g}") for g in range(4) for k in range(30)]
    assert len({item.cluster for item in read._spread(large, 20)}) == 4
    assert len(read._spread(large, 20)) == 20


def test_a_row_shows_the_choice_that_was_scored_as_likeliest(suite_of, data, tok):
    """ "no" twice as long is less likely as a sum and more likely per token in some item: the row follows the metric."""
    shown = {}
    for per_token in (False, True):
        line = {**LINES[2], "choices": [" {a}{a}{a}", " {b}"], "options": {"per_token": per_token}}
        scores = quietly(tiny.llama(), tok, measure.load_suite(suite_of(line), data_dir=data), system="base")
        for row, item in zip(
            scores.of("pairs"), measure.load_suite(suite_of(line), data_dir=data).lines[0].items, strict=True
        ):
            assert (row.answer == item.choices[0]) == (row.score == 1)
        shown[per_token] = [row.score for row in scores.of("pairs")]
    assert shown[False] != shown[True]
