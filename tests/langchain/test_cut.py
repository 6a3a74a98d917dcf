"""Structured answers that were cut: LangChain's parsers repaired them, and a wrong age was returned as a right one."""

from __future__ import annotations

import asyncio
import json

import pytest
from langchain_core.messages import AIMessage
from pydantic import BaseModel

from arriero.errors import CutOffError
from arriero.langchain import ChatArriero
from tests.conftest import TOOL_TEMPLATE


class Person(BaseModel):
    """A person."""

    age: int
    name: str = "nobody"


ANSWER = '{"age": 4090, "name": "Ana"}'
CALL = f'<tool_call>\n{{"name": "Person", "arguments": {ANSWER}}}\n</tool_call>'
METHODS = ["json_schema", "json_mode", "function_calling"]


@pytest.fixture
def structured(scripted_chat):
    """`structured(method, schema, …)` -> (the runnable, the most tokens that cut its answer)."""

    def build(method, schema=Person, **options):
        answer = CALL if method == "function_calling" else ANSWER
        model = ChatArriero(chat=scripted_chat(answer, template=TOOL_TEMPLATE))
        return model.with_structured_output(schema, method=method, **options), answer.index("90, ")

    return build


async def collected(stream):
    return [part async for part in stream]


WAYS = {
    "invoke": lambda model, **options: model.invoke("hi", **options),
    "ainvoke": lambda model, **options: asyncio.run(model.ainvoke("hi", **options)),
    "stream": lambda model, **options: list(model.stream("hi", **options))[-1],
    "astream": lambda model, **options: asyncio.run(collected(model.astream("hi", **options)))[-1],
    "batch": lambda model, **options: model.batch(["hi"], **options)[0],
}
each = pytest.mark.parametrize("method", METHODS)
every_way = pytest.mark.parametrize("way", WAYS)
of_either_kind = pytest.mark.parametrize("schema", [Person, Person.model_json_schema()], ids=["class", "dictionary"])


@each
@every_way
@of_either_kind
def test_an_answer_that_was_cut_at_the_limit_is_an_error(structured, method, way, schema):
    model, limit = structured(method, schema)
    with pytest.raises(CutOffError, match=f"reached its limit of {limit} tokens"):
        WAYS[way](model, max_tokens=limit)
    whole = WAYS[way](model, max_tokens=200)
    assert whole == (Person(age=4090, name="Ana") if schema is Person else json.loads(ANSWER))


@each
@every_way
def test_an_answer_that_was_cut_at_a_stop_string_is_an_error(structured, method, way):
    model, _ = structured(method)
    with pytest.raises(CutOffError, match="ended before it was complete"):
        WAYS[way](model, stop=["90"])


@each
@every_way
def test_with_include_raw_the_error_is_returned_beside_what_was_written(structured, method, way):
    model, limit = structured(method, include_raw=True)
    message = WAYS[way](model, max_tokens=limit)
    assert (message["parsed"], type(message["parsing_error"])) == (None, CutOffError)
    assert message["raw"].response_metadata["finish_reason"] == "length"


@every_way
def test_a_plain_answer_that_was_cut_says_so_and_is_returned(scripted_chat, way):
    model = ChatArriero(chat=scripted_chat("Hello there"))
    message = WAYS[way](model, max_tokens=5)
    assert isinstance(message, AIMessage)
    whole = sum((parts := list(model.stream("hi", max_tokens=5)))[1:], parts[0])
    assert (whole.text, whole.response_metadata["finish_reason"]) == ("Hello", "length")
