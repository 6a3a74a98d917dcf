"""OpenAI's responses, asked for with its own client."""

from __future__ import annotations

import json

import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.conftest import TOOL_TEMPLATE


@pytest.fixture
def client(serve, scripted_chat):
    """`client("answer", …)` -> (OpenAI's client, the engine, the server)."""
    made = []

    def build(*answers, **options):
        chat = scripted_chat(*answers, **options)
        served = serve(chat=chat)
        made.append(openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0))
        return made[-1], chat.engine, served

    yield build
    for each in made:
        each.close()


def test_a_text_is_answered(client):
    asked, engine, _ = client("Hello", "again")
    first = asked.responses.create(model="tiny", input="hi", instructions="Be brief.", max_output_tokens=50)
    assert (first.output_text, first.status, first.incomplete_details) == ("Hello", "completed", None)
    assert (first.usage.input_tokens, first.usage.output_tokens) == (len(engine.asked[0][0]), 6)
    asked.chat.completions.create(
        model="tiny", messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    )
    assert engine.asked[0][0] == engine.asked[1][0]


def test_an_answer_is_sent_back_as_it_came(client):
    asked, engine, _ = client("Hello", "again")
    turns = [{"role": "user", "content": "hi"}]
    first = asked.responses.create(model="tiny", input=turns)
    turns += [item.model_dump(exclude_none=True) for item in first.output]
    turns += [{"role": "user", "content": [{"type": "input_text", "text": "and?"}]}]
    assert asked.responses.create(model="tiny", input=turns).output_text == "again"
    assert len(engine.asked[1][0]) > len(engine.asked[0][0]) + len("Hello")


def test_an_answer_that_is_too_long_is_incomplete(client):
    asked, _, _ = client("abcdef")
    response = asked.responses.create(model="tiny", input="hi", max_output_tokens=3)
    assert (response.output_text, response.status, response.incomplete_details.reason) == (
        "abc",
        "incomplete",
        "max_output_tokens",
    )


def test_the_events_of_a_stream(client):
    asked, _, _ = client("a骆")
    events = list(asked.responses.create(model="tiny", input="hi", stream=True))
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(10))
    assert events[-1].response.output_text == "a骆"
    with asked.responses.stream(model="tiny", input="hi") as stream:
        assert stream.get_final_response().output_text == "a骆"


def test_a_failure_ends_the_stream_with_an_event(client):
    _, engine, served = client("abc", gate=1)
    body = {"model": "tiny", "input": "hi", "stream": True}
    with httpx.stream("POST", f"{served.url}/v1/responses", json=body) as response:
        lines = response.iter_lines()
        next(line for line in lines if "output_text.delta" in line)
        assert engine.reached.wait(30)
        engine.generations[0].finish("cancelled")
        kinds = [json.loads(line[6:])["type"] for line in lines if line.startswith("data: ")]
    assert kinds[-2:] == ["error", "response.failed"]


class Place(BaseModel):
    """What is asked for in the next test."""

    city: str


def test_structured_output_is_parsed(client):
    asked, engine, _ = client('{"city": "Cusco"}', template=TOOL_TEMPLATE)
    response = asked.responses.parse(model="tiny", input="hi", text_format=Place)
    assert response.output_parsed == Place(city="Cusco")
    assert engine.options[0]["constraint"] is not None


@pytest.mark.parametrize(
    ("field", "value"),
    [("background", True), ("conversation", "conv_1"), ("prompt", {"id": "p"}), ("moderation", {"model": "m"})],
)
def test_what_would_change_the_answer_and_is_not_supported_is_refused_by_name(client, field, value):
    asked, engine, _ = client("x")
    with pytest.raises(openai.BadRequestError, match=f"the field {field} is not supported"):
        asked.responses.create(model="tiny", input="hi", extra_body={field: value})
    assert engine.asked == []


@pytest.mark.parametrize(
    ("body", "named", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "a tool of the type web_search", "tools[0]"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "a tool of the type custom", "tools[0]"),
        ({"tool_choice": {"type": "mcp", "server_label": "x"}}, "a choice of the type mcp", "tool_choice"),
        ({"input": [{"type": "computer_call", "id": "x"}]}, "an item of the type computer_call", "input[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}]},
            "content of the type input_image",
            "input[0].content[0]",
        ),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_file"}]}]},
            "content of the type input_file",
            "input[0].output[0]",
        ),
        ({"input": None}, "the field input is missing", "input"),
        ({"top_logprobs": 21}, "top_logprobs", "top_logprobs"),
    ],
)
def test_a_refusal_names_the_type_and_the_place(client, body, named, param):
    asked, engine, _ = client("x")
    with pytest.raises(openai.BadRequestError) as refused:
        asked.responses.create(model="tiny", input="hi", extra_body=body)
    assert named in refused.value.message
    assert refused.value.param == param
    assert engine.asked == []


def test_what_does_not_change_the_answer_is_taken_and_told_back(client):
    """All of these were refused by name, though OpenAI's clients and agents send them as they please."""
    asked, engine, _ = client("Hello")
    ignored = {"metadata": {"run": "7"}, "reasoning": {"effort": "low"}, "max_tool_calls": 3, "prompt_cache_key": "k",
            "safety_identifier": "s", "user": "u"}  # fmt: skip
    taken = {"background": False, "truncation": "auto", "service_tier": "flex", "a_new_field": 1, "conversation": None,
             "include": ["reasoning.encrypted_content"], "stream_options": {"include_obfuscation": True}}  # fmt: skip
    response = asked.responses.create(
        input="hi", max_output_tokens=16.0, text={"verbosity": "low"}, extra_body={**ignored, **taken, "model": None}
    )
    assert response.output_text == "Hello"
    assert {name: response.model_dump(exclude_none=True)[name] for name in ignored} == ignored
    assert (response.text.verbosity, response.text.format.type, response.truncation) == ("low", "text", "disabled")
    assert (response.model, response.service_tier, engine.asked[0][2]) == ("tiny", "default", 16)


@pytest.mark.parametrize("more", [{"include": ["message.output_text.logprobs"]}, {"top_logprobs": 2}])
@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities(client, more, stream):
    asked, engine, _ = client("é!")
    if stream:
        events = list(asked.responses.create(model="tiny", input="hi", stream=True, **more))
        made = events[-1].response
        deltas = [each for event in events if event.type == "response.output_text.delta" for each in event.logprobs]
        assert [each.logprob for each in deltas] == [0.0, -1.0, -2.0]
    else:
        made = asked.responses.create(model="tiny", input="hi", **more)
    tokens = made.output[0].content[0].logprobs
    assert [(token.bytes, token.logprob) for token in tokens] == [([0xC3], 0.0), ([0xA9], -1.0), ([0x21], -2.0)]
    assert engine.options[0]["logprobs"] == more.get("top_logprobs", 0)


def test_without_being_asked_for_there_are_no_log_probabilities(client):
    asked, engine, _ = client("x")
    assert asked.responses.create(model="tiny", input="hi").output[0].content[0].logprobs == []
    assert engine.options[0]["logprobs"] is None
