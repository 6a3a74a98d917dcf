"""Files and batches that are kept: bounded for each owner, gone when they are old, private on the disk."""

from __future__ import annotations

import io
import os
import stat
import time

import pytest

from arriero.server.errors import RequestError
from arriero.server.routes.openai.batches.schemas import BatchObject, FileObject
from arriero.server.routes.openai.batches.store import BatchStore, Page, Quota

NOW = int(time.time())


def file(identity, *, purpose="batch", until=NOW + 3600) -> FileObject:
    return FileObject(
        id=identity, bytes=0, created_at=NOW, expires_at=until, filename="in.jsonl", purpose=purpose
    )  # fmt: skip


def batch(identity, status="in_progress", created=NOW) -> BatchObject:
    return BatchObject(
        id=identity, endpoint="/v1/completions", model="tiny", input_file_id=f"file-{identity}", status=status,
        created_at=created, expires_at=created + 60,
    )  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return BatchStore(tmp_path, Quota(files=2, bytes=10, active=1))


def refused(status, act, *arguments):
    with pytest.raises(RequestError) as caught:
        act(*arguments)
    assert caught.value.status == status


def test_an_owner_has_at_most_so_much_and_others_have_their_own(store, tmp_path):
    assert store.add_file("ana", file("a"), io.BytesIO(b"12345")).bytes == 5
    refused(413, store.add_file, "ana", file("b"), io.BytesIO(b"123456"))
    assert not store.path("b").exists(), "what is refused stays nowhere"
    store.add_file("ana", file("c"), io.BytesIO(b"12345"))
    refused(413, store.add_file, "ana", file("d"), io.BytesIO(b""))
    store.add_file("bob", file("e"), io.BytesIO(b"1234567890"))
    result = tmp_path / "result"
    result.write_bytes(b"x" * 100)
    store.add_file("ana", file("r", purpose="batch_output"), result)  # a result is never refused
    assert [each.id for each in store.files("ana", Page(None, 10))[0]] == ["r", "c", "a"]
    store.delete_file("ana", "a")
    assert [each.id for each in store.files("ana", Page(None, 10, purpose="batch"))[0]] == ["c"]
    assert stat.S_IMODE(store.path("c").stat().st_mode) == 0o600


def test_an_owner_has_at_most_n_batches_that_have_not_ended_and_their_files_stay(store):
    store.add_file("ana", file("file-a"), io.BytesIO(b"1"))
    store.add_batch("ana", batch("a"))
    refused(429, store.add_batch, "ana", batch("b"))
    store.add_batch("bob", batch("c"))
    refused(409, store.delete_file, "ana", "file-a")
    assert store.save("ana", batch("a", "completed"))
    assert not store.save("ana", batch("a", "cancelling")), "it has ended, and stays so"
    store.delete_file("ana", "file-a")
    store.add_batch("ana", batch("b"))
    assert [found.id for _, found in store.active()] == ["c", "b"]


def test_what_is_old_goes_and_so_does_what_a_killed_process_left(store):
    store.add_file("ana", file("old", until=NOW - 1), io.BytesIO(b"1"))
    store.add_file("ana", file("new"), io.BytesIO(b"1"))
    store.path("half").write_bytes(b"1")
    for name in ("old", "half"):
        os.utime(store.path(name), (NOW - 10**6, NOW - 10**6))
    store.add_batch("ana", batch("a", "completed", NOW - 10**8))
    store.active()
    assert [path.name for path in store.path("new").parent.iterdir()] == ["new"]
    refused(404, store.file, "ana", "old")
    refused(404, store.batch, "ana", "a")
