"""The conversations of one owner: reading, writing, searching.

Every message is a row that is written as the message happens, in a transaction of its own, so a crash loses nothing
that was said. A conversation's revision counts its changes: who replaces what was said must have seen the newest, so
two programs never mix their turns in one conversation. Adding needs no revision: what is added to a message that has
been answered already is another branch.
"""

from __future__ import annotations

import copy
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from arriero import settings
from arriero.errors import NotFoundError
from arriero.history import path as tree
from arriero.history.file import opened
from arriero.history.saved import AnswerInfo, ChangedElsewhere, Node, SavedConversation, title_of
from arriero.messages import Message

COLUMNS = """
    model, adapter, system, title, id, (
        WITH RECURSIVE path (id) AS (
            SELECT conversation.leaf WHERE conversation.leaf IS NOT NULL
            UNION ALL SELECT parent FROM message JOIN path ON message.id = path.id WHERE parent IS NOT NULL
        ) SELECT count(*) FROM path
    ), revision, changed
"""


class History:
    """The conversations of one owner in one file. Use it from any number of threads.

    `owner` None is who sits at this machine: the terminal, and the page where it asks nobody who he is. No method
    reaches another owner's conversations. Every method raises ArrieroError where the file cannot be read or written.
    """

    def __init__(self, file: Path | None = None, owner: str | None = None) -> None:
        self.file = file or settings.home() / "conversations.sqlite3"
        self.owner = owner
        self._database = opened(self.file)

    def of(self, owner: str | None) -> Self:
        """The conversations of another owner, in the same open file."""
        other = copy.copy(self)
        other.owner = owner
        return other

    def close(self) -> None:
        """Close the file, for all owners."""
        self._database.close()

    def save(self, saved: SavedConversation, messages: Sequence[Message]) -> SavedConversation:
        """Make the path of the stored conversation consist of `messages`; returns it as it is now stored.

        Only what differs is written. The title is taken from the first question; a conversation without messages is
        not kept. Raises ChangedElsewhere unless `saved` is what was last read or saved.
        """
        title = saved.title or title_of(messages)
        with self._database.transaction() as db:
            if not messages:
                db.execute(
                    "DELETE FROM conversation WHERE id = ? AND revision = ? AND owner IS ?",
                    (saved.id, saved.revision, self.owner),
                )
                return replace(saved, id=None, title="", length=0, revision=0)
            changed = time.time()
            row = (title, saved.model, saved.adapter, saved.system, changed)
            identity = self._insert(db, row) if saved.id is None else self._update(db, saved, row)
            leaf = db.execute("SELECT leaf FROM conversation WHERE id = ?", (identity,)).fetchone()[0]
            leaf = tree.replace_path(db, identity, leaf, messages)
            db.execute("UPDATE conversation SET leaf = ? WHERE id = ?", (leaf, identity))
        revision, when = saved.revision + 1, datetime.fromtimestamp(changed)
        return replace(saved, title=title, id=identity, length=len(messages), revision=revision, changed=when)

    def _insert(self, db: sqlite3.Connection, row: tuple[Any, ...]) -> int:
        statement = (
            "INSERT INTO conversation (title, model, adapter, system, changed, created, revision, owner) "
            "VALUES (?1, ?2, ?3, ?4, ?5, ?5, 1, ?6)"
        )
        return int(db.execute(statement, (*row, self.owner)).lastrowid or 0)

    def _update(self, db: sqlite3.Connection, saved: SavedConversation, row: tuple[Any, ...]) -> int:
        done = db.execute(
            "UPDATE conversation SET title = ?, model = ?, adapter = ?, system = ?, changed = ?, "
            "revision = revision + 1 WHERE id = ? AND revision = ? AND owner IS ?",
            (*row, saved.id, saved.revision, self.owner),
        )
        if not done.rowcount:
            raise ChangedElsewhere(f"conversation {saved.id} was changed by another program")
        return saved.id or 0

    def add(
        self, saved: SavedConversation, parent: int | None, message: Message, info: AnswerInfo | None = None
    ) -> Node:
        """Add a message after the node `parent`, None for a first one; `saved.id` None begins a conversation.

        A question becomes the leaf, an answer does where the leaf is what it answers. Raises ChangedElsewhere where
        the conversation or the parent is gone.
        """
        with self._database.transaction() as db:
            identity = saved.id
            if identity is None:
                row = (saved.title or title_of([message]), saved.model, saved.adapter, saved.system, time.time())
                identity = self._insert(db, row)
            leaf = self._leaf(db, identity)
            if parent is not None and not self._has(db, identity, parent):
                raise ChangedElsewhere(f"the message that was to be answered in conversation {identity} is gone")
            node = tree.insert(db, identity, parent, tree.dumped(message), info)
            self._touch(db, identity, leaf=node if message.role == "user" or leaf == parent else leaf)
        return Node(node, parent, message, info, conversation=identity)

    def amend(self, identity: int, node: int, message: Message, info: AnswerInfo | None = None) -> None:
        """Give a node another text, as an answer grows. Raises ChangedElsewhere where it is gone."""
        with self._database.transaction() as db:
            leaf = self._leaf(db, identity)
            row = (tree.dumped(message), tree.dumped_info(info), node, identity)
            done = db.execute("UPDATE message SET message = ?, info = ? WHERE id = ? AND conversation = ?", row)
            if not done.rowcount:
                raise ChangedElsewhere(f"the answer in conversation {identity} is gone")
            self._touch(db, identity, leaf=leaf)

    def select(self, identity: int, node: int, *, below: bool = True) -> None:
        """Go on from `node`, or, `below`, from the newest of what followed it; NotFoundError where it is gone."""
        with self._database.transaction() as db:
            if not self._has(db, identity, node):
                raise NotFoundError(f"conversation {identity} has no message {node}")
            leaf = tree.newest(db, node) if below else node
            db.execute("UPDATE conversation SET leaf = ?, revision = revision + 1 WHERE id = ?", (leaf, identity))

    def change(self, saved: SavedConversation) -> None:
        """Store title, model, adapter and system prompt; NotFoundError where there is no such conversation."""
        with self._database.transaction() as db:
            done = db.execute(
                "UPDATE conversation SET title = ?, model = ?, adapter = ?, system = ?, revision = revision + 1 "
                "WHERE id = ? AND owner IS ?",
                (saved.title, saved.model, saved.adapter, saved.system, saved.id, self.owner),
            )
            if not done.rowcount:
                raise _unknown(saved.id)

    def find(self, text: str = "", *, limit: int = 20) -> list[SavedConversation]:
        """Conversations with `text` in their title or a message, the newest first.

        Case counts for other letters than ASCII's. A full-text index would not find Chinese words of two characters.
        """
        pattern = "".join(f"\\{character}" if character in "\\%_" else character for character in text)
        return self._select(
            r"AND (title LIKE ?2 ESCAPE '\' OR EXISTS (SELECT 1 FROM message WHERE conversation = conversation.id "
            r"AND json_extract(message, '$.content') LIKE ?2 ESCAPE '\')) ORDER BY changed DESC, id DESC LIMIT ?3",
            (f"%{pattern}%", limit),
        )

    def get(self, identity: int | None = None) -> SavedConversation:
        """A conversation by its id, or the one that was changed last; NotFoundError where there is none."""
        conversations = self.find(limit=1) if identity is None else self._select("AND id = ?2", (identity,))
        if not conversations and identity is None:
            raise NotFoundError("no conversation is saved yet", hint="arriero chat, then /history, lists what is there")
        if not conversations:
            raise _unknown(identity)
        return conversations[0]

    def messages(self, identity: int) -> list[Message]:
        """What was said on a conversation's path; nothing where there is no such conversation."""
        return [node.message for node in self.path(identity)]

    def path(self, identity: int) -> list[Node]:
        """The nodes of a conversation's path; nothing where there is no such conversation."""
        with self._database.transaction() as db:
            leaf, nodes = self._tree(db, identity)
            return tree.with_siblings(tree.path(db, leaf), nodes)

    def nodes(self, identity: int) -> list[Node]:
        """All nodes of a conversation, parents first; nothing where there is no such conversation."""
        with self._database.transaction() as db:
            return self._tree(db, identity)[1]

    def delete(self, identity: int) -> None:
        """Forget a conversation; NotFoundError where there is none of that id."""
        with self._database.transaction() as db:
            if not db.execute("DELETE FROM conversation WHERE id = ? AND owner IS ?", (identity, self.owner)).rowcount:
                raise _unknown(identity)

    def _select(self, conditions: str, values: tuple[Any, ...]) -> list[SavedConversation]:
        with self._database.transaction() as db:
            rows = db.execute(
                f"SELECT {COLUMNS} FROM conversation WHERE owner IS ?1 {conditions}",  # noqa: S608  written in this file
                (self.owner, *values),
            )
            return [SavedConversation(*row[:-1], changed=datetime.fromtimestamp(row[-1])) for row in rows]

    def _leaf(self, db: sqlite3.Connection, identity: int) -> int | None:
        row = db.execute("SELECT leaf FROM conversation WHERE id = ? AND owner IS ?", (identity, self.owner)).fetchone()
        if row is None:
            raise ChangedElsewhere(f"conversation {identity} was deleted")
        leaf: int | None = row[0]
        return leaf

    def _has(self, db: sqlite3.Connection, identity: int, node: int) -> bool:
        return (
            db.execute(
                "SELECT 1 FROM message JOIN conversation ON conversation.id = conversation "
                "WHERE message.id = ? AND conversation = ? AND owner IS ?",
                (node, identity, self.owner),
            ).fetchone()
            is not None
        )

    def _tree(self, db: sqlite3.Connection, identity: int) -> tuple[int | None, list[Node]]:
        try:
            return self._leaf(db, identity), tree.everything(db, identity)
        except ChangedElsewhere:
            return None, []

    def _touch(self, db: sqlite3.Connection, identity: int, *, leaf: int | None) -> None:
        db.execute(
            "UPDATE conversation SET leaf = ?, changed = ?, revision = revision + 1 WHERE id = ?",
            (leaf, time.time(), identity),
        )


def _unknown(identity: int | None) -> NotFoundError:
    return NotFoundError(
        f"no conversation has the number {identity}", hint="arriero chat, then /history, lists what is there"
    )
