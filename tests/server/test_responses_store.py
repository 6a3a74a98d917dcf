"""Responses that are kept: asked for again, gone on from, bounded, private, and not at all if so wished."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from fastapi.testclient import TestClient
from openai.types import responses as sdk

from arriero.server import create_app
from arriero.server.auth import Keys
from arriero.server.routes.openai.responses.store import ResponseStore, StoredResponse
from tests.conftest import TOOL_TEMPLATE

RESPONSES = "/v1/responses"


@pytest.fixture
def client(serve, scripted_chat, home):
    """`client("answer", …)` -> (OpenAI's client, the engine), over an empty ARRIERO_HOME."""
    made = []

    def build(*answers, **options):
        chat = scripted_chat(*answers, template=TOOL_TEMPLATE)
        url = serve(chat=chat, app=create_app(chat, **options)).url
        made.append(openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0))
        return made[-1], chat.engine

    yield build
    for each in made:
        each.close()


def kept(identity: str, text: str = "x") -> StoredResponse:
    """A small response of that id."""
    content = [{"type": "output_text", "text": text}]
    output = [{"id": f"msg_{identity}", "type": "message", "role": "assistant", "content": content}]
    return StoredResponse(
        {"id": identity, "output": output},
        [{"id": f"in_{identity}", "type": "message", "role": "user", "content": text}],
    )


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_goes_on_from_a_kept_response(client, stream):
    """previous_response_id was refused: every request had to bring the whole conversation."""
    asked, engine = client("Hello", "again")
    first = asked.responses.create(model="tiny", input="hi", instructions="Be brief.")
    assert first.store is True
    more = {"model": "tiny", "input": "and?", "previous_response_id": first.id}
    if stream:
        second = list(asked.responses.create(**more, stream=True))[-1].response
    else:
        second = asked.responses.create(**more)
    assert (second.output_text, second.previous_response_id) == ("again", first.id)
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello"}]
    asked.responses.create(model="tiny", input=[*turns, {"role": "user", "content": "and?"}])
    assert engine.asked[1][0] == engine.asked[2][0], "without the first one's instructions, as OpenAI does"
    asked.responses.delete(first.id)
    third = asked.responses.create(model="tiny", input="so?", previous_response_id=second.id)
    assert len(asked.responses.input_items.list(third.id).data) == 5


def test_a_kept_response_is_had_again_with_its_items_and_deleted(client):
    asked, _ = client("Hello")
    first = asked.responses.create(model="tiny", input="hi", metadata={"a": "b"})
    again = asked.responses.retrieve(first.id)
    assert again.to_dict() == first.to_dict()
    sdk.Response.model_validate(again.to_dict(), strict=True)
    [item] = asked.responses.input_items.list(first.id).data
    assert (item.role, item.content[0].text) == ("user", "hi")
    asked.responses.delete(first.id)
    for gone in (
        asked.responses.retrieve,
        asked.responses.delete,
        asked.responses.cancel,
        asked.responses.input_items.list,
    ):
        with pytest.raises(openai.NotFoundError, match=f"the response '{first.id}' is not kept here"):
            gone(first.id)
    with pytest.raises(openai.NotFoundError) as refused:
        asked.responses.create(model="tiny", input="hi", previous_response_id=first.id)
    assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")


def test_items_are_listed_in_pages_and_each_is_one_of_the_clients(client):
    asked, _ = client("ok")
    call = {"type": "function_call", "call_id": "c", "name": "t", "arguments": "{}", "id": "same"}
    result = {"type": "function_call_output", "call_id": "c", "output": "1", "id": "same"}
    user = {"role": "user", "content": "hi"}
    answer = {"role": "assistant", "content": "ho"}
    turns = [user, answer, {"type": "reasoning", "id": "rs_1", "summary": []}, call, result] * 5
    response = asked.responses.create(model="tiny", input=turns)
    kinds = ["message", "message", "reasoning", "function_call", "function_call_output"] * 5
    up = list(asked.responses.input_items.list(response.id, order="asc", limit=7))
    assert [item.type for item in up] == kinds
    assert len({item.id for item in up}) == 25
    assert [item.id for item in asked.responses.input_items.list(response.id, limit=3)] == [
        item.id for item in up[::-1]
    ]
    sdk.ResponseItemList.model_validate(asked.get(f"/responses/{response.id}/input_items", cast_to=object), strict=True)
    for wrong in ({"limit": 0}, {"order": "sideways"}, {"after": "nope"}):
        with pytest.raises(openai.BadRequestError) as refused:
            asked.responses.input_items.list(response.id, **wrong)
        assert refused.value.param == next(iter(wrong))


