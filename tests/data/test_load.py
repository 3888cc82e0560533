"""Every format is read, and every way in which a file or a row can be wrong has its message with file, line and field."""

import json
import re

import pytest

from untax import files
from untax.data import load as loading
from untax.data.files import read_rows, write_jsonl
from untax.data.load import load, write_records
from untax.types import Candidate, ContrastiveRecord, RecipeError, UserError

ROWS = [
    {"id": "a", "source": "Alice sold a bike.", "reference": "A bike was sold."},
    {"source": "It rained.", "reference": "Rain."},
]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def fails(message, path, **options):
    with pytest.raises(UserError) as caught:
        load(path, **options)
    assert re.search(message, str(caught.value)), str(caught.value)


# ---------------------------------------------------------------- readers


def test_jsonl_makes_records_with_one_positive(tmp_path):
    loaded = load(jsonl(tmp_path / "d.jsonl", ROWS))
    first, second = loaded.records
    assert first == ContrastiveRecord("a", "Alice sold a bike.", (Candidate("A bike was sold.", "reference"),))
    assert (second.id, second.reference, second.negatives) == ("d-2", "Rain.", ())
    assert loaded.skipped == ()


def test_every_reader_gives_the_same_records(tmp_path):
    import datasets
    import pyarrow
    import pyarrow.parquet

    rows = [{"id": str(i), "source": f"post, “{i}”\nsecond line", "reference": f"said {i}"} for i in range(3)]
    expected = load(jsonl(tmp_path / "d.jsonl", rows)).records
    (tmp_path / "d.json").write_text(json.dumps({"version": 1, "data": rows}), encoding="utf-8")
    (tmp_path / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "d.jsonl").read_bytes())
    quoted = ["id,source,reference"] + [
        ",".join('"' + str(v).replace('"', '""') + '"' for v in row.values()) for row in rows
    ]
    (tmp_path / "d.csv").write_bytes(("\ufeff" + "\r\n".join(quoted)).encode())
    (tmp_path / "d.tsv").write_text(
        "\n".join(line.replace('","', '"\t"').replace(",", "\t", 0 if i else 2) for i, line in enumerate(quoted)),
        encoding="utf-8",
    )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "folder"))
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(str(tmp_path / "splits"))
    for name in ("d.json", "bom.jsonl", "d.csv", "d.tsv", "d.parquet", "folder", "splits"):
        assert load(tmp_path / name).records == expected, name
    fails(r"no split 'dev'. There are: train", tmp_path / "splits", split="dev")


def test_columns_are_mapped_and_not_kept_under_their_old_name(tmp_path):
    path = jsonl(tmp_path / "d.jsonl", [{"post": "p", "tldr": "t", "source": "the forum", "n": 3}])
    (record,) = load(path, columns={"source": "post", "reference": "tldr"}).records
    assert (record.source, record.reference, record.extra) == ("p", "t", {"n": 3})


def test_a_mapped_column_that_is_missing_names_the_nearest(tmp_path):
    fails(
        r"d\.jsonl:1: column 'tlrd' \(for 'reference'\) is missing; the row has: post, tldr; did you mean 'tldr'",
        jsonl(tmp_path / "d.jsonl", [{"post": "p", "tldr": "t"}]),
        columns={"reference": "tlrd"},
    )


def test_a_hub_name_is_not_fetched_unasked(tmp_path):
    fails("reads like the name of a hub dataset. Nothing is fetched", "someone/some-data")


def test_a_hub_name_that_cannot_be_reached_is_one_sentence():
    fails("the hub dataset 'someone/some-data' .* cannot be loaded", "someone/some-data", allow_network=True)


def test_limit_and_its_check(tmp_path):
    assert len(load(jsonl(tmp_path / "d.jsonl", ROWS), limit=1).records) == 1
    fails("limit must be at least 1", tmp_path / "d.jsonl", limit=0)


# ---------------------------------------------------------------- files that cannot be used


def test_a_missing_file_names_the_nearest(tmp_path):
    jsonl(tmp_path / "train.jsonl", ROWS)
    fails(r"no file .*trian\.jsonl\. Did you mean 'train\.jsonl'", tmp_path / "trian.jsonl")
    fails("There is no folder .* either", tmp_path / "nowhere" / "x.jsonl")


