"""Clients that go away or stall, at every moment and in every way of asking: nothing is worked on for nobody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import httpx
import pytest
from starlette.requests import Request

from arriero.server import create_app, middleware, streaming
from arriero.server.access_log import AccessRecord
from arriero.server.admission import Limits
from arriero.server.auth import Caller, Keys
from arriero.server.service import Service

MESSAGES = [{"role": "user", "content": "hi"}]
WAYS = [
    ("/", {"prompt": "hi"}),
    ("/v1/chat/completions", {"model": "tiny", "messages": MESSAGES}),
    ("/v1/chat/completions", {"model": "tiny", "messages": MESSAGES, "stream": True}),
    ("/v1/chat/completions", {"model": "tiny", "messages": MESSAGES, "stream": True, "n": 2}),
    ("/v1/completions", {"model": "tiny", "prompt": ["a", "b"]}),
    ("/v1/completions", {"model": "tiny", "prompt": "a", "stream": True}),
    ("/v1/responses", {"model": "tiny", "input": "hi"}),
    ("/v1/responses", {"model": "tiny", "input": "hi", "stream": True}),
]


PATH, CHAT = WAYS[1]


@pytest.fixture
def bounded(serve, scripted_chat):
    """A server with 8 slots whose engine holds back the token of that index."""

    def start(gate: int):
        chat = scripted_chat("hello", gate=gate)
        app = create_app(chat, limits=Limits(max_running=8, max_waiting=500))
        return serve(chat=chat, app=app), app.service

    return start


def check_free(served, service, requests: int) -> None:
    """All have ended, all slots are free, all work was called off, and an ordinary request is answered."""
    for _ in range(requests):
        served.wait_for_end()
    assert (service.admission.running, service.admission.waiting) == (0, 0)
    engine = served.chat.engine
    assert engine.generations
    assert all(generation.cancelled for generation in engine.generations)
    engine.release.set()
    answer = httpx.post(served.url, json={"prompt": "hi"}, timeout=30)
    assert (answer.status_code, answer.json()["response"]) == (200, "hello")
    assert served.raised == []


def test_two_hundred_that_leave_while_they_wait_or_their_prompt_is_read(bounded, raw_post):
    served, service = bounded(gate=0)
    connections = [raw_post(served, *WAYS[number % len(WAYS)]) for number in range(200)]
    assert served.chat.engine.reached.wait(30)
    for connection in connections:
        connection.close()
    check_free(served, service, 200)
    counted = [line for line in service.metrics.text().decode().splitlines() if "requests_total" in line]
    assert sum(float(line.split()[-1]) for line in counted if 'status="499"' in line) == 200


@pytest.mark.parametrize(("path", "body"), WAYS)
def test_who_leaves_in_the_middle_of_an_answer(bounded, raw_post, path, body):
    served, service = bounded(gate=2)
    connection = raw_post(served, path, body)
    if body.get("stream"):
        assert connection.recv(1) == b"H"  # the headers, so the first token is there
    assert served.chat.engine.reached.wait(30)
    connection.close()
    check_free(served, service, 1)
    text = service.metrics.text().decode()
    assert 'arriero_requests_cancelled_total{model="tiny"} 1.0' in text
    assert 'arriero_answers_total{finish_reason="cancelled",model="tiny"} 1.0' in text


async def asked(app, *messages: dict, send: Callable[[dict], Awaitable[None]] | None = None) -> list[dict]:
    """What `app` sends to a POST of these messages, after which its client neither says more nor leaves."""
    coming, sent = iter(messages), []

    async def receive() -> dict:
        for message in coming:
            return message
        return await asyncio.Event().wait()

    async def keep(message: dict) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": PATH, "raw_path": b"", "query_string": b"", "headers": [],
        "scheme": "http", "http_version": "1.1", "client": None,
    }  # fmt: skip
    await app(scope, receive, send or keep)
    return sent


def body(value: object) -> dict:
    return {"type": "http.request", "body": json.dumps(value).encode()}


PART = {"type": "http.request", "body": b"{", "more_body": True}


@pytest.fixture
def impatient(monkeypatch):
    """A body has to come in 0.05 s, however long it may be: at SLOWEST the longest took 16 s."""
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.05)
    monkeypatch.setattr(middleware, "SLOWEST", 2**40)


async def test_a_body_that_never_ends_is_given_up(scripted_chat, impatient):
    app = create_app(scripted_chat("x"))
    start, told = await asked(app, PART)
    assert (start["status"], json.loads(told["body"])["error"]["code"]) == (408, "body_timeout")
    assert b'arriero_requests_rejected_total{reason="body_timeout"} 1.0' in app.service.metrics.text()


async def test_the_time_for_the_body_is_not_the_time_for_the_answer(scripted_chat, impatient):
    chat = scripted_chat("hello", gate=1)
    asyncio.get_running_loop().call_later(0.2, chat.engine.release.set)
    start, _ = await asked(create_app(chat), body(CHAT))
    assert start["status"] == 200


async def test_who_leaves_while_sending_is_no_bad_request(scripted_chat):
    app = create_app(scripted_chat("x"))
    await asked(app, PART, {"type": "http.disconnect"})
    assert f'arriero_requests_total{{path="{PATH}",status="499"}} 1.0' in app.service.metrics.text().decode()


async def test_a_client_that_takes_nothing_is_given_up(scripted_chat, monkeypatch):
    monkeypatch.setattr(streaming, "STALLED_SECONDS", 0.05)
    chat = scripted_chat("hello")
    app = create_app(chat)

    async def send(message: dict) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    await asked(app, body(CHAT | {"stream": True}), send=send)
    assert app.service.admission.running == 0
    assert chat.engine.generations[0].cancelled


@pytest.mark.parametrize("background", [False, True])
async def test_a_request_that_is_cancelled_while_it_is_admitted_holds_no_slot(background):
    """A cancelled batch's slot was lost for good where it was given just before: no other batch ever began."""
    service = Service(Limits(), Keys({}))
    record = AccessRecord("id", Caller("ana"), "POST", PATH, background=background)

    async def receive() -> dict:
        return await asyncio.Event().wait()

    cancelled = []
    for steps in range(12):
        task = asyncio.create_task(service._admit(Request({"type": "http", "record": record}, receive), "tiny", 1))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        [permit] = await asyncio.gather(task, return_exceptions=True)
        cancelled.append(task.cancelled())
        if not task.cancelled():
            permit.release()
        assert service.admission.running == 0, f"cancelled after {steps} turns of the loop"
    assert (cancelled[0], cancelled[-1]) == (True, False)
