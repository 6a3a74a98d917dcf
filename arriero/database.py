"""One SQLite file of our own: made with its first use, for this user only, shared by threads and processes.

Each transaction begins with the write lock, so all wait their turn (https://www.sqlite.org/lockingv3.html).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from arriero.errors import ArrieroError

BUSY_SECONDS = 10.0


class Database:
    """A file of these tables. Use it from any number of threads.

    `version` is the file's user_version; `statements` gives what makes it of the version on disk, 0 for a new
    file. Every method raises ArrieroError, which says `what` cannot be kept, where the file cannot be read or written.
    """

    def __init__(
        self, file: Path, version: int, statements: Callable[[int], Iterable[str]], *, what: str, hint: str
    ) -> None:
        self.file = file
        self._what, self._hint = what, hint
        self._lock = threading.Lock()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite's files beside it get the same mode
            self._db = sqlite3.connect(file, BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.execute("PRAGMA secure_delete = ON")  # what is deleted is gone from the file, too
        except (OSError, sqlite3.Error) as error:
            raise self._failure(error) from error
        with self.transaction() as db:
            on_disk = db.execute("PRAGMA user_version").fetchone()[0]
            if on_disk > version:
                raise ArrieroError(
                    f"{file} has format {on_disk}, this version reads format {version}", hint="upgrade arriero"
                )
            if on_disk < version:
                for statement in statements(on_disk):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {version}")

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
        return ArrieroError(f"{self._what} cannot be kept in {self.file}: {error}", hint=self._hint)
