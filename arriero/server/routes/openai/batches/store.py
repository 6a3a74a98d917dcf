"""Files and batches that are kept under ARRIERO_HOME.

    batches.sqlite3     kept: number, id, owner, kind (file or batch), until, bytes, active, the object as JSON
    files/ID            what a file holds
    batches/ID.jsonl    the answers of a batch that is in progress

They are known to their owners only, who may have at most Quota of them, and go when they are MOST_SECONDS old.
Several processes may use them at once.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from arriero import settings
from arriero.database import Database
from arriero.errors import ArrieroError
from arriero.server.errors import RequestError
from arriero.server.routes.openai.batches.schemas import BatchObject, FileObject

FORMAT = 1
MOST_SECONDS = 30 * 24 * 3600
TABLES = """
    CREATE TABLE kept (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, kind TEXT NOT NULL,
        until INTEGER NOT NULL, bytes INTEGER NOT NULL, active INTEGER NOT NULL, object TEXT NOT NULL
    );
    CREATE INDEX owned ON kept (owner, kind, number)
"""


@dataclass(frozen=True, slots=True)
class Quota:
    """What one owner may have: files, their bytes, batches that have not ended."""

    files: int = 1000
    bytes: int = 2 * 2**30
    active: int = 20


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is wanted: `limit` of those behind the id `after`."""

    after: str | None
    limit: int
    newest_first: bool = True
    purpose: str | None = None


