"""Calls in the text of an answer: every form, every way of cutting it into pieces, and what is no call after all."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.prompt import CallReader
from arriero.prompt.calls import PYTHON_TAG

NAMES = ("get_weather", "brave_search", "f")
WEATHER = ("get_weather", {"city": "Potosí"})


def read(pieces, hidden=()):
    """The shown texts and the calls in order, and the pieces shown before the end."""
    reader = CallReader(NAMES, hidden)
    early = [reader.push(piece) for piece in pieces]
    parts = [part for several in early for part in several] + reader.flush()
    assert sum(part.length for part in parts) == len("".join(pieces))
    calls = [part.call for part in parts if part.call is not None]
    assert all(call.id.startswith("call_") for call in calls)
    assert len({call.id for call in calls}) == len(calls)
    text = "".join(part.text for part in parts)
    return text, [(call.name, call.values) for call in calls]


def cuts(text, data):
    at = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[start:end] for start, end in zip([0, *at], [*at, len(text)], strict=True)]


CALLS = {
    '{"name": "get_weather", "parameters": {"city": "Potosí"}}': [WEATHER],
    ' \n{"name": "get_weather", "arguments": {"city": "Potosí"}}\n': [WEATHER],
    '{"type": "function", "name": "get_weather", "parameters": {"city": "Potosí"}}': [WEATHER],
    '{"parameters": {"city": "Potosí"}, "name": "get_weather"}': [WEATHER],
    '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Potosí"}}': [WEATHER],
    '{"name": "f", "parameters": {}}; {"name": "f", "parameters": {"a": "};{"}}': [("f", {}), ("f", {"a": "};{"})],
    '{"name": "f", "parameters": {"a": "\\\\"}}\n\n{"name": "f", "parameters": {"a": "\\""}}': [
        ("f", {"a": "\\"}),
        ("f", {"a": '"'}),
    ],
    '<|python_tag|>brave_search.call(query="Lake \\"Titicaca\\" (depth)")': [
        ("brave_search", {"query": 'Lake "Titicaca" (depth)'})
    ],
    "<|python_tag|>f.call(a=1, b=[True, None], c='x')": [("f", {"a": 1, "b": [True, None], "c": "x"})],
    '<function=get_weather>{"city": "Potosí"}</function>': [WEATHER],
    '<function=f>{"a": {"b": [1, {"c": null}]}}</function>': [("f", {"a": {"b": [1, {"c": None}]}})],
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Potosí"}}\n</tool_call>': [WEATHER],
    '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n<tool_call>\n{"name": "get_weather", "arguments": '
    '{"city": "Potosí"}}\n</tool_call>\n': [("f", {}), WEATHER],
    '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>': [("f", {"a": 1})],
    '<tool_call>\n{"name": "f"}\n</tool_call>': [("f", {})],
    '<tool_call>\n{"name": "f", "arguments": {"code": "if a:\n\tb"}}\n</tool_call>': [("f", {"code": "if a:\n\tb"})],
    # closing tags that are missing or cut off
    '<tool_call>\n{"name": "f", "arguments": {}}': [("f", {})],
    '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_c': [("f", {})],
    '<function=f>{"a": 1}': [("f", {"a": 1})],
    '<function=f>{"a": 1}<function=f>{"a": 2}</function>': [("f", {"a": 1}), ("f", {"a": 2})],
}


@pytest.mark.parametrize("text", CALLS)
@given(st.data())
def test_calls_are_read_however_the_text_is_cut(text, data):
    assert read(cuts(text, data)) == ("", CALLS[text])


@pytest.mark.parametrize("text", [text for text in CALLS if text[0] == "<"])
def test_text_around_a_call_is_shown_without_the_blanks_between(text):
    missing = not text.endswith((">", ")", "}}", "\n"))
    after = "" if missing else "\nDone."
    assert read([f"Let me see. \n{text}{after}"]) == (f"Let me see.{after.strip()}", CALLS[text])


NOT_CALLS = [
    "Hello, a < b and <tool> and <|eot|> {x}; ",
    '{"name": "unknown", "parameters": {"a": 1}}',
    '{"name": "f", "parameters": [1]}',
    '{"name": "f", "parameters": {"a": NaN}}',
    '{"name": "f", "parameters": {"a": "\\ud83d"}}',  # half of a surrogate pair, which nobody could be sent
    '{"name": "f"}',
    '{"name": "Ann", "age": 3}',
    '{"city": "Potosí"}',
    "{}",
    '{"name": "f", "parameters": {"a": 1}',
    'Say {"name": "f", "parameters": {}} to call it',
    '<tool_call>\n{"name": "f", "arguments": {oops}}\n</tool_call>',
    '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>',
    "<tool_call> is how one begins",
    '<function=unknown>{"a": 1}</function>',
    "<function=f>(1)</function>",
    "<function=f",
    "<|python_tag|>print('hi')",
    "<|python_tag|>brave_search.call(unquoted words)",
    '<|python_tag|>brave_search.call("positional")',
    "<|python_tag|>f.call(a={1, 2})",
    '<tool_call><function=unknown>{"a": 1}</function></tool_call>',
    "[" * 100_000,
    '{"name": "f", "parameters": ' + "[" * 100_000,
]


@pytest.mark.parametrize("text", NOT_CALLS, ids=lambda text: text[:30])
@given(st.data())
def test_what_is_no_call_comes_out_unchanged(text, data):
    assert read(cuts(text, data)) == (text, [])


FRAGMENTS = [
    "<",
    "tool_call",
    ">",
    "</tool_call>",
    "<function=",
    "f",
    "</function>",
    PYTHON_TAG,
    "{",
    "}",
    '"name"',
    ":",
]
FRAGMENTS += [
    "\\",
    '"f"',
    ",",
    '"parameters"',
    '"arguments"',
    ";",
    "x",
    "骆驼",
    "brave_search.call(",
    "query=",
    '"',
    ")",
]
fragments = st.sampled_from([*FRAGMENTS, "\n", " ", *CALLS])


@given(st.lists(fragments, max_size=40).map("".join), st.data())
def test_how_the_text_is_cut_makes_no_difference(text, data):
    shown, calls = read([text])
    assert read(cuts(text, data)) == (shown, calls) == read(list(text))
    if not calls:
        assert shown == text


def test_plain_text_is_passed_on_at_once():
    reader = CallReader(NAMES)
    pieces = ["Hel", "lo. ", "a <", " b", " {", '"name"', ": ", "<b>"]
    shown = ["".join(part.text for part in reader.push(piece)) for piece in pieces]
    assert shown == ["Hel", "lo.", " a", " < b", " {", '"name"', ":", " <b>"]


def test_an_object_is_passed_on_as_soon_as_it_cannot_be_a_call():
    for begun, rest in (('{"c', 'ity": 1'), ('{"name": "A', 'nn"'), ("{1", ""), ('{"name" ', "oops")):
        reader = CallReader(NAMES)
        for piece in begun[:-1]:
            reader.push(piece)
        shown = "".join(part.text for part in reader.push(begun[-1]) + reader.push(rest))
        assert shown == begun + rest


def test_a_call_comes_as_soon_as_it_is_complete():
    reader = CallReader(NAMES)
    assert reader.push('{"name": "f", "parameters": {}') == []
    (part,) = reader.push("}")
    assert part.call.name == "f"
    assert reader.push("; ")[0].text == ""


def test_markers_that_are_special_tokens_are_never_shown():
    assert read([f"{PYTHON_TAG}print('hi')"], hidden=[PYTHON_TAG]) == ("print('hi')", [])
    bad = "<tool_call>\n{oops\n</tool_call>"
    assert read([bad], hidden=["<tool_call>", "</tool_call>"]) == ("\n{oops\n", [])


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ('{"name": "f", "parameters": {"a": "', '"}}'),
        ('<tool_call>{"name": "f", "arguments": {"a": "', '"}}</tool_call>'),
    ],
)
def test_long_arguments_take_time_in_proportion(begin, end):
    def seconds(count):
        reader, value = CallReader(NAMES), "if (a) { b(); } \\\\ " * count
        started = time.process_time()
        parts = [part for character in begin + value + end for part in reader.push(character)]
        taken = time.process_time() - started
        assert len([part for part in parts if part.call]) == 1
        return taken

    seconds(20)
    assert seconds(800) < 40 * max(seconds(80), 0.001)  # ten times the text; quadratic would be a hundred times
