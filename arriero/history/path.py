"""The SQL of trees: each function works inside a transaction that its caller has begun."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from arriero.history.saved import AnswerInfo, Node, to_openai
from arriero.messages import Message

PATH = """
    WITH RECURSIVE path (id, parent, message, info, depth) AS (
        SELECT id, parent, message, info, 0 FROM message WHERE id = ?
        UNION ALL
        SELECT message.id, message.parent, message.message, message.info, depth + 1
        FROM message JOIN path ON message.id = path.parent
    )
    SELECT id, parent, message, info FROM path ORDER BY depth DESC
"""
NEWEST = """
    WITH RECURSIVE below (id) AS (
        SELECT ? UNION ALL SELECT (SELECT max(id) FROM message WHERE parent = below.id) FROM below
        WHERE EXISTS (SELECT 1 FROM message WHERE parent = below.id)
    )
    SELECT max(id) FROM below
"""


def dumped(message: Message) -> str:
    """A message as its row has it."""
    return json.dumps(to_openai(message), ensure_ascii=False)


def insert(
    db: sqlite3.Connection, identity: int, parent: int | None, message: str, info: AnswerInfo | None = None
) -> int:
    """Add a message that `dumped` has made; returns its id."""
    row = (identity, parent, message, dumped_info(info), time.time())
    statement = "INSERT INTO message (conversation, parent, message, info, created) VALUES (?, ?, ?, ?, ?)"
    return int(db.execute(statement, row).lastrowid or 0)


def dumped_info(info: AnswerInfo | None) -> str | None:
    """What an answer took as its row has it."""
    return json.dumps(asdict(info)) if info is not None else None


def path(db: sqlite3.Connection, leaf: int | None) -> list[Node]:
    """The nodes from a root to `leaf`."""
    return _nodes(db.execute(PATH, (leaf,)))


def everything(db: sqlite3.Connection, identity: int) -> list[Node]:
    """All nodes of a conversation, parents before their children, each with its siblings."""
    rows = db.execute("SELECT id, parent, message, info FROM message WHERE conversation = ? ORDER BY id", (identity,))
    return with_siblings(nodes := _nodes(rows), nodes)


def with_siblings(nodes: Iterable[Node], among: Iterable[Node]) -> list[Node]:
    """The nodes with the ids that have the same parent `among` these."""
    children: dict[int | None, list[int]] = {}
    for node in among:
        children.setdefault(node.parent, []).append(node.id)
    return [Node(node.id, node.parent, node.message, node.info, tuple(children[node.parent])) for node in nodes]


def newest(db: sqlite3.Connection, node: int) -> int:
    """The leaf that is reached from `node` over the newest children."""
    return int(db.execute(NEWEST, (node,)).fetchone()[0])


def replace_path(db: sqlite3.Connection, identity: int, leaf: int | None, messages: Sequence[Message]) -> int | None:
    """Make the path to `leaf` consist of `messages`; returns its new leaf. Only what differs is written.

    What it no longer holds is deleted, with all that followed it.
    """
    old = [(node.id, dumped(node.message)) for node in path(db, leaf)]
    new = [dumped(message) for message in messages]
    pairs = enumerate(zip(old, new, strict=False))
    same = next((index for index, ((_, text), other) in pairs if text != other), min(len(old), len(new)))
    if same < len(old):
        db.execute("DELETE FROM message WHERE id = ?", (old[same][0],))
    parent = old[same - 1][0] if same else None
    for text in new[same:]:
        parent = insert(db, identity, parent, text)
    return parent


def _nodes(rows: Iterable[tuple[Any, ...]]) -> list[Node]:
    return [
        Node(node, parent, Message.of(json.loads(text)), AnswerInfo(**json.loads(info)) if info else None)
        for node, parent, text, info in rows
    ]
