"""What the models page tells of models, with real downloads from a hub on loopback."""

from __future__ import annotations

import json
import shutil

import psutil
import pytest

from arriero import hub
from arriero.errors import ArrieroError, NotFoundError
from arriero.web import jobs
from arriero.web.backend import Choice
from arriero.web.shelf import shelf
from tests.hub.hubs import LoopbackHub, clients_at


@pytest.fixture
def hub_server(model_dir, home, tmp_path, monkeypatch):
    server = LoopbackHub(model_dir)
    for name, value in clients_at(server.url, tmp_path).items():
        monkeypatch.setenv(name, value)
    yield server
    server.gate.set()
    for job in shelf.downloads():
        jobs.cancel(job.folder)
    server.close()


@pytest.fixture
def stored(home, model_dir):
    """The tiny model, as if it had been downloaded as owner/tiny."""
    path = home / "models" / "owner--tiny"
    shutil.copytree(model_dir, path)
    hub.store.write_manifest(path, name="owner--tiny", source="huggingface", revision="abc")
    return path


def ended(job: jobs.Job) -> jobs.Job:
    if (process := jobs.process_of(job.folder)) is not None:
        psutil.wait_procs([process], timeout=100)
    return jobs.find(job.folder)


def test_a_download_is_one_for_everybody_and_leaves_the_model(hub_server):
    hub_server.gate.clear()
    first = shelf.download("owner/name")
    assert hub_server.reached.wait(100)
    second = shelf.download(" owner/name ")
    (seen,) = shelf.downloads()
    assert first.folder == second.folder == seen.folder
    total = sum(len(data) for data in hub_server.files.values())
    assert (seen.running, seen.progress["bytes"], seen.progress["source"]) == (True, total, "huggingface")
    hub_server.gate.set()
    assert ended(first).result["verified"]
    (model,) = shelf.on_disk()
    assert (model.called, model.source, model.size, model.window) == ("owner/name", "huggingface", total, 256)
    assert len([name for name in hub_server.served if name == "model.safetensors"]) == 1


def test_a_cancelled_download_leaves_no_model_and_can_be_taken_up_again(hub_server):
    hub_server.gate.clear()
    job = shelf.download("owner/name")
    assert hub_server.reached.wait(100)
    jobs.cancel(job.folder)
    assert jobs.find(job.folder).failure.kind == "cancelled"
    assert shelf.on_disk() == []
    hub_server.gate.set()
    assert ended(shelf.download("owner/name")).result["verified"]


def test_what_a_hub_refuses_is_a_typed_error(hub_server):
    hub_server.gated = "no token"
    failure = ended(shelf.download("owner/name", "modelscope")).failure
    assert failure.kind == "AccessError"
    assert "accept the licence" in failure.hint


def test_a_name_that_nothing_has_is_refused_at_once(home):
    with pytest.raises(NotFoundError, match="no model is called 'llamma'"):
        shelf.download("llamma")
    assert shelf.downloads() == []


def test_bytes_on_disk_are_the_downloads_progress(home, tmp_path):
    target = home / "models" / "a"
    partial = hub.store.partial(target)
    (partial / ".cache").mkdir(parents=True)
    (partial / "config.json").write_bytes(b"12")
    (partial / ".cache" / "model.incomplete").write_bytes(b"123")
    job = jobs.Job(tmp_path, {}, {"path": str(target), "bytes": 10})
    assert shelf.fetched(job) == 5
    assert shelf.fetched(jobs.Job(tmp_path, {}, {})) == 0


def test_verifying_says_whether_the_files_are_what_arrived(stored):
    (model,) = shelf.on_disk()
    assert shelf.verification(model) is None
    assert ended(shelf.verify(model)).result == {"faults": []}
    (stored / "config.json").write_text("{}")
    faults = ended(shelf.verify(model)).result["faults"]
    assert faults[0].startswith("config.json: 2 bytes, expected ")
    assert shelf.verification(model).result == {"faults": faults}


@pytest.mark.parametrize(
    ("choice", "served"),
    [
        (Choice("owner/tiny"), True),
        (Choice("owner--tiny"), True),
        (Choice("killa", parent="owner/tiny"), True),
        (Choice("other", parent="another"), False),
    ],
)
def test_a_model_that_is_served_or_whose_adapter_is_cannot_be_removed(stored, choice, served):
    (model,) = shelf.on_disk()
    if served:
        with pytest.raises(ArrieroError, match="owner/tiny is being served"):
            shelf.remove(model, [choice])
    else:
        shelf.remove(model, [choice])
    assert stored.exists() == served


def test_removing_what_somebody_else_has_removed_is_said(stored):
    (model,) = shelf.on_disk()
    shelf.remove(model, [])
    with pytest.raises(NotFoundError):
        shelf.remove(model, [])


@pytest.mark.parametrize(
    ("files", "licence"),
    [
        ({"README.md": "---\nlanguage: en\nlicense: llama3.1\n---\n# x\nlicense: no"}, "llama3.1"),
        ({"README.md": "no matter\nlicense: mit", "LICENSE": "\n  Apache License\nVersion 2"}, "Apache License"),
        ({"README.md": "---\nlicense: 'apache-2.0'\n---\n"}, "apache-2.0"),
        ({}, None),
    ],
)
def test_the_licence_is_what_the_model_itself_says(tmp_path, files, licence):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert shelf.licence_of(tmp_path) == licence


def test_the_catalogue_offers_what_is_not_there(home, model_dir):
    assert "smollm2-135m-instruct" in {origin.name for origin in shelf.fetchable()}
    path = home / "models" / "smollm2-135m-instruct"
    shutil.copytree(model_dir, path)
    hub.store.write_manifest(path, name=path.name, source="wheel", revision="1")
    assert "smollm2-135m-instruct" not in {origin.name for origin in shelf.fetchable()}
    (path / "config.json").write_text(json.dumps({}))
    assert shelf.on_disk()[0].window is None