def test_a_directory_instead_of_a_file_names_what_is_inside(tmp_path):
    jsonl(tmp_path / "train.jsonl", ROWS)
    fails(r"is a folder, not a data file.*It holds train\.jsonl", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.jsonl", b"", "e.jsonl: the file is empty"),
        ("e.jsonl", b"\n\n  \n", "only blank lines"),
        ("e.json", b"[]", "the list is empty"),
        ("e.json", b'{"a": 1}', "0 lists"),
        ("e.json", b'"text"', "a list of objects, this is a text"),
        ("e.json", b'[{"source": "a"', r"e.json:1: no valid JSON: .* The file was cut off"),
        ("e.json", b'{"source": "a", "reference": "b"}\n{"source": "c", "reference": "d"}\n', "looks like JSONL: name it .jsonl"),
        ("e.json", b'[{"source":\n"caf\xe9"}]', r"e.json:2: not UTF-8 \(byte 0xe9\)"),
        ("e.json", b"[" * 100_000, "nested too deeply"),
        ("e.csv", b"source,reference\n", "a header and no row"),
        ("e.csv", b"\n", "a header and no row|no header"),
        ("e.csv", b"source,source\na,b\n", "two columns have one name"),
        ("e.parquet", b"PAR1 nothing", "no readable Parquet file"),
        ("e.txt", b"x", r"what is a '\.txt' file\? Readable are: \.jsonl"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_says_why(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    fails(message, path)
    fails(message, path, on_error="skip")


# ---------------------------------------------------------------- rows that cannot be used

GOOD = b'{"source": "first", "reference": "one"}\n'
BAD_LINES = [
    (b'{"source": "a", "reference": "caf\xe9"}\n', r"not UTF-8 \(byte 34 of the line is 0xe9\)"),
    (b'{"source": "a", "reference": "b\\u0000c"}\n', r"field 'reference' holds a NUL character \(at 1\)"),
    (b'{"source": "a", "reference": "b\x00c"}\n', "no valid JSON: Invalid control character"),
    (b'{"source": "a", "reference": "\\ud800"}\n', "field 'reference' is not UTF-8"),
    (b'{"source": "a", "reference": "b"', "no valid JSON: .* The file ends in the middle of this row: it was cut off"),
    (
        b'{"source": "a", "reference": "' + b"x" * 1_000_000 + b'"}\n',
        "field 'reference' has 1,000,000 characters, more than max_chars",
    ),
    (b'{"source": "a", "reference": "' + b"x" * 7_000_000 + b'"}\n', "the line is longer than 6,400,000 bytes"),
    (b'["a", "b"]\n', "a row is a JSON object, this is a list"),
    (b"null\n", "a row is a JSON object, this is null"),
    (b'{"reference": "b"}\n', "field 'source' is missing; the row has: reference"),
    (
        b'{"source": "a", "summary": "b"}\n',
        r"field 'reference' \(or 'positives'\) is missing; the row has: source, summary",
    ),
    (b'{"source": "  ", "reference": "b"}\n', "field 'source' is empty"),
    (b'{"source": "a", "reference": ""}\n', "field 'reference' is empty"),
    (b'{"source": 3, "reference": "b"}\n', "field 'source' must be a text, it is a int"),
    (b'{"source": "a", "reference": ["b"]}\n', "field 'reference' must be a text, it is a list"),
    (b'{"id": 1.5, "source": "a", "reference": "b"}\n', "field 'id' must be a text or a whole number"),
    (b'{"source": "a", "positives": []}\n', "field 'positives' is empty"),
    (b'{"source": "a", "positives": 3}\n', "field 'positives' must be a list of texts or candidates, it is a int"),
    (b'{"source": "a", "positives": ["b", ""]}\n', r"field 'positives\[1\]' is empty"),
    (
        b'{"source": "a", "positives": ["b"], "reference": "c"}\n',
        "field 'reference' differs from the first of 'positives'",
    ),
    (b'{"source": "a", "reference": "b", "negatives": [7]}\n', r"field 'negatives\[0\]' must be a text or an object"),
    (
        b'{"source": "a", "reference": "b", "negatives": [{"text": "c", "knid": "x"}]}\n',
        r"'negatives\[0\]' has an unknown key 'knid'",
    ),
    (
        b'{"source": "a", "reference": "b", "negatives": [{"text": "c", "edits": [[0, 9]]}]}\n',
        r"negatives\[0\]\.edits' holds \[0, 9\]",
    ),
    (
        b'{"source": "a", "reference": "b", "negatives": [{"text": "c", "toxicity": 2}]}\n',
        r"toxicity' must be a number from 0 to 1",
    ),
    (
        b'{"source": "a", "reference": "b", "negatives": [{"text": "c", "toxicity": "high"}]}\n',
        r"toxicity' must be a number from 0 to 1",
    ),
    (GOOD, "the row repeats line 1"),
    (b'{"id": "bad-1", "source": "a", "reference": "b"}\n', "field 'id': 'bad-1' stands in line 1 already"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=[m[:40] for _, m in BAD_LINES])
def test_a_bad_row_stops_with_its_line_or_is_listed(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(GOOD + line)
    fails(rf"bad\.jsonl:2: .*{message}", path)
    loaded = load(path, on_error="skip")
    assert [r.source for r in loaded.records] == ["first"]
    (skipped,) = loaded.skipped
    assert (skipped.file, skipped.line) == ("bad.jsonl", 2)
    assert re.search(message, skipped.reason)
    assert "1 records, 1 rows skipped" in loaded.summary()


def test_reading_goes_on_behind_a_line_that_is_too_long(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"source": "' + b"x" * 100_000 + b'"}\n' + GOOD)
    loaded = load(path, on_error="skip", max_chars=100)
    assert ([r.id for r in loaded.records], [s.line for s in loaded.skipped]) == (["bad-2"], [1])


def test_max_chars_is_an_option(tmp_path):
    path = jsonl(tmp_path / "d.jsonl", [{"source": "x" * 200, "reference": "y"}])
    fails(r"200 characters, more than max_chars \(100\)", path, max_chars=100)
    assert load(path, max_chars=200).records


def test_duplicates_can_be_kept_but_ids_cannot(tmp_path):
    path = jsonl(tmp_path / "d.jsonl", [{"source": "a", "reference": "b"}] * 2)
    assert [r.id for r in load(path, duplicates="keep").records] == ["d-1", "d-2"]
    fails(
        "stands in line 1 already",
        jsonl(tmp_path / "e.jsonl", [{"id": "x", "source": "a", "reference": "b"}] * 2),
        duplicates="keep",
    )


def test_nothing_left_is_an_error_even_when_skipping(tmp_path):
    fails(
        "no row can be used; all 2 were skipped. The first: d.jsonl:1: field 'source' is missing",
        jsonl(tmp_path / "d.jsonl", [{"a": 1}, {"a": 2}]),
        on_error="skip",
    )


def test_unknown_settings_are_named(tmp_path):
    path = jsonl(tmp_path / "d.jsonl", ROWS)
    fails("record kind 'preferences' is not known. Did you mean 'preference'", path, kind="preferences")
    with pytest.raises(RecipeError):  # a wrong command, not a bad file
        load(path, kind="preferences")
    fails("on_error is 'raise' or 'skip'", path, on_error="ignore")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"source,reference\na,b,c\n", "d.csv:2: it has more cells than the 2 columns"),
        (b"source,reference\na\n", "d.csv:2: it has fewer cells than the 2 columns"),
        (b'source,reference\na,"b\n', "d.csv:2: no valid CSV"),
        (b"source,reference\nok,fine\na,caf\xe9\n", "d.csv:3: field 'reference' is not UTF-8"),
        (b'source,reference\n"two\nlines",fine\na,\n', "d.csv:4: field 'reference' .*is missing"),
        (b"source,reference\na,b\x00\n", "d.csv:2: field 'reference' holds a NUL"),
    ],
)
def test_bad_csv_rows(tmp_path, content, message):
    path = tmp_path / "d.csv"
    path.write_bytes(content)
    fails(message, path)


# ---------------------------------------------------------------- TRL's formats

TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
GOOD_ROWS = [
    ("language-modeling", {"text": "t"}),
    ("language-modeling", {"messages": TALK}),
    ("prompt-only", {"prompt": "p"}),
    ("prompt-only", {"prompt": TALK[:1]}),
    ("prompt-completion", {"prompt": "p", "completion": "c"}),
    ("prompt-completion", {"prompt": TALK[:1], "completion": TALK[1:]}),
    ("preference", {"prompt": "p", "chosen": "c", "rejected": "r"}),
    ("preference", {"chosen": "c", "rejected": "r"}),
    ("preference", {"prompt": TALK[:1], "chosen": TALK[1:], "rejected": TALK[:1]}),
    ("unpaired-preference", {"prompt": "p", "completion": "c", "label": True}),
    ("unpaired-preference", {"completion": "c", "label": False}),
]


@pytest.mark.parametrize(("kind", "row"), GOOD_ROWS)
def test_formats_of_trl(tmp_path, kind, row):
    assert load(jsonl(tmp_path / "d.jsonl", [row]), kind=kind).records == (row,)


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("language-modeling", {"txt": "t"}, "field 'text' is missing"),
        ("language-modeling", {"messages": []}, "field 'messages' must be a list of messages, it is empty"),
        ("language-modeling", {"messages": [{"role": "user"}]}, r"field 'messages\[0\]\.content' must be a text"),
        ("language-modeling", {"messages": ["hi"]}, r"field 'messages\[0\]' must be an object with role and content"),
        ("prompt-only", {"prompt": 3}, "field 'prompt' must be a text"),
        ("prompt-completion", {"prompt": "p"}, "field 'completion' is missing"),
        ("prompt-completion", {"prompt": "p", "completion": TALK}, "'prompt' is a text, 'completion' is messages"),
        ("preference", {"prompt": "p", "chosen": "c"}, "field 'rejected' is missing"),
        ("preference", {"chosen": "c", "rejected": "c"}, "'chosen' and 'rejected' are equal"),
        ("preference", {"chosen": TALK, "rejected": "c"}, "the fields do not go together"),
        ("unpaired-preference", {"completion": "c"}, "field 'label' must be true or false, it is missing"),
        ("unpaired-preference", {"completion": "c", "label": "perhaps"}, "field 'label' must be true or false"),
        ("unpaired-preference", {"completion": "c", "label": 3}, "field 'label' must be true or false"),
    ],
)
def test_rows_that_are_no_trl_rows(tmp_path, kind, row, message):
    fails(rf"d\.jsonl:1: {message}|d\.jsonl:1: .*{message}", jsonl(tmp_path / "d.jsonl", [row]), kind=kind)


