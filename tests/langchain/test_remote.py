"""The LangChain classes over HTTP: the same results as in this process, and what only a server can do."""

from __future__ import annotations

import asyncio
import functools
import json
import operator
import socket
from contextlib import aclosing

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from arriero.errors import AccessError, BusyError, EngineError, NotFoundError, OfflineError, UsageError
from arriero.langchain import ArrieroEmbeddings, ArrieroLLM, ChatArriero
from arriero.server import create_app
from arriero.server.auth import Keys
from arriero.server.models import Models
from tests.conftest import TOOL_TEMPLATE
from tests.prompt.reasoning import QWEN3
from tests.server.conftest import remade

both = pytest.mark.parametrize("kind", [ArrieroLLM, ChatArriero])
TURNS = [SystemMessage("Be kind."), HumanMessage("hi"), AIMessage("yo"), HumanMessage("骆")]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Potosí"}}\n</tool_call>'


CHUNK = {"choices": [{"delta": {"content": "abc"}, "finish_reason": "stop"}]}
ANSWER = f"data: {json.dumps(CHUNK)}\n\ndata: [DONE]\n\n"


@tool
def weather(city: str) -> str:
    """Weather now."""
    return f"12 °C in {city}"


class City(BaseModel):
    """A city."""

    name: str
    height: int


@pytest.fixture
def pair(serve, scripted_chat):
    """`pair("answer", kind=…, template=…)` -> (the model here, the same behind a server), and their engine."""

    def build(*answers, kind=ChatArriero, template=None, gate=None, **options):
        chat = scripted_chat(*answers, template=template, gate=gate)
        return kind(chat=chat, **options), kind(base_url=serve(chat=chat).url + "/v1", **options), chat.engine

    return build


def seen(message) -> dict:
    """What there is in an answer but its id and how long it took."""
    if isinstance(message, str):
        return {"text": message}
    fields = message.model_dump(exclude={"id", "type", "chunk_position", "tool_call_chunks"})
    fields["response_metadata"].pop("timings")
    for call in (*fields["tool_calls"], *fields["invalid_tool_calls"]):
        call.pop("id")
    return fields


async def streamed(model, prompt):
    chunks = [chunk async for chunk in model.astream(prompt)]
    return functools.reduce(operator.add, chunks)


def in_all_ways(model, prompt) -> list[dict]:
    whole = [model.invoke(prompt), asyncio.run(model.ainvoke(prompt))]
    return [seen(each) for each in (*whole, functools.reduce(operator.add, model.stream(prompt)),
                                    asyncio.run(streamed(model, prompt)))]  # fmt: skip


@both
def test_answers_and_what_the_engine_is_asked_are_the_same(pair, kind):
    sampling = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.1, "seed": 0}
    sampling |= {"presence_penalty": 0.5, "frequency_penalty": -0.5, "logit_bias": ((70, 5.0),)}
    here, there, engine = pair(
        "骆 one STOP two", kind=kind, system="Be kind.", **sampling, max_tokens=12, stop=["STOP"]
    )
    prompt = "hi" if kind is ArrieroLLM else TURNS
    assert in_all_ways(here, prompt) == in_all_ways(there, prompt)
    assert len({json.dumps(list(map(str, asked))) for asked in engine.asked}) == 1
    assert there.render(prompt) == here.render(prompt) == engine.asked[0][0]
    assert there.get_num_tokens("a骆") == here.get_num_tokens("a骆") == 4


def test_streams_come_piece_by_piece(pair):
    here, there, _ = pair("骆 and 🦙")
    chunks = [[chunk.text for chunk in model.stream("hi")] for model in (here, there)]
    assert chunks[0] == chunks[1] == ["骆", *" and ", "🦙", ""]


