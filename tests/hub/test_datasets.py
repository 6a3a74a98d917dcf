"""Data sets by name, through the real clients, in a process of their own, against a hub on loopback."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from arriero import data, hub
from arriero.errors import DownloadError, NotFoundError, UsageError
from arriero.hub import datasets, store
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
    server.close()


def inspect(tmp_path, url, name, model_dir):
    command = [sys.executable, "-m", "arriero.cli", "inspect", name, "--json", "--model", str(model_dir)]
    return subprocess.run(
        command, env=clients_at(url, tmp_path), capture_output=True, text=True, check=False, timeout=100
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["owner/name", "modelscope:owner/name"])
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
    again = [sys.executable, "-c", f"from arriero import hub; print(*hub.dataset({name!r}).glob('*.jsonl'))"]
    done = subprocess.run(
        again, env=clients_at(hub_server.url, tmp_path), capture_output=True, text=True, check=False, timeout=100
    )
    assert "train.jsonl" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["nobody/nothing", "modelscope:nobody/nothing"])
def test_an_unknown_data_set_is_not_found_and_leaves_nothing(hub_server, tmp_path, model_dir, name):
    done = inspect(tmp_path, hub_server.url, name, model_dir)
    assert done.returncode == 4, done.stderr
    assert "does not exist" in done.stderr
    assert not list((tmp_path / "home").rglob("*nothing*"))


@pytest.fixture
def address(hub_server):
    return f"{hub_server.url}/owner/name/resolve/main/train.jsonl"


def pinned(hub_server, address):
    return f"{address}#sha256={hashlib.sha256(hub_server.files['train.jsonl']).hexdigest()}"


def test_a_file_is_fetched_once_by_its_address(hub_server, home, address):
    """An address that ends in .json was taken for a file on disk."""
    for _ in range(2):
        assert len(data.load(address).table) == len(ROWS)
        assert len(data.load(pinned(hub_server, address)).table) == len(ROWS)
    assert hub_server.served == ["train.jsonl"] * 2, "by either name once"
    (stored, _) = map(store.stored, (home / "datasets" / "url").iterdir())
    assert stored.revision == pinned(hub_server, address).partition("#")[2].replace("=", ":")


def test_a_file_with_other_content_is_refused_and_leaves_nothing(hub_server, home, address):
    wanted = pinned(hub_server, address)
    hub_server.files["train.jsonl"] += b"\n{}"
    with pytest.raises(DownloadError, match="expected"):
        hub.dataset(wanted)
    assert list((home / "datasets").rglob("*.*")) == []


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("/nobody/file.json", NotFoundError, "nothing at"),
        ("/owner/name/resolve/main/page.json", DownloadError, "is a web page"),
        ("/", UsageError, "not the address of a data file"),
        ("/x.json#sha256=12", UsageError, "64 hex digits"),
        ("/x.json#L20", UsageError, "64 hex digits"),
        ("/%2e%2e%5cx.json", UsageError, "not the address"),
    ],
)
def test_what_is_no_data_file_at_an_address(hub_server, home, name, error, told):
    hub_server.files["page.json"] = b"<html>"
    with pytest.raises(error, match=told):
        hub.dataset(hub_server.url + name)
    assert list(home.rglob("*.json")) == []


def test_a_damaged_data_set_is_not_read(hub_server, home, address):
    (file,) = hub.dataset(address).glob("*.jsonl")
    file.write_text("{}")
    with pytest.raises(DownloadError, match=r"is damaged: train\.jsonl"):
        data.load(address)


def test_a_revision_is_a_data_set_of_its_own(hub_server, home, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub_server.url)
    paths = [hub.dataset(f"modelscope:owner/name{revision}") for revision in ("", "@v1.0", "@a/branch")]
    assert [path.name for path in paths] == ["owner--name", "owner--name@v1.0", "owner--name@a--branch"]
    assert [store.stored(path).revision for path in paths] == ["master", "v1.0", "a/branch"]
    assert list(store.stored(paths[1]).files) == ["train.jsonl"]


def test_huanhuan_is_the_public_file_with_its_licence(hub_server, home, address, monkeypatch, caplog):
    alias = datasets.ALIASES["huanhuan"]
    assert re.fullmatch(r"https://.*/huanhuan\.json#sha256=[0-9a-f]{64}", alias.address)
    monkeypatch.setitem(datasets.ALIASES, "huanhuan", replace(alias, address=pinned(hub_server, address)))
    caplog.set_level("INFO")
    assert len(data.load("huanhuan").table) == len(ROWS)
    assert "Apache-2.0" in caplog.text
