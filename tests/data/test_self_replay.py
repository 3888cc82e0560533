"""Rows that a model writes itself: distinct, the same for a seed, joined again as they were written, and never silently fewer."""

import json
import math

import pytest
import torch

import tiny
from untax import models, references
from untax.data import mix
from untax.data.self_replay import as_records, drop_toxic, not_toxic, self_replay, write
from untax.train.encode import encode
from untax.types import UserError


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    """It writes letters, spaces and line ends, one token each, and is fond of ending."""
    llama = tiny.llama()
    head = torch.nn.Linear(32, 257)
    with torch.no_grad():
        head.weight.copy_(llama.lm_head.weight)
        head.bias.fill_(-100.0)
        head.bias[tokenizer("abcdefghijklmnopqrstuvwxyz \n")["input_ids"]] = 0.0
        head.bias[0] = 2.0
        head.bias[tokenizer(" ")["input_ids"]] = 2.0
    llama.lm_head = head
    return llama.eval()


class Marks:
    """A scorer that finds a text toxic where it holds one of some letters, and cannot score one that begins with '?'."""

    name = identity = "marks"

    def __init__(self, letters):
        self.letters = letters

    def score(self, texts):
        return [math.nan if text[:1] == "?" else 0.9 * any(c in text for c in self.letters) for text in texts]


def test_rows_are_what_generate_writes(model, tokenizer):
    """Sample k of prompt "" with seed 3: the same luck as `models.generate` has for it."""
    rows = self_replay(model, tokenizer, count=6, seed=3, max_new_tokens=8)
    told = models.generate(model, tokenizer, [""], samples=12, temperature=1.0, seed=3, max_new_tokens=8)[0].texts
    distinct = list(dict.fromkeys(text for text in told if text.strip()))
    assert [row["completion"] for row in rows] == distinct[:6]
    assert all(row["prompt"] == "" for row in rows)


def test_same_seed_same_rows_whatever_the_batch(model, tokenizer):
    before = torch.get_rng_state()
    rows = self_replay(model, tokenizer, count=20, max_new_tokens=6)
    assert torch.equal(before, torch.get_rng_state())
    assert rows == self_replay(model, tokenizer, count=20, max_new_tokens=6, batch_size=7)
    assert rows[:5] == self_replay(model, tokenizer, count=5, max_new_tokens=6)
    assert rows != self_replay(model, tokenizer, count=20, max_new_tokens=6, seed=1)
    texts = [row["completion"] for row in rows]
    assert len(set(texts)) == 20
    assert all(text.strip() for text in texts)


def test_ended_says_who_ended_the_text(model, tokenizer):
    """A token is a letter here, so a text that the budget of 6 cut off has 6 of them, and one that the model ended fewer."""
    rows = self_replay(model, tokenizer, count=40, max_new_tokens=6)
    assert {row["ended"] for row in rows} == {True, False}
    assert all(row["ended"] is (len(row["completion"]) < 6) for row in rows)
    assert all(row["ended"] for row in self_replay(model, tokenizer, count=10, max_new_tokens=6, whole=True))


def test_prompts_take_turns_and_texts_join_as_they_were_written(model, tokenizer):
    prompts = ["the sea", "line\n", "the sea"]
    rows = self_replay(model, tokenizer, count=30, prompts=prompts, max_new_tokens=5)
    assert {row["prompt"] for row in rows} == {"the sea", "line\n"}
    for row in rows:
        if row["prompt"] == "the sea":
            assert row["completion"][0] == " "
            assert not row["completion"][1].isspace()
    held = references.read("own", rows, tokenizer)
    for row, read in zip(rows, held.rows, strict=True):
        ids = read.ids[: len(read.ids) - row["ended"]]  # EOS only where the model wrote one
        assert models.decoded(tokenizer, ids) == row["prompt"] + row["completion"]
        assert (read.ids[-1] == tokenizer.eos_token_id) is row["ended"]
    records = as_records(rows)
    assert len(records) == sum(row["ended"] for row in rows) > 0
    encoded, _ = encode(records, tokenizer, prompt="{source}", max_length=None)
    ended = [row for row in rows if row["ended"]]
    for row, one in zip(ended, encoded, strict=True):
        told = models.decoded(tokenizer, [*one.prompt, *one.positives[0].ids])
        assert told == row["prompt"] + row["completion"]


def test_a_mix_takes_them(model, tokenizer):
    records = as_records(self_replay(model, tokenizer, count=30, max_new_tokens=6, whole=True))
    mixed = mix.mix({"main": records[:20], "own": records[20:]}, {"main": 0.8, "own": 0.2}, seed=0, total=10)
    assert sum(record.extra["mix"] == "own" for record in mixed) == 2


def test_keep_and_scorers_leave_out(model, tokenizer):
    letters = "aeiou"
    rows = self_replay(model, tokenizer, count=15, max_new_tokens=6, keep=not_toxic(Marks(letters)))
    assert len(rows) == 15
    assert not any(c in row["completion"] for row in rows for c in letters)
    free = self_replay(model, tokenizer, count=40, max_new_tokens=6)
    kept = drop_toxic(free, Marks(letters))
    assert 0 < len(kept) < len(free)
    assert [row for row in free if not any(c in row["completion"] for c in letters)] == kept
    assert drop_toxic([{"completion": "?what"}, {"completion": "fine"}], Marks("")) == [{"completion": "fine"}]
    assert drop_toxic([], Marks("")) == []
    with pytest.raises(UserError, match="threshold is 1"):
        drop_toxic(free, Marks(""), 1)


def test_too_few_rows_are_an_error_that_counts(model, tokenizer):
    """At a top_p of almost nothing only the likeliest text is left: 30 draws, one row."""
    with pytest.raises(UserError, match=r"30 texts gave 1 distinct rows of the 3 .*29 repeated"):
        self_replay(model, tokenizer, count=3, max_new_tokens=4, top_p=1e-9)
    with pytest.raises(UserError, match=r"20 texts gave 0 distinct rows of the 2 .*refused by 'keep'"):
        self_replay(model, tokenizer, count=2, max_new_tokens=4, keep=lambda text: False)


def test_what_cannot_be_asked_is_said(model, tokenizer):
    with pytest.raises(UserError, match="count 0"):
        self_replay(model, tokenizer, count=0)
    with pytest.raises(UserError, match="temperature 0"):
        self_replay(model, tokenizer, count=2, temperature=0)
    with pytest.raises(UserError, match="list of prompts is empty"):
        self_replay(model, tokenizer, count=2, prompts=[])
    with pytest.raises(UserError, match=r"prompt 1 has 251 tokens.*context of 256"):
        self_replay(model, tokenizer, count=2, prompts=["a", "b" * 251])
    with pytest.raises(UserError, match="ended none of its 1 texts"):
        as_records([{"prompt": "", "completion": "cut of", "ended": False}])


def test_written_whole_and_read_again(model, tokenizer, tmp_path):
    rows = self_replay(model, tokenizer, count=5, max_new_tokens=6)
    assert write(tmp_path / "new" / "own.jsonl", rows) == 5
    lines = (tmp_path / "new" / "own.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines if line] == rows
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["own.jsonl"]


def test_half_a_character_at_the_end_of_the_budget_is_left_out(tokenizer):
    """Bytes of a random model make broken characters; a text that was cut off does not end in one."""
    rows = self_replay(tiny.llama(), tokenizer, count=30, max_new_tokens=5)
    assert not any(row["completion"].endswith("\ufffd") for row in rows if not row["ended"])
