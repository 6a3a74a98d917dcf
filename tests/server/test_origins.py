"""Which pages a browser lets at the server: those of this machine's own programs, where it listens for nobody else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import sync_playwright
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from arriero.cli.serve import AccessOptions
from arriero.server.auth import Keys
from arriero.server.origins import LOCAL, pattern_of
from tests.cli.served import Program
from tests.server.test_middleware import ASK, COMPLETIONS, code_of
from tests.web.browsing import CHROMIUM, FLAGS

MINE = [
    "http://localhost", "http://localhost:3000", "https://localhost:5173", "http://127.0.0.1:8080",
    "https://127.0.0.1", "http://0.0.0.0:8000", "http://[::1]:3000", "app://obsidian.md", "tauri://localhost",
    "vscode-webview://0c1h9", "vscode-file://vscode-app", "file://",
]  # fmt: skip
OTHERS = [
    "null", "https://site.example", "http://localhost.site.example", "http://site.example:3000",
    "https://localhost:3000.site.example", "http://127.0.0.1.site.example", "http://127.0.0.2:80",
    "http://notlocalhost:3000", "http://192.168.0.2:3000", "ftp://localhost:3000", "http://user@localhost:3000",
    "https://app", "chrome-extension://abc", "x",
]  # fmt: skip
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


@pytest.fixture
def program(tmp_path, model_dir) -> Iterator[Program]:
    """`arriero serve`, as it is started by who gives no options, with its page."""
    served = Program(tmp_path, model_dir, page=True)
    served.ready()
    yield served
    served.kill()


@pytest.mark.parametrize("origin", MINE)
def test_a_page_of_this_machine_may_ask_and_read(client_of, origin):
    """Refused until now: no web app under development and no editor's panel could use the server."""
    client = client_of(origins=LOCAL)
    preflight = client.options(COMPLETIONS, headers={"origin": origin, **PREFLIGHT})
    assert preflight.status_code == 200
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert preflight.headers["access-control-allow-headers"] == "authorization,content-type"
    answers = {
        200: client.post(COMPLETIONS, json=ASK, headers={"origin": origin}),
        400: client.post(COMPLETIONS, content=b"{", headers={"origin": origin}),
        404: client.get("/v1/models/none", headers={"origin": origin}),
    }
    for status, answer in [*answers.items(), (200, preflight)]:
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == origin
        assert "access-control-allow-credentials" not in answer.headers
        assert "origin" in answer.headers["vary"].lower()


@pytest.mark.parametrize("origin", OTHERS)
def test_every_other_page_stays_outside(client_of, origin):
    client = client_of(origins=LOCAL)
    for answer in (
        client.options(COMPLETIONS, headers={"origin": origin, **PREFLIGHT}),
        client.post(COMPLETIONS, json=ASK, headers={"origin": origin}),
        client.get("/v1/models", headers={"origin": origin}),
    ):
        assert code_of(answer, 403) == "origin_not_allowed"
        assert "access-control-allow-origin" not in answer.headers
    assert client.app.state.service.models.default.chat.engine.asked == []


def test_older_browsers_that_ask_about_private_networks_are_answered(client_of):
    headers = {"origin": "https://site.example", **PREFLIGHT, "access-control-request-private-network": "true"}
    response = client_of(origins=["https://site.example"]).options(COMPLETIONS, headers=headers)
    assert (response.status_code, response.headers["access-control-allow-private-network"]) == (200, "true")
    head = {**headers, "access-control-request-method": "HEAD"}
    assert client_of(origins=["https://site.example"]).options("/v1/models", headers=head).status_code == 200


def test_local_pages_only_where_every_local_program_may_do_everything():
    """With keys a page of another port would come with its visitor's cookie, which knows no ports."""
    nobodys, site = Keys({}), ("https://site.example",)
    for host in ("127.0.0.1", "localhost", "::1"):
        assert AccessOptions(host=host).origins(nobodys) == LOCAL
        for keys in (Keys({"anna": "anna-secret"}), Keys({}, "admin-secret")):
            assert AccessOptions(host=host).origins(keys) == ()
    assert AccessOptions(host="0.0.0.0").origins(nobodys) == ()
    assert AccessOptions(host="0.0.0.0", allow_origin=site).origins(nobodys) == site
    assert AccessOptions(allow_origin=site).origins(nobodys) == (*site, *LOCAL)


def test_without_options_it_is_so_and_with_keys_it_is_not(program, client_of):
    local = {"origin": "http://localhost:3000"}
    with httpx.Client(base_url=program.url) as client:
        assert client.options(COMPLETIONS, headers={**local, **PREFLIGHT}).status_code == 200
        response = client.get("/v1/models", headers=local)
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, local["origin"])
        rebound = client.get("/v1/models", headers={**local, "host": "rebound.invalid"})
        assert code_of(rebound, 403) == "unknown_host"
        assert code_of(client.get("/v1/models", headers={"origin": "null"}), 403) == "origin_not_allowed"
    keyed = client_of(keys=Keys({"anna": "anna-secret"}))
    assert code_of(keyed.get("/health", headers=local), 403) == "origin_not_allowed"


