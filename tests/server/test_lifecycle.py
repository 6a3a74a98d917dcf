"""The life of `arriero serve`: it loads, is ready, drains and ends, in a process with real signals."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from arriero.errors import ArrieroError
from arriero.server import create_app
from arriero.server.lifecycle import listen, run
from tests.cli.served import Program

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
COMPLETIONS = "/v1/chat/completions"
BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@pytest.fixture
def program(tmp_path, model_dir) -> Iterator[Callable[..., Program]]:
    """Start `arriero serve` over a scripted chat: `program("--log-json", gate=2)`."""
    started: list[Program] = []

    def start(*arguments: str, **options) -> Program:
        started.append(Program(tmp_path, model_dir, *arguments, **options))
        return started[-1]

    yield start
    for each in started:
        each.kill()


def refusal(response: httpx.Response) -> str:
    """The code of a 503, which says when to come again."""
    assert response.status_code == 503, response.text
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["error"]["type"] == "server_error"
    return response.json()["error"]["code"]


@BOTH
def test_it_says_that_it_loads_then_answers_then_ends_by_the_signal(program, number):
    served = program(held=True)
    with httpx.Client(base_url=served.url) as client:
        assert client.get("/health").json() == {"status": "ok"}
        loading = client.get("/ready")
        assert (loading.status_code, loading.json()) == (503, {"status": "loading"})
        assert refusal(client.post(COMPLETIONS, json=ASK)) == "loading"
        page = client.get("/")
        assert (page.status_code, "being loaded" in page.text) == (503, True)
        served.load.set()
        assert served.ready() == served.url
        assert client.get("/ready").json() == {"status": "ready"}
        assert client.post("/", json={"prompt": "hi"}).json()["response"] == "hello"
    served.signal(number)
    code, said = served.end()
    assert code == -number
    assert said.endswith("stopped")
    assert "Traceback" not in said


@BOTH
def test_it_ends_at_once_while_it_loads(program, number):
    served = program(held=True)
    assert httpx.get(f"{served.url}/health").status_code == 200
    served.signal(number)
    code, said = served.end()
    assert not served.load.is_set(), "the loader is still at work"
    assert code == -number
    assert said.endswith("stopped")
    assert "Traceback" not in said


def test_a_model_that_cannot_be_loaded_ends_it_with_the_errors_exit_code(program):
    code, said = program("--model", "none").end()
    assert code == 4
    assert said.endswith("error: no model is called 'none'\n  try: arriero models")
    assert "Traceback" not in said


def test_a_server_that_cannot_start_leaves_its_port(tmp_path):
    """The listener stayed open: clients' connections were taken, and waited for nobody."""
    (tmp_path / "server.pem").write_text("no certificate")
    listener = listen("127.0.0.1", 0)
    ended = threading.Event()
    with pytest.raises(ssl.SSLError):
        run(create_app(None), listener, ended.wait, print, tls=(tmp_path / "server.pem", None))
    assert listener.fileno() == -1
    ended.set()


def test_a_failing_lifespan_is_an_error_of_its_own():
    """Uvicorn exits with 3 there, "partly done" among our codes; older ones returned, as if all was well."""
    app = create_app(None)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        raise OSError("no space left")
        yield

    app.router.lifespan_context = lifespan
    listener, ended = listen("127.0.0.1", 0), threading.Event()
    with pytest.raises(ArrieroError, match="the server could not start") as raised:
        run(app, listener, ended.wait, print)
    assert (raised.value.exit_code, listener.fileno()) == (1, -1)
    ended.set()


class Asking(threading.Thread):
    """A request in a thread; `answer` is what came of it, `begun` is set with the first chunk of a stream."""

    def __init__(self, url: str, **options) -> None:
        super().__init__()
        self.url, self.options = url + COMPLETIONS, options
        self.begun = threading.Event()
        self.text, self.status = "", 0
        self.start()

    def run(self) -> None:
        with httpx.stream("POST", self.url, json=ASK | self.options, timeout=60) as response:
            self.status = response.status_code
            for text in response.iter_text():
                self.text += text
                self.begun.set()

    def done(self) -> str:
        """The whole body."""
        self.join(60)
        assert not self.is_alive()
        return self.text


