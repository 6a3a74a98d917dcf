"""Anthropic's Python client: messages."""

from __future__ import annotations

import anthropic
from smoke import MODEL, QUESTION, SCHEMA, SYSTEM, URL, City, check, raises, report

client = anthropic.Anthropic(base_url=URL, api_key="none")
GREEDY = {"extra_body": {"temperature": 0}}  # this client no longer has the argument
COMMON = {"model": MODEL, "max_tokens": 40, "system": SYSTEM} | GREEDY
ASK = COMMON | {"messages": [{"role": "user", "content": QUESTION}]}
TOOL = {"name": "weather", "description": "Weather of a city", "input_schema": SCHEMA}


@check
def answer():
    message = client.messages.create(**ASK)
    assert "Paris" in message.content[0].text
    assert message.stop_reason == "end_turn"
    assert message.usage.input_tokens == client.messages.count_tokens(**_counted(ASK)).input_tokens


def _counted(ask):
    return {name: ask[name] for name in ("model", "system", "messages")}


@check
async def asynchronous():
    async with anthropic.AsyncAnthropic(base_url=URL, api_key="none") as other, other.messages.stream(**ASK) as stream:
        assert "Paris" in "".join([text async for text in stream.text_stream])


@check
def stream():
    with client.messages.stream(**ASK) as events:
        assert "Paris" in "".join(events.text_stream)
        assert events.get_final_message().usage.output_tokens > 0


@check
def tool_loop():
    first = client.messages.create(**ASK, tools=[TOOL], tool_choice={"type": "any"})
    assert first.stop_reason == "tool_use"
    [call] = [block for block in first.content if block.type == "tool_use"]
    City.model_validate(call.input)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    messages = [
        *ASK["messages"],
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    last = client.messages.create(**COMMON, messages=messages, tools=[TOOL], tool_choice={"type": "none"})
    assert last.content[0].text


@check
def streamed_call():
    with client.messages.stream(**ASK, tools=[TOOL], tool_choice={"type": "tool", "name": "weather"}) as events:
        assert "input_json" in [event.type for event in events]
        City.model_validate(events.get_final_message().content[-1].input)


@check
def parse():
    assert isinstance(client.messages.parse(**ASK, output_format=City).parsed_output, City)


@check
def stop_sequences():
    message = client.messages.create(**ASK, stop_sequences=["Paris"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "Paris")


@check
def unknown_model():
    with raises(anthropic.NotFoundError):
        client.messages.create(**ASK | {"model": "unknown"})


report("anthropic")
