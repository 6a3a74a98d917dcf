"""The real Hugging Face and ModelScope clients, in a process of their own, against a hub on loopback."""

from __future__ import annotations

import json
import socket

import pytest

from tests.hub.hubs import COMMIT, LISTING, LoopbackHub, download
from tests.hub.troubles import status


@pytest.fixture
def hub_server(model_dir, tmp_path):
    server = LoopbackHub(model_dir)
    server.files["pytorch_model.bin"] = b"a pickle"
    server.files["modeling_evil.py"] = b"raise SystemExit"
    yield server
    server.close()


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
def test_download_takes_safetensors_and_text_and_no_code(hub_server, tmp_path, model_dir, source):
    code, document, errors = download(tmp_path, hub_server.url, "owner/name", "--source", source)
    assert code == 0, errors
    path = tmp_path / "home" / "models" / "owner--name"
    assert document["path"] == str(path)
    assert document["revision"] == (COMMIT if source == "huggingface" else "master")
    assert document["verified"] is True
    assert json.loads((path / "arriero-model.json").read_text())["repository"] == "owner/name"
    assert {file.name for file in path.glob("*.*")} >= {"config.json", "model.safetensors", "arriero-model.json"}
    assert not list(path.glob("*.py"))
    assert not list(path.glob("*.bin"))
    assert (path / "model.safetensors").read_bytes() == (model_dir / "model.safetensors").read_bytes()


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
def test_dry_run_counts_and_fetches_nothing(hub_server, tmp_path, source):
    code, document, errors = download(tmp_path, hub_server.url, "owner/name", "--source", source, "--dry-run")
    assert code == 0, errors
    wanted = {name: data for name, data in hub_server.files.items() if not name.endswith((".py", ".bin"))}
    assert (document["files"], document["bytes"]) == (len(wanted), sum(map(len, wanted.values())))
    assert not any("/resolve/" in path or path.endswith("/repo") for path in hub_server.asked)
    assert not (tmp_path / "home" / "models" / "owner--name").exists()


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
def test_an_unknown_repository_is_not_found(hub_server, tmp_path, source):
    code, _, errors = download(tmp_path, hub_server.url, "nobody/nothing", "--source", source)
    assert code == 4, errors
    assert not list((tmp_path / "home").rglob("*nothing*"))


@pytest.mark.parametrize("source", ["huggingface", pytest.param("modelscope", marks=pytest.mark.slow)])
def test_no_network_is_offline(tmp_path, source):
    with socket.socket() as closed:  # a port that nobody listens on
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    code, _, errors = download(tmp_path, url, "owner/name", "--source", source)
    assert code == 7, errors
    assert "cannot be reached" in errors


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
def test_wrong_bytes_of_the_right_size_are_refused(hub_server, tmp_path, source):
    """huggingface_hub takes them and says nothing."""
    hub_server.corrupted = "model.safetensors"
    code, _, errors = download(tmp_path, hub_server.url, "owner/name", "--source", source)
    assert code == 1, errors
    assert not (tmp_path / "home" / "models" / "owner--name").exists()
    hub_server.corrupted = None
    assert download(tmp_path, hub_server.url, "owner/name", "--source", source)[0] == 0


def test_a_branch_is_not_fetched_again(hub_server, tmp_path):
    """A branch's name was compared with the stored commit, so every call downloaded everything."""
    for _ in range(2):
        code, _, errors = download(tmp_path, hub_server.url, "owner/name", "--revision", "main")
        assert code == 0, errors
    assert hub_server.served.count("model.safetensors") == 1


def test_a_download_that_brought_nothing_leaves_nothing(hub_server, tmp_path):
    """Empty parts were kept, to be gone on from."""
    for name in hub_server.files:
        hub_server.trouble[name] = [status(403)]
    code, _, errors = download(tmp_path, hub_server.url, "owner/name")
    assert code == 5, errors
    assert list((tmp_path / "home" / "models").iterdir()) == []


def test_a_repository_without_safetensors_is_refused(hub_server, tmp_path):
    del hub_server.files["model.safetensors"]
    code, _, errors = download(tmp_path, hub_server.url, "owner/name")
    assert code == 1
    assert "no safetensors" in errors


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
def test_a_listing_that_a_busy_hub_refuses_is_asked_for_again(hub_server, tmp_path, source):
    """One 503 from Hugging Face, and the download had failed."""
    hub_server.trouble[LISTING] = [status(503, Retry_After="0"), status(429, Retry_After="0")]
    code, _, errors = download(tmp_path, hub_server.url, "owner/name", "--source", source)
    assert code == 0, errors
