"""A real cluster that asks for no token, of a user who has one: Ray lets him in, Arriero does not use it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile

import pytest

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(250)]


@pytest.fixture(scope="module")
def address():
    """That of a head node without authentication; its sockets' paths have to be short."""
    directory = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=1"]
    command += ["--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false"]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": directory, "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as head:
        said = []
        for line in head.stdout:
            said.append(line)
            if "Ray runtime started" in line:
                break
        else:
            pytest.fail("".join(said))
        yield f"127.0.0.1:{port}"
        head.terminate()  # its processes end with it
        head.communicate(timeout=60)
    shutil.rmtree(directory, ignore_errors=True)


def arriero(*arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["RAY_AUTH_TOKEN"] = "a" * 64
    command = [sys.executable, "-m", "arriero.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_doctor_says_that_anybody_may_run_code_there(address):
    done = arriero("doctor", "--ray", address, "--json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)["ray"]
    assert [node["token"] for node in report["nodes"]] == [False]
    assert ["takes work from anybody" in wrong["what"] for wrong in report["wrong"]] == [True]


@pytest.mark.parametrize("verb", ["serve", "train"])
def test_it_is_not_used(address, verb, model_dir, rows_file, tmp_path):
    if verb == "serve":
        done = arriero("serve", "--model", str(model_dir), "--ray", address, "--port", "0")
    else:
        output = ["--output", str(tmp_path / "run"), "--storage", str(tmp_path / "storage")]
        done = arriero("train", str(rows_file), "--model", str(model_dir), "--ray", address, *output)
    assert done.returncode == 5, done.stderr
    assert "no token is asked for on " in done.stderr
    assert "ray get-auth-token --generate" in done.stderr
    assert list(tmp_path.iterdir()) == []
