"""POST /: the tutorial's clients, its relatives' fields, and its share of errors."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from datetime import datetime

import httpx
import pytest
import requests
from starlette.responses import PlainTextResponse

from arriero.server import create_app
from tests.conftest import TEMPLATE, ids_of
from tests.server.conftest import remade


def test_the_tutorials_requests_client_with_its_misspelt_content_type(serve):
    served = serve("你好！很高兴🦙")
    headers = {"Content-Type": "application/jons"}
    response = requests.post(url=served.url, headers=headers, data=json.dumps({"prompt": "你好"}), timeout=30)
    answer = response.json()
    assert (response.status_code, list(answer)) == (200, ["response", "status", "time"])
    assert (answer["response"], answer["status"]) == ("你好！很高兴🦙", 200)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", answer["time"])
    assert abs((datetime.now() - datetime.fromisoformat(answer["time"])).total_seconds()) < 3600, "not local time"
    assert served.chat.engine.asked[0][0] == [1, 4, *ids_of("你好"), 2, 5]


def test_the_tutorials_curl_command(serve):
    served = serve("你好！")
    command = ["curl", "-sS", "-X", "POST", served.url, "-H", "Content-Type: application/json"]
    output = subprocess.run([*command, "-d", '{"prompt": "你好"}'], check=True, capture_output=True).stdout
    assert output.decode().startswith('{"response":"你好！","status":200,"time":"')


@pytest.mark.parametrize("content_type", [None, "application/x-www-form-urlencoded", "text/plain", "nonsense"])
def test_any_content_type_will_do(serve, content_type):
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = httpx.post(serve("yes").url, content=b'{"prompt": "hi"}', headers=headers)
    assert response.json()["response"] == "yes"


def test_history_and_sampling_reach_the_engine(serve, scripted_chat):
    served = serve(chat=remade(scripted_chat("abcdef"), temperature=0.7))
    body = {"prompt": "c", "history": [["a", "b"]], "max_length": 3, "temperature": 0, "top_p": 0.5}
    assert httpx.post(served.url, json=body).json()["response"] == "abc"
    ids, sampling, limit = served.chat.engine.asked[0]
    assert ids == [1, 4, *ids_of("a"), 2, 5, *ids_of("b"), 2, 4, *ids_of("c"), 2, 5]
    assert (limit, sampling.temperature, sampling.top_p) == (3, 0.0, 0.5)


def test_null_counts_as_absent(serve):
    served = serve("x")
    body = {"prompt": "hi", "history": None, "max_length": None, "temperature": None, "top_p": None}
    assert httpx.post(served.url, json=body).status_code == 200
    assert served.chat.engine.asked[0][1] == replace(served.chat.defaults, max_new_tokens=512)


def test_the_tutorial_s_answers_end_at_512_tokens(serve, scripted_chat):
    """Everywhere else an answer goes on to the end of the window."""
    chat = scripted_chat("x", template=TEMPLATE)
    assert httpx.post(serve(chat=chat).url, json={"prompt": "hi"}).status_code == 200
    assert chat.engine.asked[0][2] == 512


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": "hi", "top_k": 5}, "top_k"),
        ({"prompt": "hi", "max_length": 0}, "max_length"),
        ({"prompt": "hi", "max_length": 2048.5}, "max_length"),
        ({"prompt": "hi", "temperature": True}, "temperature"),
        ({"prompt": "hi", "top_p": "0.5"}, "top_p"),
        ({"prompt": "hi", "history": [["only a question"]]}, "history[0]"),
        ({"prompt": "hi", "history": [["q", 1]]}, "history[0][1]"),
        ({"prompt": "hi", "history": "no"}, "history"),
    ],
)
def test_bad_bodies_name_the_field(serve, body, param):
    served = serve("x")
    response = httpx.post(served.url, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert served.chat.engine.asked == []


def test_a_client_that_goes_away_while_waiting_stops_the_engine(serve, raw_post):
    served = serve("abcdef", gate=2)
    connection = raw_post(served, "/", {"prompt": "hi"})
    assert served.chat.engine.reached.wait(30)
    connection.close()
    served.wait_for_end()
    assert served.chat.engine.generations[0].cancelled


def test_the_page_below_gets_everything_but_post(serve, scripted_chat):
    chat = scripted_chat("x")
    app = create_app(chat)
    app.mount("/", PlainTextResponse("the page"))
    served = serve(chat=chat, app=app)
    assert httpx.get(served.url).text == httpx.get(f"{served.url}/static/page.js").text == "the page"
    assert httpx.post(served.url, json={"prompt": "hi"}).json()["response"] == "x"
    assert httpx.get(f"{served.url}/health").json() == {"status": "ok"}
    assert httpx.post(f"{served.url}/health").status_code == 405
    assert httpx.get(f"{served.url}/v1/chat/completions").status_code == 405
    assert httpx.get(f"{served.url}/v1/nonsense").json()["error"]["type"] == "invalid_request_error"
