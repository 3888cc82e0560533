"""Scores come back from disk as they went; what is damaged, missing or mixed is refused."""

import hashlib
import json
import math
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from untax import tables
from untax.types import MetricSpec, ScoreRow, Scores, UserError

SPEC = MetricSpec(
    name="toxicity", metric="toxicity", request="generate", side="safety", better="lower", margin=0.02, unit="share", binary=True,
    items_hash="1a", prompt_hash="2b", settings={"stop": ["\n"], "options": {"threshold": None}}, note="é — ‘x’",
)  # fmt: skip
ROWS = (
    ScoreRow("toxicity", "a", "h1", "c1", 1.0, "prompt\nwith lines", "<script>é\x00 \ud7ff", 7, True),
    ScoreRow("toxicity", "b", "h2", "c1", 0.1 + 0.2, "", "", 0, False),
    ScoreRow("toxicity", "c", "h3", "c2", math.nan),
)
SCORES = Scores("base", (SPEC,), ROWS, seed=3, about={"dtype": "float32", "missing": {"toxicity": {"n": 1}}})


def test_there_and_back(tmp_path):
    tables.write(SCORES, tmp_path / "new" / "folder")
    found = tables.read(tmp_path / "new" / "folder")
    assert found.specs == SCORES.specs
    assert (found.system, found.seed, found.about) == (SCORES.system, SCORES.seed, SCORES.about)
    assert math.isnan(found.rows[2].score)
    assert found.rows[:2] == ROWS[:2]
    assert asdict(replace(found.rows[2], score=0)) == asdict(replace(ROWS[2], score=0))
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["about.json", "scores.parquet"]


def test_no_rows_and_no_seed(tmp_path):
    tables.write(Scores("base", (), ()), tmp_path)
    assert tables.read(tmp_path) == Scores("base", (), ())


def test_others_can_read_the_table(tmp_path):
    tables.write(SCORES, tmp_path)
    table = pq.read_table(tmp_path / "scores.parquet")
    assert table.column("score").to_pylist()[:2] == [1.0, 0.1 + 0.2]


@pytest.mark.parametrize("name", ["scores.parquet", "about.json"])
def test_half_a_folder_is_refused(tmp_path, name):
    tables.write(SCORES, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"holds no {name}"):
        tables.read(tmp_path)


@pytest.mark.parametrize("name", ["scores.parquet", "about.json"])
def test_truncated_files_are_refused(tmp_path, name):
    tables.write(SCORES, tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    with pytest.raises(UserError, match=r"cannot be read|two different"):
        tables.read(tmp_path)


def test_files_of_two_measurements_are_refused(tmp_path):
    tables.write(SCORES, tmp_path / "a")
    tables.write(replace(SCORES, system="tuned"), tmp_path / "b")
    (tmp_path / "b" / "about.json").replace(tmp_path / "a" / "about.json")
    with pytest.raises(UserError, match="two different measurements"):
        tables.read(tmp_path / "a")


def test_another_parquet_file_is_refused(tmp_path):
    import pyarrow as pa

    tables.write(SCORES, tmp_path)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "scores.parquet")
    with pytest.raises(UserError, match="another format"):
        tables.read(tmp_path)


def test_writing_that_dies_leaves_the_old_scores(tmp_path, monkeypatch):
    tables.write(SCORES, tmp_path)

    def dies(table, where, **_):
        Path(where).write_bytes(b"PAR1 half a table")
        raise OSError("the disk is full")

    monkeypatch.setattr(pq, "write_table", dies)
    with pytest.raises(OSError, match="full"):
        tables.write(replace(SCORES, system="tuned"), tmp_path)
    assert tables.read(tmp_path).system == "base"


def test_import_needs_no_torch():
    code = "import sys, untax.tables; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )


@pytest.mark.parametrize(
    "change",
    [{"system": 5}, {"seed": "x"}, {"specs": [5]}, {"specs": {}}, {"about": None}, {"system": ...}, {"specs": "twice"}],
)
def test_a_description_of_another_kind_is_refused(tmp_path, change):
    tables.write(SCORES, tmp_path)
    told = json.loads((tmp_path / "about.json").read_text())
    for key, value in change.items():
        told[key] = told["specs"] * 2 if value == "twice" else value
    told = {key: value for key, value in told.items() if value is not ...}
    _stamped(tmp_path, told, pq.read_table(tmp_path / "scores.parquet"))
    with pytest.raises(UserError, match="another format"):
        tables.read(tmp_path)


def _stamped(folder, told, table):
    """Both files, the rows with the hash of their description."""
    text = json.dumps(told)
    (folder / "about.json").write_text(text)
    mark = {"about_sha256": hashlib.sha256(text.encode()).hexdigest()}
    pq.write_table(table.replace_schema_metadata(mark), folder / "scores.parquet")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("score", pa.array([None] * 3, pa.float64())),
        ("score", pa.array(["a"] * 3)),
        ("cluster", pa.array([None] * 3, pa.string())),
    ],
)
def test_columns_of_another_kind_are_refused(tmp_path, column, values):
    tables.write(SCORES, tmp_path)
    table = pq.read_table(tmp_path / "scores.parquet")
    table = table.set_column(table.schema.get_field_index(column), column, values)
    _stamped(tmp_path, json.loads((tmp_path / "about.json").read_text()), table)
    with pytest.raises(UserError, match="another format"):
        tables.read(tmp_path)


def test_an_infinite_score_is_missing(tmp_path):
    tables.write(replace(SCORES, rows=(replace(ROWS[0], score=math.inf), *ROWS[1:])), tmp_path)
    assert math.isnan(tables.read(tmp_path).rows[0].score)


def test_a_flipped_bit_is_refused_and_never_another_score(tmp_path):
    rows = tuple(
        ScoreRow("toxicity", f"item {i}", f"h{i}", f"c{i % 7}", i / 64, f"prompt {i}", f"answer {i}") for i in range(64)
    )
    whole = replace(SCORES, rows=rows)
    tables.write(whole, tmp_path)
    path = tmp_path / "scores.parquet"
    written = path.read_bytes()
    footer = len(written) - 8 - int.from_bytes(written[-8:-4], "little")
    refused = 0
    for place in range(4, footer, 37):
        path.write_bytes(written[:place] + bytes([written[place] ^ 4]) + written[place + 1 :])
        try:
            assert tables.read(tmp_path) == whole, place
        except UserError:
            refused += 1
    assert refused > 20
