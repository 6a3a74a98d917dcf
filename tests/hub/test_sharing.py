"""Several processes and one model: real downloads, real kills, and directories that are whole or absent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback

import pytest

from arriero import hub
from arriero.hub import store
from tests.conftest import ROWS
from tests.hub.hubs import LoopbackHub, clients_at

DOWNLOAD = ["download", "owner/name", "--source"]
# The first one waits for its file until the second one has started, which may take longer than the clients' 10 seconds.
PATIENT = {"HF_HUB_DOWNLOAD_TIMEOUT": "100", "MODELSCOPE_DOWNLOAD_TIMEOUT": "100"}
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


@pytest.fixture
def hub_server(model_dir):
    server = LoopbackHub(model_dir)
    yield server
    server.gate.set()
    server.close()


def start(tmp_path, url, *arguments):
    command = [sys.executable, "-m", "arriero.cli", *arguments, "--json"]
    environment = {**clients_at(url, tmp_path), **PATIENT}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def line_with(stream, words):
    """Read on to the line that has these words."""
    return next(line for line in stream if words in line)


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ([*DOWNLOAD, "huggingface"], "models/owner--name"),
        ([*DOWNLOAD, "modelscope"], "models/owner--name"),
        pytest.param(
            ["inspect", "owner/name", "--model", "{model_dir}"],
            "datasets/huggingface/owner--name",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_of_two_processes_one_fetches_and_the_other_waits_for_it(hub_server, tmp_path, model_dir, arguments, kept):
    """Both wrote into one directory, and the second to finish deleted what the first had just put in place."""
    if "inspect" in arguments:
        hub_server.files = {"train.json": json.dumps(ROWS).encode()}
    arguments = [argument.format(model_dir=model_dir) for argument in arguments]
    hub_server.gate.clear()
    first = start(tmp_path, hub_server.url, *arguments)
    assert hub_server.reached.wait(60)
    second = start(tmp_path, hub_server.url, *arguments)
    assert f"waiting for process {first.pid} (" in line_with(second.stderr, "waiting")
    hub_server.gate.set()
    for process in (first, second):
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert json.loads(output)
    assert sorted(hub_server.served) == sorted(hub_server.files), "each file once"
    kept = tmp_path / "home" / kept
    assert list(kept.parent.iterdir()) == [kept], "no locks and no halves are left"


def test_a_killed_download_leaves_its_place_to_the_one_that_waits(hub_server, tmp_path):
    hub_server.gate.clear()
    first = start(tmp_path, hub_server.url, *DOWNLOAD, "huggingface")
    assert hub_server.reached.wait(60)
    second = start(tmp_path, hub_server.url, *DOWNLOAD, "huggingface")
    line_with(second.stderr, "waiting for process")
    first.kill()
    first.communicate()
    hub_server.gate.set()
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 0, errors
    assert [path.name for path in (tmp_path / "home" / "models").iterdir()] == ["owner--name"]


def made(target, revision):
    """A finished directory, whose config says which revision it is."""
    target.mkdir(parents=True)
    (target / "config.json").write_text(json.dumps({"revision": revision}))
    return store.write_manifest(target, name="tiny", source="huggingface", revision=revision)


def killed_at(number, act):
    """Whether a forked process that acts was killed, at its n-th operation on files."""
    process = os.fork()
    if process == 0:
        seen = 0

        def watch(event, arguments):
            nonlocal seen
            if event in EVENTS:
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            act()
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    status = os.waitpid(process, 0)[1]
    assert status == 0 or os.WIFSIGNALED(status)
    return status != 0


def test_a_directory_is_replaced_whole_whenever_the_process_is_killed(home):
    """It was deleted before its successor moved in, so that a crash in between lost both."""
    target = home / "models" / "tiny"
    made(target, "old")
    number, revisions = 1, []
    fresh = store.partial(target)

    def replace():
        with store.reserved(target):
            store.replace(fresh, target)

    while True:
        if not fresh.exists():
            made(fresh, "new")
        was_killed = killed_at(number, replace)
        (found,) = hub.models()
        assert (found, store.verify(found)) == (store.find("tiny"), [])
        assert json.loads((target / "config.json").read_text())["revision"] == found.revision
        assert hub.resolve("tiny") == target
        revisions.append(found.revision)
        if not was_killed:
            break
        number += 1
    assert {"old", "new"} == set(revisions), "killed before and after"
    assert [path.name for path in target.parent.iterdir() if path.name.endswith(("replaced", "partial"))] == []
