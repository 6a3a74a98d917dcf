"""What an answer may be: the schema in the prompt, the constraint, the order of a conversation with tools."""

from __future__ import annotations

import json

import pytest

from arriero.constraint import Choice, JsonSchema, Series, Text
from arriero.errors import UsageError
from arriero.messages import Conversation, NamedTool, Tool, ToolCall
from arriero.prompt import OutputSpec, Renderer
from tests.conftest import TEMPLATE, TOOL_TEMPLATE, build_tokenizer
from tests.prompt.weather import ASKED, CALLED, CITY, CLOCK, TWICE, WEATHER, call, rendered, result

# --- the schema ---


def test_a_schema_is_shown_after_the_system_prompt():
    renderer = Renderer(build_tokenizer(TOOL_TEMPLATE), (2,), system="Be kind.")
    asked = ASKED[1:]
    shown = f"<sys>Be kind.\n\nAnswer with JSON that fits this JSON schema and nothing else:\n{json.dumps(CITY)}</s>"
    assert shown in rendered(renderer, asked, (), "auto", CITY)
    own = rendered(renderer, ASKED, (), "auto", {"type": "object"})
    assert "<sys>Be brief.\n\nAnswer with a JSON object and nothing else.</s>" in own
    alone = rendered(renderer.with_system(None), asked, (), "auto", {"type": "object"})
    assert "<sys>Answer with a JSON object and nothing else.</s>" in alone


def test_a_template_without_a_system_turn_shows_it_with_the_last_question():
    template = TEMPLATE.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
    renderer = Renderer(build_tokenizer(template), (2,))
    turns = [*ASKED[1:], {"role": "assistant", "content": "Cold."}, {"role": "user", "content": "Sure?"}]
    text = rendered(renderer, turns, (), "auto", {"type": "object"})
    assert text.endswith("<user>Sure?\n\nAnswer with a JSON object and nothing else.</s><bot>")
    assert text.count("Answer with") == 1


def test_with_tools_the_model_is_told_that_it_may_call(hermes):
    text = rendered(hermes, ASKED, [WEATHER], "auto", CITY)
    assert "Be brief.\n\nUnless you call a function, answer with JSON that fits" in text
    assert "JSON schema" not in rendered(hermes, ASKED, [WEATHER], "required", CITY)


# --- the constraint ---


def test_the_constraint_follows_the_choice(hermes):
    form = hermes.native_call_format

    def constraint(*wanted):
        return OutputSpec.of(*wanted).constraint(form)

    strict = {"type": "object", "additionalProperties": False}
    weather = Series((Text('<tool_call>\n{"name": "weather", "arguments": '), JsonSchema({**strict, **CITY}),
                      Text("}\n</tool_call>")))  # fmt: skip
    clock = Series((Text('<tool_call>\n{"name": "clock", "arguments": '), JsonSchema({**strict, "properties": {}}),
                    Text("}\n</tool_call>")))  # fmt: skip
    both = [WEATHER, CLOCK]
    assert constraint(both) is None
    assert constraint(both, "none") is None
    assert constraint([WEATHER], "required") == weather
    assert constraint(both, "required") == constraint(both, "required", CITY) == Choice((weather, clock))
    assert constraint(both, NamedTool("clock")) == clock
    assert constraint(both, {"type": "function", "function": {"name": "clock"}}, CITY) == clock
    assert constraint(both, "auto", CITY) == Choice((weather, clock, JsonSchema(CITY)))
    assert constraint(both, "none", CITY) == constraint((), "auto", CITY) == JsonSchema(CITY)


def test_arguments_that_a_schema_allows_are_allowed(hermes):
    open_ended = Tool("f", "", {"type": "object", "additionalProperties": True})
    assert hermes.native_call_format.call(open_ended).parts[1] == JsonSchema(
        {"type": "object", "additionalProperties": True}
    )


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (([WEATHER, WEATHER],), "two tools of one name: weather"),
        (([], "required"), "no tools to call"),
        (([WEATHER], NamedTool("clock")), "names 'clock', which is not among the tools weather"),
        (([WEATHER], "always"), "tool_choice must be none, auto, required or a function by name, got 'always'"),
        (([WEATHER], {"type": "function"}), "tool_choice must be"),
        (([{"type": "retrieval"}],), "a tool must be an object"),
        (([{"type": "function", "function": {"name": "a b"}}],), "a tool's name must be 1 to 128 letters"),
        (([{"function": {"name": "f", "parameters": {"type": "string"}}}],), "schema of an object"),
        (([{"function": {"name": "f", "description": 3}}],), "must be text, got 3"),
        (([{"function": {"name": "f", "parameter": {}}}],), "got also .*parameter"),
        (([], "auto", "json"), "a JSON schema must be an object, got str"),
        (([], "auto", {"enum": {1, 2}}), "the JSON schema is not JSON"),
    ],
)
def test_what_makes_no_sense_is_refused(wanted, message):
    with pytest.raises(UsageError, match=message):
        OutputSpec.of(*wanted)


# --- the order of a conversation with tools ---


@pytest.mark.parametrize("messages", [CALLED, TWICE, [*CALLED, {"role": "user", "content": "And now?"}]])
def test_conversations_with_tools(messages):
    made = Conversation.of(messages)
    assert Conversation.of([*made.messages]) == made


def test_an_openai_message_keeps_its_calls():
    made = Conversation.of(TWICE)
    assert made.messages[2].tool_calls[1] == ToolCall("call_2", "clock", "{}")
    assert made.messages[3].tool_call_id == "call_2"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (TWICE[:-1], "the results of the calls call_1 are missing"),
        ([*CALLED[:-1], *ASKED[1:]], "turn 3 must come from the tool, got user: the results of the calls call_1 come"),
        ([*CALLED[:-1], result(7)], "turn 3 is the result of the call 'call_7', expected 'call_1'"),
        ([*TWICE[:-1], result(2)], "turn 4 is the result of the call 'call_2', expected 'call_1'"),
        ([*CALLED, result(1)], "turn 4 must come from the assistant, got tool"),
        ([*ASKED, result(1)], "turn 2 must come from the assistant, got tool"),
        ([*ASKED, {"role": "assistant", "tool_calls": [call(1), call(1)]}], "two calls of one id: call_1, call_1"),
        ([{"role": "user", "content": "hi", "tool_calls": [call(1)]}], "has tool calls, which only the assistant"),
        ([{"role": "user", "content": "hi", "tool_call_id": "x"}], "has a tool_call_id, which only tool messages"),
        ([*ASKED, {"role": "assistant", "tool_calls": "x"}], "tool_calls must be a list, got str"),
        ([*ASKED, {"role": "assistant", "tool_calls": [{"id": "x"}]}], "a tool call must be an object"),
        ([*ASKED, {"role": "assistant", "tool_calls": [call(1, "")]}], "needs an id, a name and arguments"),
        ([*ASKED, {"role": "assistant", "tool_calls": [call(1, "f", "{oops")]}], "arguments of the call of f are not"),
        ([*ASKED, {"role": "assistant", "tool_calls": [call(1, "f", "[]")]}], "must be a JSON object, got '\\[\\]'"),
        ([*ASKED, {"role": "assistant", "content": None}], "turn 2 \\(assistant\\) is empty"),
    ],
)
def test_an_order_that_makes_no_sense_is_not_trained(messages, message):
    with pytest.raises(UsageError, match=message):
        Conversation.of(messages)
