"""Calls as they come: text and arguments go out at once, and what is cut off is not lost."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.prompt import CallReader
from tests.prompt.test_tool_parser import PYTHON_TAG, TOOLS, cuts, read


def test_plain_text_is_passed_on_at_once():
    reader = CallReader(TOOLS)
    pieces = ["Hel", "lo. ", "a <", " b", " {", '"name"', ": ", "<b>"]
    shown = ["".join(part.text for part in reader.push(piece)) for piece in pieces]
    assert shown == ["Hel", "lo.", " a", " < b", " {", '"name"', ":", " <b>"]


def test_an_object_is_passed_on_as_soon_as_it_cannot_be_a_call():
    for begun, rest in (('{"c', 'ity": 1'), ('{"name": "A', 'nn"'), ("{1", ""), ('{"name" ', "oops")):
        reader = CallReader(TOOLS)
        for piece in begun[:-1]:
            reader.push(piece)
        shown = "".join(part.text for part in reader.push(begun[-1]) + reader.push(rest))
        assert shown == begun + rest


STREAMED = {
    '{"name": "get_weather", "parameters": {"city": "': ('Potosí"}', '"Potosí"}'),
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "': ('Potosí"}', '"Potosí"}'),
    '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "': ('Potosí"}', '"Potosí"}'),
    '[TOOL_CALLS]get_weather[ARGS]{"city": "': ('Potosí"}', '"Potosí"}'),
    "<tool_call>\n<function=get_weather>\n<parameter=city>\n": ("Potosí</parameter></function>", '"Potosí"}'),
    '<|tool_call>call:get_weather{city:<|"|>': ('Potosí<|"|>}', '"Potosí"}'),
    "<start_function_call>call:get_weather{city:<escape>": ("Potosí<escape>}", '"Potosí"}'),
}


@pytest.mark.parametrize("begun", STREAMED)
def test_arguments_come_as_they_are_made(begun):
    reader = CallReader(TOOLS)
    first = [part.delta for part in reader.push(begun) if part.delta]
    assert (first[0].name, first[0].arguments) == ("get_weather", "")
    assert "".join(delta.arguments for delta in first) in ('{"city": "', '{"city": ')
    rest, _ = STREAMED[begun]
    assert [part.delta.arguments for part in reader.push("Poto") if part.delta] in (["Poto"], ['"Poto'])
    parts = reader.push(rest.removeprefix("Poto"))
    assert [part.call.values for part in parts if part.call] == [{"city": "Potosí"}]


def test_a_call_is_whole_as_soon_as_its_arguments_are():
    reader = CallReader(TOOLS)
    assert not any(part.call for part in reader.push('{"name": "f", "parameters": {'))
    assert [part.call.values for part in reader.push("}") if part.call] == [{}]
    assert [part.text for part in reader.push("}; ")] == ["", ""]


CUT = {
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Pot': ("get_weather", '{"city": "Pot'),
    '{"name": "get_weather", "parameters": {"city": "Pot\\': ("get_weather", '{"city": "Pot\\'),
    '[TOOL_CALLS]get_weather[ARGS]{"city"': ("get_weather", '{"city"'),
    "<function=get_weather>\n<parameter=city>\nPot\n</par": ("get_weather", '{"city": "Pot\\n</par'),
    '<|tool_call>call:get_weather{city:<|"|>Pot<|': ("get_weather", '{"city": "Pot<|'),
}


@pytest.mark.parametrize("text", CUT)
@given(st.data())
def test_a_call_cut_off_within_its_arguments_has_what_there_is(text, data):
    """Nothing of it is text, which would show markup to the reader of a forced call that reached the limit."""
    assert read(cuts(text, data)) == ("", [CUT[text]])


@pytest.mark.parametrize(
    ("text", "demanded", "call"),
    [
        ("<tool_c", ["f"], [("f", "")]),
        ('<tool_call>\n{"na', ["f"], [("f", "")]),
        ('<tool_call>\n{"name": "f", "argu', ["f", "get_weather"], [("f", "")]),
        ('{"name": "get_weather", "parameters": ', ["f", "get_weather"], [("get_weather", "")]),
        ('<tool_call>\n{"name": "', ["f", "get_weather"], []),
    ],
)
def test_a_demanded_call_that_is_cut_off_before_its_arguments_is_no_text(text, demanded, call):
    reader = CallReader(TOOLS, demanded=demanded)
    parts = [*reader.push(text), *reader.flush()]
    assert "".join(part.text for part in parts) == ""
    assert [(part.call.name, part.call.arguments) for part in parts if part.call] == call
    assert read([text]) == (text, []), "which is asked only of a demanded call"


def test_markers_that_are_special_tokens_are_never_shown():
    assert read([f"{PYTHON_TAG}print('hi')"], hidden=[PYTHON_TAG]) == ("print('hi')", [])
    bad = "<tool_call>\n{oops\n</tool_call>"
    assert read([bad], hidden=["<tool_call>", "</tool_call>"]) == ("\n{oops\n", [])


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ('{"name": "f", "parameters": {"a": "', '"}}'),
        ('<tool_call>{"name": "f", "arguments": {"a": "', '"}}</tool_call>'),
        ('{"parameters": {"a": "', '"}, "name": "f"}'),
        ("<function=f>\n<parameter=a>\n", "\n</parameter>\n</function>"),
        ('<|tool_call>call:f{a:<|"|>', '<|"|>}<tool_call|>'),
    ],
)
def test_long_arguments_take_time_in_proportion(begin, end):
    def seconds(count):
        reader, value = CallReader(TOOLS), "if (a) { b(); } \\\\ " * count
        started = time.process_time()
        parts = [part for character in begin + value + end for part in reader.push(character)]
        taken = time.process_time() - started
        assert len([part for part in parts if part.call]) == 1
        return taken

    seconds(20)
    short, long = (min(seconds(count) for _ in range(3)) for count in (80, 800))
    assert long < 40 * max(short, 0.001)  # ten times the text; quadratic would be a hundred times
