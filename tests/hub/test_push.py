"""An adapter's way into a repository, by the real clients, to a hub on loopback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from arriero import hub
from arriero.errors import NotFoundError, UsageError
from tests.hub.hubs import LoopbackHub, clients_at

SENT = ["README.md", "adapter_config.json", "adapter_model.safetensors", "arriero.json"]
TOKENS = {"HF_TOKEN": "hf_NoBodyMaySeeThis1", "MODELSCOPE_API_TOKEN": "ms-0123-NoBodyMaySeeThis2"}


@pytest.fixture
def hub_server(model_dir):
    server = LoopbackHub(model_dir)
    yield server
    server.close()


@pytest.fixture
def adapter_dir(trained_adapter, tmp_path):
    """An adapter of a model that hubs know, with all that its training left behind."""
    path = shutil.copytree(trained_adapter, tmp_path / "adapter")
    contract = json.loads((path / "arriero.json").read_text())
    contract |= {"base_model": "llama-3.2-1b-instruct", "base_path": str(tmp_path / "secret" / "place")}
    (path / "arriero.json").write_text(json.dumps(contract))
    (path / "checkpoints" / "step-1").mkdir(parents=True, exist_ok=True)
    (path / "checkpoints" / "step-1" / "adapter_model.safetensors").write_bytes(b"no")
    (path / "notes.txt").write_text("mine")
    return path


def push(tmp_path, url, *arguments):
    command = [sys.executable, "-m", "arriero.cli", "push", "--json", *map(str, arguments)]
    environment = {**clients_at(url, tmp_path), **TOKENS}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=40)
    assert "NoBodyMaySeeThis" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def test_nothing_is_uploaded_unless_it_is_asked_for(hub_server, tmp_path, adapter_dir):
    code, document, errors = push(tmp_path, hub_server.url, adapter_dir, "owner/new")
    assert code == 0, errors
    assert (sorted(document["files"]), document["dry_run"], document["private"]) == (SENT, True, True)
    assert (hub_server.asked, hub_server.tokens, hub_server.uploaded) == ([], [], {})


@pytest.mark.parametrize(
    ("to", "base", "named"),
    [
        ("huggingface", "meta-llama/Llama-3.2-1B-Instruct", "--adapter owner/new"),
        ("modelscope", "LLM-Research/Llama-3.2-1B-Instruct", "--adapter modelscope:owner/new"),
    ],
)
def test_what_others_need_is_uploaded_and_nothing_of_this_machine(
    hub_server, tmp_path, adapter_dir, model_dir, to, base, named
):
    code, document, errors = push(tmp_path, hub_server.url, adapter_dir, "owner/new", "--to", to, "--publish")
    assert code == 0, errors
    sent = {name: data for name, data in hub_server.uploaded.items() if name != ".gitattributes"}
    assert sorted(sent) == SENT
    assert sent["adapter_model.safetensors"] == (adapter_dir / "adapter_model.safetensors").read_bytes()
    assert json.loads(sent["adapter_config.json"])["base_model_name_or_path"] == base
    contract = json.loads((adapter_dir / "arriero.json").read_text())
    assert contract.pop("base_path")
    assert json.loads(sent["arriero.json"]) == contract
    card = sent["README.md"].decode()
    assert named in card
    assert "DIRECTORY" not in card
    everything = b"".join(sent.values())
    assert not any(str(path).encode() in everything for path in (tmp_path, model_dir))
    assert hub_server.created.get("visibility", hub_server.created.get("Visibility")) in ("private", 1)
    assert hub_server.created.get("License", "other") == "other", "no licence is claimed"
    assert document["page"] == hub_server.url + ("/models" if to == "modelscope" else "") + "/owner/new"


def test_a_token_that_may_not_write_is_told_so(hub_server, tmp_path, adapter_dir):
    hub_server.gated = "weak token"
    code, _, errors = push(tmp_path, hub_server.url, adapter_dir, "owner/new", "--publish")
    assert code == 5, errors
    assert "does not let you write to owner/new" in errors
    assert "settings/tokens, then run: hf auth login" in errors


@pytest.mark.parametrize(("name", "error"), [("name", UsageError), ("owner/new", NotFoundError)])
def test_what_is_no_adapter_or_no_repository_is_refused(model_dir, name, error):
    with pytest.raises(error):
        hub.push.push(model_dir, name, to="huggingface")


def test_a_card_is_written_where_there_is_none(adapter_dir, tmp_path):
    (adapter_dir / "README.md").unlink()
    files = hub.push.push(adapter_dir, "owner/new", to="modelscope").files
    assert sorted(files) == SENT
    assert files["README.md"] > 100
