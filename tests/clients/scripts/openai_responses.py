"""OpenAI's Python client: responses as texts and by schema."""

from __future__ import annotations

import openai
from smoke import MODEL, QUESTION, SYSTEM, URL, City, check, raises, report

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none")
COMMON = {"model": MODEL, "temperature": 0, "max_output_tokens": 40}
ASK = COMMON | {"input": QUESTION, "instructions": SYSTEM}


@check
def answer():
    whole = client.responses.create(**ASK)
    assert "Paris" in whole.output_text
    assert whole.status == "completed"
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens > 0


@check
async def asynchronous():
    async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none") as other:
        stream = await other.responses.create(**ASK, stream=True)
        assert "Paris" in "".join([e.delta async for e in stream if e.type == "response.output_text.delta"])


@check
def stream_helper():
    with client.responses.stream(**ASK) as events:
        kinds = [event.type for event in events]
        final = events.get_final_response()
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert "Paris" in final.output_text


@check
def parse():
    assert isinstance(client.responses.parse(**COMMON, input=QUESTION, text_format=City).output_parsed, City)


@check
def unknown_model():
    with raises(openai.NotFoundError):
        client.responses.create(**ASK | {"model": "unknown"})


report("openai")
