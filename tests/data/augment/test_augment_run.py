"""The run over many records: counted, resumable after SIGKILL, byte for byte the same, and clear about what is missing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data import small_models as small
from data.augment.makers import RULES, make, records
from untax.data.augment.run import augment
from untax.data.augmented import read_report
from untax.data.load import load
from untax.scorers import WordScorer
from untax.types import Candidate, ContrastiveRecord, RecipeError, UserError

# ---------------------------------------------------------------- what comes out


def test_all_kinds_by_rules(tmp_path):
    report = make(tmp_path / "out.jsonl")
    made = load(tmp_path / "out.jsonl").records
    assert [r.id for r in made] == [f"r{i}" for i in range(12)]
    kinds = {c.kind for r in made for c in (*r.positives, *r.negatives)}
    assert kinds == set(RULES)
    for record, original in zip(made, records(), strict=True):
        assert record.source == original.source
        assert (record.positives[0].text, record.positives[0].kind) == (original.reference, "reference")
        assert {c.kind for c in record.positives} <= {"reference", "backtranslate"}
        texts = [c.text.lower() for c in (*record.positives, *record.negatives)]
        assert len(set(texts)) == len(texts)
        for c in record.negatives:
            assert (c.toxicity == 1.0) is (c.kind == "toxic")
            assert all(0 <= a <= b <= len(c.text) for a, b in c.edits)
    counts = {row.kind: row for row in report.rows}
    for kind in RULES:
        kept = sum(c.kind == kind for r in made for c in (*r.positives, *r.negatives))
        assert counts[kind].kept == kept
    assert (report.read, report.kept, report.few_positives) == (12, 12, sum(len(r.positives) < 2 for r in made))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.report.json"]


def test_the_table_says_kind_generator_made_rejected_coverage_blind(tmp_path):
    report = make(tmp_path / "out.jsonl")
    text, markdown = str(report), report.markdown()
    for part in (
        "kind",
        "generator",
        "made",
        "kept",
        "with a span",
        "blind",
        "rejected, and why",
        "swap_ent",
        "rules",
        "100.0%",
    ):
        assert part in text
        assert part in markdown
    assert "sources: 12 read, 12 kept" in text
    assert report.table().row_count == len(RULES)
    row = next(r for r in report.rows if r.kind == "toxic")
    assert 0 <= row.blind_share <= 1
    assert row.blind == round(row.blind_share * row.negatives)


def test_blind_share_by_hand(tmp_path):
    """One record, slots behind the text only cover what follows the last span: two of two are blind with these two seeds."""
    made = load_after(tmp_path, ["reference", "toxic"])
    from untax import spans

    expected = sum(spans.is_blind(spans.find(c.text), c.edits) for r in made for c in r.negatives)
    report = read_report(tmp_path / "out.jsonl.report.json")
    row = next(r for r in report.rows if r.kind == "toxic")
    assert row.blind == expected > 0
    assert row.blind_share == expected / row.negatives


def load_after(folder, kinds, **options):
    make(folder / "out.jsonl", kinds=kinds, **options)
    return load(folder / "out.jsonl").records


def test_toxic_and_irrelevant_sources_are_dropped_and_counted(tmp_path):
    odd = [
        ContrastiveRecord(
            "t", "Ann Bell moved to York.", (Candidate("Ann Bell, that gleeb, moved to York.", "reference"),)
        ),
        ContrastiveRecord("u", "Ann Bell moved to York.", (Candidate("Nothing whatever happens here.", "reference"),)),
    ]
    report = augment(
        [*records(4), *odd], tmp_path / "o.jsonl", kinds=["reference"], scorer=WordScorer(["gleeb"]), progress=False
    )
    assert report.dropped == {"reference toxicity above 0.5": 1, "relevance below 0.1": 1}
    assert (report.read, report.kept) == (6, 4)
    assert "dropped: 1 reference toxicity above 0.5; 1 relevance below 0.1" in str(report)
    with pytest.raises(UserError, match=r"none of the 2 sources can be used: 1 reference toxicity"):
        augment(odd, tmp_path / "p.jsonl", kinds=["reference"], scorer=WordScorer(["gleeb"]), progress=False)
    assert not (tmp_path / "p.jsonl").exists()


def test_relevance_by_a_sentence_encoder(tmp_path):
    folder = small.encoder(tmp_path / "bert")
    report = make(tmp_path / "o.jsonl", 3, kinds=["reference"], relevance_model=str(folder), min_relevance=0.0)
    assert report.kept == 3
    with pytest.raises(UserError, match=r"relevance below 1\.1"):
        make(tmp_path / "p.jsonl", 3, kinds=["reference"], relevance_model=str(folder), min_relevance=1.1)


def test_negatives_that_came_with_the_record_stay_and_are_scored(tmp_path):
    given = [
        ContrastiveRecord(
            "a",
            r.source,
            (*r.positives, Candidate("Told again: " + r.reference, "positive")),
            (Candidate("A gleeb moved.", "negative"),),
        )
        for r in records(1)
    ]
    report = augment(
        given, tmp_path / "o.jsonl", kinds=["reference", "swap_ent"], scorer=WordScorer(["gleeb"]), progress=False
    )
    (record,) = load(tmp_path / "o.jsonl").records
    assert (record.negatives[0].kind, record.negatives[0].toxicity) == ("negative", 1.0)
    assert record.positives[1].kind == "positive"
    assert {(r.kind, r.generator) for r in report.rows} >= {("negative", "data"), ("positive", "data")}


def test_a_positive_that_is_among_the_given_negatives_is_not_made(tmp_path):
    reference, moved = "Ann Bell sold the shop in 2019.", "In 2019, Ann Bell sold the shop."
    for given in ((), (Candidate(moved, "negative"),)):
        one = ContrastiveRecord("a", reference, (Candidate(reference, "reference"),), given)
        report = augment([one], tmp_path / "o.jsonl", kinds=["reference", "backtranslate"], progress=False)
        (record,) = load(tmp_path / "o.jsonl").records
        assert (moved in [c.text for c in record.positives]) is (not given)
    assert next(r for r in report.rows if r.kind == "backtranslate").rejected == {"repeats another text": 1}


def test_without_a_scorer_nothing_is_scored(tmp_path):
    make(tmp_path / "o.jsonl", kinds=["reference", "swap_ent"], scorer=None)
    assert all(c.toxicity is None for r in load(tmp_path / "o.jsonl").records for c in (*r.positives, *r.negatives))


def test_options_of_a_kind_arrive(tmp_path):
    for n in (1, 3):
        made = load_after(tmp_path, ["reference", "mask_ent"], options={"mask_ent": {"n_variants": n}})
        assert {len(r.negatives) for r in made} == {n}


# ---------------------------------------------------------------- found again, resumed


def test_the_same_settings_are_found_again_and_others_are_not(tmp_path):
    out = tmp_path / "out.jsonl"
    first = make(out)
    stamp = out.stat().st_mtime_ns
    assert make(out) == first
    assert out.stat().st_mtime_ns == stamp
    content = out.read_bytes()
    assert make(out, seed=1).key != first.key
    assert out.read_bytes() != content
    make(out)
    assert out.read_bytes() == content
    out.write_bytes(content[:-20])
    make(out)
    assert out.read_bytes() == content


def test_the_seed_decides_and_the_chunks_do_not(tmp_path):
    make(tmp_path / "a.jsonl", chunk_size=4)
    make(tmp_path / "b.jsonl", chunk_size=5)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from data.augment import makers as t
from untax.scorers import WordScorer
slow = float(sys.argv[2])
class Slow(WordScorer):
    def score(self, texts):
        time.sleep(slow)
        return super().score(texts)
t.make(Path(sys.argv[1]), 40, scorer=Slow(["gleeb"]), generators={"mask_ent": sys.argv[4]} if len(sys.argv) > 4 else None)
"""


