"""`arriero serve --ray local --replicas 2` with the embedded model, asked by OpenAI's own client, until it is ended."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import jsonschema
import openai
import psutil
import pytest

from tests.conftest import train_tiny

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.model, pytest.mark.timeout(250)]
MODEL, ADMIN_KEY, TOKEN = "smollm2-135m-instruct", secrets.token_hex(16), secrets.token_hex(32)
STORY = {"messages": [{"role": "user", "content": "Tell me a long story about 3 llamas."}], "temperature": 0}
TOKENS = 24  # which the story is longer than
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


class Server(SimpleNamespace):
    """A running one: `process`, `url`, `client`, and what it has `said` on standard error."""

    def processes(self) -> list[psutil.Process]:
        """It and all that it has started, Ray's included."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]


@pytest.fixture(scope="module")
def server(session_home: Path, embedded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    keys = tmp_path_factory.mktemp("keys") / "admin"
    keys.write_text(ADMIN_KEY)
    keys.chmod(0o600)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-m", "arriero.cli", "serve", "--model", MODEL, "--port", "0", "--ray", "local"]
    command += ["--replicas", "2", "--admin-key-file", str(keys)]
    with subprocess.Popen(
        command, env={**environment, "RAY_AUTH_TOKEN": TOKEN}, stderr=subprocess.PIPE, text=True
    ) as process:
        said: list[str] = []
        try:
            for line in process.stderr:
                said.append(line)
                if serving := re.search(r"serving .* at (http://[^ ,]+)", line):
                    break
            else:
                pytest.fail("".join(said))
            reader = threading.Thread(target=lambda: said.extend(process.stderr))
            reader.start()
            client = openai.OpenAI(base_url=f"{serving[1]}/v1", api_key="none", max_retries=0)
            yield Server(process=process, url=serving[1], client=client, said=said, reader=reader)
        finally:
            process.terminate()
        reader.join()


def ask(server: Server, **options):
    return server.client.chat.completions.create(**{"model": MODEL, "max_tokens": TOKENS, **STORY, **options})


def ask_at_once(server: Server, count: int, **options):
    """As many at the same time: both replicas have some."""
    with ThreadPoolExecutor(count) as pool:
        return [each.result() for each in [pool.submit(ask, server, **options) for _ in range(count)]]


def test_every_other_door_than_the_server_s_own_is_ray_s_and_asks_for_the_token(server, tmp_path):
    """No proxy of Serve's and no dashboard; without the token nothing listens to what would run code there."""
    titles = [" ".join(process.cmdline()) for process in server.processes()]
    assert sum("ServeReplica" in title for title in titles) == 2
    assert not [title for title in titles if "Proxy" in title]
    own = httpx.URL(server.url).port
    others = [address for address in _listening(server) if address[1] != own]
    assert others
    assert 8265 not in {port for _, port in others}, "the dashboard's"
    said = {address: _http_answer(*address) for address in others}
    assert set(said.values()) <= {"no HTTP", "401", "figures for Prometheus"}, said
    file = tmp_path / "made"
    assert not [address for address in others if _runs_code(*address, file, token="")]
    obeying = [address for address in others if _runs_code(*address, file, token=TOKEN)]
    assert len(obeying) == 2, "one of each replica's ports takes this code: else this test tries nothing"


def _http_answer(host: str, port: int) -> str:
    try:
        answer = httpx.get(f"http://{_reachable(host)}:{port}/api/version", timeout=10)
    except httpx.HTTPError:
        return "no HTTP"
    prometheus = answer.headers.get("content-type", "").startswith("text/plain; version=")
    return "figures for Prometheus" if prometheus and answer.status_code == 200 else str(answer.status_code)


class _Touch:
    """Makes a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self):
        return Path.touch, (self._file,)


def _runs_code(host: str, port: int, file: Path, *, token: str) -> bool:
    """Whether a pickle, sent as Serve's routers send requests to replicas, is unpickled there."""
    import grpc
    from ray.serve.generated.serve_pb2 import ASGIRequest
    from ray.serve.generated.serve_pb2_grpc import ASGIServiceStub

    request = ASGIRequest(pickled_request_metadata=pickle.dumps(_Touch(file)))
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(f"{_reachable(host)}:{port}") as channel, contextlib.suppress(grpc.RpcError):
        ASGIServiceStub(channel).HandleRequest(request, metadata=metadata, timeout=10)
    ran = file.exists()
    file.unlink(missing_ok=True)
    return ran


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host


def _listening(server: Server) -> list[tuple[str, int]]:
    """The addresses on which the server or any process of Ray's listens."""
    return [
        (connection.laddr.ip, connection.laddr.port)
        for process in server.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]


def test_a_demanded_call_and_a_schema_are_kept_by_every_replica(server):
    function = {"name": "forecast", "description": "The weather of days to come.", "parameters": WEATHER}
    tools = {"tools": [{"type": "function", "function": function}], "max_tokens": 100}
    demanded = {"tool_choice": {"type": "function", "function": {"name": "forecast"}}}
    for answer in ask_at_once(server, 4, **tools, **demanded):
        [call] = answer.choices[0].message.tool_calls
        assert (call.function.name, answer.choices[0].finish_reason) == ("forecast", "tool_calls")
        jsonschema.validate(json.loads(call.function.arguments), WEATHER)
    schema = {"type": "json_schema", "json_schema": {"name": "weather", "schema": WEATHER, "strict": True}}
    for answer in ask_at_once(server, 4, response_format=schema, max_tokens=100):
        jsonschema.validate(json.loads(answer.choices[0].message.content), WEATHER)


def test_log_probabilities_are_there_for_every_token_and_the_first_is_the_one_chosen(server):
    for answer in ask_at_once(server, 4, logprobs=True, top_logprobs=2):
        tokens = answer.choices[0].logprobs.content
        assert len(tokens) == answer.usage.completion_tokens == TOKENS
        assert "".join(token.token for token in tokens) == answer.choices[0].message.content
        assert all((token.token, token.logprob) == (top.token, top.logprob) for token in tokens
                   for top in token.top_logprobs[:1])  # fmt: skip
        assert all(0 >= token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob for token in tokens)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_answer_before_it_and_the_work_too(server, stream):
    whole = ask(server).choices[0].message.content
    stop = whole[len(whole) // 2 :][:3]
    before = whole[: whole.index(stop)]
    if stream:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = list(ask(server, stop=[stop], **options))
        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        reason = [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1]
    else:
        answer = ask(server, stop=[stop])
        text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert (text, reason) == (before, "stop")


def test_an_adapter_is_added_for_every_replica_and_removed_while_the_server_runs(
    server, embedded_model, rows_file, tmp_path
):
    adapter = train_tiny(rows_file, embedded_model, tmp_path / "mine", epochs=1, batch_size=8)
    administrator = {"authorization": f"Bearer {ADMIN_KEY}"}
    base = ask(server).choices[0].message.content
    with httpx.Client(base_url=server.url, headers=administrator, timeout=120) as client:
        added = client.post("/v1/adapters", json={"name": "mine", "path": str(adapter)})
    assert added.status_code == 201, added.text
    texts = {each.choices[0].message.content for each in ask_at_once(server, 8, model="mine")}
    assert base not in texts
    assert ask(server).choices[0].message.content == base
    removed = httpx.delete(f"{server.url}/v1/adapters/mine", headers=administrator, timeout=120)
    assert removed.status_code == 200, removed.text
    with pytest.raises(openai.NotFoundError):
        ask(server, model="mine")


def test_metrics_count_what_the_replicas_answered(server):
    def tokens() -> float:
        lines = httpx.get(f"{server.url}/metrics").text
        counted = re.search(rf'^arriero_completion_tokens_total{{model="{MODEL}"}} (\S+)', lines, re.MULTILINE)
        assert "arriero_answers_running 0.0" in lines
        return float(counted[1])

    before = tokens()
    answers = ask_at_once(server, 6)
    assert tokens() - before == sum(answer.usage.completion_tokens for answer in answers) == 6 * TOKENS


def test_it_ends_when_its_streams_have_and_leaves_no_process(server):
    """The last one: it ends the server. The bug: Ray's handler of SIGTERM ended it at once, streams and all."""
    streams = [ask(server, stream=True, max_tokens=120) for _ in range(4)]
    begun = [next(stream) for stream in streams]
    assert all(chunk.choices for chunk in begun)
    processes = server.processes()
    server.process.send_signal(signal.SIGTERM)
    for stream in streams:
        assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "length"
    server.reader.join()
    assert server.process.wait() == -signal.SIGTERM, "".join(server.said)
    assert not psutil.wait_procs(processes, timeout=30)[1]
