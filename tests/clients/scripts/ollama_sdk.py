"""Ollama's Python client."""

from __future__ import annotations

import ollama
from smoke import EMBEDDING, MEETING, MODEL, QUESTION, SCHEMA, TOOL, URL, City, check, raises, report

client = ollama.Client(host=URL)
OPTIONS = {"temperature": 0, "num_predict": 40}
ASK = {"model": MODEL, "options": OPTIONS, "messages": [{"role": "user", "content": QUESTION}]}


@check
def answer():
    whole = client.chat(**ASK)
    assert "Paris" in whole.message.content
    assert (whole.done, whole.done_reason) == (True, "stop")
    assert whole.prompt_eval_count > 0 < whole.eval_count


@check
async def asynchronous():
    parts = [part async for part in await ollama.AsyncClient(host=URL).chat(**ASK, stream=True)]
    assert "Paris" in "".join(part.message.content for part in parts)


@check
def stream():
    parts = list(client.chat(**ASK, stream=True))
    assert "Paris" in "".join(part.message.content for part in parts)
    assert [part.done for part in parts].count(True) == 1


@check
def generate():
    assert "Paris" in client.generate(model=MODEL, prompt=QUESTION, options=OPTIONS).response


@check
def tools_and_answers_sent_back():
    messages = [*MEETING, client.chat(**ASK | {"messages": MEETING}).message]
    call = {"function": {"name": "weather", "arguments": {"name": "Lima", "capital": True}}}
    messages += [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    messages.append({"role": "tool", "tool_name": "weather", "content": "sunny"})
    answered = client.chat(**ASK | {"messages": messages}, tools=[TOOL]).message
    assert answered.content or answered.tool_calls


@check
def schema():
    City.model_validate_json(client.chat(**ASK, format=SCHEMA).message.content)


@check
def stop():
    assert "Paris" not in client.chat(**ASK | {"options": OPTIONS | {"stop": ["Paris"]}}).message.content


@check
def list_and_show():
    assert MODEL in [model.model.removesuffix(":latest") for model in client.list().models]
    assert "completion" in client.show(MODEL).capabilities


@check
def embed():
    assert len(client.embed(EMBEDDING, ["a llama", "an arriero"]).embeddings) == 2


@check
def unknown_model():
    with raises(ollama.ResponseError) as caught:
        client.chat(**ASK | {"model": "unknown"})
    assert caught[0].status_code == 404


report("ollama")
