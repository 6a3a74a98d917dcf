"""Responses that are kept: one SQLite file under ARRIERO_HOME, for `previous_response_id` and for who asks again.

    response   number, id, owner, bytes, the response and the items it answered, the earlier ones too, as JSON
    item       which items a response has: id -> number of the response

Every response brings its whole conversation, so that none depends on another that was deleted. The number of responses
and their bytes are bounded; the oldest go first. Several processes may use the file at once.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arriero import settings
from arriero.database import Database

FORMAT = 1
MOST = 10_000
MOST_BYTES = 256 * 2**20
TABLES = """
    CREATE TABLE response (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, bytes INTEGER NOT NULL,
        response TEXT NOT NULL, items TEXT NOT NULL
    );
    CREATE INDEX sizes ON response (number, bytes);
    CREATE TABLE item (
        id TEXT NOT NULL, response INTEGER NOT NULL REFERENCES response ON DELETE CASCADE, PRIMARY KEY (id, response)
    ) WITHOUT ROWID;
    CREATE INDEX item_of_response ON item (response)
"""
EVICT = """
    DELETE FROM response WHERE number <= (
        SELECT max(number) FROM (
            SELECT number, row_number() OVER newest AS rank, sum(bytes) OVER newest AS total FROM response
            WINDOW newest AS (ORDER BY number DESC ROWS UNBOUNDED PRECEDING)
        ) WHERE rank > ?1 OR (total > ?2 AND rank > 1)
    )
"""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response and the items it answered, in order."""

    response: dict[str, Any]
    items: list[dict[str, Any]]


class ResponseStore:
    """The responses in one file, which is made with the first; they are known to their owners only.

    Use it from any number of threads, not on the event loop. Every method raises ArrieroError where the file cannot be
    read or written.
    """

    def __init__(self, file: Path | None = None, *, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._file = file
        self._most, self._most_bytes = most, most_bytes

    def put(self, owner: str, kept: StoredResponse) -> None:
        """Keep a response; the oldest go where there are too many, or too many bytes of them."""
        response, items = _text(kept.response), _text(kept.items)
        size = len(response.encode()) + len(items.encode())
        with self._transaction() as db:
            row = (kept.response["id"], owner, size, response, items)
            number = db.execute(
                "INSERT INTO response (id, owner, bytes, response, items) VALUES (?, ?, ?, ?, ?)", row
            ).lastrowid
            ids = [(item["id"], number) for item in [*kept.items, *kept.response["output"]]]
            db.executemany("INSERT OR IGNORE INTO item VALUES (?, ?)", ids)
            db.execute(EVICT, (self._most, self._most_bytes))

    def get(self, owner: str, identity: str) -> StoredResponse | None:
        """The owner's response of that id."""
        with self._transaction() as db:
            return _stored(
                db.execute("SELECT response, items FROM response WHERE id = ? AND owner = ?", (identity, owner))
            )

    def item(self, owner: str, identity: str) -> dict[str, Any] | None:
        """The item of that id in the newest of the owner's responses that has it."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT response.response, items FROM response JOIN item ON item.response = number "
                "WHERE item.id = ? AND owner = ? ORDER BY number DESC LIMIT 1",
                (identity, owner),
            )
            kept = _stored(rows)
        items = [] if kept is None else [*kept.items, *kept.response["output"]]
        return next((item for item in items if item["id"] == identity), None)

    def delete(self, owner: str, identity: str) -> bool:
        """Forget the owner's response of that id; returns whether there was one."""
        with self._transaction() as db:
            done = db.execute("DELETE FROM response WHERE id = ? AND owner = ?", (identity, owner))
            return done.rowcount > 0

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        # Opened each time, which takes a millisecond: there is nothing to close at the server's end, or after a fork.
        file = self._file or settings.home() / "responses.sqlite3"
        database = Database(file, FORMAT, lambda _: TABLES.split(";"), what="responses", hint="--no-store does without")
        with contextlib.closing(database), database.transaction() as db:
            yield db


def _stored(rows: sqlite3.Cursor) -> StoredResponse | None:
    row = rows.fetchone()
    return None if row is None else StoredResponse(json.loads(row[0]), json.loads(row[1]))


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
