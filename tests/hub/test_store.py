"""What is on disk: manifests, verification, fingerprints."""

from __future__ import annotations

import json
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


@pytest.mark.parametrize(
    "harm", [lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:-1])], ids=["gone", "short"]
)
def test_loading_holds_the_directory_against_its_manifest(stored, harm):
    """A file that was gone or cut short went unseen until something failed on it."""
    assert hub.resolve("tiny") == stored.path
    harm(stored.path / "tokenizer.json")
    with pytest.raises(DownloadError, match=r"tokenizer\.json") as caught:
        hub.resolve("tiny")
    assert caught.value.hint.startswith("arriero models remove tiny")


def flip(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def sharded(directory, *, missing):
    """The tiny model's weights as two shards with an index; the second may be missing."""
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    shutil.copyfile(directory / "model.safetensors", directory / second)
    (directory / "model.safetensors").rename(directory / first)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": first, "b": second}}))
    if missing:
        (directory / second).unlink()
    return directory


def test_a_directory_whose_index_names_more_shards_is_refused(model_dir, tmp_path):
    """It was taken for a model, and failed or answered nonsense once it was loaded."""
    whole = sharded(shutil.copytree(model_dir, tmp_path / "whole"), missing=False)
    assert hub.resolve(whole) == whole
    part = sharded(shutil.copytree(model_dir, tmp_path / "part"), missing=True)
    for use in (hub.resolve, hub.download):
        with pytest.raises(DownloadError, match=r"model-00002-of-00002\.safetensors: missing"):
            use(str(part))


def test_a_stored_model_whose_index_names_more_shards_is_refused(home, model_dir):
    """The manifest was written of what had come, so verifying found no fault."""
    path = sharded(shutil.copytree(model_dir, home / "models" / "tiny"), missing=True)
    stored = store.write_manifest(path, name="tiny", source="huggingface", revision="abc")
    assert [fault for fault in hub.verify(stored) if "model-00002-of-00002.safetensors: missing" in fault]
    with pytest.raises(DownloadError, match="00002-of-00002") as caught:
        hub.resolve("tiny")
    assert caught.value.hint.startswith("arriero models remove tiny")


def test_a_tokenizer_and_a_config_are_enough_beside_an_index_without_weights(model_dir, tmp_path):
    """`inspect` needs no weights."""
    bare = sharded(shutil.copytree(model_dir, tmp_path / "bare"), missing=True)
    (bare / "model-00001-of-00002.safetensors").unlink()
    assert hub.resolve(bare) == bare


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": ["a"]}', "{", '{"weight_map": {"a": 1}}'])
def test_a_damaged_index_is_a_fault(model_dir, tmp_path, text):
    broken = shutil.copytree(model_dir, tmp_path / "broken")
    (broken / "model.safetensors.index.json").write_text(text)
    with pytest.raises(DownloadError, match=r"model\.safetensors\.index\.json"):
        hub.resolve(broken)


def test_models_may_be_kept_below_a_directory_named_cache(home, model_dir, monkeypatch):
    """~/.cache/arriero: every file was taken for a client's bookkeeping, and the manifest was empty."""
    monkeypatch.setenv("ARRIERO_HOME", str(home / ".cache" / "arriero"))
    path = shutil.copytree(model_dir, home / ".cache" / "arriero" / "models" / "tiny")
    stored = store.write_manifest(path, name="tiny", source="huggingface", revision="abc")
    assert "model.safetensors" in stored.files


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
