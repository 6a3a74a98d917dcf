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
    found = asked.responses.create(model="tiny", input="hi", max_output_tokens=3)
    assert (found.output_text, found.status, found.incomplete_details.reason) == (
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
    found = asked.responses.parse(model="tiny", input="hi", text_format=Place)
    assert found.output_parsed == Place(city="Cusco")
    assert engine.options[0]["constraint"] is not None


@pytest.mark.parametrize("field", ["tools", "previous_response_id", "reasoning", "background"])
def test_what_is_not_supported_is_refused_by_name(client, field):
    asked, engine, _ = client("x")
    with pytest.raises(openai.BadRequestError, match=f"the field {field} is not supported"):
        asked.responses.create(model="tiny", input="hi", extra_body={field: []})
    assert engine.asked == []