def start(out: Path, slow: float, *more: str) -> subprocess.Popen:
    tests = str(Path(__file__).resolve().parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(out), str(slow), tests, *more], env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )


@pytest.mark.parametrize("neural", [False, True])
def test_a_killed_run_ends_with_the_same_bytes(tmp_path, neural):
    """Killed with SIGKILL, by the rules twice: result and report equal the ones of a run that nobody disturbed."""
    more = [str(small.masked_lm(tmp_path / "mlm", ["Newcastle", "Bristol", "Zoe"]))] if neural else []
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    options = {"generators": {"mask_ent": more[0]}} if neural else {}
    make(whole, 40, **options)
    work = killed.with_name("killed.jsonl.work")
    for at_least in (3,) if neural else (1, 4):
        run = start(killed, 0.15, *more)
        deadline = time.monotonic() + 240
        while len(list(work.glob("chunk-*.json"))) < at_least and time.monotonic() < deadline and run.poll() is None:
            time.sleep(0.02)
        assert run.poll() is None, "the run was over before it could be killed"
        run.send_signal(signal.SIGKILL)
        run.wait()
        assert not killed.exists()
        assert at_least <= len(list(work.glob("chunk-*.json"))) < 10
    make(killed, 40, **options)
    assert killed.read_bytes() == whole.read_bytes()
    assert Path(f"{killed}.report.json").read_bytes() == Path(f"{whole}.report.json").read_bytes()
    assert not work.exists()


def test_finished_chunks_are_not_made_again(tmp_path):
    """With all chunks but one on disk, the model is asked for that one alone."""
    folder = small.masked_lm(tmp_path / "mlm", ["Newcastle", "Bristol"])
    out = tmp_path / "o.jsonl"

    class Stop(Exception):
        pass

    class Tired(WordScorer):
        left = 3

        def score(self, texts):
            Tired.left -= 1
            if Tired.left < 0:
                raise Stop
            return super().score(texts)

    with pytest.raises(Stop):
        make(out, kinds=["reference", "mask_ent"], scorer=Tired(["gleeb"]), generators={"mask_ent": str(folder)})
    chunks = {p: p.stat().st_mtime_ns for p in (tmp_path / "o.jsonl.work").glob("chunk-*.json")}
    assert chunks
    Tired.left = 10**6
    report = make(out, kinds=["reference", "mask_ent"], scorer=Tired(["gleeb"]), generators={"mask_ent": str(folder)})
    assert report.kept == 12


