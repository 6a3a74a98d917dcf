"""Names and files of a hub's listing, through the real clients: nothing is written elsewhere, nothing is left out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.errors import DownloadError
from arriero.hub import listing
from tests.conftest import ROWS
from tests.hub.hubs import LoopbackHub, clients_at, download

SOURCES = ["huggingface", "modelscope"]


@pytest.fixture
def hub_server(model_dir):
    server = LoopbackHub(model_dir)
    yield server
    server.close()


NAMES = st.lists(st.sampled_from(["..", ".", "", "a", "É", "é", "a.b", "C:", "con", "\0", "\n", "x y"]), min_size=1)


@given(parts=NAMES, separator=st.sampled_from("/\\"))
def test_a_name_that_is_let_through_stays_in_its_directory_on_every_system(parts, separator):
    name = separator.join(parts)
    if listing.unsafe(name) is None:
        assert Path(os.path.normpath(f"/models/x/{name}")) == Path("/models/x", *name.split("/"))
        assert PureWindowsPath("D:\\models", name).parts == ("D:\\", "models", *name.split("/"))
        assert not any(character < " " for character in name)


@given(st.lists(st.text("ab9.-_ é骆\u3000", min_size=1).filter(lambda part: part.strip(".")), min_size=1))
def test_ordinary_names_are_let_through(parts):
    assert listing.unsafe("/".join(parts)) is None


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a.json", "a.json"], "one file"),
        (["é.json", "e\N{COMBINING ACUTE ACCENT}.json"], "one file"),
        (["data/A.json", "Data/a.json"], "one file"),
        (["a.json/b.json", "a.json"], "as a file and as the directory"),
        (["A.json", "a.json/b/c.json"], "as a file and as the directory"),
    ],
)
def test_files_that_would_overwrite_each_other_are_refused(names, told):
    listed = [listing.Listed(name) for name in names]
    with pytest.raises(DownloadError, match=told):
        listing.check(listed, listed, "a hub")
    listing.check(listed, listed[:1], "a hub")  # what is not fetched overwrites nothing


def written(folder):
    """The files in a folder but those in the clients' own caches."""
    return [
        file for file in folder.rglob("*") if file.is_file() and file.relative_to(folder).parts[0] not in ("hf", "ms")
    ]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("names", [("../evil.json",), ("/{}/evil.json",), ("a.json", "A.json")])
def test_a_listing_that_would_write_elsewhere_is_refused_before_anything_is_fetched(
    hub_server, tmp_path, source, names
):
    """ModelScope's client wrote ../evil.json and an absolute path, and the download was "ready"."""
    for name in names:
        hub_server.files[name.format(str(tmp_path / "absolute").lstrip("/"))] = b"{}"
    code, _, errors = download(tmp_path, hub_server.url, "owner/name", "--source", source)
    assert code == 1, errors
    assert f"owner/name at {source} lists" in errors
    assert written(tmp_path) == []
    assert hub_server.served == []


def test_a_listed_link_is_refused(hub_server, tmp_path):
    """Its content is where it points to, and was taken for the file's."""
    hub_server.files["generation_config.json"] = b"../../secret.json"
    hub_server.types["generation_config.json"] = "link"
    code, _, errors = download(tmp_path, hub_server.url, "owner/name", "--source", "modelscope")
    assert code == 1, errors
    assert "lists 'generation_config.json', which is no file but a link" in errors
    assert written(tmp_path) == []


@pytest.mark.parametrize("source", SOURCES)
def test_links_that_lie_in_the_way_are_not_followed(hub_server, tmp_path, source):
    """A download continues what an earlier try left; a link in it led the client outside."""
    hub_server.files["extra/vocab.json"] = b"{}"
    outside = tmp_path / "outside"
    outside.mkdir()
    partial = tmp_path / "home" / "models" / ".owner--name.partial"
    partial.mkdir(parents=True)
    (partial / "extra").symlink_to(outside)
    code, _, errors = download(tmp_path, hub_server.url, "owner/name", "--source", source)
    assert code == 0, errors
    assert list(outside.iterdir()) == []
    assert (tmp_path / "home" / "models" / "owner--name" / "extra" / "vocab.json").read_bytes() == b"{}"


@pytest.mark.parametrize("name", ["owner/name", "modelscope:owner/name"])
def test_a_data_set_s_listing_is_checked_too(hub_server, tmp_path, model_dir, name):
    hub_server.files = {"train.jsonl": json.dumps(ROWS[0]).encode(), "../../evil.jsonl": b"{}"}
    command = [sys.executable, "-m", "arriero.cli", "inspect", name, "--json", "--model", str(model_dir)]
    environment = clients_at(hub_server.url, tmp_path)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 1, done.stderr
    assert "lists '../../evil.jsonl'" in done.stderr
    assert written(tmp_path) == []


@pytest.mark.parametrize(
    ("left", "dropped"),
    [
        (
            {"model.safetensors", "config.json"},
            {"model-00001-of-00001.safetensors", "model.safetensors.index.json", "model.fp16.safetensors"},
        ),
        (
            {"model-00001-of-00001.safetensors", "model.safetensors.index.json"},
            {
                "consolidated.safetensors",
                "consolidated-00001-of-00002.safetensors",
                "model.bf16.safetensors.index.json",
            },
        ),
        ({"consolidated.safetensors", "adapter_model.safetensors"}, set()),
    ],
)
def test_weights_in_a_second_format_are_not_fetched(left, dropped):
    """Mistral's repositories have all weights twice, and both were fetched."""
    listed = {name: listing.Listed(name) for name in left | dropped}
    assert set(listing.without_duplicates(listed)) == left


@pytest.mark.parametrize("source", SOURCES)
def test_files_of_another_revision_do_not_get_into_the_model(hub_server, tmp_path, source):
    """An interrupted download left them in the directory that the next one continued in."""
    partial = tmp_path / "home" / "models" / ".owner--name.partial"
    partial.mkdir(parents=True)
    (partial / "old.json").write_text("{}")
    code, document, errors = download(tmp_path, hub_server.url, "owner/name", "--source", source)
    assert code == 0, errors
    assert document["files"] == len(hub_server.files)
    assert not list((tmp_path / "home" / "models").rglob("old.json"))


@pytest.mark.parametrize("source", SOURCES)
def test_a_shard_that_only_the_index_names_is_missed(hub_server, tmp_path, source):
    """The listing lacks it, so it was not fetched, and the model was "ready"."""
    weights = hub_server.files.pop("model.safetensors")
    hub_server.files["model-00001-of-00002.safetensors"] = weights
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    hub_server.files["model.safetensors.index.json"] = json.dumps({"weight_map": shards}).encode()
    code, _, errors = download(tmp_path, hub_server.url, "owner/name", "--source", source)
    assert code == 1, errors
    assert "model-00002-of-00002.safetensors" in errors
    assert not (tmp_path / "home" / "models" / "owner--name").exists()
    hub_server.files["model-00002-of-00002.safetensors"] = weights
    code, document, errors = download(tmp_path, hub_server.url, "owner/name", "--source", source)
    assert (code, document["files"]) == (0, len(hub_server.files)), errors
