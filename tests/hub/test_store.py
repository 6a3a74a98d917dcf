"""What is on disk: manifests, verification, fingerprints."""

from __future__ import annotations

import shutil

import pytest

from arriero import hub
from arriero.errors import DownloadError, NotFoundError
from arriero.hub import store


@pytest.fixture
def stored(home, model_dir):
    """The tiny model as if it had been downloaded."""
    target = home / "models" / "tiny"
    shutil.copytree(model_dir, target)
    return store.write_manifest(target, name="tiny", source="huggingface", revision="abc")


def test_a_stored_model_is_listed_found_and_resolved(stored):
    assert [model.name for model in hub.models()] == ["tiny"]
    assert hub.store.find("tiny") == stored
    assert hub.resolve(stored.path) == stored.path
    assert stored.bytes == sum(file.stat().st_size for file in stored.path.iterdir() if file.name != store.MANIFEST)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda path: (path / "config.json").unlink(), "config.json: missing"),
        (lambda path: (path / "config.json").write_text("{}"), "config.json: 2 bytes"),
        (lambda path: flip(path / "model.safetensors"), "model.safetensors: content differs"),
    ],
)
def test_verify_names_the_damaged_file(stored, harm, told):
    assert hub.verify(stored) == []
    harm(stored.path)
    assert hub.verify(stored)[0].startswith(told)


def flip(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_a_directory_without_a_manifest_is_not_a_model_on_disk(home, model_dir):
    """An interrupted download must not be taken for a model."""
    shutil.copytree(model_dir, home / "models" / "llama-3.1-8b-instruct")
    assert hub.models() == []
    with pytest.raises(NotFoundError, match="not on disk") as caught:
        hub.resolve("llama-3.1-8b-instruct")
    assert caught.value.hint == "arriero download llama-3.1-8b-instruct"


@pytest.mark.parametrize("text", ['{"name": "tiny"', '{"files": []}', "[]"])
def test_a_damaged_manifest_blocks_nothing_but_itself(stored, home, model_dir, caplog, text):
    """It stopped `models`, and even the removal that its own message advises."""
    other = home / "models" / "other"
    shutil.copytree(model_dir, other)
    store.write_manifest(other, name="other", source="huggingface", revision="abc")
    (stored.path / store.MANIFEST).write_text(text)
    assert [model.name for model in hub.models()] == ["other"]
    assert "damaged" in caplog.text
    assert "models remove tiny" in caplog.text
    with pytest.raises(DownloadError):
        hub.resolve("tiny")
    assert hub.verify(store.find("tiny")) == ["arriero-model.json: damaged"]
    hub.remove(store.find("tiny"))
    assert not stored.path.exists()


def test_a_model_is_found_by_the_name_it_is_listed_under(home, model_dir):
    """An adapter's contract names its base model; owner--name was no name that anything understood."""
    path = home / "models" / "owner--name"
    shutil.copytree(model_dir, path)
    store.write_manifest(path, name="owner--name", source="huggingface", revision="abc")
    assert hub.name_of(path) == "owner/name"
    assert hub.resolve("owner/name") == hub.resolve("owner--name") == path
    assert store.find("owner--name").path == store.find("owner/name").path == path


@pytest.mark.parametrize("name", ["..", "../models", "a/../b", "/etc", "."])
def test_removal_stays_inside_the_models_directory(home, model_dir, name):
    (home / "models").mkdir(parents=True)
    shutil.copytree(model_dir, home / "victim")
    store.write_manifest(home / "victim", name="x", source="x", revision="x")
    (home / store.MANIFEST).write_text("{}")
    (home / "models" / store.MANIFEST).write_text("{}")
    with pytest.raises(NotFoundError):
        store.find(name)


def test_fingerprint_follows_the_weights_and_nothing_else(model_dir, other_model_dir, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(model_dir, copy)
    (copy / "config.json").write_text("{}")
    assert hub.fingerprint(copy) == hub.fingerprint(model_dir) != hub.fingerprint(other_model_dir)
    assert hub.fingerprint(copy).startswith("sha256:")


def test_a_path_that_is_no_model(tmp_path):
    with pytest.raises(NotFoundError, match=r"no config\.json"):
        hub.resolve(tmp_path)
    with pytest.raises(NotFoundError, match="no directory"):
        hub.resolve(tmp_path / "nothing")
