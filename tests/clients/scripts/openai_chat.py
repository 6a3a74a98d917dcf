"""OpenAI's Python client: chat completions as texts, completions, embeddings, models."""

from __future__ import annotations

import openai
from smoke import EMBEDDING, MODEL, QUESTION, URL, check, raises, report

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
