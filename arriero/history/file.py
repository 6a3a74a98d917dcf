"""The file: its tables, the and the conversion of older formats.

    conversation   id, title, model, adapter, system, created, changed, revision, owner, leaf
    message        id, conversation, parent, the message as OpenAI's JSON object, what the answer took, created

The messages of a conversation are a tree: another answer to a question, or a question worded anew, is another child of
the same parent. What is said now is the path from a root to `leaf`. Format 1 had a list of messages and no owners.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from arriero.database import Database

FORMAT = 2  # the file's user_version; raise it with every change of the tables, and convert older files
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


def statements(version: int) -> Iterator[str]:
    """What makes a file of this format out of an older one, 0 for a new one."""
    yield CONVERSATION if version == 0 else "ALTER TABLE message RENAME TO listed"
    yield from TREE
    if version == 1:
        yield from FROM_1


def opened(file: Path) -> Database:
    """An open file of conversations, made where there is none."""
    return Database(file, FORMAT, statements, what="conversations", hint="--no-history does without")
