"""Plain texts as training records: read, written, read again, and trained on behind an empty prompt."""

import pytest

import tiny
from untax.data.convert import as_records
from untax.data.files import write_jsonl
from untax.data.load import load, write_records
from untax.train import loop
from untax.train.encode import encode
from untax.types import Candidate, ContrastiveRecord, UserError


def jsonl(path, rows):
    write_jsonl(path, rows)
    return path


def test_a_text_is_a_record_without_a_source(tmp_path):
    path = jsonl(tmp_path / "d.jsonl", [{"text": " One two.\n"}, {"id": 7, "text": "Three.", "topic": "x"}])
    one, two = load(path, kind="text").records
    assert one == ContrastiveRecord("d-1", "", (Candidate(" One two.\n", "reference"),))
    assert (two.id, two.reference, two.extra) == ("7", "Three.", {"topic": "x"})
    assert as_records([one, two], "text") == [one, two]


def test_columns_can_be_mapped(tmp_path):
    path = jsonl(tmp_path / "d.jsonl", [{"body": "One.", "text": "other"}])
    assert load(path, kind="text", columns={"text": "body"}).records[0].reference == "One."
    (tmp_path / "d.csv").write_text("text,source\nOne two,wiki\n", encoding="utf-8")
    assert load(tmp_path / "d.csv", kind="text").records[0].reference == "One two"


def test_columns_that_would_make_it_another_record_are_left_out(tmp_path):
    row = {"text": "One.", "source": "wiki", "prompt": "Say:", "negatives": ["x"], "reference": "y", "positives": []}
    (record,) = load(jsonl(tmp_path / "d.jsonl", [row]), kind="text").records
    assert record == ContrastiveRecord("d-1", "", (Candidate("One.", "reference"),))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"txt": "a"}, "field 'text' is missing; the row has: txt"),
        ({"text": " "}, "field 'text' is empty"),
        ({"text": ["a"]}, "field 'text' must be a text, it is a list"),
        ({"text": "a", "id": []}, "field 'id' must be a text or a whole number"),
    ],
)
def test_rows_that_are_no_texts(tmp_path, row, message):
    with pytest.raises(UserError, match=rf"d\.jsonl:1: {message}"):
        load(jsonl(tmp_path / "d.jsonl", [row]), kind="text")


def test_an_empty_source_survives_the_file_and_a_missing_one_is_refused(tmp_path):
    record = ContrastiveRecord(
        "a", "", (Candidate("One.", "reference"), Candidate("Two.", "counterfactual", "rules", ((0, 3),)))
    )
    write_records(tmp_path / "r.jsonl", [record])
    assert load(tmp_path / "r.jsonl").records == (record,)
    for row, message in (
        ({"positives": ["b"]}, "field 'source' is missing"),
        ({"source": " ", "positives": ["b"]}, "field 'source' is empty"),
        ({"source": None, "positives": ["b"]}, "field 'source' is missing"),
        ({"source": "", "reference": "b"}, "field 'source' is empty"),
    ):
        with pytest.raises(UserError, match=message):
            load(jsonl(tmp_path / "bad.jsonl", [row]))


def test_training_on_plain_texts(tmp_path):
    """The prompt is BOS alone, and the loss is that of the model on the text behind it."""
    path = jsonl(tmp_path / "d.jsonl", [{"text": f"She sold {i} cars."} for i in range(4)])
    records = load(path, kind="text").records
    tokenizer = tiny.tokenizer()
    encoded, _ = encode(records, tokenizer, prompt="{source}", max_length=None)
    assert {e.prompt for e in encoded} == {(tokenizer.bos_token_id,)}
    text = "She sold 0 cars."
    assert encoded[0].positives[0].ids == (
        *tokenizer(text, add_special_tokens=False)["input_ids"],
        tokenizer.eos_token_id,
    )
    result = loop.train(
        tiny.llama(spread=0.1), tokenizer, records, objective="sft", prompt="{source}", out=tmp_path / "run", progress=False,
        arguments={"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "use_cpu": True, "warmup_steps": 0},
    )  # fmt: skip
    model = tiny.llama(spread=0.1)
    losses = [float(model(**(b := batch(e))).loss.detach()) * (b["labels"].shape[1] - 1) for e in encoded]
    tokens = sum(len(e.positives[0].ids) for e in encoded)
    assert result.log[0]["loss"] == pytest.approx(sum(losses) / tokens, rel=1e-4)
    assert result.log[1]["loss"] < result.log[0]["loss"]


def batch(encoded):
    import torch

    ids = torch.tensor([[*encoded.prompt, *encoded.positives[0].ids]])
    return {"input_ids": ids, "labels": ids}
