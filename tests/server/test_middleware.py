"""What every request passes: ids, headers, keys, origins, hosts, lengths, counts and the log."""

from __future__ import annotations

import base64
import json
import re

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from arriero.server import create_app
from arriero.server.admission import Limits
from arriero.server.auth import COOKIE, Caller, Keys
from tests.server.conftest import remade
from tests.server.test_errors import Faulty

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
COMPLETIONS = "/v1/chat/completions"
KEYS = Keys({"anna": "anna-secret", "bert": "bert-secret"}, "admin-secret")
ANNA = {"authorization": "Bearer anna-secret"}
OWN_ID = re.compile(r"req_[0-9a-f]{24}")


def code_of(response: httpx.Response, status: int) -> str | None:
    assert response.status_code == status, response.text
    assert list(response.json()["error"]) == ["message", "type", "param", "code"]
    return response.json()["error"]["code"]


def counted(client, name: str, **labels: str) -> float:
    """A metric's value, by the parser of Prometheus' own client; 0 where there is none."""
    text = client.get("/metrics", headers=ANNA).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())


def check_headers(response: httpx.Response) -> None:
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["x-frame-options"] == "DENY"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in response.headers["content-security-policy"]


def test_every_response_has_an_id_and_safe_headers(client_of, scripted_chat):
    client = client_of(limits=Limits(max_body=2000))
    responses = {
        200: client.get("/health"),
        404: client.get("/nothing"),
        405: client.get(COMPLETIONS),
        400: client.post(COMPLETIONS, content=b"{"),
        413: client.post(COMPLETIONS, content=b" " * 2001),
        500: client_of(chat=remade(scripted_chat("x"), Faulty)).post(COMPLETIONS, json=ASK),
        401: client_of(keys=KEYS).get("/metrics"),
        503: TestClient(create_app(None)).post(COMPLETIONS, json=ASK),
    }
    streamed = client.post(COMPLETIONS, json=ASK | {"stream": True})
    assert "[DONE]" in streamed.text
    for status, response in [*responses.items(), (200, streamed)]:
        assert response.status_code == status
        assert OWN_ID.fullmatch(response.headers["x-request-id"]), status
        check_headers(response)
    assert len({response.headers["x-request-id"] for response in responses.values()}) == len(responses)


@pytest.mark.parametrize("mine", ["a", "req-1:b_c.D", "x" * 128])
def test_a_clients_own_id_is_taken(client_of, mine):
    assert client_of().get("/health", headers={"x-request-id": mine}).headers["x-request-id"] == mine


@pytest.mark.parametrize("mine", ["", "x" * 129, "a b", "a\tb", "ä", 'a"', "a\n", "a\r\nset-cookie: x=1", "a/b"])
def test_an_id_that_could_be_mischief_is_not(client_of, mine):
    headers = [(b"x-request-id", mine.encode("latin-1"))]
    response = client_of().get("/health", headers=headers)
    assert OWN_ID.fullmatch(response.headers["x-request-id"])
    assert "set-cookie" not in response.headers