@pytest.mark.parametrize("choice", [None, "any", "weather", "none"])
@pytest.mark.parametrize("options", [{}, {"max_tokens": 50}])
def test_calls_of_tools(pair, choice, options):
    here, there, engine = pair("Hm.\n" + CALL, template=TOOL_TEMPLATE, **options)
    answers = [in_all_ways(model.bind_tools([weather], tool_choice=choice), TURNS) for model in (here, there)]
    assert answers[0] == answers[1]
    assert (
        len({str(asked[0]) for asked in engine.asked}) == len({str(each["constraint"]) for each in engine.options}) == 1
    )


@pytest.mark.parametrize("method", ["json_schema", "json_mode", "function_calling"])
def test_structured_output(pair, method):
    city = City(name="Potosí", height=4090)
    call = f'<tool_call>\n{{"name": "City", "arguments": {city.model_dump_json()}}}\n</tool_call>'
    answer = call if method == "function_calling" else city.model_dump_json()
    here, there, engine = pair(answer, template=TOOL_TEMPLATE)
    cities = [model.with_structured_output(City, method=method).invoke("hi") for model in (here, there)]
    assert cities == [city, city]
    assert len({str(each["constraint"]) for each in engine.options}) == 1


def test_reasoning_an_answer_that_is_continued_and_variables_of_the_template(pair):
    here, there, engine = pair("<think>hm</think>yes", template=QWEN3)
    for prompt in ("hi", [HumanMessage("hi"), AIMessage("yo")], [HumanMessage("hi"), here.invoke("hi"), TURNS[-1]]):
        assert in_all_ways(here, prompt) == in_all_ways(there, prompt)
        assert engine.asked[-1][0] == engine.asked[-5][0]
    for model in (here, there):
        model.invoke("hi", chat_template_kwargs={"enable_thinking": False})
    assert engine.asked[-1][0] == engine.asked[-2][0]


# --- breaking off ---


@both
def test_breaking_off_stops_the_server(serve, kind):
    for way in ("stream", "astream"):
        served = serve("abcdef", gate=3)
        model = kind(base_url=served.url, model="tiny")
        if way == "stream":
            stream = model.stream("hi")
            next(stream)
            stream.close()
        else:
            asyncio.run(first_of(model))
        served.wait_for_end()
        assert served.chat.engine.generations[0].cancelled


async def first_of(model) -> None:
    async with aclosing(model.astream("hi")) as stream:
        await anext(stream)


