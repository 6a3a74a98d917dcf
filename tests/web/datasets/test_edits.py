"""Edited rows become a new file, in which every other row is what it was."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.data import DataOptions, load
from arriero.data.records import read
from arriero.errors import ArrieroError, DataError, UsageError
from arriero.web.datasets.edits import Edit, begun, changed, check, save, texts
from tests.conftest import ROWS

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.lists(st.dictionaries(st.text(), VALUES, max_size=4), min_size=1, max_size=6)
ENDINGS = st.sampled_from(["json", "jsonl"])
FORMS = {
    "alpaca": {"instruction": "who?", "input": "", "output": "me", "history": [["a", "b"]], "id": 7},
    "messages": {"messages": [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "me"}], "id": 7},
    "sharegpt": {"conversations": [{"from": "human", "value": "who?"}, {"from": "gpt", "value": "me"}]},
    "prompt-completion": {"prompt": "who?", "completion": "me", "system": "be kind"},
}


def values(file):
    """The records of a file, as JSON texts: 1 and 1.0 and true are three things."""
    return [json.dumps(record) for _, record in read(file)]


@given(records=RECORDS, source=ENDINGS, target=ENDINGS, data=st.data())
def test_only_edited_rows_differ(tmp_path_factory, records, source, target, data):
    folder = tmp_path_factory.mktemp("edits")
    file, new = folder / f"rows.{source}", folder / f"new.{target}"
    lines = [json.dumps(record) for record in records]
    file.write_text("[" + ",".join(lines) + "]" if source == "json" else "\n".join(lines))
    place = data.draw(st.integers(0, len(records) - 1))
    edited = changed(records[place], {("output",): "mended"})
    saved = save([file], {(0, place): Edit(records[place], edited)}, new)
    assert (saved.rows, saved.unreadable) == (len(records), 0)
    expected = [json.dumps(record) for record in records]
    expected[place] = json.dumps({**records[place], "output": "mended"})
    assert values(new) == expected
    assert values(file) == [json.dumps(record) for record in records]


def test_a_row_may_be_left_out_and_one_that_cannot_be_read_is_counted(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\nnot json\n{"a": 2}\n')
    saved = save([file], {(0, 0): Edit({"a": 1}, None)}, tmp_path / "new.jsonl")
    assert (saved.rows, saved.unreadable) == (1, 1)
    mended = save([file], {(0, 1): Edit(None, {"a": 3})}, tmp_path / "other.jsonl")
    assert (mended.unreadable, values(mended.path)) == (0, ['{"a": 1}', '{"a": 3}', '{"a": 2}'])


def test_a_file_that_exists_is_replaced_only_when_that_was_said(tmp_path, rows_file):
    target = tmp_path / "new.json"
    target.write_text("mine")
    with pytest.raises(UsageError, match=r"new\.json exists"):
        save([rows_file], {}, target)
    assert target.read_text() == "mine"
    save([rows_file], {}, target, replace=True)
    assert [json.loads(line) for line in values(target)] == ROWS


def test_a_file_may_be_saved_over_itself(tmp_path):
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(ROWS))
    save([file], {(0, 0): Edit(ROWS[0], {**ROWS[0], "output": "mended"})}, file, replace=True)
    assert [record["output"] for _, record in read(file)][:2] == ["mended", "you"]


@pytest.mark.parametrize(("now", "edited"), [(ROWS[1:], 0), (ROWS[:-1], len(ROWS) - 1)])
def test_an_edit_is_of_the_row_it_was_made_of_and_of_no_other(tmp_path, now, edited):
    """After another program had taken a row out, the edit replaced the row that had come to its number."""
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(now))
    with pytest.raises(UsageError, match=f"has changed since its row {edited} was edited"):
        save([file], {(0, edited): Edit(ROWS[edited], None)}, file, replace=True)
    assert json.loads(file.read_text()) == now


def test_a_file_that_ends_in_the_middle_leaves_the_one_to_be_replaced_as_it_was(tmp_path):
    """A half of the new file would have stood where the old one was."""
    (tmp_path / "rows.json").write_text('[{"a": 1}, {"a": 2}, {"a"')
    (tmp_path / "new.json").write_text("mine")
    with pytest.raises(DataError, match="row 2"):
        save([tmp_path / "rows.json"], {}, tmp_path / "new.json", replace=True)
    assert (tmp_path / "new.json").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "edits", "error"),
    [
        ("new.csv", {}, "must end in .json or .jsonl"),
        ("missing/new.json", {}, "cannot write"),
        ("new.json", {(0, row): Edit(ROWS[row], None) for row in range(len(ROWS))}, "no row is left"),
    ],
)
def test_what_cannot_be_saved_leaves_nothing_behind(tmp_path, rows_file, name, edits, error):
    with pytest.raises(ArrieroError, match=error):
        save([rows_file], edits, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_json_lacks_is_refused_with_its_row(tmp_path):
    import datetime

    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"when": [datetime.date(2026, 1, 1)]}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="row 0"):
        save([tmp_path / "rows.parquet"], {}, tmp_path / "new.json")
    assert not (tmp_path / "new.json").exists()


@pytest.mark.parametrize("name", FORMS)
def test_every_text_of_a_record_can_be_edited_in_its_place(name):
    record = FORMS[name]
    shown = texts(record, name)
    assert {"who?", "me"} <= {text.value for text in shown}
    edited = changed(record, {text.path: f"{text.value}!" for text in shown})
    assert changed(edited, {text.path: text.value for text in shown}) == record
    assert {text.value for text in texts(edited, name)} == {f"{text.value}!" for text in shown}
    check(changed(record, {}), name, DataOptions())


@pytest.mark.parametrize("record", [None, 7, "text", [], {}, {"output": None, "completion": 3, "messages": "text"}])
@pytest.mark.parametrize("name", FORMS)
def test_a_faulty_record_offers_the_texts_it_lacks_and_can_be_mended(record, name):
    base = begun(record, name)
    shown = texts(base, name)
    assert len(shown) == 2
    with pytest.raises(UsageError, match="empty"):
        check(changed(base, {text.path: text.value for text in shown}), name, DataOptions())
    check(changed(base, {text.path: "text" for text in shown}), name, DataOptions())
    assert not any(text.value for text in texts(begun(None, name), name)), "what is empty stays empty"


def test_the_saved_file_is_read_by_inspect(tmp_path, home, rows_file):
    save([rows_file], {(0, 2): Edit(ROWS[2], {**ROWS[2], "output": "骆驼"})}, tmp_path / "a.jsonl")
    loaded = load(tmp_path / "a.jsonl")
    assert (len(loaded.table), loaded.dropped) == (len(ROWS), ())
