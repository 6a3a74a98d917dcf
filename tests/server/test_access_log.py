"""What is counted and logged of every request, and that no key ever is."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
from urllib.parse import quote

import pytest

from arriero.server.access_log import LogFormat
from tests.server.conftest import remade
from tests.server.test_errors import Faulty
from tests.server.test_middleware import ANNA, ASK, COMPLETIONS, KEYS, counted


def test_counts_agree_with_what_was_done(client_of):
    client = client_of("hello")
    for _ in range(2):
        client.post(COMPLETIONS, json=ASK)
    assert "[DONE]" in client.post(COMPLETIONS, json=ASK | {"stream": True, "n": 2}).text
    client.post(COMPLETIONS, content=b"{")
    for number in range(50):
        client.get(f"/nothing/{number}")
        client.get(f"/v1/nothing/{number}")
        client.get(f"/v1/models/nothing-{number}")
    assert counted(client, "arriero_requests_total", path=COMPLETIONS, status="200") == 3
    assert counted(client, "arriero_requests_total", path=COMPLETIONS, status="400") == 1
    assert counted(client, "arriero_requests_total", status="404") == 150
    assert counted(client, "arriero_completion_tokens_total", model="tiny") == 4 * len("hello") + 4
    assert counted(client, "arriero_prompt_tokens_total", model="tiny") == 3 * 6
    assert counted(client, "arriero_answers_total", model="tiny", finish_reason="stop") == 4
    assert counted(client, "arriero_time_to_first_token_seconds_count", model="tiny") == 3
    assert counted(client, "arriero_time_per_output_token_seconds_count", model="tiny") == 3
    assert counted(client, "arriero_queue_seconds_count") == 3
    assert counted(client, "arriero_requests_cancelled_total") == 0
    assert counted(client, "arriero_answers_running") == counted(client, "arriero_requests_waiting") == 0
    text = client.get("/metrics").text
    assert "nothing" not in text
    assert len({line for line in text.splitlines() if line.startswith("arriero_requests_total")}) < 10


@pytest.fixture
def logged():
    """What is logged, by everything and at every level, as one text: `logged(as_json=True)` starts it."""
    root, kept = logging.getLogger(), []

    def start(*, as_json: bool) -> io.StringIO:
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(LogFormat(as_json=as_json))
        kept.append((handler, root.level, logging.getLogger("arriero").level))
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)
        logging.getLogger("arriero").setLevel(logging.DEBUG)
        return stream

    yield start
    for handler, level, ours in kept:
        root.removeHandler(handler)
        root.setLevel(level)
        logging.getLogger("arriero").setLevel(ours)


def lines_of(stream: io.StringIO) -> list[dict]:
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [line for line in lines if line["logger"] == "arriero.server.access"]


def test_one_line_of_json_for_each_request(client_of, logged):
    client, stream = client_of("hello", keys=KEYS), logged(as_json=True)
    response = client.post(COMPLETIONS, json=ASK, headers={**ANNA, "x-request-id": "mine"})
    client.post(COMPLETIONS, json=ASK)
    client.get("/ready")
    client.get(quote("/x\u2028y\x1b[1m\u0085" + "z" * 300), headers=ANNA)
    answered, refused, probe, odd = lines_of(stream)
    assert response.headers["x-request-id"] == answered["request_id"] == "mine"
    assert (answered["client"], answered["method"], answered["path"]) == ("anna", "POST", COMPLETIONS)
    assert (answered["status"], answered["model"], answered["finish_reasons"]) == (200, "tiny", ["stop"])
    assert (answered["prompt_tokens"], answered["completion_tokens"]) == (6, 6)
    assert 0 <= answered["queue_s"] <= answered["first_token_s"] <= answered["total_s"]
    assert (refused["status"], refused["refused"], refused["client"]) == (401, "invalid_api_key", "testclient")
    assert (answered["level"], refused["level"], probe["level"]) == ("info", "info", "debug")
    assert odd["path"].startswith("/x\u2028y\x1b[1m\x85zz")
    assert len(odd["path"]) == 200
    assert "hi" not in stream.getvalue().replace('"this', "") or '"content"' not in stream.getvalue()


def test_a_line_of_text_cannot_be_forged(client_of, logged):
    client, stream = client_of("hello"), logged(as_json=False)
    forged = "/x status=200\n2026-01-01 INFO request request_id=forged\x1b[2J"
    client.get(quote(forged))
    [line] = [line for line in stream.getvalue().splitlines() if " request " in line and "HTTP Request" not in line]
    fields = dict(re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)', line))
    assert json.loads(fields["path"]) == forged
    assert (fields["status"], fields["method"]) == ("404", "GET")
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO ", line)


def test_prompts_are_logged_only_when_asked_for(client_of, logged):
    stream = logged(as_json=True)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "骆驼 secret"}]}
    client_of().post(COMPLETIONS, json=body)
    assert "secret" not in stream.getvalue()
    client_of(log_prompts=True).post(COMPLETIONS, json=body)
    assert lines_of(stream)[-1]["body"] == body
    assert "骆驼" in stream.getvalue()


def test_no_key_is_logged_measured_or_told(client_of, logged, capfd, scripted_chat):
    stream, told = logged(as_json=True), ""
    clients = [client_of(keys=KEYS, log_prompts=True), client_of(keys=KEYS, chat=remade(scripted_chat("x"), Faulty))]
    for client in clients:
        for secret in ("anna-secret", "admin-secret", "wrong-secret"):
            basic = "Basic " + base64.b64encode(f"me:{secret}".encode()).decode()
            for header in (f"Bearer {secret}", basic, secret):
                for response in (
                    client.post(COMPLETIONS, json=ASK, headers={"authorization": header}),
                    client.get("/metrics", headers={"authorization": header}),
                    client.post("/v1/adapters", json={"name": "x", "path": "/x"}, headers={"authorization": header}),
                ):
                    told += response.text + str(response.headers)
        client.cookies.clear()
    told += stream.getvalue() + "".join(capfd.readouterr())
    assert "Traceback" in told, "the faulty one failed and was logged"
    assert "secret" not in told.replace("/home/me/secret", "")