def test_labels_of_a_csv_are_texts(tmp_path):
    (tmp_path / "d.csv").write_text("completion,label\na,true\nb,0\n", encoding="utf-8")
    assert [r["label"] for r in load(tmp_path / "d.csv", kind="unpaired-preference").records] == [True, False]


def test_trl_reads_what_we_checked(tmp_path):
    from trl import is_conversational

    (row,) = load(jsonl(tmp_path / "d.jsonl", [GOOD_ROWS[8][1]]), kind="preference").records
    assert is_conversational(row)


# ---------------------------------------------------------------- the contrastive record on disk


def test_records_survive_the_file_exactly(tmp_path):
    record = ContrastiveRecord(
        "x", "post “1”", (Candidate("ref", "reference", "data", (), 0.25), Candidate("other", "backtranslate", "rules", ((0, 5),))),
        (Candidate("bad", "toxic", "neural:m", ((0, 1), (2, 2)), 0.5),), {"mix": "replay", "n": [1, 2]},
    )  # fmt: skip
    assert write_records(tmp_path / "r.jsonl", [record]) == 1
    assert load(tmp_path / "r.jsonl").records == (record,)


def test_plain_strings_get_the_kinds_of_their_place(tmp_path):
    (record,) = load(jsonl(tmp_path / "d.jsonl", [{"source": "s", "positives": ["a", "b"], "negatives": "c"}])).records
    assert [(c.text, c.kind, c.generator) for c in (*record.positives, *record.negatives)] == [
        ("a", "reference", "data"), ("b", "positive", "data"), ("c", "negative", "data"),
    ]  # fmt: skip


