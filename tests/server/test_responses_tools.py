"""Tools in OpenAI's responses, and the items that come and go with them, through its own client."""

from __future__ import annotations

import functools
import json
from typing import get_args

import openai
import pytest
from openai.types import responses as sdk
from pydantic import BaseModel

from tests.conftest import TOOL_TEMPLATE

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "name": "weather", "description": "Of a city.", "parameters": SCHEMA, "strict": True}
TIME = {"type": "function", "name": "time", "parameters": SCHEMA, "strict": None}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Cusco"}}\n</tool_call>'
OTHER = CALL.replace("weather", "time")
CHAT_TOOL = {"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": SCHEMA}}


@pytest.fixture
def client(openai_client):
    """`openai_client` of a model that calls tools."""
    return functools.partial(openai_client, template=TOOL_TEMPLATE)


def strictly(data: dict) -> BaseModel:
    """An event as the client's type for it, with every field that has to be there."""
    kinds = {get_args(kind.model_fields["type"].annotation)[0]: kind for kind in _kinds()}
    return kinds[data["type"]].model_validate(data, strict=True)


def _kinds() -> list[type[BaseModel]]:
    named = [getattr(sdk, name) for name in dir(sdk) if name.endswith("Event") and name != "ResponseStreamEvent"]
    return [kind for kind in named if isinstance(kind, type) and "sequence_number" in kind.model_fields]


def streamed(asked: openai.OpenAI, **body) -> list[BaseModel]:
    """The events of a stream as they came, each checked."""
    with asked.responses.with_streaming_response.create(model="tiny", stream=True, **body) as response:
        lines = [line for line in response.iter_lines() if line]
    named, data = lines[::2], [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
    assert named == [f"event: {each['type']}" for each in data]
    assert [each["sequence_number"] for each in data] == list(range(len(data)))
    return [strictly(each) for each in data]


def test_a_tool_is_called_and_its_result_answered(client):
    """Responses took no tools: agents on openai-agents' default model had none."""
    asked, engine = client(f"I look.\n{CALL}", "Rain.")
    turns = [{"role": "user", "content": "Weather?"}]
    first = asked.responses.create(model="tiny", input=turns, tools=[WEATHER])
    text, call = first.output
    assert (text.content[0].text.strip(), call.type, call.status) == ("I look.", "function_call", "completed")
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Cusco"})
    turns += [item.model_dump() for item in first.output]
    turns += [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]
    assert asked.responses.create(model="tiny", input=turns, tools=[WEATHER]).output_text == "Rain."
    asked.chat.completions.create(
        model="tiny",
        tools=[CHAT_TOOL],
        messages=[
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": text.content[0].text,
                "tool_calls": [
                    {"id": "c", "type": "function", "function": {"name": "weather", "arguments": call.arguments}}
                ],
            },
            {"role": "tool", "tool_call_id": "c", "content": "rain"},
        ],
    )
    assert engine.asked[1][0] == engine.asked[2][0], "the prompt is that of chat completions"


def test_the_events_of_a_call_are_whole_and_in_order(client):
    """Arguments are streamed as they are made; every event has all that the client's types demand."""
    asked, _ = client(f"I look. {CALL}\n{OTHER}")
    events = streamed(asked, input="hi", tools=[WEATHER, TIME])
    kinds = [event.type.removeprefix("response.") for event in events]
    once = [kind for n, kind in enumerate(kinds) if n == 0 or kinds[n - 1] != kind]
    call = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]
    text = ["output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done"]
    assert once == ["created", "in_progress", *text, "output_item.done", *call, *call, "completed"]
    for index, name in ((1, "weather"), (2, "time")):
        own = [event for event in events if getattr(event, "output_index", None) == index]
        deltas = [event.delta for event in own if event.type.endswith("arguments.delta")]
        assert len(deltas) > 10
        assert (
            "".join(deltas)
            == own[-2].arguments
            == own[-1].item.arguments
            == events[-1].response.output[index].arguments
        )
        assert (own[0].item.name, own[0].item.arguments, own[0].item.status) == (name, "", "in_progress")
        assert {own[0].item.id} == {event.item_id for event in own[1:-1]} == {own[-1].item.id}


@pytest.mark.parametrize("answer", ["骆 and more", "", CALL])
@pytest.mark.parametrize("limit", [None, 2, 40])
def test_every_event_of_every_ending_is_one_of_the_clients(client, answer, limit):
    asked, _ = client(answer)
    more = {} if limit is None else {"max_output_tokens": limit}
    events = streamed(asked, input="hi", tools=[WEATHER], metadata={"a": "b"}, top_logprobs=1, **more)
    response = events[-1].response
    whole = limit is None or len(answer.encode()) < limit
    assert events[-1].type == f"response.{'completed' if whole else 'incomplete'}"
    assert response.status == response.output[-1].status == ("completed" if whole else "incomplete")
    at_once = asked.responses.create(model="tiny", input="hi", tools=[WEATHER], top_logprobs=1, **more)
    sdk.Response.model_validate(at_once.to_dict(), strict=True)
    assert [shape(item) for item in at_once.output] == [shape(item) for item in response.output]


