"""OpenAI's API, asked by OpenAI's own client and, where every byte counts, by plain HTTP."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import fields, replace

import httpx
import openai
import pytest

from arriero.prompt import Renderer
from arriero.server import create_app
from tests.conftest import ids_of
from tests.server.conftest import remade

HELLO = [{"role": "user", "content": "hi"}]
ASK = {"model": "tiny", "messages": HELLO}


@pytest.fixture
def client_of():
    clients: list[openai.OpenAI] = []

    def client(served) -> openai.OpenAI:
        clients.append(openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0))
        return clients[-1]

    yield client
    for made in clients:
        made.close()


def async_client(served) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def test_completion(serve, client_of):
    completion = client_of(serve("你好🦙")).chat.completions.create(**ASK)
    assert completion.id.startswith("chatcmpl-")
    assert (completion.object, completion.model, len(completion.choices)) == ("chat.completion", "tiny", 1)
    choice = completion.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "你好🦙", "stop")
    # <s> <user> h i </s> <bot>; 3 + 3 + 4 bytes and </s>
    usage = completion.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (6, 11, 17)


def test_an_answer_can_be_sent_back_as_it_is(serve, client_of):
    served = serve("one", "two")
    client = client_of(served)
    messages = list(HELLO)
    messages.append(client.chat.completions.create(model="tiny", messages=messages).choices[0].message)
    messages.append({"role": "user", "content": "more"})
    assert client.chat.completions.create(model="tiny", messages=messages).choices[0].message.content == "two"
    history = [1, 4, *ids_of("hi"), 2, 5, *ids_of("one"), 2]
    assert served.chat.engine.asked[1][0] == [*history, 4, *ids_of("more"), 2, 5]


def test_text_parts_are_joined(serve, client_of):
    served = serve("x")
    parts = [{"type": "text", "text": "骆"}, {"type": "text", "text": "驼"}]
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": parts}]
    client_of(served).chat.completions.create(model="tiny", messages=messages)
    assert served.chat.engine.asked[0][0] == [1, 3, *ids_of("s"), 2, 4, *ids_of("骆驼"), 2, 5]


def test_sampling_reaches_the_engine(serve, client_of, scripted_chat):
    served = serve(chat=remade(scripted_chat("abcdef"), temperature=0.7))
    client = client_of(served)
    request = {"temperature": 0.0, "top_p": 0.0, "seed": 0, "stop": ["x", "y"], "n": 1, "user": "someone"}
    reply = client.chat.completions.create(**ASK, **request, max_tokens=3).choices[0]
    assert (reply.message.content, reply.finish_reason) == ("abc", "length")
    client.chat.completions.create(**ASK, max_completion_tokens=4)
    (_, first, limit), (_, second, other_limit) = served.chat.engine.asked
    chosen = replace(served.chat.defaults, max_new_tokens=3, temperature=0.0, top_p=0.0, seed=0, stop=("x", "y"))
    assert (first, limit) == (chosen, 3)
    assert (second, other_limit) == (replace(served.chat.defaults, max_new_tokens=4), 4)


def test_null_counts_as_absent(serve):
    served = serve("x")
    optional = ["max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "seed", "stream"]
    nothing = dict.fromkeys([*optional, "stream_options", "n", "user"])
    assert httpx.post(f"{served.url}/v1/chat/completions", json=ASK | nothing).status_code == 200
    assert served.chat.engine.asked[0][1] == served.chat.defaults


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stop", ["STOP", ["never", "STOP"]])
def test_stop_cuts_the_text_and_stops_the_engine(serve, client_of, stop, stream):
    served = serve("one STOP two")
    answer = client_of(served).chat.completions.create(**ASK, stop=stop, stream=stream)
    choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    text = "".join((choice.delta if stream else choice.message).content or "" for choice in choices)
    assert (text, choices[-1].finish_reason) == ("one ", "stop")
    served.wait_for_end()
    assert served.chat.engine.generations[0].cancelled


def test_stream(serve, client_of):
    # Line and paragraph separators end a line for careless readers of event streams.
    text = "骆🦙\n\n\u2028!\r"
    chunks = list(client_of(serve(text)).chat.completions.create(**ASK, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert [delta.role for delta in deltas] == ["assistant", *[None] * (len(deltas) - 1)]
    assert [delta.content for delta in deltas] == ["", *text, None]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [*[None] * (len(deltas) - 1), "stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


async def test_async_stream_with_usage(serve):
    served = serve("abc")
    async with async_client(served) as client:
        stream = await client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
        whole = await client.chat.completions.create(**ASK)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "abc"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert whole.choices[0].message.content == "abc"


@pytest.mark.parametrize("with_usage", [False, True])
def test_the_bytes_of_a_stream(serve, with_usage):
    served = serve("a骆")
    body = ASK | {"stream": True} | ({"stream_options": {"include_usage": True}} if with_usage else {})
    response = httpx.post(f"{served.url}/v1/chat/completions", json=body)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    first = json.loads(response.text.split("\n\n")[0].removeprefix("data: "))
    head = f'data: {{"id":"{first["id"]}","object":"chat.completion.chunk","created":{first["created"]},"model":"tiny",'
    counts = '{"prompt_tokens":6,"completion_tokens":5,"total_tokens":11}'

    def chunk(delta: str, reason: str = "null") -> str:
        choice = f'{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{reason}}}'
        return f'{head}"choices":[{choice}]' + (',"usage":null}\n\n' if with_usage else "}\n\n")

    assert response.text == (
        chunk('{"role":"assistant","content":""}')
        + chunk('{"content":"a"}')
        + chunk('{"content":"骆"}')
        + chunk("{}", '"stop"')
        + (f'{head}"choices":[],"usage":{counts}}}\n\n' if with_usage else "")
        + "data: [DONE]\n\n"
    )


def test_models(serve, client_of):
    client = client_of(serve("x"))
    assert [model.id for model in client.models.list()] == ["tiny"]
    model = client.models.retrieve("tiny")
    assert (model.id, model.object, model.owned_by) == ("tiny", "model", "arriero")
    for name in ("gpt-4o", "owner/name"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve(name)
        assert caught.value.code == "model_not_found"


def test_an_adapters_name_is_the_models_id(serve, client_of, scripted_chat):
    client = client_of(serve(chat=remade(scripted_chat("x"), adapter="mine")))
    assert [(model.id, model.parent) for model in client.models.list()] == [("mine", "tiny"), ("tiny", None)]
    assert client.chat.completions.create(model="mine", messages=HELLO).model == "mine"
    with pytest.raises(openai.NotFoundError, match="the model 'other' is not served here, but: mine, tiny") as caught:
        client.chat.completions.create(model="other", messages=HELLO)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_the_server_answers_others_while_an_answer_is_made(serve, client_of):
    served = serve("abc", gate=1)
    stream = client_of(served).chat.completions.create(**ASK, stream=True)
    assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "a"]
    assert httpx.get(f"{served.url}/health").status_code == 200
    served.chat.engine.release.set()
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "bc"


def test_the_server_answers_others_while_a_prompt_is_rendered(serve, scripted_chat):
    """This test held back a method that nobody called, and passed for want of it."""
    rendering, release = threading.Event(), threading.Event()

    class SlowRenderer(Renderer):
        def asked(self, *arguments, **options):
            rendering.set()
            assert release.wait(30), "nobody else was served"
            return super().asked(*arguments, **options)

    chat = scripted_chat("x")
    chat.renderer = SlowRenderer(**{item.name: getattr(chat.renderer, item.name) for item in fields(chat.renderer)})
    served = serve(chat=chat)

    async def main() -> httpx.Response:
        async with httpx.AsyncClient(base_url=served.url, timeout=40) as client:
            asking = asyncio.ensure_future(client.post("/v1/chat/completions", json=ASK))
            assert await asyncio.to_thread(rendering.wait, 30)
            assert (await client.get("/health")).status_code == 200
            release.set()
            return await asking

    assert asyncio.run(main()).status_code == 200


def test_closing_a_stream_stops_the_engine(serve, client_of):
    served = serve("abcdef", gate=2)
    stream = client_of(served).chat.completions.create(**ASK, stream=True)
    assert [next(stream).choices[0].delta.content for _ in range(3)] == ["", "a", "b"]
    assert not served.chat.engine.generations[0].cancelled
    stream.close()
    served.wait_for_end()
    assert served.chat.engine.generations[0].cancelled


@pytest.mark.parametrize("gate", [0, 2])
@pytest.mark.parametrize("stream", [False, True])
def test_going_away_while_waiting_stops_the_engine(serve, raw_post, gate, stream):
    """At gate 0 the prompt is still being read: nothing has been sent, not even headers."""
    served = serve("abcdef", gate=gate)
    connection = raw_post(served, "/v1/chat/completions", ASK | {"stream": stream})
    assert served.chat.engine.reached.wait(30)
    connection.close()
    served.wait_for_end()
    assert served.chat.engine.generations[0].cancelled
    assert served.raised == [], "a client that goes away is no fault of the server's"


async def test_cancelling_the_async_client_stops_the_engine(serve):
    served = serve("abcdef", gate=2)
    async with async_client(served) as client:
        asking = asyncio.ensure_future(client.chat.completions.create(**ASK))
        await asyncio.to_thread(served.chat.engine.reached.wait, 30)
        asking.cancel()
        await asyncio.to_thread(served.wait_for_end)
    assert served.chat.engine.generations[0].cancelled


async def test_a_reader_that_stalls_and_goes_away_stops_the_engine(scripted_chat):
    """What waits when the connection ends is the sending, not the engine; in plain ASGI that can be arranged."""
    chat = scripted_chat("abcdef", gate=5)
    stalled = asyncio.Event()
    requests = [{"type": "http.request", "body": json.dumps(ASK | {"stream": True}).encode(), "more_body": False}]
    sent = []

    async def receive():
        if requests:
            return requests.pop()
        await stalled.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)
        if len(sent) == 3:
            stalled.set()
            await asyncio.Event().wait()

    path = "/v1/chat/completions"
    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b"", "root_path": ""}
    await create_app(chat)(scope, receive, send)
    assert chat.engine.generations[0].cancelled