def test_what_is_in_flight_is_finished_and_nothing_new_is_begun(program):
    served = program("--log-json", gate=2)
    url = served.ready()
    asking = Asking(url, stream=True)
    assert asking.begun.wait(60)
    served.signal(signal.SIGTERM)
    served.wait_for("finishing 1 answers")
    ready = httpx.get(f"{url}/ready")
    assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
    assert httpx.get(f"{url}/health").status_code == 200
    for path, body in ((COMPLETIONS, ASK), ("/", {"prompt": "hi"}), ("/tokenize", {"prompt": "hi"})):
        assert refusal(httpx.post(url + path, json=body)) == "draining"
    served.release.set()
    chunks = [event.removeprefix("data: ") for event in asking.done().split("\n\n")]
    assert chunks[-2:] == ["[DONE]", ""]
    choices = [json.loads(chunk)["choices"][0] for chunk in chunks[:-2]]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "hello"
    assert choices[-1]["finish_reason"] == "stop"
    code, said = served.end()
    assert code == -signal.SIGTERM
    lines = [json.loads(line) for line in said.splitlines()]  # all of them are JSON
    asked = [line for line in lines if line["message"] == "request" and line["method"] == "POST"]
    assert [(line["status"], line.get("refused")) for line in asked] == [(503, "draining")] * 3 + [(200, None)]
    assert asked[-1]["finish_reasons"] == ["stop"]
    assert "/health" not in said, "probes are not worth a line"


@pytest.mark.parametrize("patience", ["0.1", "600"])
def test_what_takes_too_long_is_broken_off_with_an_error(program, patience):
    served = program("--drain-seconds", patience, "--max-running", "2", gate=2)
    url = served.ready()
    streamed = Asking(url, stream=True)
    assert streamed.begun.wait(60)
    whole, waiting = Asking(url), Asking(url)
    with httpx.Client(base_url=url) as client:
        while "arriero_requests_waiting 1.0" not in client.get("/metrics").text:
            pass
    served.signal(signal.SIGTERM)
    if patience == "600":
        served.wait_for("finishing 2 answers")
        served.signal(signal.SIGTERM)  # a second one hurries
    served.wait_for("breaking off 2 answers")
    served.release.set()  # the engine looks up and sees that it need not go on
    *_, error, done, rest = streamed.done().split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "broken_off"
    assert (done, rest) == ("data: [DONE]", "")
    codes = {json.loads(asking.done())["error"]["code"] for asking in (whole, waiting)}
    assert (codes, whole.status, waiting.status) == ({"broken_off", "draining"}, 503, 503)
    code, said = served.end()
    assert code == -signal.SIGTERM
    assert "finish_reasons=cancelled" in said
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    """A certificate of our own for localhost, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl program on this machine")
    directory = tmp_path_factory.mktemp("tls")
    files = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-out", files[0], "-keyout", files[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    return files


def test_https(program, certificate):
    file, key = map(str, certificate)
    served = program("--host", "localhost", "--tls-certfile", file, "--tls-keyfile", key)
    url = served.ready()
    assert url.startswith("https://localhost:")
    context = ssl.create_default_context(cafile=file)
    assert httpx.post(url, json={"prompt": "hi"}, verify=context).json()["response"] == "hello"
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(url)


@pytest.mark.slow  # uvicorn waits its five seconds for the half request
def test_a_connection_that_says_nothing_does_not_keep_it_from_ending(program):
    served = program()
    url = httpx.URL(served.ready())
    with (
        socket.create_connection((url.host, url.port)) as silent,
        socket.create_connection((url.host, url.port)) as half,
    ):
        half.sendall(b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100\r\n\r\n{")
        assert httpx.get(f"{url}/health").status_code == 200
        served.signal(signal.SIGTERM)
        code, _ = served.end()
        assert (code, silent.recv(1)) == (-signal.SIGTERM, b"")


def test_a_response_outlives_a_killed_server_and_is_never_made_with_no_store(program):
    def ask(served: Program) -> dict:
        return httpx.post(f"{served.ready()}/v1/responses", json={"input": "hi"}).json()

    served = program()
    first = ask(served)
    served.signal(signal.SIGKILL)
    assert served.end()[0] == -signal.SIGKILL
    assert httpx.get(f"{program().ready()}/v1/responses/{first['id']}").json() == first
    without = program("--no-store")
    assert (first["store"], ask(without)["store"]) == (True, False)
    refused = httpx.get(f"{without.url}/v1/responses/{first['id']}")
    assert (refused.status_code, "--no-store" in refused.text) == (404, True)
