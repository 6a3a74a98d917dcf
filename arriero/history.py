"""Saved conversations: one SQLite file, shared by the terminal and the web page.

    conversation   id, title, model, adapter, system, created, changed, revision
    message        conversation, position, the message as OpenAI's JSON object

Every message is a row that is written as the message happens, in a transaction of its own, so a crash loses nothing
that was said. Several processes may use the file at once. A conversation's revision counts its changes: who writes must
have seen the newest, so two programs never mix their turns in one conversation.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from arriero import settings
from arriero.database import Database
from arriero.errors import ArrieroError, NotFoundError
from arriero.messages import Message

FORMAT = 1  # the file's user_version; raise it with every change of the tables, and convert older files
TITLE_LENGTH = 60
TABLES = """
    CREATE TABLE conversation (
        id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT NOT NULL, model TEXT NOT NULL, adapter TEXT, system TEXT,
        created REAL NOT NULL, changed REAL NOT NULL, revision INTEGER NOT NULL
    );
    CREATE TABLE message (
        conversation INTEGER NOT NULL REFERENCES conversation ON DELETE CASCADE, position INTEGER NOT NULL,
        message TEXT NOT NULL, PRIMARY KEY (conversation, position)
    ) WITHOUT ROWID;
"""


class ChangedElsewhere(ArrieroError):
    """Another program changed or deleted the conversation since it was read."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A conversation without its messages. `id` is None until it is first saved; `length` counts its messages.

    `model` is what `--model` takes, `adapter` the adapter's directory where it is known, else its name. `system` is
    the system prompt that was set for this conversation, None where the model's or the adapter's own was used.
    """

    model: str
    adapter: str | None = None
    system: str | None = None
    title: str = ""
    id: int | None = None
    length: int = 0
    revision: int = 0
    changed: datetime = field(default_factory=datetime.now, kw_only=True)


class History(Database):
    """The conversations in one file, made with its first one. Use it from any number of threads.

    Every method raises ArrieroError where the file cannot be read or written.
    """

    def __init__(self, file: Path | None = None) -> None:
        chosen = file or settings.home() / "conversations.sqlite3"
        super().__init__(chosen, TABLES, FORMAT, what="conversations", hint="--no-history does without")

    def save(self, saved: Saved, messages: Sequence[Message]) -> Saved:
        """Make the stored conversation consist of `messages`; returns it as it is now stored.

        Only what differs is written. The title is taken from the first question; a conversation without messages is
        not kept. Raises ChangedElsewhere unless `saved` is what was last read or saved.
        """
        title = saved.title or _title(messages)
        texts = [json.dumps(as_object(message), ensure_ascii=False) for message in messages]
        with self.transaction() as db:
            if not messages:
                db.execute("DELETE FROM conversation WHERE id = ? AND revision = ?", (saved.id, saved.revision))
                return replace(saved, id=None, title="", length=0, revision=0)
            changed = time.time()
            row = (title, saved.model, saved.adapter, saved.system, changed)
            identity = self._insert(row) if saved.id is None else self._update(saved, row)
            rows = db.execute("SELECT message FROM message WHERE conversation = ? ORDER BY position", (identity,))
            stored = [text for (text,) in rows]
            pairs = enumerate(zip(stored, texts, strict=False))
            same = next((position for position, (old, new) in pairs if old != new), min(len(stored), len(texts)))
            db.execute("DELETE FROM message WHERE conversation = ? AND position >= ?", (identity, same))
            new = [(identity, position, texts[position]) for position in range(same, len(texts))]
            db.executemany("INSERT INTO message VALUES (?, ?, ?)", new)
        revision, when = saved.revision + 1, datetime.fromtimestamp(changed)
        return replace(saved, title=title, id=identity, length=len(texts), revision=revision, changed=when)

    def _insert(self, row: tuple[Any, ...]) -> int:
        return int(
            self._db.execute(
                "INSERT INTO conversation (title, model, adapter, system, changed, created, revision) "
                "VALUES (?1, ?2, ?3, ?4, ?5, ?5, 1)",
                row,
            ).lastrowid
            or 0
        )

    def _update(self, saved: Saved, row: tuple[Any, ...]) -> int:
        done = self._db.execute(
            "UPDATE conversation SET title = ?, model = ?, adapter = ?, system = ?, changed = ?, "
            "revision = revision + 1 WHERE id = ? AND revision = ?",
            (*row, saved.id, saved.revision),
        )
        if not done.rowcount:
            raise ChangedElsewhere(f"conversation {saved.id} was changed by another program")
        return saved.id or 0

    def find(self, text: str = "", *, limit: int = 20) -> list[Saved]:
        """Conversations with `text` in their title or a message, the newest first.

        Case counts for other letters than ASCII's. A full-text index would not find Chinese words of two characters.
        """
        pattern = "".join(f"\\{character}" if character in "\\%_" else character for character in text)
        return self._select(
            r"WHERE title LIKE ?1 ESCAPE '\' OR EXISTS (SELECT 1 FROM message WHERE conversation = conversation.id "
            r"AND json_extract(message, '$.content') LIKE ?1 ESCAPE '\') ORDER BY changed DESC, id DESC LIMIT ?2",
            (f"%{pattern}%", limit),
        )

    def get(self, identity: int | None = None) -> Saved:
        """A conversation by its id, or the one that was changed last; NotFoundError where there is none."""
        found = self.find(limit=1) if identity is None else self._select("WHERE id = ?", (identity,))
        if not found:
            what = "no conversation is saved yet" if identity is None else f"no conversation has the number {identity}"
            raise NotFoundError(what, hint="arriero chat, then /history, lists what is there")
        return found[0]

    def messages(self, identity: int) -> list[Message]:
        """What was said in a conversation, in order; nothing where there is no such conversation."""
        with self.transaction() as db:
            rows = db.execute("SELECT message FROM message WHERE conversation = ? ORDER BY position", (identity,))
            return [Message.of(json.loads(text)) for (text,) in rows]

    def delete(self, identity: int) -> None:
        """Forget a conversation; NotFoundError where there is none of that id."""
        with self.transaction() as db:
            if not db.execute("DELETE FROM conversation WHERE id = ?", (identity,)).rowcount:
                raise NotFoundError(f"no conversation has the number {identity}")

    def _select(self, rest: str, values: tuple[Any, ...]) -> list[Saved]:
        with self.transaction() as db:
            rows = db.execute(
                "SELECT model, adapter, system, title, id, (SELECT count(*) FROM message WHERE conversation = "  # noqa: S608
                f"conversation.id), revision, changed FROM conversation {rest}",
                values,
            )
            return [Saved(*row[:-1], changed=datetime.fromtimestamp(row[-1])) for row in rows]


def as_object(message: Message) -> dict[str, Any]:
    """A message as OpenAI's JSON object, which `Message.of` reads again."""
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        found["tool_calls"] = [call.definition for call in message.tool_calls]
    if message.tool_call_id is not None:
        found["tool_call_id"] = message.tool_call_id
    return found


def _title(messages: Sequence[Message]) -> str:
    """The beginning of the first question, on one line."""
    question = next((message.content for message in messages if message.role == "user"), "")
    line = " ".join(question.split())
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1].rstrip() + "…"