def test_a_failed_write_leaves_the_old_file_and_no_half_one(tmp_path):
    path = tmp_path / "r.jsonl"
    files.write(path, "old\n")
    with pytest.raises(ValueError, match="Out of range float"):
        write_jsonl(path, [{"a": 1}, {"a": float("nan")}])
    assert path.read_text() == "old\n"
    with path.open(encoding="utf-8") as reader:
        files.write(path, "new\n")
        assert reader.read() == "old\n"  # who reads while it is written reads the whole old file
    assert path.read_text() == "new\n"
    assert [p.name for p in tmp_path.iterdir()] == ["r.jsonl"]


def test_rows_of_real_data(shared):
    """9,857 toxic texts with their rewrites, by a column mapping alone."""
    path = shared / "data" / "contrast" / "paradetox_train.jsonl"
    rows = [row for row in read_rows(path) if not row.problem]
    assert len(rows) == 9857
    loaded = loading.load(path, columns={"source": "toxic", "positives": "neutral"}, limit=200, on_error="skip")
    assert len(loaded.records) == 200
    assert all(record.positives for record in loaded.records)


def test_preferences_of_real_data(shared):
    loaded = loading.load(shared / "data" / "preference" / "hh_harmless_test.jsonl", kind="preference")
    assert len(loaded.records) == 512
