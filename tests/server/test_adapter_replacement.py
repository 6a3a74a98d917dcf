"""Replacing an adapter under its name while requests run, wait and a page is open: weights and prompt stay together.

Once requests held a name that the engine looked up when they reached it, so that those which had waited computed with
the new weights under the old prompt.
"""

from __future__ import annotations

import functools
import gc
import json
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from arriero.chat import load
from arriero.messages import Sampling
from arriero.server.admission import Limits
from arriero.server.app import create_app
from arriero.server.auth import Keys
from arriero.server.models import Models
from tests.conftest import train_tiny
from tests.server.conftest import Served
from tests.web.asking import Visit

HELLO = [{"role": "user", "content": "who 3?"}]
ADMIN = {"authorization": "Bearer admin-key-1"}
GREEDY = Sampling(temperature=0.0, max_new_tokens=40)


@pytest.fixture(scope="module")
def runs(rows_file, model_dir, tmp_path_factory):
    """Two runs whose directories have the same name, of other weights and another system prompt each."""
    root = tmp_path_factory.mktemp("runs")
    train_tiny(rows_file, model_dir, root / "a" / "best")
    train_tiny(rows_file, model_dir, root / "b" / "best", system="You are Ana, and brief.", seed=5)
    return {"a": root / "a" / "best", "b": root / "b" / "best"}


@pytest.fixture(scope="module")
def fresh(runs, model_dir):
    """What a process that knows one adapter only, or none, answers: `fresh("transformers", "a")`."""

    @functools.cache
    def answer(engine, adapter):
        command = [sys.executable, "-m", "arriero.cli", "ask", HELLO[0]["content"], "--json", "--engine", engine]
        command += ["--model", model_dir, "--precision", "float32", "--temperature", "0", "--max-new-tokens", "40"]
        if adapter is not None:
            command += ["--adapter", runs[adapter]]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)["text"]

    return answer


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["transformers", "openvino"])
def test_two_directories_of_the_same_last_name(runs, fresh, model_dir, engine):
    """`with_adapter` of the second once gave the first its weights."""
    base = load(model_dir, engine=engine, precision="float32")
    chats = {"a": base.with_adapter(runs["a"]), "b": base.with_adapter(runs["b"]), None: base}
    assert len({fresh(engine, who) for who in chats}) == 3
    try:
        for who in ("a", "b", "a", None, "b", None, "a"):
            assert chats[who].complete(HELLO, GREEDY).text == fresh(engine, who), who
        at_once = [(who, chats[who].stream(HELLO, GREEDY)) for who in ("a", None, "b", "b", None, "a") * 3]
        for who, stream in at_once:
            assert "".join(piece.text for piece in stream) == fresh(engine, who), who
    finally:
        base.close()


class Gate:
    """Holds the model back before its first call until something is queued behind it, and before its third until
    `replaced` is set."""

    def __init__(self, chat):
        self.reached, self.queued, self.replaced = threading.Event(), threading.Event(), threading.Event()
        self._calls = 0
        chat.engine._thread.scheduler._forward._model.register_forward_pre_hook(self._hold)

    def _hold(self, *_):
        self._calls += 1
        if self._calls == 1:
            self.reached.set()
            self.queued.wait(60)
        elif self._calls == 3:  # the second is of the same step, and commands are obeyed between steps
            self.replaced.wait(60)


@pytest.fixture
def served(runs, model_dir):
    """A server of one slot that answers as "mine" with run a, on the transformers engine."""
    app = create_app(None, limits=Limits(max_running=1), keys=Keys({"me": "key-1"}, "admin-key-1"))
    server = Served(load(model_dir, adapter=runs["a"], engine="transformers", precision="float32"), app)
    app.service.open(Models(server.chat, name="mine"))  # this fixture itself holds no adapter
    yield server, app.service
    server.stop()


@pytest.mark.slow
def test_what_runs_and_what_waits_keep_their_adapter_and_what_comes_after_gets_the_new_one(
    served, runs, fresh, tmp_path
):
    server, service = served
    expected, gate = {who: fresh("transformers", who) for who in "ab"}, Gate(server.chat)
    with ThreadPoolExecutor() as threads, httpx.Client(base_url=server.url, headers=ADMIN, timeout=60) as client:

        def ask():
            body = {"model": "mine", "messages": HELLO, "temperature": 0, "max_tokens": 40}
            answer = client.post("/v1/chat/completions", json=body).json()
            return answer["choices"][0]["message"]["content"]

        def until(line):
            while line not in client.get("/metrics").text:  # the test's own time limit ends this
                pass

        running = threads.submit(ask)
        assert gate.reached.wait(30)
        waiting = [threads.submit(ask) for _ in range(2)]
        until("arriero_requests_waiting 2.0")
        page = Visit(tmp_path / "file", lambda: [("mine", service.admitted(service.models.default.chat))])
        answer = page.ask(HELLO[0]["content"], GREEDY, "mine")
        until("arriero_requests_waiting 3.0")
        change = threads.submit(client.post, "/v1/adapters", json={"name": "mine", "path": str(runs["b"])})
        while server.chat.engine._thread._commands.empty():
            client.get("/health")
        gate.queued.set()
        assert change.result(60).status_code == 200
        gate.replaced.set()
        after = threads.submit(ask)
        assert [each.result(60) for each in (running, *waiting)] == [expected["a"]] * 3
        assert after.result(60) == expected["b"]
        assert answer.ended.wait(60)
        assert answer.text == expected["a"]
        answer = page.ask(HELLO[0]["content"], GREEDY, "mine")
        assert answer.ended.wait(60)
        assert answer.text == expected["b"]
        assert page.backend.choices()[0].system == "You are Ana, and brief."
        page.close()


def test_the_last_holder_frees_an_adapter(served, runs):
    server, service = served
    models, engine = service.models, server.chat.engine
    assert httpx.get(f"{server.url}/health").status_code == 200
    page = service.admitted(models.default.chat)
    said = page.complete(HELLO, GREEDY).text
    server.chat = models.find(server.chat.model).chat  # which holds no adapter
    models.load("mine", runs["b"])
    gc.collect()
    assert sorted(each.directory.parent.name for each in engine._handles) == ["a", "b"], "the page still has it"
    assert page.complete(HELLO, GREEDY).text == said != models.default.chat.complete(HELLO, GREEDY).text
    del page
    while [each.directory.parent.name for each in engine._handles] != ["b"]:  # the test's own time limit ends this
        httpx.get(f"{server.url}/health")  # the threads that worked on the answer let go of it a moment later
        gc.collect()


def test_an_adapter_cannot_have_the_base_models_name(served, runs, model_dir):
    """It once disappeared behind the base model."""
    server, _ = served
    with httpx.Client(base_url=server.url, headers=ADMIN) as client:
        refused = client.post("/v1/adapters", json={"name": model_dir.name, "path": str(runs["b"])})
        assert (refused.status_code, refused.json()["error"]["param"]) == (409, "name")
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["mine", model_dir.name]


@pytest.mark.slow
def test_serve_calls_no_adapter_as_the_base_model(runs, model_dir, tmp_path):
    named = shutil.copytree(runs["a"], tmp_path / model_dir.name)
    command = [sys.executable, "-m", "arriero.cli", "serve", "--port", "0", "--model", model_dir, "--adapter", named]
    command += ["--engine", "transformers"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 2, done.stderr
    assert f"'{model_dir.name}' is the base model, so no adapter can be called that" in done.stderr