def test_the_pages_connection_is_for_the_page_alone(program):
    """Who holds it sees and steers a visitor's conversation: other local pages have the API."""
    path = f"{program.url.replace('http', 'ws')}/_stcore/stream"
    with connect(path, origin=program.url):
        pass
    with pytest.raises(InvalidStatus, match="403"), connect(path, origin="http://localhost:3000"):
        pass


@pytest.mark.parametrize(
    ("given", "origin", "same"),
    [
        ("https://*.site.example", "https://a.b.site.example", True),
        ("https://*.site.example", "https://site.example", False),
        ("https://*.site.example", "https://x.example/.site.example", False),
        ("https://site.example:*", "https://site.example", True),
        ("https://site.example:*", "https://site.example:8443", True),
        ("https://site.example:*", "https://site.example:8443.other.example", False),
        ("https://a.example", "https://axexample", False),
        ("chrome-extension://*", "chrome-extension://abc", True),
        ("*", "null", True),
    ],
)
def test_patterns(given, origin, same):
    assert bool(pattern_of([given]).fullmatch(origin)) is same


@given(st.sampled_from(LOCAL), st.text(st.sampled_from("aAzZ09.:-_@[]/ \n*"), max_size=20))
def test_no_name_beside_this_machines_own_fits(pattern, tail):
    """For http and https only digits may follow a loopback name, whatever else a header may hold."""
    origin = pattern.removesuffix("*") + tail
    if pattern.startswith("http") and pattern_of(LOCAL).fullmatch(origin):
        assert tail.isdecimal()


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("box.local:6006", "arriero serve --allow-host box.local"),
        ("a b", "--allow-host 'a b'"),
        ("$(x)", "--allow-host '$(x)'"),
    ],
)
def test_who_is_called_otherwise_learns_how_to_say_so(client_of, host, told):
    """The 403 named the fault and not the way out."""
    refused = client_of(hosts=("localhost",)).get("/v1/models", headers={"host": host})
    assert code_of(refused, 403) == "unknown_host"
    assert told in refused.json()["error"]["message"]


@pytest.mark.parametrize("origin", ["https://site.example", "chrome-extension://abc", "http://localhost:3000"])
def test_a_page_that_is_refused_learns_how_to_be_let_in(client_of, origin):
    refused = client_of().get("/v1/models", headers={"origin": origin})
    assert refused.json()["error"]["message"].endswith(f"arriero serve --allow-origin {origin}")


@pytest.mark.parametrize("origin", ["null", "x", "https://a.example/$(x)"])
def test_nothing_is_advised_for_what_is_no_origin(client_of, origin):
    refused = client_of().get("/v1/models", headers={"origin": origin})
    assert code_of(refused, 403) == "origin_not_allowed"
    assert "--allow-origin" not in refused.json()["error"]["message"]


class Page(BaseHTTPRequestHandler):
    """A blank page, of whatever name and port it is asked by."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


ASKING = """async url => {
  const headers = {"content-type": "application/json", "authorization": "Bearer none"};
  const body = JSON.stringify({model: "tiny", messages: [{role: "user", content: "hi"}]});
  try {
    const answer = await fetch(url + "/chat/completions", {method: "POST", headers, body});
    return [answer.status, (await answer.json()).choices[0].message.content];
  } catch (error) { return [error.name]; }
}"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")
def test_in_a_real_browser_local_pages_may_and_a_foreign_name_may_not(program):
    other = HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=other.serve_forever)
    thread.start()
    names = ["--host-resolver-rules=MAP site.example 127.0.0.1"]
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *names])
            tab = browser.new_page()
            results = {}
            for name in ("localhost", "127.0.0.1", "site.example"):
                tab.goto(f"http://{name}:{other.server_port}/")
                results[name] = tab.evaluate(ASKING, f"{program.url}/v1")
            sandboxed = "<iframe sandbox='allow-scripts' srcdoc='<p>'></iframe>"
            tab.goto(f"http://localhost:{other.server_port}/")
            tab.set_content(sandboxed)
            results["sandbox"] = tab.frames[1].evaluate(ASKING, f"{program.url}/v1")
            browser.close()
    finally:
        other.shutdown()
        thread.join()
        other.server_close()
    mine = [200, "hello"]
    assert results == {"localhost": mine, "127.0.0.1": mine, "site.example": ["TypeError"], "sandbox": ["TypeError"]}
