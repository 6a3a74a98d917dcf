"""The web page asks from a thread of the server's process; what it asks counts as what comes over HTTP does."""

from __future__ import annotations

import threading

import pytest
from starlette.testclient import TestClient

from arriero.errors import ArrieroError
from arriero.server import create_app
from arriero.server.admission import Limits
from tests.web.asking import Visit

HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture
def app(scripted_chat):
    """An application with one slot and room for nobody to wait, and its AdmittedChat."""
    chat = scripted_chat("abc", gate=1)
    made = create_app(chat, limits=Limits(max_running=1, max_waiting=0))
    with TestClient(made):  # runs its loop in a thread, and tells the application so
        yield made, made.service.admitted(chat)
        chat.engine.release.set()


def free(app) -> None:
    """Return once nobody has a slot; the engine's thread gives it back a moment after the answer's end."""
    ended = threading.Event()

    async def wait() -> None:
        await app.service.admission.idle()
        ended.set()

    app.service.loop.call_soon_threadsafe(lambda: app.service.loop.create_task(wait()))
    assert ended.wait(30)


def test_an_answer_takes_a_slot_until_it_ends(app):
    made, admitted = app
    stream = admitted.stream(HELLO)
    assert next(stream).text == "a"
    assert made.service.admission.running == 1
    with pytest.raises(ArrieroError, match="1 answers are in flight and 0 requests wait"):
        next(admitted.stream(HELLO))
    refused = TestClient(made).post("/", json={"prompt": "hi"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full")
    admitted.engine.release.set()
    assert "".join(piece.text for piece in stream) == "bc"
    free(made)
    assert admitted.complete(HELLO).text == "abc"


def test_an_answer_that_is_let_go_gives_its_slot_back(app):
    made, admitted = app
    stream = admitted.stream(HELLO)
    next(stream)
    stream.close()
    admitted.engine.release.set()
    free(made)


def test_what_fails_before_it_begins_gives_its_slot_back(app):
    made, admitted = app
    with pytest.raises(ArrieroError, match="window holds 256"):
        admitted.stream([{"role": "user", "content": "a" * 300}])
    free(made)


def test_the_end_of_the_server_breaks_it_off(app):
    made, admitted = app
    stream = admitted.stream(HELLO)
    next(stream)
    done = threading.Event()
    made.service.loop.call_soon_threadsafe(lambda: (made.service.cancel_all(), done.set()))
    assert done.wait(30)
    admitted.engine.release.set()
    *_, last = stream
    assert last.finish_reason == "cancelled"


def test_who_waits_for_a_slot_sees_his_place_and_can_stop(app, tmp_path):
    """Asking once held the page's lock until there was a slot: Stop and New waited with it, for up to a minute."""
    chat = app[1]
    made = create_app(chat, limits=Limits(max_running=1, max_waiting=5))
    with TestClient(made):
        busy = made.service.admitted(chat).stream(HELLO)
        assert next(busy).text == "a"
        page = Visit(tmp_path / "file", lambda: [("tiny", made.service.admitted(chat))])
        first, second = page.ask(), page.ask()
        while {first.ahead, second.ahead} != {0, 1}:  # the test's own time limit ends this
            assert not first.ended.wait(0.01)
        for answer in (first, second):
            page.stop(answer)
            assert (answer.text, answer.finish_reason, answer.ahead) == ("", "cancelled", None)
        page.close()
        chat.engine.release.set()
        assert "".join(piece.text for piece in busy) == "bc"
        free(made)
        assert len(chat.engine.asked) == 1, "what was stopped while it waited never reached the engine"
        assert made.service.admission.waiting == 0


def test_an_adapter_put_on_later_waits_for_its_slot_too(app, trained_adapter):
    """The Chat with another adapter once was an ordinary one, which asked the engine past all limits."""
    _, admitted = app
    stream = admitted.stream(HELLO)
    next(stream)
    with pytest.raises(ArrieroError, match="1 answers are in flight"):
        next(admitted.with_adapter(trained_adapter).stream(HELLO))
    stream.close()
