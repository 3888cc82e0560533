"""The kind `counterfactual`, alone and in a run over plain texts: known answers, balance, and the same bytes after SIGKILL."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from data.augment.makers import records
from untax.data import words
from untax.data.augment import run
from untax.data.augment.common import Tally
from untax.data.augment.counterfactual import counterfactual
from untax.data.augmented import read_report
from untax.data.load import load
from untax.types import Candidate, ContrastiveRecord, RecipeError, UserError


def plain(*texts):
    return [ContrastiveRecord(f"t{i}", "", (Candidate(text, "reference"),)) for i, text in enumerate(texts)]


def make(out, texts, **options):
    own = {name: options.pop(name) for name in ("attribute", "names", "neutral_share") if name in options}
    given = {"kinds": ["counterfactual"], "progress": False, "options": {"counterfactual": own}} | options
    return run.augment(plain(*texts), out, **given)


def made_texts(path):
    return [[c.text for c in record.positives] for record in load(path).records]


# ---------------------------------------------------------------- the kind


def test_one_record_by_hand():
    tally = Tally()
    (record,) = plain("He gave her his book.")
    (made,) = counterfactual(record, tally=tally)
    assert (made.text, made.kind, made.generator) == ("She gave him her book.", "counterfactual", "rules")
    assert [made.text[a:b] for a, b in made.edits] == ["She", "him", "her"]
    assert (tally.made, tally.rejected) == (1, {})
    assert counterfactual(plain("The rain fell.")[0]) == []


def test_a_source_that_names_the_attribute_is_rejected_and_counted():
    """Behind "Mary is a nurse." the text "He works here." would be wrong; another attribute of the source does not matter."""
    reference = (Candidate("She works here.", "reference"),)
    for source, given, kept in (
        ("Mary is a nurse.", {}, 0),
        ("Mary is a nurse.", {"names": False}, 1),
        ("A Muslim speaks.", {}, 1),
        ("Who works here?", {}, 1),
    ):
        tally = Tally()
        assert len(counterfactual(ContrastiveRecord("a", source, reference), tally=tally, **given)) == kept
        assert (tally.made, sum(tally.rejected.values())) == (1, 1 - kept)


def test_the_seed_and_the_record_draw_the_derangement():
    text = "The church, the mosque and the synagogue"
    found = {counterfactual(r, seed=s, attribute="religion")[0].text for r in plain(text, text) for s in range(8)}
    assert len(found) == 2
    (one,) = plain(text)
    again = [counterfactual(one, seed=3, attribute="religion")[0] for _ in range(3)]
    assert len(set(again)) == 1


def test_impossible_options_are_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"neutral_share is 1\.5; it is a share"):
        make(tmp_path / "o.jsonl", ["She."], neutral_share=1.5)
    with pytest.raises(
        RecipeError,
        match=r"option 'attribute' of 'counterfactual' is 'age'; it must be one of 'gender', 'race', 'religion'",
    ):
        make(tmp_path / "o.jsonl", ["She."], attribute="age")


# ---------------------------------------------------------------- a run over plain texts


def log_odds(texts):
    """log p(she) - log p(he) behind "said" of a bigram model of the texts."""
    after = Counter(b for text in texts for a, b in zip(text.split(), text.split()[1:], strict=False) if a == "said")
    return math.log(after["she"] / after["he"])


def test_the_corpus_of_nurses_is_balanced(tmp_path):
    """Page, section 1: "the nurse said she" x 3 and "... he" x 1 give log 3; with their counterfactuals 4 and 4, log 1 = 0."""
    corpus = ["the nurse said she"] * 3 + ["the nurse said he"]
    assert log_odds(corpus) == pytest.approx(math.log(3))
    make(tmp_path / "o.jsonl", corpus)
    both = [text for texts in made_texts_of(tmp_path / "o.jsonl") for text in texts]
    assert Counter(both) == {"the nurse said she": 4, "the nurse said he": 4}
    assert log_odds(both) == 0


def made_texts_of(path):
    """Texts that come several times are no error here."""
    return [[c.text for c in record.positives] for record in load(path, duplicates="keep").records]


def test_what_comes_out_can_be_read_again(tmp_path):
    report = make(tmp_path / "o.jsonl", ["She saw him.", "Rain fell on the town.", "His wife left."])
    read = load(tmp_path / "o.jsonl").records
    assert [r.source for r in read] == ["", "", ""]
    assert made_texts(tmp_path / "o.jsonl") == [
        ["She saw him.", "He saw her."],
        ["Rain fell on the town."],
        ["His wife left.", "Her husband left."],
    ]
    assert (report.read, report.kept, report.few_positives) == (3, 3, 1)
    assert [(row.kind, row.generator, row.made, row.kept) for row in report.rows] == [("counterfactual", "rules", 2, 2)]


def test_the_report_is_sensible_without_sources_and_negatives(tmp_path):
    report = make(tmp_path / "o.jsonl", ["She saw him and Ms. Lee.", "Rain fell."])
    text = str(report)
    assert "source" not in text.split("texts with a span")[1]
    assert "only one positive: 1; no negatives: nothing is contrasted" in text
    assert "words exchanged: 3" in text
    assert "words with a guessed form: 1" in text
    assert read_report(tmp_path / "o.jsonl.report.json") == report


NEUTRAL = [f"Rain fell on day {i}." for i in range(10)]


@pytest.mark.parametrize(
    ("share", "kept"),
    [(0.5, 4), (0.0, 0), (0.2, 1), (0.75, 10), (0.3, 1), (1.0, 10), (1, 10), (0.6, 6)],
)
def test_neutral_texts_keep_to_their_share(tmp_path, share, kept):
    """Four texts with a counterfactual: at .5 four neutral ones may stay, at .2 one (1 of 5), at .6 six (6 of 10), at .75 twelve."""
    texts = [text for i in range(4) for text in (f"She left {i}.", *NEUTRAL[i * 3 : i * 3 + 3])]
    report = make(tmp_path / "o.jsonl", texts, neutral_share=share, chunk_size=5)
    found = made_texts(tmp_path / "o.jsonl")
    assert sum(len(t) == 1 for t in found) == kept
    assert [t[0] for t in found] == [t for t in texts if t in {f[0] for f in found}]
    assert (report.read, report.kept, report.few_positives, report.no_negatives) == (14, 4 + kept, kept, 4 + kept)
    assert report.dropped == ({"with no word to swap, beyond neutral_share": 10 - kept} if kept < 10 else {})
    # the report counts what was written, not what was made before some of it went
    again = make(tmp_path / "again.jsonl", [t[0] for t in found], neutral_share=1.0)
    assert (again.with_spans, again.rows) == (report.with_spans, report.rows)


def test_which_neutral_texts_stay_is_drawn_by_the_seed(tmp_path):
    texts = ["She left.", "He came.", *NEUTRAL]
    drawn = set()
    for seed in range(4):
        make(tmp_path / "o.jsonl", texts, seed=seed)
        drawn.add(str(made_texts(tmp_path / "o.jsonl")))
        make(tmp_path / "p.jsonl", texts, seed=seed, chunk_size=3)
        assert (tmp_path / "p.jsonl").read_bytes() == (tmp_path / "o.jsonl").read_bytes()
    assert len(drawn) > 1


def test_texts_without_any_word_are_an_error_that_says_so(tmp_path):
    with pytest.raises(
        UserError, match=r"none of the 10 sources can be used: 10 with no word to swap, beyond neutral_share"
    ):
        make(tmp_path / "o.jsonl", NEUTRAL)
    assert not (tmp_path / "o.jsonl").exists()


class Harsh:
    """A scorer that finds every text about a woman toxic."""

    name = identity = "harsh"

    def score(self, texts):
        return [0.9 if "She" in text else 0.1 for text in texts]


def test_a_biased_scorer_does_not_throw_the_pairs_away(tmp_path):
    """The counterfactual is scored and kept: dropping it would leave the men alone in the data."""
    make(tmp_path / "o.jsonl", ["He left."], scorer=Harsh())
    (record,) = load(tmp_path / "o.jsonl").records
    assert [(c.text, c.toxicity) for c in record.positives] == [("He left.", 0.1), ("She left.", 0.9)]


def test_plain_texts_and_records_with_a_source_in_one_run(tmp_path):
    """Relevance is asked of those that have a source, and of no others."""
    mixed = [
        *records(2),
        ContrastiveRecord("odd", "Ann moved to York.", (Candidate("Nothing whatever happens.", "reference"),)),
        ContrastiveRecord("p", "", (Candidate("Nothing whatever happens to her.", "reference"),)),
    ]
    report = run.augment(mixed, tmp_path / "o.jsonl", kinds=["reference", "counterfactual", "swap_ent"], progress=False,
                         options={"counterfactual": {"neutral_share": 1.0}})  # fmt: skip
    assert report.dropped == {"relevance below 0.1": 1}
    assert [r.id for r in load(tmp_path / "o.jsonl").records] == ["r0", "r1", "p"]
    assert report.with_spans["source"] == 2


def test_other_word_lists_are_other_data(tmp_path, monkeypatch):
    first = make(tmp_path / "o.jsonl", ["She left."])
    assert make(tmp_path / "o.jsonl", ["She left."]) == first
    monkeypatch.setattr(words, "identity", lambda attribute: "other")
    assert make(tmp_path / "o.jsonl", ["She left."]).key != first.key


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from data.augment import test_counterfactual as t
from untax.data.augment import counterfactual as module
from untax.data import words
swap = words.swap
def slow(*given, **options):
    time.sleep(0.02)
    return swap(*given, **options)
words.swap = slow
t.make(Path(sys.argv[1]), t.TEXTS, attribute="religion", chunk_size=8)
"""
TEXTS = [f"The church met the mosque on day {i}." if i % 3 == 0 else f"Rain fell on day {i}." for i in range(80)]


def test_a_killed_run_ends_with_the_same_bytes(tmp_path):
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    make(whole, TEXTS, attribute="religion", chunk_size=8)
    work = killed.with_name("killed.jsonl.work")
    tests = str(Path(__file__).resolve().parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(killed), tests], env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    deadline = time.monotonic() + 120
    while len(list(work.glob("chunk-*.json"))) < 2 and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.02)
    assert child.poll() is None, "the run was over before it could be killed"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not killed.exists()
    make(killed, TEXTS, attribute="religion", chunk_size=8)
    assert killed.read_bytes() == whole.read_bytes()
    assert Path(f"{killed}.report.json").read_bytes() == Path(f"{whole}.report.json").read_bytes()
    assert not work.exists()
    assert json.loads(whole.read_text().splitlines()[0])["positives"][1]["kind"] == "counterfactual"