PATHS = [
    ("GET", "/v1/responses/x"), ("DELETE", "/v1/responses/x"), ("GET", "/v1/responses/x/input_items"),
    ("GET", "/"), ("POST", "/"), ("POST", COMPLETIONS), ("POST", "/v1/completions"), ("POST", "/v1/responses"),
    ("GET", "/v1/models"), ("GET", "/v1/models/tiny"), ("POST", "/v1/adapters"), ("DELETE", "/v1/adapters/x"),
    ("POST", "/tokenize"), ("POST", "/detokenize"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/nothing"),
    ("GET", "//health"), ("GET", "/health%2f.."), ("OPTIONS", "/"),
]  # fmt: skip


@pytest.mark.parametrize("authorization", ["", "Bearer wrong-secret", "Basic d3Jvbmc6c2VjcmV0"])
def test_without_a_key_nothing_but_health_and_readiness(client_of, authorization):
    client = client_of(keys=KEYS)
    headers = {"authorization": authorization} if authorization else {}
    for method, path in PATHS:
        refused = client.request(method, path, headers=headers)
        assert code_of(refused, 401) == "invalid_api_key", path
        assert refused.json()["error"]["type"] == "authentication_error"
        assert refused.headers["www-authenticate"] == "Bearer"
    assert (
        client.get("/health", headers=headers).status_code == client.get("/ready", headers=headers).status_code == 200
    )
    page = client.get("/", headers={**headers, "accept": "text/html,*/*"})
    assert page.headers["www-authenticate"] == 'Basic realm="Arriero", charset="UTF-8"'
    assert client.app.state.service.admission.running == 0
    assert client.post(COMPLETIONS, json=ASK, headers=ANNA).status_code == 200
    assert client.get("/v1/models", headers={"authorization": "Bearer admin-secret"}).status_code == 200


def test_openais_client_knows_a_wrong_key(serve, scripted_chat):
    chat = scripted_chat("hello")
    served = serve(chat=chat, app=create_app(chat, keys=KEYS))
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="wrong-secret", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.chat.completions.create(**ASK)
        assert caught.value.code == "invalid_api_key"
        right = client.with_options(api_key="anna-secret").chat.completions.create(**ASK)
        assert right.choices[0].message.content == "hello"


def test_a_browsers_password_becomes_a_cookie(client_of):
    client = client_of(keys=KEYS)
    basic = {"authorization": "Basic " + base64.b64encode(b"me:anna-secret").decode()}
    assert COOKIE in client.get("/v1/models", headers=basic).headers["set-cookie"]
    assert client.get("/v1/models").status_code == 200, "now by the cookie"
    client.cookies.clear()
    assert "set-cookie" not in client.get("/v1/models", headers=ANNA).headers
    secure = TestClient(client.app, base_url="https://testserver").get("/v1/models", headers=basic)
    assert secure.headers["set-cookie"].endswith("; Secure")


def test_a_page_of_another_site_is_kept_out(client_of):
    client = client_of(host="127.0.0.1:6006")
    for origin in ("http://elsewhere.invalid", "null", "http://127.0.0.1:6007", "https://127.0.0.1", "http://[", "x"):
        for method, path in (
            ("POST", COMPLETIONS),
            ("GET", "/v1/models"),
            ("GET", "/health"),
            ("OPTIONS", COMPLETIONS),
        ):
            refused = client.request(method, path, headers={"origin": origin}, json=ASK)
            assert code_of(refused, 403) == "origin_not_allowed"
            assert refused.json()["error"]["type"] == "permission_error"
            assert "access-control-allow-origin" not in refused.headers
    own = client.post(COMPLETIONS, json=ASK, headers={"origin": "http://127.0.0.1:6006"})
    assert own.status_code == 200
    assert "access-control-allow-origin" not in own.headers
    assert len(client.app.state.service.models.default.chat.engine.asked) == 1


@pytest.mark.parametrize("origins", [["https://site.example"], ["*"]])
def test_an_allowed_site_may_ask_and_read_also_what_was_refused(client_of, origins):
    client = client_of(keys=KEYS, origins=origins, limits=Limits(max_body=2000))
    origin = {"origin": "https://site.example"}
    preflight = {**origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    allowed = client.options(COMPLETIONS, headers=preflight)  # without a key: browsers send none with it
    assert allowed.status_code == 200
    assert "POST" in allowed.headers["access-control-allow-methods"]
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    requests = {
        200: client.post(COMPLETIONS, json=ASK, headers={**origin, **ANNA}),
        401: client.post(COMPLETIONS, json=ASK, headers=origin),
        413: client.post(COMPLETIONS, content=b" " * 2001, headers={**origin, **ANNA}),
        400: client.post(COMPLETIONS, content=b"{", headers={**origin, **ANNA}),
    }
    for status, response in [*requests.items(), (200, allowed)]:
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] in (origins[0], "https://site.example")
        assert "access-control-allow-credentials" not in response.headers
    assert "x-request-id" in requests[401].headers["access-control-expose-headers"]
    if origins != ["*"]:
        assert client.options(COMPLETIONS, headers={**preflight, "origin": "https://other.example"}).status_code == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("LocalHost:6006", 200), ("127.0.0.1:80", 200), ("[::1]:6006", 200), ("[::1]", 200),
     ("rebound.invalid", 403), ("localhost.rebound.invalid:6006", 403), ("", 403), ("rebound.invalid:x", 403)],
)  # fmt: skip
def test_a_name_that_is_not_this_servers(client_of, host, status):
    client = client_of(hosts=("localhost", "127.0.0.1", "[::1]"))
    response = client.get("/v1/models", headers={"host": host})
    assert response.status_code == status
    if status == 403:
        assert code_of(response, 403) == "unknown_host"


