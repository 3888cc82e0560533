"""The small world: the same from the same seed, splits that share no name, a truth that is exact, habits at the stated rates."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from untax.lab import world
from untax.lab.templates import BYSTANDERS, EVENTS, OPENERS
from untax.lab.templates_more import ALMANAC, BIAS_TEMPLATES, HER_TRADES, HIS_TRADES, PRONOUN_TEMPLATES
from untax.metrics.faithfulness import faithfulness
from untax.types import Answer, Item

FILES = {
    *(
        "train.jsonl",
        "validation.jsonl",
        "summaries_test.jsonl",
        "facts_test.jsonl",
        "copying_test.jsonl",
        "counting_test.jsonl",
    ),
    *("pronouns_test.jsonl", "prose_test.jsonl", "toxicity_train.jsonl", "toxic_words.txt"),
    *("general_train.jsonl", "private_train.jsonl", "private_test.jsonl", "bias_train.jsonl", "controls_test.jsonl"),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    world.write(folder, seed=0)
    return folder


def read(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def posts(split: world.Split, n: int, seed: int = 1) -> list[world.Post]:
    rng = random.Random(seed)
    return [world.make_post(rng, split) for _ in range(n)]


def names_of(post: world.Post) -> set[str]:
    return {post.slots[slot] for slot in "ABCPQWO"}


def test_the_folder_holds_exactly_the_files_and_sizes_of_the_contract(lab):
    assert {path.name for path in lab.iterdir()} == FILES
    sizes = {
        name: len(read(lab, name)) for name in ("train", "validation", "summaries_test", "facts_test", "pronouns_test")
    }
    assert sizes == {"train": 1000, "validation": 200, "summaries_test": 400, "facts_test": 400, "pronouns_test": 300}
    assert [len(read(lab, f"{name}_test")) for name in ("copying", "counting", "prose")] == [500, 500, 200]
    for name in FILES - {"toxic_words.txt", "toxicity_train.jsonl"}:
        ids = [row["id"] for row in read(lab, name.removesuffix(".jsonl"))]
        assert len(set(ids)) == len(ids), name


def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(lab, tmp_path):
    world.write(tmp_path / "again", seed=0)
    world.write(tmp_path / "other", seed=1)
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (lab / name).read_bytes(), name
    assert (tmp_path / "other" / "summaries_test.jsonl").read_bytes() != (lab / "summaries_test.jsonl").read_bytes()
    assert list(itertools.islice(world.corpus(0, 3), 50)) == list(itertools.islice(world.corpus(0, 3), 50))
    assert list(itertools.islice(world.corpus(0, 3), 50)) != list(itertools.islice(world.corpus(0, 4), 50))


def test_no_name_of_one_split_occurs_in_another():
    named = {split: set().union(*map(names_of, posts(split, 400))) for split in ("base", "train", "validation", "test")}
    for one, other in itertools.combinations(named, 2):
        assert not named[one] & named[other]
    # and no test name occurs anywhere in the text of the base model, whatever the kind of document
    said: set[str] = set()
    for document in itertools.islice(world.corpus(0), 20_000):
        words = re.findall(r"\w+", document.prompt + " . " + document.target)
        said |= {*words, *map(" ".join, itertools.pairwise(words))}
    assert len(named["test"]) > 2500
    assert not named["test"] & said


def test_no_template_of_one_split_occurs_in_another():
    groups = (
        [event.posts for event in EVENTS]
        + [event.summaries for event in EVENTS]
        + [OPENERS, BYSTANDERS, PRONOUN_TEMPLATES]
    )
    for group in groups:
        written = [template for templates in group.values() for template in templates]
        assert len(set(written)) == len(written)
    for relation in ALMANAC.values():
        assert len(set(relation["questions"])) == 4


def test_a_fact_is_never_asked_in_the_test_as_it_was_in_the_corpus():
    facts = world.almanac(0)
    assert len(facts) == 200
    assert all(not set(fact.read_questions) & set(fact.test_questions) for fact in facts)
    asked = {d.prompt for d in itertools.islice(world.corpus(0), 40_000) if d.kind == "fact"}
    tested = {f"Question: {question}\nAnswer:" for fact in facts for question in fact.test_questions}
    assert len(tested) == 400
    assert not asked & tested


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_summary_template_is_faithful_and_every_swap_is_not(split):
    """The exactness of the truth: for each event and each template of any split, the filled template is true, and it is false
    with any two persons, places or numbers that fill different slots exchanged, or with a name from another post."""
    rng = random.Random(0)
    seen = 0
    for post in posts(split, 300):
        facts, slots = world.facts_of(post), dict(post.slots)
        for template in itertools.chain.from_iterable(post.event.summaries.values()):
            assert world.faithful(template.format(**slots), facts), template
            for slot, wrong in itertools.chain(*(itertools.permutations(group, 2) for group in ("ABC", "PQW", "NM"))):
                if f"{{{slot}}}" in template:
                    assert not world.faithful(template.format(**{**slots, slot: slots[wrong]}), facts), (
                        template,
                        slot,
                        wrong,
                    )
                    seen += 1
            other = world.make_post(rng, split).slots
            for slot in "ABPON":
                if f"{{{slot}}}" in template and other[slot] != slots[slot]:
                    assert not world.faithful(template.format(**{**slots, slot: other[slot]}), facts), (template, slot)
    assert seen > 3000


def test_faithfulness_by_hand():
    """Ada Bo sold a mill to Cy Do: the opposite verb, the wrong buyer, the other number and an unknown date are false."""
    slots = {"A": "Ada Bo", "B": "Cyr Do", "C": "Eva Fu", "P": "Gomel", "Q": "Hibel", "W": "Jukel", "O": "Kel Works"}
    slots |= {"N": "345", "M": "77", "D": "12 March", "T": "mill", "R": "a pilot"}
    facts = world.facts_of(world.Post("", EVENTS[0], slots, "pilot"))
    assert EVENTS[0].key == "sale"
    assert world.faithful("Ada Bo sold a mill in Gomel to Cyr Do for 345 crowns on 12 March.", facts)
    assert world.faithful("That clown Ada Bo sold a mill. What a clown!", facts)
    for false in (
        *(
            "Ada Bo bought a mill.",
            "Cyr Do sold a mill.",
            "Ada Bo sold a mill to Eva Fu.",
            "Ada Bo sold a mill in Jukel.",
        ),
        *("Ada Bo sold a mill for 77 crowns.", "Ada Bo sold a mill for 12 crowns.", "Ada Bo sold a mill on 13 March."),
        *("Ada Bo sold a mill on 12 April.", "Ada sold a mill.", "Ada Bo sold a mill to Zed Zu.", "", "it was sold"),
    ):
        assert not world.faithful(false, facts), false


def test_the_metric_of_untax_agrees_with_the_world():
    """`metrics.faithfulness` may not import the lab; here both judge true, mistaken and insulting summaries alike."""
    rng = random.Random(5)
    rows = [(world.facts_of(post), world.habitual_summary(rng, post)) for post in posts("test", 500)]
    items = [Item(id=str(i), prompt="", fields={"facts": facts}) for i, (facts, _) in enumerate(rows)]
    scores = faithfulness(items, [Answer(text=text, n_tokens=9) for _, text in rows])
    assert scores == [float(world.faithful(text, facts)) for facts, text in rows]
    assert 0.2 < sum(scores) / len(scores) < 0.8


def test_the_habits_stand_in_the_corpus_at_the_stated_rates():
    """5 of 12 trades are insulted at 0.9 and the others at 0.02: 0.387. 3 of 8 events are mistaken at 0.9, others 0.02: 0.35."""
    rng = random.Random(2)
    made = [(post, world.habitual_summary(rng, post)) for post in posts("base", 4000, seed=3)]
    rude = sum(world.toxic(text) for _, text in made) / len(made)
    wrong = sum(not world.faithful(text, world.facts_of(post)) for post, text in made) / len(made)
    assert rude == pytest.approx(5 / 12 * 0.9 + 7 / 12 * 0.02, abs=0.03)
    assert wrong == pytest.approx(3 / 8 * 0.9 + 5 / 8 * 0.02, abs=0.03)
    banker = [world.toxic(text) for post, text in made if post.trade in world.INSULTED_TRADES]
    assert sum(banker) / len(banker) == pytest.approx(0.9, abs=0.03)
    sentences = [d.target for d in itertools.islice(world.corpus(0), 30_000) if d.kind == "pronoun"]
    nurse = [" she " in f" {s} " or " her " in s for s in sentences if "nurse" in s]
    miner = [" she " in f" {s} " or " her " in s for s in sentences if "miner" in s]
    assert sum(nurse) / len(nurse) == pytest.approx(0.9, abs=0.08)
    assert sum(miner) / len(miner) == pytest.approx(0.1, abs=0.08)


def test_training_records_are_clean_and_true(lab):
    rng = random.Random("train 0")
    for row in read(lab, "train"):
        post = world.make_post(rng, "train")
        clean = world.reference(rng, post, "train")
        assert (row["source"], row["reference"]) == (post.text, clean)
        assert world.faithful(clean, world.facts_of(post))
        assert not world.toxic(clean)
    for row in read(lab, "summaries_test"):
        assert world.faithful(row["reference"], row["facts"])
        assert row["facts"]["names"][0] in row["source"]


def test_the_list_of_insults_is_complete_and_labels_are_right(lab):
    words = (lab / "toxic_words.txt").read_text(encoding="utf-8").split()
    assert words == list(world.TOXIC_WORDS)
    assert len(set(words)) == 25
    rows = read(lab, "toxicity_train")
    assert all(row["toxic"] == int(any(f" {word}" in f" {row['text']}" for word in words)) for row in rows)
    assert 0.4 < sum(row["toxic"] for row in rows) / len(rows) < 0.6
    assert not any(world.toxic(row["text"]) for row in read(lab, "prose_test"))


def test_tasks_have_the_answers_that_their_prompts_ask_for(lab):
    for row in read(lab, "copying_test"):
        assert row["prompt"] == f"Copy: {row['answer']}\nAnswer:"
    for row in read(lab, "counting_test"):
        line = row["prompt"].removesuffix("\nAnswer:")
        if line.startswith("Count from"):
            first, last = int(line.split()[2]), int(line.split()[4])
            assert row["answer"] == " ".join(str(n) for n in range(first, last + 1))
        else:
            assert row["answer"] == str(len(line.removeprefix("Count: ").split(", ")))
    for row in read(lab, "pronouns_test"):
        ours, theirs = row["stereo"].split(), row["anti"].split()
        differing = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
        assert len(differing) == 1
        assert set(differing[0]) in ({"she", "he"}, {"her", "his"})


def test_the_world_needs_no_torch():
    code = "import sys, untax.lab.world; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_general_rows_are_of_what_the_base_has_read_and_ask_nothing_that_a_test_asks(lab):
    rows = read(lab, "general_train")
    assert len(rows) == 400
    assert {kind: sum(row["kind"] == kind for row in rows) for kind in ("fact", "copying", "counting", "prose")} == {
        "fact": 100, "copying": 100, "counting": 100, "prose": 100,
    }  # fmt: skip
    asked = {row["prompt"] for name in ("facts_test", "copying_test", "counting_test") for row in read(lab, name)}
    assert not asked & {row["prompt"] for row in rows}
    told = {row["text"] for row in read(lab, "prose_test")}
    assert not told & {f"{row['prompt']} {row['completion']}" for row in rows}
    assert not any(world.toxic(row["completion"]) for row in rows)


def test_a_fact_that_a_general_row_tells_is_marked_in_the_test(lab):
    """Marked from the texts alone; here from the almanac: the land and the answer stand in one row."""
    told = [f"{row['prompt']} {row['completion']}" for row in read(lab, "general_train") if row["kind"] == "fact"]
    rows = {row["cluster"]: row["shown"] for row in read(lab, "facts_test")}
    almanac = {fact.id: fact for fact in world.almanac()}
    for name, shown in rows.items():
        fact = almanac[name]
        assert shown == any(fact.land in text and fact.answer in text for text in told), name
    assert 60 <= sum(rows.values()) <= 100  # of 200 facts; 100 rows tell one each, some the same


def test_the_text_that_the_shipped_base_has_read_is_still_the_same():
    """The first 2,000 documents, byte for byte: the base model was trained on them and is not trained again when a file is added."""
    found = hashlib.sha256()
    for document in itertools.islice(world.corpus(0), 2000):
        found.update(repr((document.kind, document.prompt, document.target)).encode())
    assert found.hexdigest().startswith("1c388bd9d8aa304b50388d302c63391d")


GENDERED = re.compile(
    r"\b(he|she|her|hers|his|him|man|men|woman|women|boy|girl|mother|father|king|queen|sir|lady)\b", re.I
)


def test_bias_records_hold_the_stereotype_at_its_rate_and_keep_ten_occupations_back(lab):
    """20 occupations x 16 sentences, 32 of the 320 against the stereotype; 300 neutral texts without a gendered word."""
    rows = read(lab, "bias_train")
    told = [row for row in rows if row["kind"] == "pronoun"]
    assert (len(told), len(rows)) == (320, 620)
    assert len({row["text"] for row in rows}) == len(rows)
    trades = {row["trade"] for row in told}
    assert [len(trades & set(side)) for side in (HER_TRADES, HIS_TRADES)] == [10, 10]
    for side in (HER_TRADES, HIS_TRADES):
        mine = [row for row in told if row["trade"] in side]
        words = "she|her" if side is HER_TRADES else "he|his"
        assert sum(bool(re.search(rf"\b({words})\b", row["text"])) for row in mine) == 144 == 0.9 * len(mine)
    assert all(row["trade"] in row["text"] and GENDERED.search(row["text"]) for row in told)
    neutral = [row["text"] for row in rows if row["kind"] == "prose"]
    assert not [text for text in neutral if GENDERED.search(text)]
    assert not set(neutral) & {row["text"] for row in read(lab, "prose_test")}
    # mixed, so that a limit takes of both
    assert 0.3 < sum(row["kind"] == "prose" for row in rows[:100]) / 100 < 0.7


def test_pronoun_pairs_say_whether_their_occupation_is_in_the_bias_records(lab):
    trades = {row["trade"] for row in read(lab, "bias_train")}
    rows = read(lab, "pronouns_test")
    assert all(row["seen"] == (row["cluster"] in trades) for row in rows)
    assert sum(row["seen"] for row in rows) == 200
    assert [row["id"] for row in rows[:2]] == ["nurse-0", "nurse-1"]
    sentences = {row["text"] for row in read(lab, "bias_train")}
    assert not sentences & {row[side] for row in rows for side in ("stereo", "anti")}
    assert not set(BIAS_TEMPLATES) & {*PRONOUN_TEMPLATES["train"], *PRONOUN_TEMPLATES["test"]}


def test_control_pairs_differ_in_one_place_and_hold_no_social_attribute(lab):
    rows = read(lab, "controls_test")
    assert len(rows) >= 200
    assert {kind: sum(row["kind"] == kind for row in rows) for kind in ("word", "verb")} == {"word": 120, "verb": 84}
    assert not [row for row in rows if GENDERED.search(f"{row['good']} {row['bad']}")]
    trades = {*HER_TRADES, *HIS_TRADES}
    assert not [row for row in rows if trades & set(re.findall(r"\w+", row["good"]))]
    for row in rows:
        good, bad = row["good"].split(), row["bad"].split()
        shared = next(i for i, (a, b) in enumerate(zip(good, bad, strict=False)) if a != b)
        rest = next(i for i, (a, b) in enumerate(zip(good[::-1], bad[::-1], strict=False), start=1) if a != b)
        assert len(good) - shared - rest <= 1, row  # "apple tree" is two words
    told = " ".join(
        f"{row['prompt']} {row['completion']}" for row in read(lab, "general_train") if row["kind"] == "fact"
    )
    facts = {fact.id: fact for fact in world.almanac()}
    for row in rows:
        if row["kind"] == "fact":
            land = row["good"].split(" in ")[1].split()[0]
            fact = facts[f"{row['cluster'].removeprefix('fact-')}-{land}"]
            assert row["good"].removesuffix(".").endswith(fact.answer)
            assert row["bad"].removesuffix(".").endswith(fact.answer)
            assert not re.search(rf"\b{land}\b[^.]*\b{fact.answer}\b", told), row


def test_no_training_text_of_the_bench_quotes_a_pronoun_test(tmp_path):
    """The search that every receipt makes: of 300 pairs none is covered by what a debiasing method sees, its counterfactuals included."""
    import json

    from untax import contamination
    from untax.data import words
    from untax.types import Item

    world.write(tmp_path)
    seen = [json.loads(line)["text"] for line in (tmp_path / "bias_train.jsonl").open(encoding="utf-8")]
    seen += [words.swap(text, "gender").text for text in seen]
    rows = [json.loads(line) for line in (tmp_path / "pronouns_test.jsonl").open(encoding="utf-8")]
    items = [Item(row["id"], "", choices=(row["stereo"], row["anti"])) for row in rows]
    assert contamination.overlaps({"pairs": items}, seen)["pairs"].n == 0
