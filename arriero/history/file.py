"""The file: its tables, the conversion of older formats, and transactions.

    conversation   id, title, model, adapter, system, created, changed, revision, owner, leaf
    message        id, conversation, parent, the message as OpenAI's JSON object, what the answer took, created

The messages of a conversation are a tree: another answer to a question, or a question worded anew, is another child of
the same parent. What is said now is the path from a root to `leaf`. Format 1 had a list of messages and no owners.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from arriero.errors import ArrieroError

FORMAT = 2  # the file's user_version; raise it with every change of the tables, and convert older files
BUSY_SECONDS = 10.0
CONVERSATION = """
    CREATE TABLE conversation (
        id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT NOT NULL, model TEXT NOT NULL, adapter TEXT, system TEXT,
        created REAL NOT NULL, changed REAL NOT NULL, revision INTEGER NOT NULL
    )
"""
TREE = (
    "ALTER TABLE conversation ADD COLUMN owner TEXT",
    "ALTER TABLE conversation ADD COLUMN leaf INTEGER",
    """
    CREATE TABLE message (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation INTEGER NOT NULL REFERENCES conversation ON DELETE CASCADE,
        parent INTEGER REFERENCES message ON DELETE CASCADE,
        message TEXT NOT NULL, info TEXT, created REAL NOT NULL
    )
    """,
    "CREATE INDEX children ON message (conversation, parent)",
    "CREATE INDEX parents ON message (parent)",  # or each deletion would look through all messages
    "CREATE INDEX owners ON conversation (owner, changed)",
)
FROM_1 = (
    "INSERT INTO message (conversation, message, created) SELECT conversation, listed.message, changed "
    "FROM listed JOIN conversation ON conversation.id = conversation ORDER BY conversation, position",
    "UPDATE message SET parent = (SELECT max(id) FROM message AS earlier WHERE earlier.id < message.id "
    "AND earlier.conversation = message.conversation)",
    "UPDATE conversation SET leaf = (SELECT max(id) FROM message WHERE conversation = conversation.id)",
    "DROP TABLE listed",
)


class Database:
    """An open file of conversations, made where there is none. From any number of threads.

    Several processes may use the file at once; each transaction begins with the write lock, so all wait their turn
    (https://www.sqlite.org/lockingv3.html). Raises ArrieroError where the file cannot be read or written.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite's files beside it get the same mode
            self._db = sqlite3.connect(file, BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA foreign_keys = ON")
        except (OSError, sqlite3.Error) as error:
            raise self._failure(error) from error
        with self.transaction() as db:
            self._convert(db)

    def _convert(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > FORMAT:
            raise ArrieroError(
                f"{self.file} has format {version}, this version reads format {FORMAT}", hint="upgrade arriero"
            )
        if version == FORMAT:
            return
        for statement in (
            *((CONVERSATION,) if version == 0 else ("ALTER TABLE message RENAME TO listed",)),
            *TREE,
            *(FROM_1 if version == 1 else ()),
            f"PRAGMA user_version = {FORMAT}",
        ):
            db.execute(statement)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, against threads and other processes."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                with self._db:
                    yield self._db
            except sqlite3.Error as error:
                raise self._failure(error) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _failure(self, error: Exception) -> ArrieroError:
        return ArrieroError(f"conversations cannot be kept in {self.file}: {error}", hint="--no-history does without")
