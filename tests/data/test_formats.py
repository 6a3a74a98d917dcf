"""Records -> conversations: four formats, and records that cannot be used."""

from __future__ import annotations

import pytest

from arriero.data.formats import parse, shape_of
from arriero.data.options import DataOptions
from arriero.errors import UsageError

OPTIONS = DataOptions()
ALPACA = {"instruction": "q", "input": "", "output": "a"}
OPENAI = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
SHAREGPT = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
PROMPT = {"prompt": "q", "completion": "a"}
CALL = {"type": "function", "id": "c1", "function": {"name": "f", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ALL = {"alpaca": ALPACA, "messages": OPENAI, "sharegpt": SHAREGPT, "prompt-completion": PROMPT}


def turns(record, name, options=OPTIONS):
    return [(message.role, message.content) for message in parse(record, name, options).messages]


@pytest.mark.parametrize("name", sorted(ALL))
def test_the_same_conversation_in_every_format(name):
    assert shape_of(ALL[name]).format == name
    assert turns(ALL[name], name) == [("user", "q"), ("assistant", "a")]


def test_what_has_no_known_fields_has_no_shape():
    assert [shape_of(record) for record in ({"texts": "x"}, 3, None, {**ALPACA, "output": None})] == [None] * 4


def test_system_prompts_and_earlier_turns():
    earlier = {**ALPACA, "system": "s", "history": [["q1", "a1"]]}
    assert turns(earlier, "alpaca") == [
        ("system", "s"), ("user", "q1"), ("assistant", "a1"), ("user", "q"), ("assistant", "a"),
    ]  # fmt: skip
    assert turns({**SHAREGPT, "system": "s"}, "sharegpt")[0] == ("system", "s")
    assert turns({**PROMPT, "system": "s"}, "prompt-completion")[0] == ("system", "s")
    with_system = {"messages": [{"role": "system", "content": "s"}, *OPENAI["messages"]]}
    assert turns(with_system, "messages")[0] == ("system", "s")


def test_instruction_and_input_are_joined_by_a_newline_or_as_in_the_tutorial():
    row = {**ALPACA, "input": "1+1"}
    assert turns(row, "alpaca")[0] == ("user", "q\n1+1")
    assert turns(row, "alpaca", DataOptions(join_input="nothing"))[0] == ("user", "q1+1")


def test_null_fields_of_a_message_are_absent():
    """Writers of tables give every message every field."""
    row = {"messages": [{**message, "name": None, "tool_calls": None} for message in OPENAI["messages"]]}
    assert turns(row, "messages") == [("user", "q"), ("assistant", "a")]


@pytest.mark.parametrize(
    ("name", "record", "reason"),
    [
        ("alpaca", {**ALPACA, "instruction": ""}, "the instruction is empty"),
        ("alpaca", {**ALPACA, "output": " \n"}, "the output is empty"),
        ("alpaca", {"instruction": "q"}, "the field output is missing"),
        ("alpaca", {**ALPACA, "output": None}, "the field output is missing"),
        ("alpaca", {**ALPACA, "instruction": 5}, "the field instruction must be text, got a number"),
        ("alpaca", {**ALPACA, "output": True}, "the field output must be text, got true or false"),
        ("alpaca", {**ALPACA, "output": ["a"]}, "the field output must be text, got a list"),
        ("alpaca", {**ALPACA, "history": "x"}, "the field history must be a list, got text"),
        ("alpaca", {**ALPACA, "history": [["only a question"]]}, "history must be a list of"),
        ("alpaca", {**ALPACA, "history": ["ab"]}, "history must be a list of"),
        ("alpaca", {**ALPACA, "history": [["", "a"]]}, "turn 1 .user. is empty"),
        ("alpaca", "q", "a row must be an object, got text"),
        ("alpaca", None, "a row must be an object, got null"),
        ("alpaca", OPENAI, "is in the messages format, the data in alpaca"),
        ("messages", {"messages": []}, "at least one user message"),
        ("messages", {"messages": None}, "the field messages must be a list, got null"),
        ("messages", {"messages": ["q"]}, "a message must be an object"),
        ("messages", {"messages": OPENAI["messages"][:1]}, "ends with a question that has no answer"),
        ("messages", {"messages": OPENAI["messages"][1:]}, "turn 1 must come from the user"),
        ("messages", {"messages": [*OPENAI["messages"], *OPENAI["messages"][1:]]}, "turn 3 must come from the user"),
        ("messages", {"messages": [{"role": "robot", "content": "x"}]}, "must come from one of .*got 'robot'"),
        ("messages", {"messages": [{"role": "tool", "content": "x"}]}, "ends with a question"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "type image_url"),
        (
            "sharegpt",
            {"conversations": [{"from": "robot", "value": "x"}]},
            "a turn must come from one of .*got 'robot'",
        ),
        ("sharegpt", {"conversations": [{"from": ["human"], "value": "x"}]}, "a turn must come from one of"),
        ("sharegpt", {"conversations": [{"from": "human"}]}, "ends with a question"),
        ("sharegpt", {"conversations": SHAREGPT["conversations"][:1]}, "ends with a question"),
        ("prompt-completion", {**PROMPT, "completion": ""}, "the completion is empty"),
        ("prompt-completion", {**PROMPT, "prompt": ""}, "turn 1 .user. is empty"),
    ],
)
def test_what_cannot_be_used_says_why(name, record, reason):
    with pytest.raises(UsageError, match=reason):
        parse(record, name, OPTIONS)
