"""More than a hundred files that are broken in ways real files break: each is refused with its file, and its line if it has one."""

import contextlib
import csv
import datetime
import io
import itertools
import json
import os
import re
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from untax.data.load import load
from untax.types import UserError

GOOD = {"id": "first", "source": "Alice sold a red bike to Bob.", "reference": "A bike was sold."}
CONTRASTIVE = {
    "id": "second",
    "source": "It rained in Paris on 3 May.",
    "positives": [{"text": "Rain in Paris.", "kind": "reference", "edits": [[0, 4]], "toxicity": 0.1}, "It rained."],
    "negatives": [{"text": "Snow in Paris.", "kind": "swap_ent", "edits": [[0, 4]], "toxicity": 0.2}],
}


def line(row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def changed(path, value):
    """The contrastive row with the value at a path of keys replaced."""
    row = json.loads(json.dumps(CONTRASTIVE))
    place = row
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return row


# every field with values of types that it must not have; each stands in line 2 behind a good row
WRONG = {
    ("id",): [1.5, True, None, [], {}, "", "  "],
    ("source",): [None, 3, 0.5, True, [], ["text"], {"text": "a"}, " \t"],  # "" is a plain text's
    ("positives",): [None, 3, True, [], {}, {"text": "a"}, [None], [3], [[]], [""], [{}]],
    ("negatives",): [3, True, {"text": "a"}, [None], [3], [["a"]], [" "], [{}]],
    ("positives", 0, "text"): [None, 3, [], {}, "", " "],
    ("negatives", 0, "text"): [None, 3, ["a"], {}, ""],
    ("negatives", 0, "kind"): [3, [], True],
    ("negatives", 0, "edits"): [3, "0-4", {"a": 1}, [3], [[1]], [[0, 4, 5]], [["0", "4"]], [[4, 1]], [[-1, 2]], [[0, 999]], [[0.0, 4.0]], [[False, True]]],
    ("negatives", 0, "toxicity"): ["0.5", -0.1, 1.1, True, [], {}],
}  # fmt: skip
TYPES = [(".".join(map(str, path)), changed(path, value)) for path, values in WRONG.items() for value in values]
RAW_TYPES = [
    (field, {**GOOD, "id": "x", field: value})
    for field, value in itertools.product(("source", "reference"), [None, 7, 0.1, False, [], {}, ""])
]

WHOLE = line(GOOD) + line(CONTRASTIVE)
#: the bytes behind which the second row is cut off, at even distances
CUTS = range(len(line(GOOD)) + 1, len(WHOLE) - 1, 6)

BROKEN_LINES = {
    "latin-1": '{"source": "Ein Käfer saß da.", "reference": "Käfer"}\n'.encode("latin-1"),
    "cp1252": '{"source": "a “quote” here", "reference": "b"}\n'.encode("cp1252"),
    "shift-jis": '{"source": "日本語の文", "reference": "文"}\n'.encode("shift-jis"),
    "cut in a letter": '{"source": "caf\u00e9"'.encode()[:-2] + b'", "reference": "b"}\n',
    "lone surrogate": b'{"source": "a \\udc80", "reference": "b"}\n',
    "NUL as escape": b'{"source": "a\\u0000", "reference": "b"}\n',
    "NUL as byte": b'{"source": "a\x00", "reference": "b"}\n',
    "NUL in a place nobody reads": b'{"source": "a", "reference": "b", "x": {"y": ["\\u0000"]}}\n',
    "NaN": b'{"source": "a", "reference": "b", "score": NaN}\n',
    "Infinity": b'{"source": "a", "reference": "b", "score": -Infinity}\n',
    "number out of range": b'{"source": "a", "reference": "b", "score": 1e999}\n',
    "endless number": b'{"source": "a", "reference": "b", "n": ' + b"9" * 5000 + b"}\n",
    "a key twice": b'{"source": "a", "source": "c", "reference": "b"}\n',
    "single quotes": b"{'source': 'a', 'reference': 'b'}\n",
    "trailing comma": b'{"source": "a", "reference": "b",}\n',
    "no colon": b'{"source" "a"}\n',
    "two objects": b'{"source": "a", "reference": "b"}{"source": "c", "reference": "d"}\n',
    "a comment": b"# source, reference\n",
    "CSV": b"source,reference\n",
    "HTML": b"<html><body>404</body></html>\n",
    "LFS pointer": b"version https://git-lfs.github.com/spec/v1\n",
    "a list": b'["a", "b"]\n',
    "a text": b'"a"\n',
    "a number": b"17\n",
    "null": b"null\n",
    "nested deeply": b'{"source": "a", "reference": "b", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "unknown fields": b'{"article": "a", "highlights": "b"}\n',
    "an empty object": b"{}\n",
    "a long text": b'{"source": "' + b"x" * 1_000_000 + b'", "reference": "b"}\n',
    "the same id": b'{"id": "first", "source": "other", "reference": "b"}\n',
    "the same row": line({**GOOD, "id": "other"}),
}

JSONL = {
    **{f"{name} = {json.dumps(row)[-70:]}": line(row) for name, row in [*TYPES, *RAW_TYPES]},
    **{f"cut at byte {cut}": WHOLE[len(line(GOOD)) : cut] for cut in CUTS},
    **BROKEN_LINES,
}


def refused(path, *, at: int | None):
    """`load` raises UserError that names the file and, where there is one, the line."""
    with pytest.raises(UserError) as caught:
        load(path)
    message = str(caught.value)
    assert path.name in message, message
    assert "\n" not in message, message
    assert len(message) < 600, message
    if at is not None:
        assert re.search(rf"{re.escape(path.name)}:{at}: ", message), message


@pytest.mark.parametrize("content", JSONL.values(), ids=[name.replace("\n", " ") for name in JSONL])
def test_a_broken_line_of_jsonl(tmp_path, content):
    path = tmp_path / "broken.jsonl"
    path.write_bytes(line(GOOD) + content)
    refused(path, at=2)
    kept = load(path, on_error="skip")
    assert [record.id for record in kept.records] == ["first"]
    assert [skipped.line for skipped in kept.skipped] == [2]


def test_there_are_enough_of_them():
    assert len(JSONL) > 100


def test_the_rows_they_were_made_from_are_good(tmp_path):
    path = tmp_path / "good.jsonl"
    path.write_bytes(WHOLE)
    assert [record.id for record in load(path).records] == ["first", "second"]


AS_JSON = json.dumps([GOOD, CONTRASTIVE], indent=1, ensure_ascii=False).encode()


@pytest.mark.parametrize("cut", range(1, len(AS_JSON), 25))
def test_json_cut_off_names_the_line_where_it_ends(tmp_path, cut):
    path = tmp_path / "cut.json"
    path.write_bytes(AS_JSON[:cut])
    with pytest.raises(UserError, match=r"cut\.json:\d+: no valid JSON"):
        load(path)


@pytest.mark.parametrize(
    "content",
    ["null", "3", "true", '"text"', "{}", "[]", '{"a": []}', '{"a": 1, "b": 2}', '{"a": [1], "b": [2]}',
     '{"train": {"source": ["a"], "reference": ["b"]}}', "[NaN]", '[{"source": "a", "source": "b"}]', "[" + "9" * 5000 + "]"],
)  # fmt: skip
def test_json_of_another_structure(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    refused(path, at=None)


@pytest.mark.parametrize("value", [3, "text", None, [], ["a", "b"], {}, {"source": 1, "reference": "b"}])
def test_json_with_a_bad_row_names_the_row(tmp_path, value):
    path = tmp_path / "row.json"
    path.write_text(json.dumps([GOOD, value]))
    refused(path, at=2)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "cp037"])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv"])
