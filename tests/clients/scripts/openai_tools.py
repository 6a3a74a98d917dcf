"""OpenAI's Python client: chat completions with schemas and tools, and answers sent back as they came."""

from __future__ import annotations

import json

import openai
from smoke import MEETING, MODEL, QUESTION, TOOL, URL, City, check, report

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none")
COMMON = {"model": MODEL, "temperature": 0, "max_tokens": 40}
ASK = COMMON | {"messages": [{"role": "user", "content": QUESTION}]}


@check
def parse():
    parsed = client.chat.completions.parse(**ASK, response_format=City).choices[0].message
    assert isinstance(parsed.parsed, City)
    again = [*ASK["messages"], parsed, {"role": "user", "content": "Thanks."}]
    assert client.chat.completions.create(**COMMON, messages=again).choices[0].message.content


@check
def tool_loop():
    tool = openai.pydantic_function_tool(City, name="weather")
    messages = list(ASK["messages"])
    for choice in ("required", "none"):
        turn = client.chat.completions.parse(**COMMON, messages=messages, tools=[tool], tool_choice=choice).choices[0]
        messages.append(turn.message)
        for call in turn.message.tool_calls or ():
            assert isinstance(call.function.parsed_arguments, City)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": "sunny"})
    assert [each["role"] for each in map(dict, messages)] == ["user", "assistant", "tool", "assistant"]
    assert turn.message.content


@check
def streamed_call():
    with client.chat.completions.stream(**ASK, tools=[TOOL], tool_choice="required") as events:
        assert [event.type for event in events].count("tool_calls.function.arguments.done") == 1
        choice = events.get_final_completion().choices[0]
    City.model_validate(json.loads(choice.message.tool_calls[0].function.arguments))
    assert choice.finish_reason == "tool_calls"


@check
def answers_sent_back():
    messages = list(MEETING)
    for question in ("What is my name?", "And again?"):
        messages.append(client.chat.completions.create(**COMMON, messages=messages).choices[0].message)
        messages.append({"role": "user", "content": question})
    dumped = [each if isinstance(each, dict) else each.model_dump() for each in messages]
    assert client.chat.completions.create(**COMMON, messages=dumped).choices[0].message.content


report("openai")