def shape(item) -> dict:
    """An item without its ids."""
    return item.model_dump(exclude={"id", "call_id"})


def test_a_call_that_was_cut_off_is_incomplete(client):
    asked, _ = client(CALL)
    response = asked.responses.create(model="tiny", input="hi", tools=[WEATHER], max_output_tokens=len(CALL) - 20)
    [call] = response.output
    assert (response.status, call.type, call.name, call.status) == (
        "incomplete",
        "function_call",
        "weather",
        "incomplete",
    )
    assert call.arguments.startswith('{"city"')


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_was_whole_before_the_limit_is_complete(client, stream):
    asked, _ = client(f"{CALL}\n\n\n")
    body = {"input": "hi", "tools": [WEATHER], "max_output_tokens": len(CALL) + 1}
    made = streamed(asked, **body)[-1].response if stream else asked.responses.create(model="tiny", **body)
    assert (made.status, made.output[0].status) == ("incomplete", "completed")


def test_the_clients_own_helpers_put_a_stream_together(client):
    asked, _ = client(CALL, '{"city": "Lima"}')

    class Place(BaseModel):
        city: str

    with asked.responses.stream(model="tiny", input="hi", tools=[WEATHER]) as stream:
        kinds = {event.type for event in stream}
        [call] = stream.get_final_response().output
    assert "response.function_call_arguments.delta" in kinds
    assert json.loads(call.arguments) == {"city": "Cusco"}
    parsed = asked.responses.parse(model="tiny", input="hi", text_format=Place)
    assert parsed.output_parsed == Place(city="Lima")
    turns = [{"role": "user", "content": "hi"}, *(item.model_dump() for item in [call, *parsed.output])]
    assert asked.responses.create(model="tiny", input=turns, tools=[WEATHER]).output[0].type == "function_call"


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        ("required", ["weather", "time"]),
        ({"type": "function", "name": "time"}, ["time"]),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "time"}]}, ["time"]),
    ],
)
def test_a_choice_of_tools_holds(client, choice, chosen):
    asked, engine = client("{}")
    response = asked.responses.create(model="tiny", input="hi", tools=[WEATHER, TIME], tool_choice=choice)
    constraint = json.dumps(str(engine.options[0]["constraint"]))
    assert [name for name in ("weather", "time") if name in constraint] == chosen
    assert (response.tool_choice if isinstance(choice, str) else response.tool_choice.to_dict()) == choice
    assert [tool.name for tool in response.tools] == ["weather", "time"]


def test_a_choice_that_is_not_there_is_refused(client):
    asked, _ = client("x")
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "nope"}]}
    with pytest.raises(openai.BadRequestError, match="there is no tool 'nope'"):
        asked.responses.create(model="tiny", input="hi", tools=[WEATHER], tool_choice=choice)


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_whose_end_comes_with_text_is_whole(client, stream):
    """A stop string holds the end of the call back: the text beside it closed the call, and the rest was a KeyError."""
    asked, _ = client('{"name": "weather", "arguments": {"city": "Cusco"}}. Done')
    body = {"input": "hi", "tools": [WEATHER], "extra_body": {"stop": ["}}. Dx"]}}
    made = streamed(asked, **body)[-1].response if stream else asked.responses.create(model="tiny", **body)
    call, text = made.output
    assert (made.status, call.status, json.loads(call.arguments)) == ("completed", "completed", {"city": "Cusco"})
    assert (text.type, text.content[0].text) == ("message", ". Done")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("parallel", "count"), [(None, 2), (True, 2), (False, 1)])
def test_without_parallel_calls_the_first_is_kept(client, stream, parallel, count):
    asked, _ = client(f"{CALL}\n{OTHER}")
    body = {"input": "hi", "tools": [WEATHER, TIME], "parallel_tool_calls": parallel}
    made = streamed(asked, **body)[-1].response if stream else asked.responses.create(model="tiny", **body)
    assert len(made.output) == count
    assert made.parallel_tool_calls is (parallel is not False)


def test_items_in_all_their_shapes_are_one_prompt(client):
    """What an agent sends back has nulls, ids, statuses, summaries and a reference or two: all of it was refused."""
    asked, engine = client("ok")
    call = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Cusco"}'}
    easy = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "I look."},
        call,
        {**call, "call_id": "c2"},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {"type": "function_call_output", "call_id": "c2", "output": "sun"},
    ]
    message = {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed", "phase": None}
    part = {"type": "output_text", "text": "I look.", "annotations": [], "logprobs": None, "parsed": None}
    full = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "hm"}],
            "encrypted_content": "x",
        },
        {**call, "id": "fc_1", "status": "completed", "parsed_arguments": {"city": "Cusco"}, "namespace": None},
        {**message, "content": [part]},
        {**call, "call_id": "c2", "id": None, "status": None},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "rain"}]},
        {"type": "function_call_output", "call_id": "c2", "output": "sun", "id": None, "status": None},
    ]
    for turns in (easy, full):
        assert asked.responses.create(model="tiny", input=turns, tools=[WEATHER]).output_text == "ok"
    assert engine.asked[0][0] == engine.asked[1][0]