def test_a_file_in_another_encoding(tmp_path, encoding, suffix):
    rows = {
        "jsonl": WHOLE.decode(),
        "json": AS_JSON.decode(),
        "csv": table([["a", "b", "c"]]),
        "tsv": "source\treference\na\tb\n",
    }
    path = tmp_path / f"encoded.{suffix}"
    path.write_bytes(rows[suffix].encode(encoding))
    refused(path, at=None)


def table(rows) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([["id", "source", "reference"], *rows])
    return text.getvalue()


@pytest.mark.parametrize(
    ("content", "at"),
    [
        (b"", None), (b"\n", None), (b"id,source,reference\n", None), (b"a,b\n1,2\n", 2), (b"source,source\na,b\n", 1),
        (b"source;reference\na;b\n", 2), (b"source\treference\na\tb\n", 2), (b"source,reference\na\n", 2), (b"source,reference\na,b,c\n", 2),
        (b"source,reference\na,\n", 2), (b"source,reference\n,b\n", 2), (b'source,reference\n"a,b\n', 2), (b'source,reference\n"a"x,b\n', 2),
        (b"source,reference\ncaf\xe9,b\n", 2), (b"source,reference\na\x00,b\n", 2), (b'source,reference\na,b\n"c\nd",\n', 3),
        (b"source,reference\na,b\na,b\n", 3), (b"id,source,reference\n1,a,b\n1,c,d\n", 3),
        (b"source,positives\na,\"['b']\"\n", None),
    ],
)  # fmt: skip
def test_broken_csv(tmp_path, content, at):
    path = tmp_path / "broken.csv"
    path.write_bytes(content)
    if b"positives" in content:
        # a cell is a text, and one text is one positive: this is what stands there
        assert load(path).records[0].reference == "['b']"
        return
    refused(path, at=at)


