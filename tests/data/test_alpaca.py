"""Instruction files: what is read, what is dropped, what is refused."""

from __future__ import annotations

import json

import pytest

from arriero import data
from arriero.errors import DataError, NotFoundError
from arriero.messages import Message
from tests.conftest import SHARED_DATA


def write(tmp_path, content):
    file = tmp_path / "rows.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode())
    return file


def test_a_row_becomes_a_conversation(tmp_path):
    loaded = data.load(write(tmp_path, [{"instruction": "q", "input": "", "output": "a"}]))
    assert loaded.examples[0].conversation.messages == (Message("user", "q"), Message("assistant", "a"))
    assert loaded.dropped == ()


def test_instruction_and_input_are_joined_by_a_newline(tmp_path):
    loaded = data.load(write(tmp_path, [{"instruction": "sum", "input": "1+1", "output": "2"}]))
    assert loaded.examples[0].conversation.messages[0].content == "sum\n1+1"


def test_system_and_history_come_first(tmp_path):
    row = {"instruction": "q2", "output": "a2", "system": "s", "history": [["q1", "a1"]]}
    turns = data.load(write(tmp_path, [row])).examples[0].conversation.messages
    assert [(m.role, m.content) for m in turns] == [
        ("system", "s"), ("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2"),
    ]  # fmt: skip


GOOD = {"instruction": "q", "input": "", "output": "a"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "", "input": "", "output": "a"}, "the instruction is empty"),
        ({"instruction": "q", "input": "", "output": " \n"}, "the output is empty"),
        ({"instruction": "q", "input": ""}, "the field output is missing"),
        ({"instruction": None, "output": "a"}, "the field instruction is missing"),
        ({"instruction": 5, "output": "a"}, "the field instruction must be text, got int"),
        ({"instruction": "q", "output": ["a"]}, "the field output must be text, got list"),
        ("q", "a row must be an object, got str"),
        (None, "a row must be an object, got NoneType"),
        ({**GOOD, "history": [["only a question"]]}, "history must be a list of [question, answer] pairs"),
        ({**GOOD, "history": [["", "a"]]}, "turn 1 (user) is empty"),
    ],
)
def test_an_unusable_row_is_dropped_with_row_and_reason(tmp_path, row, reason):
    loaded = data.load(write(tmp_path, [GOOD, row, GOOD]))
    assert [example.row for example in loaded.examples] == [0, 2]
    assert loaded.dropped == (data.Dropped(1, reason),)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'[{"instruction": "q", "outp', "not valid JSON.*line 1, column 23"),
        (b"", "not valid JSON"),
        (b'{"instruction": "q"}', "must be a JSON array of rows, got dict"),
        (b'["\xff"]', "not UTF-8 text"),
        (b"[]", "none of its 0 rows"),
        (b"[1, 2]", "none of its 2 rows can be used; the first: row 0: a row must be an object"),
        (b"[" * 100_000, "nested too deeply|not valid JSON"),
    ],
)
def test_an_unusable_file_is_refused(tmp_path, content, reason):
    with pytest.raises(DataError, match=reason):
        data.load(write(tmp_path, content))


def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path):
    file = write(tmp_path, b"\xef\xbb\xbf" + json.dumps([GOOD]).encode())
    assert len(data.load(file).examples) == 1


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFoundError):
        data.load(tmp_path / "none.json")


def test_fields_that_are_not_used_are_announced(tmp_path, caplog):
    data.load(write(tmp_path, [{**GOOD, "label": 1}]))
    assert "fields that are not used: label" in caplog.text


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the shared data is not here")
def test_a_real_file_with_two_bad_rows():
    loaded = data.load(SHARED_DATA / "xiyouji.json")
    assert (len(loaded.examples), len(loaded.dropped)) == (322, 2)
    assert {drop.reason for drop in loaded.dropped} == {"the instruction is empty", "the output is empty"}