def test_neural_kinds_in_a_run(tmp_path):
    """Every neural path at once, from real folders; the counts of the report are those of the file."""
    folders = {
        "mask_ent": small.masked_lm(tmp_path / "mlm", ["Newcastle", "Bristol", "Zoe"]),
        "regen_ent": small.t5(tmp_path / "t5"),
        "regen_rel": small.gpt2(tmp_path / "gpt2"),
        "sys_lowcon": small.llama(tmp_path / "llama"),
        "toxic": small.llama(tmp_path / "llama"),
    }
    small.marian(tmp_path / "mt" / "opus-mt-en-de", [r.source for r in records()], 0)
    small.marian(tmp_path / "mt" / "opus-mt-de-en", [r.source for r in records()], 1)
    wanted = {kind: str(folder) for kind, folder in folders.items()} | {"backtranslate": str(tmp_path / "mt")}
    options = {k: {"max_new_tokens": 8} for k in ("regen_ent", "regen_rel", "sys_lowcon", "toxic")} | {
        "backtranslate": {"beams": 2}
    }
    options["sys_lowcon"] = {"max_new_tokens": 8, "max_probability": 1.01}
    report = make(
        tmp_path / "o.jsonl",
        6,
        kinds=["reference", *wanted],
        generators=wanted,
        options=options,
        cache_dir=tmp_path / "cache",
    )
    names = {row.kind: row.generator for row in report.rows}
    assert names["mask_ent"] == "neural:mlm"
    assert names["backtranslate"] == "neural:opus-mt-en-de,opus-mt-de-en"
    assert next(r for r in report.rows if r.kind == "mask_ent").kept > 0
    assert all(row.made > 0 for row in report.rows)
    content = (tmp_path / "o.jsonl").read_bytes()
    answers = sum(1 for _ in (tmp_path / "cache").rglob("*.json"))
    (tmp_path / "o.jsonl").unlink()
    make(
        tmp_path / "o.jsonl",
        6,
        kinds=["reference", *wanted],
        generators=wanted,
        options=options,
        cache_dir=tmp_path / "cache",
    )
    assert (tmp_path / "o.jsonl").read_bytes() == content
    assert sum(1 for _ in (tmp_path / "cache").rglob("*.json")) == answers


# ---------------------------------------------------------------- what cannot be done


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kinds": ["reference", "swap_net"]}, RecipeError, r"no method 'swap_net'.*Did you mean 'swap_ent'"),
        ({"kinds": ["swap_ent", "swap_ent"]}, RecipeError, r"named twice"),
        ({"kinds": ["toxic"], "scorer": None}, UserError, r"'toxic' needs a scorer"),
        ({"kinds": ["toxic"], "lexicon": None}, UserError, r"'toxic' needs a word list"),
        ({"kinds": ["swap_ent"], "generators": {"mask_ent": "x"}}, RecipeError, r"'mask_ent' has a generator or options but is not among"),
        ({"kinds": ["swap_ent"], "generators": {"swap_ent": "x"}}, UserError, r"takes no generator"),
        ({"kinds": ["mask_ent"], "generators": {"mask_ent": "/no/such/model"}}, UserError, r"no model folder"),
        ({"kinds": ["swap_ent"], "options": {"swap_ent": {"n_variant": 1}}}, RecipeError, r"no option 'n_variant'.*Did you mean 'n_variants'"),
        ({"kinds": ["swap_ent"], "options": {"swap_ent": {"seed": 1}}}, RecipeError, r"no option 'seed'"),
        ({"kinds": ["swap_ent"], "finder": "magic"}, UserError, r"finder 'magic' is not known"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_be_says_so_before_it_begins(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        make(tmp_path / "o.jsonl", **options)
    assert not (tmp_path / "o.jsonl").exists()


def test_no_records_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"no records"):
        augment([], tmp_path / "o.jsonl", kinds=["reference"])


def test_a_lexicon_file_is_read(tmp_path):
    words = tmp_path / "w.txt"
    words.write_text("gleeb\n", encoding="utf-8")
    make(tmp_path / "o.jsonl", 2, kinds=["reference", "toxic"], lexicon=words)
    assert all("gleeb" in r.negatives[0].text for r in load(tmp_path / "o.jsonl").records)


def test_a_report_that_is_none_says_so(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps({"rows": 3}), encoding="utf-8")
    with pytest.raises(UserError, match=r"no report of an augmentation"):
        read_report(tmp_path / "r.json")
