"""Adapters by name, fetched with their base model, against a hub on loopback."""

from __future__ import annotations

import json
import socket

import pytest

import arriero
from arriero import hub
from arriero.cli.options import named
from arriero.errors import ContractError, NotFoundError, OfflineError, UsageError
from arriero.hub import store
from arriero.prompt import resolve
from tests.hub.hubs import LoopbackHub

NAME = "modelscope:owner/tuned@v1"


@pytest.fixture
def hub_server(trained_adapter, model_dir, home, monkeypatch):
    """ModelScope has an adapter, owner/tuned, and its base model owner/name."""
    server = LoopbackHub(model_dir)
    files = {file.name: file.read_bytes() for file in trained_adapter.iterdir() if file.is_file()}
    contract = json.loads(files["arriero.json"]) | {"base_model": "owner/name"}
    files |= {"arriero.json": json.dumps(contract).encode(), "checkpoint-1/optimizer.bin": b"no"}
    server.others["owner/tuned"] = files
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
    monkeypatch.chdir(home.parent)
    yield server
    server.close()


def test_an_adapter_is_fetched_once_with_its_base_model(hub_server, home, model_dir, trained_adapter, monkeypatch):
    """A name was taken for a directory that is not there."""
    resolved = resolve(adapter=NAME)
    assert resolved.model_dir == home / "models" / "owner--name"
    assert hub.fingerprint(resolved.model_dir) == hub.fingerprint(model_dir)
    weights = resolved.adapter_dir / "adapter_model.safetensors"
    assert weights.read_bytes() == (trained_adapter / weights.name).read_bytes()
    assert store.stored(resolved.adapter_dir).revision == "v1"
    assert not (resolved.adapter_dir / "checkpoint-1").exists()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket, "socket", lambda *arguments: pytest.fail("a socket was opened"))
    again = resolve(adapter=NAME)
    assert (again.model_dir, again.adapter_dir) == (resolved.model_dir, resolved.adapter_dir)
    assert named((NAME, f"other={NAME}")) == dict.fromkeys(("tuned", "other"), resolved.adapter_dir)


def test_an_adapter_whose_base_has_other_weights_is_refused(hub_server, home, other_model_dir):
    hub_server.files |= {"model.safetensors": (other_model_dir / "model.safetensors").read_bytes()}
    with pytest.raises(ContractError, match="the base model's weights"):
        resolve(adapter=NAME)


def test_an_adapter_without_a_contract_is_refused_before_its_base_is_fetched(hub_server, home):
    del hub_server.others["owner/tuned"]["arriero.json"]
    with pytest.raises(NotFoundError, match=r"has no arriero\.json"):
        resolve(adapter=NAME)
    assert "model.safetensors" not in hub_server.served


def test_a_repository_that_is_no_adapter_is_not_fetched_to_find_out(hub_server, home):
    with pytest.raises(NotFoundError, match=r"no adapter_config\.json and no adapter_model\.safetensors"):
        resolve(adapter="modelscope:owner/name")
    assert hub_server.served == []


def test_a_mistyped_directory_is_not_asked_for(hub_server, home):
    (home.parent / "runs").mkdir(parents=True)
    with pytest.raises(NotFoundError, match="not an adapter directory"):
        resolve(adapter="runs/mien")
    assert hub_server.asked == []


def test_offline_an_adapter_that_is_not_here_is_told_so(hub_server, home, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OfflineError, match=r"no directory modelscope:owner/tuned@v1; as .*HF_HUB_OFFLINE forbids"):
        resolve(adapter=NAME)
    assert hub_server.asked == []


def test_a_batch_finds_its_adapters_by_their_names_on_a_hub(hub_server, tmp_path, scripted_chat):
    """They were taken for directories that are not there."""
    body = {"messages": [{"role": "user", "content": "hi"}]}
    row = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    loaded = []

    def load(model, *, adapter, **_):
        loaded.append(adapter)
        return scripted_chat("hello")

    for number, given in enumerate((NAME, {"mine": NAME})):
        report = arriero.batch(tmp_path / "in.jsonl", tmp_path / f"{number}.jsonl", adapter=given, load=load)
        assert (report.answered, report.failed) == (1, 0)
    assert loaded == [hub.adapter(NAME)] * 2


def test_two_adapters_of_one_name(tmp_path):
    assert hub.adapters.by_name([("a", tmp_path), ("", tmp_path / "b")]) == {"a": tmp_path, "b": tmp_path / "b"}
    with pytest.raises(UsageError, match="two adapters are called b"):
        hub.adapters.by_name([("b", tmp_path), ("", tmp_path / "b")])