def test_an_item_is_referred_to_by_its_id(client):
    asked, engine = client("Hello", "again")
    first = asked.responses.create(model="tiny", input="hi")
    [question] = asked.responses.input_items.list(first.id).data
    references = [{"type": "item_reference", "id": question.id}, {"id": first.output[0].id}]
    asked.responses.create(model="tiny", input=[*references, {"role": "user", "content": "and?"}])
    asked.responses.create(model="tiny", input="and?", previous_response_id=first.id)
    assert engine.asked[1][0] == engine.asked[2][0]
    with pytest.raises(openai.NotFoundError, match="the item 'nope' is not kept here") as refused:
        asked.responses.create(model="tiny", input=[{"type": "item_reference", "id": "nope"}])
    assert refused.value.param == "input[0]"


def test_only_background_responses_are_cancelled_or_streamed_again(client):
    asked, _ = client("Hello")
    first = asked.responses.create(model="tiny", input="hi")
    with pytest.raises(openai.BadRequestError, match="only background responses can be cancelled"):
        asked.responses.cancel(first.id)
    with pytest.raises(openai.BadRequestError, match="only background responses can be streamed again"):
        asked.responses.retrieve(first.id, stream=True)


def test_what_is_not_to_be_stored_is_not(client, home):
    asked, _ = client("Hello")
    first = asked.responses.create(model="tiny", input="hi", store=False)
    assert first.store is False
    assert not (home / "responses.sqlite3").exists()
    with pytest.raises(openai.NotFoundError):
        asked.responses.retrieve(first.id)


def test_with_no_store_nothing_is_kept_and_the_refusal_says_so(client, home):
    asked, engine = client("Hello", no_store=True)
    first = asked.responses.create(model="tiny", input="hi", store=True)
    assert (first.output_text, first.store) == ("Hello", False)
    assert not (home / "responses.sqlite3").exists()
    with pytest.raises(openai.NotFoundError, match="--no-store"):
        asked.responses.retrieve(first.id)
    for more in ({"previous_response_id": first.id}, {"input": [{"type": "item_reference", "id": "x"}]}):
        with pytest.raises(openai.BadRequestError, match="--no-store"):
            asked.responses.create(model="tiny", **{"input": "hi", **more})
    assert len(engine.asked) == 1


def test_one_key_does_not_see_what_another_keeps(client_of, home):
    """Nor do its items; an unnamed key is called by its place in the file, where another may come to stand."""
    before = client_of(keys=Keys({"key-1": "ana-secret", "key-2": "ben-secret"}))
    ana, ben = ({"authorization": f"Bearer {name}-secret"} for name in ("ana", "ben"))
    first = before.post(RESPONSES, json={"model": "tiny", "input": "hi"}, headers=ana).json()
    after = client_of(keys=Keys({"key-1": "ben-secret"}))
    for client in (before, after):
        path = f"{RESPONSES}/{first['id']}"
        for method, where in (
            ("GET", path),
            ("DELETE", path),
            ("GET", f"{path}/input_items"),
            ("POST", f"{path}/cancel"),
        ):
            assert client.request(method, where, headers=ben).status_code == 404
        for more in (
            {"input": "x", "previous_response_id": first["id"]},
            {"input": [{"type": "item_reference", "id": first["output"][0]["id"]}]},
        ):
            assert client.post(RESPONSES, json={"model": "tiny", **more}, headers=ben).status_code == 404
    assert before.get(f"{RESPONSES}/{first['id']}", headers=ana).json() == first
    anybody = client_of()
    assert anybody.get(f"{RESPONSES}/{first['id']}").status_code == 404


