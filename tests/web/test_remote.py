"""Another server behind the page: ours, and what others send."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

from arriero.errors import AccessError, EngineError, NotFoundError, OfflineError, UsageError
from arriero.messages import Message, Sampling, Usage
from arriero.server import create_app
from arriero.server.auth import Keys
from arriero.web import Remote

HELLO = [Message("user", "hi")]


async def read(pieces) -> tuple[str, str | None, Usage | None]:
    """An answer's text, how it ended and what it took."""
    text, last = "", None
    async for last in pieces:
        text += last.text
    await pieces.aclose()
    return text, last.finish_reason, last.usage


async def test_our_own_server(serve):
    served = serve("abcdef", "def")
    remote = Remote(served.url + "/v1/")
    [choice] = remote.choices()
    assert (choice.name, choice.parent, choice.window) == ("tiny", None, 256)
    assert remote.count("tiny", HELLO) == 6
    assert await read(remote.astream("tiny", HELLO, Sampling())) == ("abcdef", "stop", Usage(6, 7))
    given = Sampling(3, 0.5, 0.9, 7, 0.1, 1.1, 0.5, -0.5, 0, ("x",), ((70, 5),))
    assert await read(remote.astream("tiny", HELLO, given)) == ("def", "length", Usage(6, 3))
    assert served.chat.engine.asked[-1][1:] == (given.over(served.chat.defaults), 3)
    turns = [*HELLO, Message("assistant", "abc")]
    await read(remote.astream("tiny", turns, Sampling(), continue_final_message=True))
    assert served.chat.engine.asked[-1][0] == served.chat.render(turns, continue_final_message=True)


async def test_closing_stops_the_other_server(serve):
    served = serve("abcdef", gate=3)
    pieces = Remote(served.url).astream("tiny", HELLO, Sampling())
    assert (await anext(pieces)).text == "a"
    await pieces.aclose()
    served.wait_for_end()
    assert served.chat.engine.generations[0].cancelled


async def test_a_key(serve, scripted_chat):
    chat = scripted_chat("abc")
    served = serve(chat=chat, app=create_app(chat, keys=Keys({"anna": "anna-secret"})))
    with pytest.raises(AccessError, match="an API key is needed") as caught:
        Remote(served.url).choices()
    assert "ARRIERO_API_KEY" in caught.value.hint
    remote = Remote(served.url, "anna-secret")
    assert remote.choices()[0].name == "tiny"
    assert (await read(remote.astream("tiny", HELLO, Sampling())))[0] == "abc"


async def test_what_the_other_server_refuses(serve):
    remote = Remote(serve("abc").url)
    with pytest.raises(NotFoundError, match="'other' is not served here"):
        await read(remote.astream("other", HELLO, Sampling()))
    with pytest.raises(UsageError, match="window holds 256"):
        await read(remote.astream("tiny", [Message("user", "a" * 300)], Sampling()))


async def test_a_failure_in_the_middle_of_an_answer(serve):
    served = serve("abcdef", gate=3)
    pieces = Remote(served.url).astream("tiny", HELLO, Sampling())
    assert (await anext(pieces)).text == "a"
    served.chat.engine.generations[0].fail(EngineError("out of hay"))
    with pytest.raises(EngineError, match="the server failed to answer"):
        await read(pieces)


async def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    remote = Remote(f"http://127.0.0.1:{port}")
    with pytest.raises(OfflineError, match="cannot be reached"):
        remote.choices()
    with pytest.raises(OfflineError, match="cannot be reached"):
        await read(remote.astream("tiny", HELLO, Sampling()))
    assert remote.count("tiny", HELLO) is None


@pytest.mark.parametrize("url", ["machine:6006", "ftp://machine", "http://", "http://[::1"])
def test_what_is_no_address(url):
    with pytest.raises(UsageError):
        Remote(url)


def events(*chunks: object) -> str:
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


def delta(**fields: object) -> dict:
    return {"choices": [{"delta": fields, "finish_reason": None}]}


END = {"choices": [{"delta": {}, "finish_reason": "stop"}]}


@pytest.fixture
def foreign(serve, scripted_chat) -> Iterator:
    """A server of another make: `foreign(models, answer)` gives a Remote that gets these texts from it."""

    def start(models: object = None, answer: str = "", status: int = 200) -> Remote:
        async def listed(_) -> object:
            return PlainTextResponse(models) if isinstance(models, str) else JSONResponse(models)

        async def answered(_) -> object:
            return StreamingResponse(iter([answer]), status)

        routes = [Route("/v1/models", listed), Route("/v1/chat/completions", answered, methods=["POST"])]
        return Remote(serve(chat=scripted_chat("abc"), app=Starlette(routes=routes)).url)

    return start


async def test_a_server_that_tells_little(foreign):
    remote = foreign({"data": [{"id": "gpt"}]}, events(delta(role="assistant"), delta(content="hi"), END))
    [choice] = remote.choices()
    assert (choice.name, choice.window, remote.count("gpt", HELLO)) == ("gpt", None, None)
    assert await read(remote.astream("gpt", HELLO, Sampling())) == ("hi", "stop", None)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_reasoning_that_is_sent_apart(foreign, name):
    chunks = [delta(**{name: "h"}), delta(**{name: "m"}), delta(content="yes"), END]
    pieces = [piece async for piece in foreign(answer=events(*chunks)).astream("r1", HELLO, Sampling())]
    assert [(piece.reasoning, piece.text) for piece in pieces] == [("h", ""), ("m", ""), ("", "yes"), ("", "")]


async def test_reasoning_of_earlier_answers_stays_here(serve, scripted_chat):
    """Some servers refuse a conversation that holds it."""
    chat = scripted_chat("abc")
    turns = [*HELLO, Message("assistant", "x", reasoning_content="hm"), *HELLO]
    pieces = Remote(serve(chat=chat).url).astream("tiny", turns, Sampling())
    assert (await read(pieces))[0] == "abc"
    assert chat.engine.asked[0][0] == chat.render([*HELLO, Message("assistant", "x"), *HELLO])


@pytest.mark.parametrize(
    ("answer", "status", "told"),
    [
        (events(delta(content="hi")), 200, "broke the answer off"),
        ("data: {nonsense\n\n", 200, "is no JSON"),
        ("data: [1]\n\n", 200, "list instead of a JSON object"),
        ("<html>", 502, "HTTP status 502"),
        ('{"error": "busy"}', 429, "busy"),
        ('{"detail": "no such route"}', 500, "no such route"),
        (events({"error": {"message": "out of hay"}}), 200, "out of hay"),
    ],
)
async def test_what_is_no_answer(foreign, answer, status, told):
    with pytest.raises(EngineError, match=told):
        await read(foreign(answer=answer, status=status).astream("gpt", HELLO, Sampling()))


@pytest.mark.parametrize("models", ["<html>", [1], {"models": []}, {"data": [1]}])
def test_what_is_no_list_of_models(foreign, models):
    with pytest.raises(EngineError):
        foreign(models).choices()
