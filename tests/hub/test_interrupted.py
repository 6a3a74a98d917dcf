"""Downloads that are stopped, killed or run out of space, and what the next one finds: real processes."""

from __future__ import annotations

import hashlib
import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from arriero.hub.transfer.part import SUFFIXES
from tests.hub.hubs import LoopbackHub, clients_at, download
from tests.hub.troubles import stall

BIG = "model.safetensors"
SOURCES = ["huggingface", "modelscope"]


@pytest.fixture
def hub(model_dir):
    server = LoopbackHub(model_dir)
    yield server
    server.gate.set()
    server.close()


def start(folder, url, *arguments, before=()):
    command = [*before, sys.executable, "-m", "arriero.cli", "download", "owner/name", *arguments]
    return subprocess.Popen(
        command, env=clients_at(url, folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def part(folder):
    return folder / "home" / "models" / ".owner--name.partial" / f"{BIG}{SUFFIXES[0]}"


def wait_for(size, file):
    """Until a file has that size: what a hub has sent takes a moment to its reader."""
    deadline = time.monotonic() + 60
    while not file.exists() or file.stat().st_size < size:
        assert time.monotonic() < deadline, f"{file} does not grow to {size} bytes"
        time.sleep(0.01)


def test_ctrl_c_stops_at_once_and_says_how_to_go_on(hub, tmp_path):
    """It waited for the file under way, and said "interrupted" and no more."""
    hub.trouble[BIG] = [stall(after=100_000)]
    process = start(tmp_path, hub.url, "--source", "huggingface", "--revision", "main")
    assert hub.reached.wait(60)
    wait_for(100_000, part(tmp_path))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=8)  # the hub is silent still; the client would wait 10 seconds for it
    assert process.returncode == 130, errors
    assert f"kB are kept in {part(tmp_path).parent}" in errors
    assert "to go on: arriero download owner/name --source huggingface --revision main" in errors
    hub.gate.set()
    code, _, errors = download(tmp_path, hub.url, "owner/name", "--source", "huggingface", "--revision", "main")
    assert code == 0, errors
    assert (BIG, "bytes=100000-") in hub.ranged


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_ten_kills_cost_no_byte_that_had_arrived(hub, tmp_path, source):
    """Hugging Face's client began every file anew: 159 % of the bytes after two kills."""
    hub.files[BIG] = random.Random(1).randbytes(22 << 20)
    for _ in range(10):
        hub.trouble[BIG] = [stall(after=2 << 20)]
        kept = part(tmp_path).stat().st_size if part(tmp_path).exists() else 0
        hub.reached.clear()
        process = start(tmp_path, hub.url, "--source", source)
        assert hub.reached.wait(60)
        wait_for(kept + (2 << 20), part(tmp_path))
        process.kill()
        process.communicate()
        hub.gate.set()
    code, document, errors = download(tmp_path, hub.url, "owner/name", "--source", source)
    assert code == 0, errors
    assert Path(document["path"], BIG).read_bytes() == hub.files[BIG]
    assert sorted(file.name for file in Path(document["path"]).rglob("*")) == sorted([*hub.files, "arriero-model.json"])
    assert hub.sent < 1.01 * document["bytes"]


FILLED = """
mount -t tmpfs -o size=600k arriero "$HOME_DIR" || exit 77
"$@" & process=$!
until [ -s "$PART" ]; do sleep 0.05; done
head -c 1000000 /dev/zero 2>/dev/null > "$HOME_DIR/other"
touch "$OUTSIDE/full"
wait $process; code=$?
cp "$PART" "$OUTSIDE/kept"
exit $code
"""


def test_a_disk_that_becomes_full_is_told_and_what_arrived_is_kept(hub, tmp_path):
    """It was called a failed download, to be run again, and Hugging Face's client deleted what there was."""
    hub.files[BIG] = random.Random(1).randbytes(500_000)
    hub.trouble[BIG] = [stall(after=100_000)]
    home = tmp_path / "home"
    home.mkdir()
    places = [f"HOME_DIR={home}", f"PART={part(tmp_path)}", f"OUTSIDE={tmp_path}"]
    mounting = ["unshare", "--user", "--map-root-user", "--mount", "env", *places, "sh", "-c", FILLED, "sh"]
    process = start(tmp_path, hub.url, before=mounting)
    while not (tmp_path / "full").exists():
        if process.poll() is not None:
            pytest.skip("this machine lets nobody mount a file system of his own")
        time.sleep(0.01)
    hub.gate.set()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert re.search("error: the disk of .* is full at .*; what has arrived is kept", errors)
    assert "make space, then run the same command: it continues from there" in errors
    kept = (tmp_path / "kept").read_bytes()
    assert kept
    assert hub.files[BIG].startswith(kept)


def cached_at_huggingface(folder, name, data, sha256):
    blob = folder / "hf" / "hub" / "models--owner--name" / "blobs" / sha256
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    return blob


def cached_at_modelscope(*directories):
    def keep(folder, name, data, sha256):
        file = folder.joinpath("ms", *directories, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file

    return keep


@pytest.mark.parametrize(
    ("source", "keep"),
    [
        ("huggingface", cached_at_huggingface),
        ("modelscope", cached_at_modelscope("models", "owner--name", "snapshots", "v1")),
        ("modelscope", cached_at_modelscope("hub", "models", "owner", "name")),
    ],
    ids=["huggingface", "modelscope", "modelscope before 1.38"],
)
def test_what_the_client_has_fetched_before_is_linked_and_not_fetched(hub, tmp_path, source, keep):
    data = hub.files[BIG]
    kept = keep(tmp_path, BIG, data, hashlib.sha256(data).hexdigest())
    keep(tmp_path, "config.json", b"x" * len(hub.files["config.json"]), "0" * 64)  # another's, of the same size
    code, document, errors = download(tmp_path, hub.url, "owner/name", "--source", source)
    assert code == 0, errors
    assert BIG not in hub.served
    assert "config.json" in hub.served
    assert Path(document["path"], BIG).samefile(kept), "a hard link takes no space"


def test_progress_is_json_on_standard_error(hub, tmp_path):
    code, document, errors = download(tmp_path, hub.url, "owner/name", "--progress", "json")
    assert code == 0, errors
    events = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    assert events[0]["event"] == "plan"
    assert events[0]["free"] > 0
    assert [event["event"] for event in events].count("file") == document["files"]
    assert events[-1]["bytes_done"] == events[-1]["bytes"] == document["bytes"]
