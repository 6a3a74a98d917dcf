"""Calls in the text of an answer: every form, every way of cutting it into pieces, and what is no call after all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.prompt import CallReader
from arriero.tools import CallDelta, Tool

TOOLS = (
    Tool("get_weather", "", {"properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}),
    Tool("brave_search", "", {"properties": {"query": {"type": "string"}}}),
    Tool("f"),
)
PYTHON_TAG = "<|python_tag|>"
WEATHER = ("get_weather", {"city": "Potosí"})


def read(pieces, hidden=()):
    """The shown texts and the calls in order, and the pieces shown before the end."""
    reader = CallReader(TOOLS, hidden)
    early = [reader.push(piece) for piece in pieces]
    parts = [part for several in early for part in several] + reader.flush()
    assert sum(part.length for part in parts) == len("".join(pieces))
    calls = [part.call for part in parts if part.call is not None]
    deltas = CallDelta.joined(part.delta for part in parts if part.delta is not None)
    assert [(delta.id, delta.name, delta.arguments) for delta in deltas] == [
        (call.id, call.name, call.arguments) for call in calls
    ]
    assert [delta.index for delta in deltas] == list(range(len(calls)))
    assert all(call.id.startswith("call_") for call in calls)
    assert len({call.id for call in calls}) == len(calls)
    text = "".join(part.text for part in parts)
    return text, [(call.name, call.given) for call in calls]


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
    '{"name": "f", "parameters": {"a": 1}': [("f", {"a": 1})],
    '<tool_call>\n{"name": "f", "arguments": {"a": 1}\n</tool_call>': [("f", {"a": 1})],
    # what the model writes wrong within arguments is passed on: they may have been sent already
    '{"name": "f", "parameters": {"a": NaN}}': [("f", '{"a": NaN}')],
    '{"name": "f", "parameters": {"a": "\\ud83d"}}': [("f", '{"a": "\\ud83d"}')],
    '<function=f>{"a": [1}</function>': [("f", '{"a": [1}')],
    # SmolLM2
    '<tool_call>[{"name": "get_weather", "arguments": {"city": "Potosí"}}]</tool_call>': [WEATHER],
    '<tool_call>[{"name": "f", "arguments": {}}, {"name": "f", "arguments": {"a": 1}}]</tool_call>': [
        ("f", {}),
        ("f", {"a": 1}),
    ],
    # Mistral, before and since its tokenizer 11
    '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Potosí"}, "id": "VvvODy9mT"}]': [WEATHER],
    '[TOOL_CALLS]  [ {"name":"f" , "arguments" : {"a": 3} }, {"name": "get_weather", "arguments":'
    ' {"city": "Potosí"}} ]': [("f", {"a": 3}), WEATHER],
    '[TOOL_CALLS][{"arguments": {"city": "Potosí"}, "name": "get_weather"}]': [WEATHER],
    '[TOOL_CALLS]get_weather{"city": "Potosí"}': [WEATHER],
    '[TOOL_CALLS]f[ARGS]{"a": {"b": "}{"}}[TOOL_CALLS]get_weather[ARGS]{"city": "Potosí"}': [
        ("f", {"a": {"b": "}{"}}),
        WEATHER,
    ],
    '[TOOL_CALLS]get_weather[CALL_ID]VvvODy9mT[ARGS]{"city": "Potosí"}': [WEATHER],
    # Qwen3-Coder and Qwen 3.5
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nPotosí\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
    "</function>\n</tool_call>": [("get_weather", {"city": "Potosí", "days": 3})],
    "<tool_call>\n<function=f>\n</function>\n</tool_call>\n<tool_call>\n<function=get_weather>\n<parameter=city>\nPotosí\n"
    "</parameter>\n</function>\n</tool_call>": [("f", {}), WEATHER],
    '<function=brave_search>\n<parameter=query>\nif a < b:\n\tprint("</p>")\n\n</parameter>\n</function>': [
        ("brave_search", {"query": 'if a < b:\n\tprint("</p>")\n'})
    ],
    "<tool_call>\n<function=get_weather><parameter=city>Potosí</parameter></function></tool_call>": [WEATHER],
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nPotosí\n</parameter>\n</tool_call>": [WEATHER],
    # Gemma 4, FunctionGemma, and Gemma 3 as its guides ask
    '<|tool_call>call:get_weather{city:<|"|>Potosí<|"|>}<tool_call|>': [WEATHER],
    '<|tool_call>call:f{a:{b:<|"|>"x", {y}<|"|>,<|"|>3<|"|>:[1,true,null,<|"|><|"|>]},c:-3.5}<tool_call|>'
    "<|tool_call>call:f{}<tool_call|>": [
        ("f", {"a": {"b": '"x", {y}', "3": [1, True, None, ""]}, "c": -3.5}),
        ("f", {}),
    ],
    "<start_function_call>call:get_weather{city:<escape>Potosí<escape>,days:3}<end_function_call>": [
        ("get_weather", {"city": "Potosí", "days": 3})
    ],
    "<start_function_call>call:f{a:<escape>1<escape>b:[celsius]}<end_function_call>": [
        ("f", {"a": "1", "b": ["celsius"]})
    ],
    '```tool_code\nget_weather(city="Potosí")\n```': [WEATHER],
    '```tool_code\nprint(get_weather("Potosí"))\nprint(default_api.f(a=[1, 2]))\n```': [WEATHER, ("f", {"a": [1, 2]})],
    '[get_weather(city="Potosí"), f(a={"b": "]"})]': [WEATHER, ("f", {"a": {"b": "]"}})],
}


@pytest.mark.parametrize("text", CALLS)
@given(st.data())
def test_calls_are_read_however_the_text_is_cut(text, data):
    assert read(cuts(text, data)) == ("", CALLS[text])


@pytest.mark.parametrize("text", [text for text in CALLS if text[0] == "<"])
def test_text_around_a_call_is_shown_without_the_blanks_between(text):
    missing = not text.endswith((">", ")", "}}", "\n")) or "</" in text[-9:-1]
    after = "" if missing else "\nDone."
    assert read([f"Let me see. \n{text}{after}"]) == (f"Let me see.{after.strip()}", CALLS[text])


NOT_CALLS = [
    "Hello, a < b and <tool> and <|eot|> {x}; ",
    '{"name": "unknown", "parameters": {"a": 1}}',
    '{"name": "f", "parameters": [1]}',
    '{"parameters": {"a": NaN}, "name": "f"}',
    '{"name": "f", "parameters": {oops}}',
    '{"name": "f"}',
    '{"name": "Ann", "age": 3}',
    '{"city": "Potosí"}',
    "{}",
    "[1] Lake Titicaca, [f] and [f(1]",
    "[unknown(a=1)]",
    "[f(x)]",
    '{"name": "f", "parameters"',
    'Say {"name": "f", "parameters": {}} to call it',
    '<tool_call>\n{"name": "f", "arguments": {oops}}\n</tool_call>',
    '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>',
    "<tool_call> is how one begins",
    '<function=unknown>{"a": 1}</function>',
    "<function=f>(1)</function>",
    "<function=f",
    "<|python_tag|>print('hi')",
    "<|python_tag|>brave_search.call(unquoted words)",
    '<|python_tag|>f.call("positional")',
    "<|python_tag|>f.call(a={1, 2})",
    '<tool_call><function=unknown>{"a": 1}</function></tool_call>',
    '[TOOL_CALLS] [{"name": "unknown", "arguments": {}}]',
    '[TOOL_CALLS]unknown[ARGS]{"a": 1}',
    "[TOOL_CALLS] not json at all",
    "[TOOL_CALLS]f(1)",
    "<tool_call>\n<function=unknown>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>",
    "<function=f>\nwords",
    "<|tool_call>call:unknown{a:1}<tool_call|>",
    "<start_function_call>declaration:f{}",
    "```python\nf(a=1)\n```",
    "```tool_code\nprint('hi')\n```",
    "```tool_code\nx = f(a=1)\n```",
    "```tool_code\nunknown(a=1)\n```",
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
    "[TOOL_CALLS]",
    "[ARGS]",
    "[",
    "]",
    "<parameter=a>",
    "</parameter>",
    "<|tool_call>call:",
    "<tool_call|>",
    '<|"|>',
    "```tool_code",
    "```",
    '"name": "f", "arguments": {"a"',
]
fragments = st.sampled_from([*FRAGMENTS, "\n", " ", *CALLS])


@given(st.lists(fragments, max_size=40).map("".join), st.data())
def test_how_the_text_is_cut_makes_no_difference(text, data):
    shown, calls = read([text])
    assert read(cuts(text, data)) == (shown, calls) == read(list(text))
    if not calls:
        assert shown == text