async def test_a_cancelled_task_stops_the_server(serve):
    served = serve("abcdef", gate=2)
    task = asyncio.ensure_future(ChatArriero(base_url=served.url, model="tiny").ainvoke("hi"))
    await asyncio.to_thread(served.chat.engine.reached.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(served.wait_for_end)
    assert served.chat.engine.generations[0].cancelled


# --- errors ---


@pytest.mark.parametrize(
    ("options", "prompt", "error", "told"),
    [
        ({"model": "other"}, "hi", NotFoundError, "'other' is not served here"),
        ({"model": "tiny"}, "a" * 300, UsageError, "window holds 256"),
    ],
)
def test_what_the_server_refuses_is_our_error(serve, options, prompt, error, told):
    model = ChatArriero(base_url=serve("abc").url, **options)
    for call in (lambda: model.invoke(prompt), lambda: list(model.stream(prompt)), lambda: model.batch([prompt])):
        with pytest.raises(error, match=told):
            call()
    with pytest.raises(error, match=told):
        asyncio.run(model.ainvoke(prompt))


def test_a_key(serve, scripted_chat, monkeypatch):
    chat = scripted_chat("abc")
    served = serve(chat=chat, app=create_app(chat, keys=Keys({"anna": "anna-secret"})))
    with pytest.raises(AccessError, match="an API key is needed") as caught:
        ChatArriero(base_url=served.url).invoke("hi")
    assert "api_key=" in caught.value.hint
    assert ChatArriero(base_url=served.url, api_key="anna-secret").invoke("hi").text == "abc"
    monkeypatch.setenv("ARRIERO_API_KEY", "anna-secret")
    assert ArrieroLLM(base_url=served.url).invoke("hi") == "abc"


@pytest.fixture
def failing(serve, scripted_chat):
    """`failing(n, status)` -> a server that refuses n requests for an answer first, and the requests it got."""

    def start(count, status):
        got = []

        async def answered(request):
            got.append(await request.body())
            if len(got) <= count:
                return JSONResponse({"error": "later"}, status, {"retry-after": "0"})
            return Response(ANSWER, media_type="text/event-stream")

        app = Starlette(routes=[Route("/v1/chat/completions", answered, methods=["POST"])])
        return serve(chat=scripted_chat("abc"), app=app), got

    return start


@pytest.mark.parametrize("status", [429, 503])
def test_what_may_go_better_later_is_tried_again(failing, status):
    for ask in (lambda model: model.invoke("hi"), lambda model: asyncio.run(model.ainvoke("hi"))):
        served, got = failing(2, status)
        assert ask(ChatArriero(base_url=served.url, model="tiny")).text == "abc"
        assert len(got) == 3
        served, got = failing(2, status)
        with pytest.raises(BusyError, match="later"):
            ask(ChatArriero(base_url=served.url, model="tiny", max_retries=1))
        assert len(got) == 2


def test_what_is_wrong_is_not_tried_again(failing):
    served, got = failing(9, 400)
    with pytest.raises(UsageError, match="later"):
        ChatArriero(base_url=served.url, model="tiny").invoke("hi")
    assert len(got) == 1


def test_an_answer_that_breaks_in_the_middle_is_not_begun_again(serve):
    served = serve("abcdef", gate=3)
    stream = ChatArriero(base_url=served.url, model="tiny").stream("hi")
    assert next(stream).text == "a"
    served.chat.engine.generations[0].fail(EngineError("out of hay"))
    with pytest.raises(EngineError, match="the server failed to answer"):
        list(stream)
    assert len(served.chat.engine.asked) == 1


def test_a_server_that_is_slower_than_the_timeout_or_not_there(serve):
    served = serve("abcdef", gate=0)
    with pytest.raises(OfflineError):
        ChatArriero(base_url=served.url, model="tiny", timeout=0.05, max_retries=0).invoke("hi")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(OfflineError, match="cannot be reached"):
        ChatArriero(base_url=f"http://127.0.0.1:{port}", max_retries=0).invoke("hi")
    with pytest.raises(UsageError, match="no address"):
        ChatArriero(base_url="http://[::1")


# --- models, adapters, embeddings ---


def test_adapters_by_their_names(serve, scripted_chat):
    chat = remade(scripted_chat("abc"), adapter="runs/killa")
    served = serve(chat=chat)
    asked = [
        ChatArriero(base_url=served.url).invoke("hi"),  # the server's default
        ChatArriero(base_url=served.url, model="tiny").invoke("hi"),
        ChatArriero(base_url=served.url, model="tiny").invoke("hi", adapter="killa"),
        ChatArriero(base_url=served.url, model="tiny", adapter="killa").invoke("hi", adapter=None),
    ]
    used = [each["adapter"].directory.name if each["adapter"] else None for each in chat.engine.options]
    assert used == ["killa", None, "killa", None]
    assert [answer.response_metadata["model_name"] for answer in asked[:2]] == ["killa", "tiny"]


def test_embeddings(serve, scripted_chat, embedding_dir, embedder):
    chat = scripted_chat("abc")
    app = create_app(None)
    app.service.open(Models(chat, embedder=embedder))
    served = serve(chat=chat, app=app)
    here, there = ArrieroEmbeddings(model=embedding_dir), ArrieroEmbeddings(base_url=served.url)
    assert there.embed_documents(["a", "b"]) == here.embed_documents(["a", "b"])
    assert asyncio.run(there.aembed_query("a")) == here.embed_query("a")
    with pytest.raises(UsageError, match="token"):
        there.embed_query("a " * 10_000)
    with pytest.raises(NotFoundError):
        ArrieroEmbeddings(base_url=served.url, model="other").embed_query("a")
    with pytest.raises(UsageError, match="timeout is for a server"):
        ArrieroEmbeddings(model=embedding_dir, timeout=3)
