"""Data sets by name, through the real clients, in a process of their own, against a hub on loopback."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import ROWS
from tests.hub.hubs import LoopbackHub, clients_at


@pytest.fixture
def hub_server(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "loader.py").write_text("raise SystemExit")
    server = LoopbackHub(folder)
    yield server
    server.shutdown()


def inspect(tmp_path, url, name, model_dir):
    command = [sys.executable, "-m", "arriero.cli", "inspect", name, "--json", "--model", str(model_dir)]
    return subprocess.run(
        command, env=clients_at(url, tmp_path), capture_output=True, text=True, check=False, timeout=100
    )


@pytest.mark.parametrize("name", ["owner/name", pytest.param("modelscope:owner/name", marks=pytest.mark.slow)])
def test_a_data_set_is_fetched_once_and_read(hub_server, tmp_path, model_dir, name):
    done = inspect(tmp_path, hub_server.url, name, model_dir)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["files"], document["kept"]) == (["train.jsonl"], len(ROWS))
    assert not list((tmp_path / "home" / "datasets").rglob("*.py")), "no code is fetched"
    again = inspect(tmp_path, "http://127.0.0.1:9", name, model_dir)
    assert json.loads(again.stdout)["kept"] == len(ROWS), again.stderr


@pytest.mark.parametrize("name", ["owner/name", pytest.param("modelscope:owner/name", marks=pytest.mark.slow)])
def test_a_repository_without_data_is_not_taken_for_a_data_set(hub_server, tmp_path, model_dir, name):
    """It was kept as an empty directory, and no later try fetched again."""
    data = hub_server.files.pop("train.jsonl")
    done = inspect(tmp_path, hub_server.url, name, model_dir)
    assert done.returncode == 1, done.stderr
    assert "has no .json" in done.stderr
    hub_server.files["train.jsonl"] = data
    assert inspect(tmp_path, hub_server.url, name, model_dir).returncode == 0


@pytest.mark.parametrize("name", ["nobody/nothing", "modelscope:nobody/nothing"])
def test_an_unknown_data_set_is_not_found_and_leaves_nothing(hub_server, tmp_path, model_dir, name):
    done = inspect(tmp_path, hub_server.url, name, model_dir)
    assert done.returncode == 4, done.stderr
    assert "does not exist" in done.stderr
    assert not list((tmp_path / "home").rglob("*nothing*"))