def test_websockets_of_other_sites_and_without_key_are_refused(client_of):
    client = client_of(keys=KEYS, host="127.0.0.1:6006")

    @client.app.websocket("/_stcore/stream")
    async def stream(websocket: WebSocket):
        await websocket.accept()
        await websocket.send_text("come in")

    def opened(**headers: str) -> str:
        with client.websocket_connect("ws://127.0.0.1:6006/_stcore/stream", headers=headers) as socket:
            return socket.receive_text()

    assert opened(**ANNA) == "come in"
    cookie = KEYS.cookie(Caller("anna"), secure=False).partition(";")[0]
    assert opened(cookie=cookie, origin="http://127.0.0.1:6006") == "come in"
    for headers in ({}, {"cookie": f"{COOKIE}=wrong"}, {"cookie": cookie, "origin": "http://elsewhere.invalid"}):
        with pytest.raises(WebSocketDisconnect) as caught:
            opened(**headers)
        assert caught.value.code == 1008


def test_a_body_that_is_too_long_by_its_length_or_while_it_comes(client_of):
    client = client_of(limits=Limits(max_body=500))
    whole = json.dumps(ASK).encode()
    exact = whole + b" " * (500 - len(whole))
    assert client.post(COMPLETIONS, content=exact).status_code == 200
    for content in (exact + b" ", iter([exact, b" "])):
        refused = client.post(COMPLETIONS, content=content)
        assert code_of(refused, 413) == "request_too_large"
        assert "500 bytes" in refused.json()["error"]["message"]
    assert counted(client, "arriero_requests_rejected_total", reason="request_too_large") == 2


def test_a_chunked_body_over_a_real_socket(serve, scripted_chat):
    chat = scripted_chat("hello")
    served = serve(chat=chat, app=create_app(chat, limits=Limits(max_body=100_000)))
    pieces = (b" " * 10_000 for _ in range(1000))
    assert code_of(httpx.post(served.url + COMPLETIONS, content=pieces), 413) == "request_too_large"
    assert httpx.post(served.url + COMPLETIONS, json=ASK).status_code == 200
    assert served.raised == []


def test_rates_are_counted_for_each_key_or_each_address(client_of):
    client = client_of(keys=KEYS, limits=Limits(requests_per_minute=2))
    bert = {"authorization": "Bearer bert-secret"}
    assert [client.post(COMPLETIONS, json=ASK, headers=ANNA).status_code for _ in range(2)] == [200, 200]
    refused = client.post(COMPLETIONS, json=ASK, headers=ANNA)
    assert code_of(refused, 429) == "rate_limit_exceeded"
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert client.get("/v1/models", headers=ANNA).status_code == 200, "looking is free"
    assert client.post(COMPLETIONS, json=ASK, headers=bert).status_code == 200
    assert counted(client, "arriero_requests_rejected_total", reason="rate_limit_exceeded") == 1
    open_app = client_of(limits=Limits(requests_per_minute=1)).app
    for address in ("10.0.0.1", "10.0.0.2"):
        visitor = TestClient(open_app, client=(address, 1234))
        assert [visitor.post(COMPLETIONS, json=ASK).status_code for _ in range(2)] == [200, 429]
