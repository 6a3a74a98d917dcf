"""What an earlier server has left of batches, as the next one finds it when it starts."""

from __future__ import annotations

import io
import threading
import time

import pytest
from fastapi.testclient import TestClient

from arriero.server import create_app
from arriero.server.auth import Caller, Keys
from arriero.server.routes.openai.batches.schemas import BatchObject, FileObject
from arriero.server.routes.openai.batches.store import BatchStore
from tests.server.test_batches import jsonl, line

NOW = int(time.time())
KEYS = Keys({"ana": "ana-key-1"})
OWNER = KEYS.owner(Caller("ana"))


@pytest.fixture
def left(home):
    """`left("name", owner, …)`: a batch of two rows that a server has left; its store."""
    store = BatchStore()

    def release(name, owner="", *, model="tiny", expires_at=NOW + 3600, lost=False) -> BatchStore:
        file = FileObject(
            id=f"file-{name}", bytes=0, created_at=NOW, expires_at=NOW + 10**6, filename="in.jsonl", purpose="batch"
        )
        store.add_file(owner, file, io.BytesIO(jsonl(line("a"), line("b"))))
        if lost:
            store.path(file.id).unlink()
        batch = BatchObject(
            id=f"batch_{name}", endpoint="/v1/chat/completions", model=model, input_file_id=file.id,
            status="in_progress", created_at=NOW - 10, expires_at=expires_at,
        )  # fmt: skip
        store.add_batch(owner, batch)
        return store

    return release


def ended(store, owner, *names):
    """The batches, once they have ended."""
    pause = threading.Event()
    for _ in range(600):
        batches = [store.batch(owner, f"batch_{name}") for name in names]
        if not any(batch.active for batch in batches):
            return batches
        pause.wait(0.05)
    raise AssertionError(batches)


def test_a_started_server_goes_on_with_its_models_batches(left, scripted_chat):
    left("old", expires_at=NOW - 1)
    left("other", model="another")
    left("lost", lost=True)
    store = left("mine")
    with TestClient(create_app(scripted_chat("hello"))):
        mine, old, lost = ended(store, "", "mine", "old", "lost")
    assert (mine.status, mine.request_counts.completed) == ("completed", 2)
    assert (old.status, old.output_file_id, old.request_counts.failed) == ("expired", None, 2)
    assert store.path(old.error_file_id).read_text().count('"batch_expired"') == 2
    assert (lost.status, lost.errors.data[0].code) == ("failed", "file_not_found")
    assert store.batch("", "batch_other").status == "in_progress"
    assert not list(store.journal("x").parent.iterdir())


def test_a_batch_goes_on_in_its_owners_name_and_ends_with_its_key(left, scripted_chat):
    left("gone", "digest-of-a-key-that-was-taken-back")
    store = left("mine", OWNER)
    app = create_app(scripted_chat("hello"), keys=KEYS)
    with TestClient(app) as client:
        [mine] = ended(store, OWNER, "mine")
        [gone] = ended(store, "digest-of-a-key-that-was-taken-back", "gone")
        answer = client.get(f"/v1/files/{mine.output_file_id}/content", headers={"x-api-key": "ana-key-1"})
    assert (mine.request_counts.completed, answer.text.count("hello")) == (2, 2)
    assert (gone.status, gone.request_counts.completed) == ("cancelled", 0)