@pytest.mark.parametrize(
    "columns",
    [
        {"source": [1, 2], "reference": ["a", "b"]},
        {"source": [{"a": 1}], "reference": ["a"]},
        {"source": [["a"]], "reference": ["a"]},
        {"source": ["a"], "reference": [b"b"]},
        {"source": ["a"], "reference": [datetime.datetime(2020, 1, 1)]},
        {"source": [None], "reference": ["a"]},
        {"source": ["a"], "reference": [float("nan")]},
        {"source": ["a"], "reference": [True]},
        {"source": [""], "reference": ["a"]},
        {"source": ["a"], "positives": [[1, 2]]},
        {"source": ["a"], "positives": [[{"text": "b", "edits": [[0]]}]]},
        {"source": ["a"], "positives": [[{"text": "b", "toxicity": float("nan")}]]},
        {"text": ["a"], "label": [1]},
        {"source": ["a"], "reference": ["b"], "image": [b"\x89PNG"]},
        {"source": ["a"], "reference": ["b"], "scores": [[0.1, float("inf")]]},
    ],
    ids=str,
)
def test_parquet_of_wrong_types_names_the_row(tmp_path, columns):
    path = tmp_path / "typed.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    refused(path, at=1)


def test_dates_and_missing_numbers_of_a_table_are_kept_as_json_holds_them(tmp_path):
    path = tmp_path / "extra.parquet"
    columns = {"source": ["a"], "reference": ["b"], "day": [datetime.date(2020, 5, 3)], "score": [float("nan")]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    assert load(path).records[0].extra == {"day": "2020-05-03"}


@pytest.mark.parametrize("part", range(12))
def test_parquet_cut_off(tmp_path, part):
    path = tmp_path / "cut.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"source": ["a"] * 9, "reference": [str(i) for i in range(9)]}), path)
    content = path.read_bytes()
    path.write_bytes(content[: 1 + part * (len(content) - 2) // 11])
    refused(path, at=None)


@pytest.mark.parametrize("offset", range(4, 404, 40))
def test_parquet_with_a_damaged_middle_is_refused_or_read_right(tmp_path, offset):
    path = tmp_path / "damaged.parquet"
    wanted = [str(i) for i in range(50)]
    pyarrow.parquet.write_table(
        pyarrow.table({"source": [f"post {i}" for i in range(50)], "reference": wanted}), path, write_page_checksum=True
    )
    content = bytearray(path.read_bytes())
    content[offset : offset + 8] = b"\xff" * 8
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        assert [record.reference for record in load(path).records] == wanted


@pytest.mark.parametrize("name", ["data", "data.txt", "data.xlsx", "data.jsonl.gz", "data.pkl", "data.arrow"])
def test_an_unknown_kind_of_file_is_not_guessed(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(WHOLE)
    refused(path, at=None)


@pytest.mark.parametrize(
    ("name", "content", "options", "code", "message"),
    [
        ("empty.jsonl", b"", [], 1, r"empty\.jsonl: the file is empty"),
        ("cut.jsonl", WHOLE[:-40], [], 1, r"cut\.jsonl:2: no valid JSON.*cut off"),
        ("whole.jsonl", WHOLE, ["--kinds", "nothing"], 3, "no method 'nothing'"),
    ],
)  # fmt: skip
def test_the_command_line_says_it_in_one_message(tmp_path, name, content, options, code, message):
    (tmp_path / name).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", "untax", "augment", name, "-o", "out.jsonl", *(options or ["--kinds", "reference"])],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]
