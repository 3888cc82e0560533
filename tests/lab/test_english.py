"""The plain-English set: the same from the same seed, tests that share no sentence with training, pairs that are pairs, answers that are right."""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from untax.data import words
from untax.lab import english
from untax.lab.english_words import CONTROLS, FACTS, HER_JOBS, HER_NAMES, HIS_JOBS, HIS_NAMES, JOB_TEST, JOB_TRAIN
from untax.metrics.pair_gap import pair_gap
from untax.suites.read import load_suite
from untax.types import Answer, UserError

SIZES = {
    "bias_train": 840, "general_train": 200, "pronouns_test": 400, "groups_test": 200, "controls_test": 240, "knowledge_test": 155,
    "openings_test": 150, "prose_test": 200,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("english")
    english.write(made)
    return made


def read(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def texts_of(row: dict) -> list[str]:
    return [
        value
        for key, value in row.items()
        if key in ("text", "prompt", "stereo", "anti", "pleasant", "unpleasant", "good", "bad")
    ]


def test_files_sizes_and_ids(folder):
    assert {path.name for path in folder.iterdir()} == {f"{name}.jsonl" for name in SIZES}
    for name, size in SIZES.items():
        rows = read(folder, name)
        assert len(rows) == len({row["id"] for row in rows}) == size, name
        asked = [tuple(texts_of(row)) for row in rows if "completion" not in row]
        assert len(set(asked)) == len(asked), f"{name}: a row stands twice"


def test_the_same_seed_writes_the_same_bytes(folder, tmp_path):
    english.write(tmp_path / "again", seed=0)
    english.write(tmp_path / "other", seed=1)
    for name in SIZES:
        mine = (folder / f"{name}.jsonl").read_bytes()
        assert (tmp_path / "again" / f"{name}.jsonl").read_bytes() == mine
        if name not in ("pronouns_test", "groups_test"):  # these are all there is
            assert (tmp_path / "other" / f"{name}.jsonl").read_bytes() != mine


def test_more_than_there_is_is_an_error_and_no_endless_search(tmp_path):
    with pytest.raises(UserError, match=r"different rows are asked for, and only \d+ came up"):
        english.write(tmp_path, n_openings=1_500)


def test_no_sentence_of_a_test_is_trained_on(folder):
    """Sentences, not texts: of prose each of the four; of pairs both members; a fact that is told is not asked."""

    def sentences(name: str) -> set[str]:
        told = [text for row in read(folder, name) for text in texts_of(row)]
        if name == "general_train":
            told = [f"{row['prompt']} {row['completion']}" for row in read(folder, name)]
        return {each for text in told for each in re.split(r"(?<=[.?!\"]) ", text)}

    trained = {name: sentences(name) for name in ("bias_train", "general_train")}
    for name in SIZES:
        if name.endswith("_test"):
            for train, said in trained.items():
                assert not sentences(name) & said, (name, train)
    assert not trained["bias_train"] & trained["general_train"]
    asked = {row["prompt"] for row in read(folder, "knowledge_test")}
    told = {row["prompt"] for row in read(folder, "general_train") if row["kind"] == "fact"}
    assert (len(asked), len(told)) == (155, 31)
    assert not asked & told
    assert not set(JOB_TRAIN) & set(JOB_TEST)


def test_rows_name_the_attribute_that_they_say_and_no_other(folder):
    """By the words that counterfactual augmentation exchanges: it has something to do in every row about people, and nothing in the neutral ones."""
    for row in read(folder, "bias_train"):
        found = {attribute for attribute in words.ATTRIBUTES if words.find(row["text"], attribute)}
        assert found == ({row["attribute"]} if row["attribute"] else set()), row
    for name in ("controls_test", "openings_test", "prose_test"):
        for row in read(folder, name):
            for text in texts_of(row):
                assert not any(words.find(text, attribute) for attribute in words.ATTRIBUTES), text


def test_every_name_has_a_counterpart():
    known = words.groups("gender")
    assert set(HER_NAMES) <= set(known["female"])
    assert set(HIS_NAMES) <= set(known["male"])


def test_occupations_of_training_lean_as_stated_and_others_are_kept_for_the_test(folder):
    """240 sentences, 120 a side, 30 of each against the expectation; 28 of 40 occupations."""
    rows = [row for row in read(folder, "bias_train") if row["kind"] == "occupation"]
    trained = {row["occupation"] for row in rows}
    assert trained == set(english.TRAINED_JOBS)
    assert len(trained) == 28
    for jobs, mine in ((HER_JOBS, r"\b(she|her)\b"), (HIS_JOBS, r"\b(he|his|him)\b")):
        side = [row["text"] for row in rows if row["occupation"] in jobs]
        assert len(side) == 120
        assert sum(bool(re.search(mine, text)) for text in side) == 90
    pairs = read(folder, "pronouns_test")
    assert all(row["seen"] == (row["cluster"] in trained) for row in pairs)
    for row in pairs:
        ours, theirs = re.findall(r"\w+", row["stereo"]), re.findall(r"\w+", row["anti"])
        differing = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
        assert len(differing) == 1
        expected = {"she", "her"} if row["cluster"] in HER_JOBS else {"he", "his", "him"}
        assert differing[0][0] in expected, row
        assert differing[0][1] not in expected


def test_occupations_are_not_gendered_by_their_own_words():
    for job in (*HER_JOBS, *HIS_JOBS):
        assert not words.find(f"The {job} came.", "gender"), job


def test_control_pairs_differ_and_hold_both_an_before_vowels(folder):
    rows = read(folder, "controls_test")
    assert {row["phenomenon"] for row in rows} == set(CONTROLS)
    assert len({row["cluster"] for row in rows}) == 60
    for row in rows:
        good, bad = re.findall(r"\w+", row["good"]), re.findall(r"\w+", row["bad"])
        assert good != bad
        assert len(set(good) ^ set(bad)) <= 4, row
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", row["good"]), row


def test_articles_fit_everywhere(folder):
    for name in SIZES:
        for row in read(folder, name):
            for text in texts_of(row) if name != "controls_test" else [row["good"]]:
                assert not re.search(r"\b[Aa] [aeioAEIO]|\b[Aa]n (?![aeiouhAEIO])", text), text


def test_knowledge_has_one_right_end_of_four(folder):
    rows = read(folder, "knowledge_test")
    places = [row["label"] for row in rows]
    assert all(25 <= places.count(place) <= 52 for place in range(4))
    for row in rows:
        assert len(set(row["options"])) == 4
        right = {end for what, end in FACTS[row["cluster"]] if row["cluster"].format(what) == row["prompt"]}
        assert right == {row["options"][row["label"]]}
    for statement, pairs in FACTS.items():
        assert len({what for what, _ in pairs}) == len(pairs), statement


def test_the_group_gap_counts_what_a_group_adds_and_not_how_frequent_its_name_is(folder):
    """Planted: every sentence prefers kindness by its length in nats, one group by one nat more: it leans by .8 and the others by .2."""
    line = next(line for line in load_suite("debias", data_dir=folder).lines if line.spec.name == "group gap")
    answers = []
    for item in line.items:
        gap = len(item.fields["sentence"]) + (1.0 if item.fields["group"] == "Hindu" else 0.0)
        frequency = -float(len(item.fields["group"]))
        answers.append(Answer(logprobs=(frequency, frequency - gap), choice_tokens=(5, 5)))
    scores = pair_gap(line.items, answers, **line.options)
    by_group = {
        group: {round(s, 6) for s, item in zip(scores, line.items, strict=True) if item.fields["group"] == group}
        for group in ("Hindu", "Jewish", "Arab")
    }
    assert by_group == {"Hindu": {0.8}, "Jewish": {0.2}, "Arab": {0.0}}


def test_groups_are_said_alike_in_a_pair(folder):
    for row in read(folder, "groups_test"):
        kind, unkind = row["pleasant"].split(), row["unpleasant"].split()
        assert len(kind) == len(unkind)
        assert sum(a != b for a, b in zip(kind, unkind, strict=True)) == 1
        assert row["group"] in kind


def test_prose_has_four_domains_of_equal_size_in_turn(folder):
    domains = [row["domain"] for row in read(folder, "prose_test")]
    assert domains[:4] == ["letter", "howto", "news", "dialogue"]
    assert {domain: domains.count(domain) for domain in set(domains)} == dict.fromkeys(domains[:4], 50)
    assert all(a != b for a, b in itertools.pairwise(domains))


def test_the_set_needs_no_torch():
    code = "import sys, untax.lab.english; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_suite_reads_the_set(folder):
    suite = load_suite("debias", data_dir=folder)
    n = {line.spec.name: len(line.items) for line in suite.lines}
    assert (n["pronoun gap"], n["signed gap, trained occupations"], n["signed gap, other occupations"]) == (
        400,
        280,
        120,
    )
    assert (n["group gap"], n["group gap [race]"], n["knowledge"], n["drift [news]"]) == (200, 100, 155, 50)
    assert [line.spec.name for line in suite.lines if line.options.get("control")] == ["signed gap, controls"]
    assert not suite.skipped
    assert all(line.spec.unit for line in suite.lines)
    assert not any(math.isnan(line.spec.margin) for line in suite.lines)
