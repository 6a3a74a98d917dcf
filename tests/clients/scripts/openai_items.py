"""OpenAI's Python client: responses with tools, items sent back as they came, and those that the server keeps."""

from __future__ import annotations

import openai
from smoke import MODEL, QUESTION, SCHEMA, SYSTEM, URL, City, check, report

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none")
COMMON = {"model": MODEL, "temperature": 0, "max_output_tokens": 40}
ASK = COMMON | {"input": QUESTION, "instructions": SYSTEM}
TOOL = {
    "type": "function",
    "name": "weather",
    "description": "Weather of a city",
    "parameters": SCHEMA,
    "strict": False,
}


@check
def items_sent_back():
    items = [{"role": "user", "content": "My name is Tomas."}]
    for _ in range(2):
        response = client.responses.create(**COMMON, input=items)
        items += response.output
        items.append({"role": "user", "content": "What is my name?"})
    items = [item if isinstance(item, dict) else item.model_dump() for item in items]
    assert client.responses.create(**COMMON, input=items).output_text


@check
def tool_loop():
    items = [{"role": "user", "content": QUESTION}]
    response = client.responses.create(**COMMON, input=items, tools=[TOOL], tool_choice="required")
    items += response.output
    [call] = [item for item in response.output if item.type == "function_call"]
    City.model_validate_json(call.arguments)
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})
    assert client.responses.create(**COMMON, input=items, tools=[TOOL], tool_choice="none").output_text


@check
def streamed_call():
    with client.responses.stream(**ASK, tools=[TOOL], tool_choice="required") as events:
        kinds = [event.type for event in events]
    assert "response.function_call_arguments.done" in kinds


@check
def previous_response():
    first = client.responses.create(**COMMON, input="My name is Tomas.", store=True)
    second = client.responses.create(**COMMON, input="What is my name?", previous_response_id=first.id)
    assert second.usage.input_tokens > first.usage.input_tokens
    assert client.responses.retrieve(second.id).output_text == second.output_text
    client.responses.delete(first.id)


report("openai")
