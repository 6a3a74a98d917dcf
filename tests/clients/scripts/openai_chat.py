"""OpenAI's Python client: chat completions, completions, embeddings, models."""

from __future__ import annotations

import json

import openai
from smoke import EMBEDDING, MEETING, MODEL, QUESTION, TOOL, URL, City, check, raises, report

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none")
COMMON = {"model": MODEL, "temperature": 0, "max_tokens": 40}
ASK = COMMON | {"messages": [{"role": "user", "content": QUESTION}]}


@check
def answer():
    whole = client.chat.completions.create(**ASK)
    assert "Paris" in whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens > 0


@check
async def asynchronous():
    async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none") as other:
        assert "Paris" in (await other.chat.completions.create(**ASK)).choices[0].message.content
        stream = await other.chat.completions.create(**ASK, stream=True)
        assert "Paris" in "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


@check
def stream():
    chunks = list(client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
    assert "Paris" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert chunks[-1].usage.completion_tokens > 0


@check
def stream_helper():
    with client.chat.completions.stream(**ASK, stream_options={"include_usage": True}) as events:
        kinds = [event.type for event in events]
        final = events.get_final_completion()
    assert "content.done" in kinds
    assert "Paris" in final.choices[0].message.content


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
    assert [getattr(each, "role", None) or each["role"] for each in messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert messages[-1].content


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
    assert client.chat.completions.create(
        **COMMON, messages=[m if isinstance(m, dict) else m.model_dump() for m in messages]
    )


@check
def stop_and_alternatives():
    ask = ASK | {"stop": ["Paris"], "n": 2, "logprobs": True, "top_logprobs": 1, "seed": 1}
    for choice in client.chat.completions.create(**ask).choices:
        assert "Paris" not in choice.message.content
        assert choice.finish_reason == "stop"
        assert choice.logprobs.content[0].logprob <= 0


@check
def completion():
    assert client.completions.create(**COMMON, prompt="The capital of France is").choices[0].text


@check
def embeddings_and_models():
    vectors = client.embeddings.create(model=EMBEDDING, input=["a llama", "an arriero"]).data
    assert [len(each.embedding) for each in vectors] == [384, 384]
    assert {MODEL, EMBEDDING} <= {model.id for model in client.models.list()}
    assert client.models.retrieve(MODEL).id == MODEL


@check
def unknown_model():
    with raises(openai.NotFoundError):
        client.chat.completions.create(**ASK | {"model": "unknown"})


report("openai")
