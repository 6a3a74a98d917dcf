"""Files -> records: every type, and files that are broken."""

from __future__ import annotations

import csv
import json
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.data.records import Fault, files_of, read
from arriero.data.records import json_text as records
from arriero.errors import DataError, NotFoundError

ROWS = [{"a": "1", "b": "骆驼 🦙"}, {"a": "", "b": 'x\n"y",'}]


def write(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_json_arrays(tmp_path, indent, mark):
    text = json.dumps(ROWS, ensure_ascii=False, indent=indent).encode()
    assert list(read(write(tmp_path, "x.json", mark + b" \n" + text + b"\n"))) == list(enumerate(ROWS))


def test_json_lines_under_either_name(tmp_path):
    text = "\n".join(json.dumps(row) for row in ROWS) + "\n\n"
    assert list(read(write(tmp_path, "x.jsonl", text))) == list(enumerate(ROWS))
    assert list(read(write(tmp_path, "x.json", text))) == list(enumerate(ROWS))


def test_csv(tmp_path):
    file = tmp_path / "x.csv"
    with file.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, ["a", "b"])
        writer.writeheader()
        writer.writerows(ROWS)
    assert list(read(file)) == list(enumerate(ROWS))


def test_parquet(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "x.parquet")
    assert list(read(tmp_path / "x.parquet")) == list(enumerate(ROWS))


def test_a_directory_is_its_data_files_by_name(tmp_path):
    for name in ("b.jsonl", "a.json", "sub/c.csv", ".hidden.json", ".git/x.json", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("[]")
    assert [str(file.relative_to(tmp_path)) for file in files_of(tmp_path)] == ["a.json", "b.jsonl", "sub/c.csv"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="holds no"):
        files_of(tmp_path / "empty")


@pytest.mark.parametrize("folder", ["", "data/", "main/"])
def test_of_a_data_set_with_parts_the_training_part_is_used_and_said(tmp_path, caplog, folder):
    """Where hubs have them in a folder, data/ mostly, the test part was learned, too."""
    caplog.set_level("INFO")
    (tmp_path / folder).mkdir(exist_ok=True)
    for name in ("train-00000-of-00002.json", "train-00001-of-00002.json", "test-00000-of-00001.json"):
        (tmp_path / folder / name).write_text("[]")
    (tmp_path / "dataset_infos.json").write_text("{}")
    assert [file.name[:11] for file in files_of(tmp_path)] == ["train-00000", "train-00001"]
    assert f"not {folder}test-00000-of-00001.json" in caplog.text


def test_of_an_archive_as_of_a_directory(tmp_path, caplog):
    """The test part was learned, too, and what describes the data made it a file that cannot be read."""
    caplog.set_level("INFO")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("./set/train.jsonl", json.dumps(ROWS[0]))
        archive.writestr("set/test.jsonl", json.dumps(ROWS[1]))
        archive.writestr("set/README.md", "# A set")
    assert list(read(tmp_path / "set.zip")) == [(0, ROWS[0])]
    assert "set.zip: not read: set/README.md" in caplog.text
    assert "not set/test.jsonl" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "row", "reason"),
    [
        ("x.json", '[{"a": "b\n"}]', 0, "is not valid JSON: Invalid control character$"),
        ("x.json", '[{"a": "b"}, {"a": "c', 1, "Unterminated string"),
        ("x.json", '[{"a": "b"}, {"a"', 1, "not valid JSON"),
        ("x.json", '[{"a": "b"}', 1, "expected ']', got 'the end of the file'"),
        ("x.json", '[{"a": "b"} {"a": "c"}]', 1, "expected ']', got '{'"),
        ("x.json", '[{"a": "b"},]', 1, "not valid JSON"),
        ("x.json", '[{"a": "b"}] x', 1, "goes on after the end"),
        ("x.json", "[" * 100_000, 0, "nested too deeply"),
        ("x.json", "[{\"a\": " + "1" * 5000 + "}]", 0, "cannot be parsed"),
        ("x.json", "", None, "is empty"),
        ("x.json", "  \n", None, "is empty"),
        ("x.json", '"text"', None, "must be a JSON array"),
        ("x.json", "null", None, "must be a JSON array"),
        ("x.json", b'["\xff"]', None, "not UTF-8"),
        ("x.json", "你".encode("utf-16"), None, "must be a JSON array of rows, got '你'"),
        ("x.csv", 'a,b\n"1', 0, "not valid CSV"),
        ("x.csv", b"a\n\xff\n", None, "not UTF-8"),
        ("x.parquet", "PAR1 nothing", 0, "not a readable Parquet file"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_on_is_an_error_with_file_and_row(tmp_path, name, content, row, reason):
    with pytest.raises(DataError, match=reason) as caught:
        list(read(write(tmp_path, name, content)))
    assert caught.value.row == row
    assert caught.value.file == tmp_path / name


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": ', "not valid JSON"),
        (b'"\xff"', "not UTF-8 text (byte 1"),
        (b'{"a": "1", "a": "2"}', "the name 'a' stands twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "cannot be parsed"),
    ],
)
def test_a_bad_line_does_not_hide_the_next(tmp_path, line, reason):
    records = list(read(write(tmp_path, "x.jsonl", b'{"a": 1}\n' + line + b'\n{"a": 3}\n')))
    assert records[0] == (0, {"a": 1})
    assert records[2] == (2, {"a": 3})
    assert isinstance(records[1][1], Fault)
    assert reason in records[1][1].reason


def test_more_fields_than_the_header_is_a_fault(tmp_path):
    (_, fault), other = read(write(tmp_path, "x.csv", "a\n1,2\n3\n"))
    assert fault.reason.startswith("has more fields than the header; a text that holds the separator")
    assert other == (1, {"a": "3"})


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.lists(values, max_size=8), st.integers(1, 40), st.sampled_from([None, 1]), st.booleans())
def test_any_array_survives_any_chunk_size(tmp_path_factory, rows, chunk, indent, ascii_only):
    """Records begin in one chunk and end in another, in the middle of strings, numbers and characters."""
    file = tmp_path_factory.mktemp("chunks") / "x.json"
    file.write_text(json.dumps(rows, indent=indent, ensure_ascii=ascii_only), encoding="utf-8", errors="surrogatepass")
    whole, records.CHUNK = records.CHUNK, chunk
    try:
        assert [record for _, record in read(file)] == rows
    finally:
        records.CHUNK = whole


def test_a_row_of_100_mb_is_read(tmp_path):
    text = "x" * 100_000_000
    file = write(tmp_path, "x.json", json.dumps([{"a": "1"}, {"a": text}, {"a": "3"}]))
    lengths = [len(record["a"]) for _, record in read(file)]
    assert lengths == [1, 100_000_000, 1]
