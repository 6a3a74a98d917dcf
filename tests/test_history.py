"""Saved conversations: nothing is lost, nothing is mixed up, nobody else reads them."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from arriero.errors import ArrieroError, NotFoundError
from arriero.history import FORMAT, ChangedElsewhere, History, SavedConversation
from arriero.messages import Message, ToolCall

HERE = SavedConversation("tiny")
ROOT = Path(__file__).resolve().parents[1]


def turns(*texts):
    return [Message("assistant" if index % 2 else "user", text) for index, text in enumerate(texts)]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "home" / "conversations.sqlite3"


@pytest.fixture
def history(file):
    opened = History(file)
    yield opened
    opened.close()


def test_what_was_saved_is_there_for_the_next_program(history, file):
    saved = history.save(replace(HERE, adapter="/runs/killa", system="Be brief."), turns("你好？", "骆驼 🦙\n"))
    other = History(file)
    latest = other.get()
    assert (latest.id, latest.model, latest.adapter, latest.system) == (
        saved.id,
        "tiny",
        "/runs/killa",
        "Be brief.",
    )
    assert (latest.title, latest.length) == ("你好？", 2)
    assert other.messages(latest.id) == turns("你好？", "骆驼 🦙\n")
    other.close()


def test_calls_of_tools_survive(history):
    call = ToolCall("c1", "weather", '{"city": "Lima"}')
    messages = [
        Message("user", "weather?"),
        Message("assistant", "", (call,)),
        Message("tool", "dry", tool_call_id="c1"),
        Message("assistant", "dry"),
    ]
    assert history.messages(history.save(HERE, messages).id) == messages


def test_a_conversation_becomes_what_it_is_saved_as(history):
    """Answers grow, are taken back and are replaced; only what differs is written."""
    saved = history.save(HERE, turns("a"))
    for messages in (turns("a", "o"), turns("a", "one", "b", "two"), turns("a", "one"), turns("a", "uno", "c", "d")):
        saved = history.save(saved, messages)
        assert history.messages(saved.id) == messages
    assert saved.length == 4
    assert len(history.find()) == 1


def test_a_conversation_without_messages_is_not_kept(history):
    saved = history.save(history.save(HERE, turns("a")), [])
    assert (saved.id, saved.title) == (None, "")
    assert history.find() == []
    assert history.messages(history.save(saved, turns("b")).id) == turns("b")


def test_the_title_is_the_first_question_on_one_line(history):
    saved = history.save(HERE, turns("why\n  do llamas " + "hum " * 40, "x"))
    assert saved.title.startswith("why do llamas hum hum")
    assert saved.title.endswith("…")
    assert len(saved.title) <= 60
    assert history.save(saved, turns("another")).title == saved.title


def test_finding(history):
    first = history.save(HERE, turns("甄嬛是谁？", "一位妃子"))
    second = history.save(HERE, turns("100% sure?", "no_one is"))
    history.save(first, turns("甄嬛是谁？", "一位妃子", "Really?", "YES"))
    assert [saved.id for saved in history.find()] == [first.id, second.id], "the last changed comes first"
    assert [saved.id for saved in history.find("妃子")] == [first.id]
    assert [saved.id for saved in history.find("yes")] == [first.id]
    assert [saved.id for saved in history.find("0%")] == [second.id]
    assert history.find("no%one") == []
    assert len(history.find("_")) == 1
    assert len(history.find(limit=1)) == 1


def test_deleting_takes_the_messages_along(history, file):
    saved = history.save(HERE, turns("a", "b"))
    history.delete(saved.id)
    assert history.messages(saved.id) == []
    with pytest.raises(NotFoundError, match="number 1"):
        history.delete(saved.id)
    with pytest.raises(NotFoundError, match="no conversation is saved yet"):
        history.get()
    assert history.save(HERE, turns("c")).id != saved.id, "a number is not given twice"


def test_two_programs_in_one_conversation_do_not_mix(history, file):
    mine = history.save(HERE, turns("a", "b"))
    other = History(file)
    other.save(other.get(mine.id), turns("a", "b", "c", "d"))
    with pytest.raises(ChangedElsewhere):
        history.save(mine, turns("a", "b", "x", "y"))
    history.save(mine, [])
    assert history.messages(mine.id) == turns("a", "b", "c", "d")
    other.delete(mine.id)
    with pytest.raises(ChangedElsewhere):
        history.save(mine, turns("a", "b", "x", "y"))
    other.close()


@pytest.mark.skipif(os.name != "posix", reason="modes")
def test_only_the_owner_can_read(file):
    before = os.umask(0)
    try:
        history = History(file)
        history.save(HERE, turns("a"))
        files = list(file.parent.iterdir())
        assert len(files) == 1
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
        history.close()
    finally:
        os.umask(before)


WRITER = """
import sys
from arriero.history import History, SavedConversation
from arriero.messages import Message
history, saved, said = History(), SavedConversation("tiny"), []
print("ready", flush=True)
sys.stdin.readline()
for index in range(20):
    said.append(Message("user" if index % 2 == 0 else "assistant", f"{sys.argv[1]} {index}"))
    saved = history.save(saved, said)
print("done", flush=True)
sys.stdin.readline()
"""


def start(home, name):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "ARRIERO_HOME": str(home)},
    )  # fmt: skip


def test_several_programs_write_at_once_and_are_killed(tmp_path):
    """All begin on a machine without the file, write at the same time, and die without closing it."""
    writers = [start(tmp_path, f"writer {index}") for index in range(4)]
    for word in ("ready", "done"):
        for writer in writers:
            assert writer.stdout.readline().strip() == word
        if word == "ready":
            for writer in writers:
                writer.stdin.write("\n")
                writer.stdin.flush()
    for writer in writers:
        writer.kill()
        writer.communicate()
    history = History(tmp_path / "conversations.sqlite3")
    conversations = history.find()
    assert sorted(saved.title for saved in conversations) == [f"writer {index} 0" for index in range(4)]
    for saved in conversations:
        name = saved.title.removesuffix(" 0")
        assert [message.content for message in history.messages(saved.id)] == [f"{name} {index}" for index in range(20)]
    history.close()


def test_many_begin_at_the_same_moment(tmp_path):
    """Switching a new file to SQLite's write-ahead log failed at once, "database is locked", where others opened it."""
    for attempt in range(40):
        gate = threading.Barrier(8)

        def begin(file=tmp_path / str(attempt), gate=gate):
            gate.wait()
            History(file).close()

        with ThreadPoolExecutor(8) as threads:
            for opened in [threads.submit(begin) for _ in range(8)]:
                opened.result()


def test_a_file_of_a_newer_version_is_left_alone(file):
    History(file).close()
    with sqlite3.connect(file) as db:
        db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    db.close()
    with pytest.raises(ArrieroError, match=f"format {FORMAT + 1}"):
        History(file)


def test_what_is_no_database_is_told(file):
    file.parent.mkdir()
    file.write_text("not a database, but long enough to look at" * 100)
    with pytest.raises(ArrieroError, match=r"conversations\.sqlite3.*not a database"):
        History(file)
    with pytest.raises(ArrieroError, match="cannot be kept"):
        History(file / "below" / "a-file")
