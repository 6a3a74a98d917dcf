"""Files that a hub's own client fetches, or has fetched before: held against the listing like all others."""

from __future__ import annotations

import hashlib
import random
import tempfile
from pathlib import Path

import pytest

from arriero.errors import DownloadError
from arriero.hub import transfer
from arriero.hub.listing import Listed
from arriero.hub.transfer import clients

BIG = "model.safetensors"
CONTENT = random.Random(1).randbytes(300_000)


def test_only_what_plain_http_does_not_bring_is_left_to_xet(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    stored = {"X-Xet-Hash": "0" * 64}
    assert not clients.needs_xet(stored, 5 * 10**9)
    assert clients.needs_xet(stored, 60 * 10**9)
    assert not clients.needs_xet({}, 60 * 10**9)
    monkeypatch.setattr("huggingface_hub.constants.HF_XET_HIGH_PERFORMANCE", True)
    assert clients.needs_xet(stored, 1)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://mirror.example")
    assert not clients.needs_xet(stored, 60 * 10**9), "it would go past the mirror"


def test_what_the_client_brings_is_held_against_the_listing_too(tmp_path):
    """Stored in Xet and too large for plain HTTP; the client checks no hash."""

    class OnlyByClient:
        where = "owner/name at a hub"
        brings = CONTENT

        def open(self, name, size, headers):
            raise clients.ByClient

        def by_client(self, name, directory):
            (directory / name).write_bytes(self.brings)

        def cached(self, name, hashes):
            return iter(())

    listed = {BIG: Listed(BIG, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())}
    assert transfer.fetch(OnlyByClient(), listed, tmp_path)[BIG].sha256 == listed[BIG].sha256
    (tmp_path / BIG).unlink()
    OnlyByClient.brings = CONTENT[::-1]
    with pytest.raises(DownloadError, match="SHA-256"):
        transfer.fetch(OnlyByClient(), listed, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cached_file_on_another_disk_is_copied(tmp_path):
    class Cached:
        where = "owner/name at a hub"

        def cached(self, name, hashes):
            return iter([elsewhere])

    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one disk only")
    with tempfile.NamedTemporaryFile(dir=other) as file:
        file.write(CONTENT)
        file.flush()
        elsewhere = Path(file.name)
        listed = {BIG: Listed(BIG, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())}
        told = []
        assert transfer.fetch(Cached(), listed, tmp_path, watch=told.append)[BIG].sha256 == listed[BIG].sha256
    assert [file.name for file in tmp_path.iterdir()] == [BIG]
    assert (tmp_path / BIG).read_bytes() == CONTENT
    assert told[-1].bytes_fetched == 0