class BatchStore:
    """Files and batches. Use it from any number of threads, not on the event loop.

    Every method raises ArrieroError where the disk cannot be read or written, RequestError for what is not there.
    """

    def __init__(self, home: Path | None = None, quota: Quota | None = None) -> None:
        self._home = home
        self.quota = quota or Quota()

    def path(self, identity: str) -> Path:
        """Where a file's content is."""
        return self._directory("files") / identity

    def journal(self, identity: str) -> Path:
        """Where the answers of a batch are until it has ended."""
        return self._directory("batches") / f"{identity}.jsonl"

    def add_file(self, owner: str, file: FileObject, content: BinaryIO | Path) -> FileObject:
        """Keep a file, in place of one with its id; returns it with its size. A path is moved, not copied."""
        self._forget_old()
        path = self.path(file.id)
        try:
            if isinstance(content, Path):
                content.replace(path)
            else:
                with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as opened:
                    shutil.copyfileobj(content, opened, 2**20)
            file = file.model_copy(update={"bytes": path.stat().st_size})
            with self._transaction() as db:
                if file.purpose == "batch":
                    self._check_room(db, owner, file.bytes)
                _put(db, owner, "file", file)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise ArrieroError(f"no file can be kept in {path.parent}: {error.strerror}") from error
        except RequestError:
            path.unlink(missing_ok=True)
            raise
        return file

    def file(self, owner: str, identity: str, param: str | None = None) -> FileObject:
        """The owner's file of that id."""
        with self._transaction() as db:
            rows = _object_json(db, owner, "file", identity)
        if rows is None or not self.path(identity).exists():
            raise RequestError(f"there is no file {identity!r}", param=param, status=404)
        return FileObject.model_validate_json(rows)

    def files(self, owner: str, page: Page) -> tuple[list[FileObject], bool]:
        """That part of the owner's files, and whether there are more behind it."""
        rows, more = self._page(owner, "file", page)
        return [FileObject.model_validate_json(text) for text in rows], more

    def delete_file(self, owner: str, identity: str) -> None:
        """Forget a file; RequestError 409 where a batch still reads it."""
        self.file(owner, identity)
        with self._transaction() as db:
            reading = "SELECT 1 FROM kept WHERE active AND json_extract(object, '$.input_file_id') = ?"
            if db.execute(reading, (identity,)).fetchone() is not None:
                raise RequestError(f"the file {identity!r} is being read by a batch; cancel that first", status=409)
            db.execute("DELETE FROM kept WHERE id = ?", (identity,))
        self.path(identity).unlink(missing_ok=True)

    def add_batch(self, owner: str, batch: BatchObject) -> None:
        """Keep a batch; RequestError 429 where too many of the owner's have not ended."""
        with self._transaction() as db:
            active = db.execute("SELECT count(*) FROM kept WHERE owner = ? AND active", (owner,)).fetchone()[0]
            if active >= self.quota.active:
                message = f"{active} batches of yours have not ended, which is as many as may be"
                raise RequestError(message, status=429, code="batch_limit_exceeded", retry_after=60)
            _put(db, owner, "batch", batch)

    def save(self, owner: str, batch: BatchObject) -> bool:
        """Keep what has become of a batch; False where it has ended already, which stays."""
        with self._transaction() as db:
            values = (batch.active, batch.model_dump_json(), batch.id, owner)
            update = "UPDATE kept SET active = ?, object = ? WHERE id = ? AND owner = ? AND active"
            return db.execute(update, values).rowcount > 0

    def batch(self, owner: str, identity: str) -> BatchObject:
        """The owner's batch of that id."""
        with self._transaction() as db:
            rows = _object_json(db, owner, "batch", identity)
        if rows is None:
            raise RequestError(f"there is no batch {identity!r}", status=404)
        return BatchObject.model_validate_json(rows)

    def batches(self, owner: str, page: Page) -> tuple[list[BatchObject], bool]:
        """That part of the owner's batches, and whether there are more behind it."""
        rows, more = self._page(owner, "batch", page)
        return [BatchObject.model_validate_json(text) for text in rows], more

    def active(self) -> list[tuple[str, BatchObject]]:
        """All batches that have not ended, with their owners, the oldest first; what is too old goes."""
        self._forget_old()
        with self._transaction() as db:
            rows = db.execute("SELECT owner, object FROM kept WHERE active ORDER BY number").fetchall()
        return [(owner, BatchObject.model_validate_json(text)) for owner, text in rows]

    def _forget_old(self) -> None:
        with self._transaction() as db:
            reading = "SELECT json_extract(object, '$.input_file_id') FROM kept WHERE active"
            delete = f"DELETE FROM kept WHERE until < ? AND NOT active AND id NOT IN ({reading})"  # noqa: S608  nobody else's
            db.execute(delete, (int(time.time()),))
            there = {identity for (identity,) in db.execute("SELECT id FROM kept WHERE kind = 'file' OR active")}
        paths = [*self._directory("files").iterdir(), *self._directory("batches").iterdir()]
        for path in paths:  # also what a killed process has left half written
            with contextlib.suppress(FileNotFoundError):
                if path.name.partition(".")[0] not in there and path.stat().st_mtime < time.time() - 24 * 3600:
                    path.unlink()

    def _check_room(self, db: sqlite3.Connection, owner: str, size: int) -> None:
        query = "SELECT count(*), coalesce(sum(bytes), 0) FROM kept WHERE owner = ? AND kind = 'file'"
        files, total = db.execute(query, (owner,)).fetchone()
        if files >= self.quota.files or total + size > self.quota.bytes:
            most = f"{self.quota.files} files of {self.quota.bytes} bytes together"
            message = f"you have {files} files of {total} bytes, and may have {most}; delete some first"
            raise RequestError(message, status=413, code="storage_limit_exceeded")

    def _page(self, owner: str, kind: str, page: Page) -> tuple[list[str], bool]:
        order, behind = ("DESC", "<") if page.newest_first else ("ASC", ">")
        query = (
            "SELECT object FROM kept WHERE owner = :owner AND kind = :kind AND (:after IS NULL OR number "  # noqa: S608  chosen here
            f"{behind} (SELECT number FROM kept WHERE id = :after)) AND (:purpose IS NULL OR "
            f"json_extract(object, '$.purpose') = :purpose) ORDER BY number {order} LIMIT :most"
        )
        values = {"owner": owner, "kind": kind, "after": page.after, "purpose": page.purpose, "most": page.limit + 1}
        with self._transaction() as db:
            if page.after is not None and _object_json(db, owner, kind, page.after) is None:
                raise RequestError(f"there is no {kind} {page.after!r}", param="after")
            rows = [text for (text,) in db.execute(query, values)]
        return rows[: page.limit], len(rows) > page.limit

    def _directory(self, name: str) -> Path:
        rows = (self._home or settings.home()) / name
        rows.mkdir(parents=True, exist_ok=True, mode=0o700)
        return rows

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        # Opened each time, as with responses: there is nothing to close at the server's end.
        file = (self._home or settings.home()) / "batches.sqlite3"
        database = Database(file, FORMAT, lambda _: TABLES.split(";"), what="batches", hint="check the disk")
        with contextlib.closing(database), database.transaction() as db:
            yield db


def _put(db: sqlite3.Connection, owner: str, kind: str, kept: FileObject | BatchObject) -> None:
    size, active = (kept.bytes, False) if isinstance(kept, FileObject) else (0, kept.active)
    until = kept.expires_at if isinstance(kept, FileObject) else kept.created_at + MOST_SECONDS
    db.execute("DELETE FROM kept WHERE id = ?", (kept.id,))
    row = (kept.id, owner, kind, until, size, active, kept.model_dump_json())
    db.execute("INSERT INTO kept (id, owner, kind, until, bytes, active, object) VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def _object_json(db: sqlite3.Connection, owner: str, kind: str, identity: str) -> str | None:
    row = db.execute("SELECT object FROM kept WHERE id = ? AND owner = ? AND kind = ?", (identity, owner, kind))
    rows: tuple[str] | None = row.fetchone()
    return None if rows is None else rows[0]