def test_another_server_on_the_same_home_has_what_was_kept(scripted_chat, home):
    chat = scripted_chat("Hello", template=TOOL_TEMPLATE)
    first = TestClient(create_app(chat)).post(RESPONSES, json={"input": "hi"}).json()
    later = TestClient(create_app(chat))
    assert later.get(f"{RESPONSES}/{first['id']}").json() == first
    assert later.post(RESPONSES, json={"input": "and?", "previous_response_id": first["id"]}).status_code == 200
    assert stat.S_IMODE((home / "responses.sqlite3").stat().st_mode) == 0o600


def test_an_answer_that_cannot_be_kept_is_an_answer_that_says_so(client_of, home, caplog):
    """A full disk, or a home that nobody may write, is no reason to lose the answer."""
    home.write_text("this is no directory")
    response = client_of("Hello").post(RESPONSES, json={"input": "hi"})
    assert (response.status_code, response.json()["store"]) == (200, False)
    assert "responses cannot be kept" in caplog.text


def test_the_oldest_responses_go_first(tmp_path):
    store = ResponseStore(tmp_path / "kept", most=3)
    for number in range(5):
        store.put("", kept(f"r{number}"))
    assert [store.get("", f"r{number}") is not None for number in range(5)] == [False, False, True, True, True]
    assert store.item("", "msg_r1") is None
    assert store.item("", "msg_r2") == kept("r2").response["output"][0]


def test_the_bytes_of_responses_are_bounded_and_the_newest_stays(tmp_path):
    store = ResponseStore(tmp_path / "kept", most_bytes=20_000)
    for number in range(20):
        store.put("", kept(f"r{number}", "骆" * 1000))
    held = [number for number in range(20) if store.get("", f"r{number}") is not None]
    assert held == [17, 18, 19]
    assert (tmp_path / "kept").stat().st_size < 80_000, "20 of them have 120,000"
    store.put("", kept("large", "x" * 50_000))
    assert store.get("", "large") is not None
    assert store.get("", "r19") is None


def test_what_is_deleted_is_not_in_the_file_any_more(tmp_path):
    store = ResponseStore(tmp_path / "kept")
    store.put("", kept("r", "the secret of the llamas " * 500))
    assert store.delete("", "r")
    assert not store.delete("", "r")
    assert b"secret of the llamas" not in (tmp_path / "kept").read_bytes()


def _fill(file, name, count, *, killed=False):
    for number in range(count):
        ResponseStore(file).put("", kept(f"{name}-{number}"))
    if killed:
        os.kill(os.getpid(), signal.SIGKILL)


def test_several_processes_and_threads_keep_in_one_file_also_those_that_are_killed(tmp_path):
    file = tmp_path / "kept"
    context = multiprocessing.get_context("spawn")
    arguments = [(file, f"p{number}", 20) for number in range(2)]
    others = [context.Process(target=_fill, args=each, kwargs={"killed": True}) for each in arguments]
    for other in others:
        other.start()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: _fill(file, f"t{number}", 5), range(8)))
    for other in others:
        other.join(60)
    assert [other.exitcode for other in others] == [-signal.SIGKILL] * 2
    names = [f"p{p}-{n}" for p in range(2) for n in range(20)] + [f"t{t}-{n}" for t in range(8) for n in range(5)]
    store = ResponseStore(file)
    assert [name for name in names if store.get("", name) is None] == []


def test_a_file_that_is_locked_holds_up_nobody_else(serve, scripted_chat, home):
    """On the event loop the write would stop the whole server, and give up before /health is answered."""
    chat = scripted_chat("Hello", template=TOOL_TEMPLATE)
    served = serve(chat=chat)
    ResponseStore().put("", kept("r"))
    with contextlib.closing(sqlite3.connect(home / "responses.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with httpx.stream("POST", served.url + RESPONSES, json={"input": "hi", "stream": True}, timeout=30) as response:
            lines = response.iter_lines()
            next(line for line in lines if '"delta":"o"' in line)
            assert httpx.get(served.url + "/health", timeout=30).status_code == 200
            other.execute("ROLLBACK")
            *_, last = [line for line in lines if line]
    assert json.loads(last.removeprefix("data: "))["response"]["store"] is True
