"""litellm, by its routes for OpenAI's, Anthropic's and Ollama's APIs."""

from __future__ import annotations

import json

import litellm
from smoke import EMBEDDING, MEETING, MODEL, QUESTION, TOOL, URL, City, check, raises, report

OPENAI = {"model": f"openai/{MODEL}", "api_base": f"{URL}/v1", "api_key": "none"}
COMMON = OPENAI | {"temperature": 0, "max_tokens": 40}
ASK = COMMON | {"messages": [{"role": "user", "content": QUESTION}]}


@check
def answer():
    whole = litellm.completion(**ASK)
    assert "Paris" in whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.total_tokens > 0


@check
async def asynchronous():
    stream = await litellm.acompletion(**ASK, stream=True)
    assert "Paris" in "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


@check
def stream():
    chunks = list(litellm.completion(**ASK, stream=True, stream_options={"include_usage": True}))
    assert "Paris" in litellm.stream_chunk_builder(chunks).choices[0].message.content


@check
def tool_loop():
    messages = list(ASK["messages"])
    first = litellm.completion(**COMMON, messages=messages, tools=[TOOL], tool_choice="required").choices[0].message
    City.model_validate(json.loads(first.tool_calls[0].function.arguments))
    messages += [first, {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "sunny"}]
    assert litellm.completion(**COMMON, messages=messages, tools=[TOOL], tool_choice="none").choices[0].message.content


@check
def answers_sent_back():
    messages = [*MEETING, litellm.completion(**COMMON, messages=MEETING).choices[0].message]
    messages.append({"role": "user", "content": "What is my name?"})
    assert litellm.completion(**COMMON, messages=messages).choices[0].message.content


@check
def schema():
    City.model_validate_json(litellm.completion(**ASK, response_format=City).choices[0].message.content)


@check
def stop():
    assert "Paris" not in litellm.completion(**ASK, stop=["Paris"]).choices[0].message.content


@check
def responses():
    assert litellm.responses(**OPENAI, input=QUESTION, temperature=0, max_output_tokens=40).output


@check
def other_apis():
    for changes in (
        {"model": f"anthropic/{MODEL}", "api_base": URL},
        {"model": f"ollama_chat/{MODEL}", "api_base": URL},
    ):
        assert "Paris" in litellm.completion(**ASK | changes).choices[0].message.content


@check
def embeddings():
    ask = OPENAI | {"model": f"openai/{EMBEDDING}", "input": ["a llama"]}
    assert len(litellm.embedding(**ask).data[0]["embedding"]) == 384


@check
def unknown_model():
    with raises(litellm.NotFoundError):
        litellm.completion(**ASK | {"model": "openai/unknown"})


report("litellm")
