"""Conversations as trees: branches are kept, older files are converted, owners do not meet."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.errors import NotFoundError
from arriero.history import AnswerInfo, ChangedElsewhere, History, SavedConversation, as_markdown, document
from arriero.messages import Message
from arriero.terminal.commands import read_conversation

FORMAT_1 = """
    CREATE TABLE conversation (
        id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT NOT NULL, model TEXT NOT NULL, adapter TEXT, system TEXT,
        created REAL NOT NULL, changed REAL NOT NULL, revision INTEGER NOT NULL
    );
    CREATE TABLE message (
        conversation INTEGER NOT NULL REFERENCES conversation ON DELETE CASCADE, position INTEGER NOT NULL,
        message TEXT NOT NULL, PRIMARY KEY (conversation, position)
    ) WITHOUT ROWID;
    INSERT INTO conversation VALUES (3, 'one', 'tiny', NULL, 'Be brief.', 1.0, 2.0, 4), (5, 'two', 'tiny', 'killa',
        NULL, 1.0, 3.0, 1);
    INSERT INTO message VALUES (5, 0, '{"role": "user", "content": "B"}'), (3, 0, '{"role": "user", "content": "A"}'),
        (3, 1, '{"role": "assistant", "content": "a"}'), (3, 2, '{"role": "user", "content": "骆驼"}');
    PRAGMA user_version = 1;
"""


def user(text):
    return Message("user", text)


def bot(text):
    return Message("assistant", text)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "conversations.sqlite3"


@pytest.fixture
def history(file):
    opened = History(file)
    yield opened
    opened.close()


@pytest.fixture
def begun(history):
    """A conversation of one question and one answer, and its nodes."""
    question = history.add(SavedConversation("tiny"), None, user("A"))
    saved = history.get(question.conversation)
    return saved, question, history.add(saved, question.id, bot("a"))


def texts(history, saved):
    return [node.message.content for node in history.path(saved.id)]


def test_a_file_of_format_1_becomes_trees(file):
    with sqlite3.connect(file) as db:
        db.executescript(FORMAT_1)
    db.close()
    for _ in range(2):  # the second time it is of this format already
        history = History(file)
        assert [(saved.id, saved.title, saved.length) for saved in history.find()] == [(5, "two", 1), (3, "one", 3)]
        assert history.messages(3) == [user("A"), bot("a"), user("骆驼")]
        assert history.messages(5) == [user("B")]
        assert [node.parent for node in history.path(3)] == [None, *(node.id for node in history.path(3)[:-1])]
        assert history.get(3).system == "Be brief."
        history.close()
    history = History(file)
    saved = history.save(history.get(3), [user("A"), bot("a"), user("骆驼"), bot("!")])
    assert (saved.revision, history.messages(3)[-1]) == (5, bot("!"))
    history.close()


def test_another_answer_is_a_branch(history, begun):
    saved, question, first = begun
    history.select(saved.id, question.id, below=False)
    second = history.add(saved, question.id, bot("b"), AnswerInfo("killa", "stop", 3, 4, 2.0, 0.5))
    assert texts(history, saved) == ["A", "b"]
    assert history.path(saved.id)[-1].siblings == (first.id, second.id)
    assert history.path(saved.id)[-1].info.tokens_per_second == 2.0
    history.select(saved.id, first.id)
    assert texts(history, saved) == ["A", "a"]


def test_a_branch_is_taken_up_where_it_was_left(history, begun):
    saved, question, answer = begun
    later = history.add(saved, answer.id, user("B"))
    reworded = history.add(saved, None, user("A!"))
    assert texts(history, saved) == ["A!"]
    history.select(saved.id, question.id)
    assert texts(history, saved) == ["A", "a", "B"]
    assert history.path(saved.id)[0].siblings == (question.id, reworded.id)
    assert history.path(saved.id)[2].id == later.id


def test_an_answer_that_comes_after_the_branch_was_left_does_not_take_one_back(history, begun):
    saved, _, answer = begun
    later = history.add(saved, answer.id, user("B"))
    history.add(saved, answer.id, user("C"))
    history.add(saved, later.id, bot("b"))
    assert texts(history, saved) == ["A", "a", "C"]


def test_an_answer_grows(history, begun):
    saved, _, answer = begun
    history.amend(saved.id, answer.id, bot("ab"), AnswerInfo("tiny", "length"))
    assert texts(history, saved) == ["A", "ab"]
    assert history.path(saved.id)[-1].info.finish_reason == "length"
    assert history.get(saved.id).revision > saved.revision


def test_what_another_program_took_away_is_told(history, begun):
    saved, question, answer = begun
    assert history.save(history.get(saved.id), [user("A")]).length == 1, "as the terminal's /retry does"
    with pytest.raises(ChangedElsewhere):
        history.amend(saved.id, answer.id, bot("ab"))
    with pytest.raises(ChangedElsewhere):
        history.add(saved, answer.id, user("B"))
    with pytest.raises(NotFoundError):
        history.select(saved.id, answer.id)
    history.delete(saved.id)
    with pytest.raises(ChangedElsewhere):
        history.add(saved, question.id, bot("a"))


def test_the_terminal_does_not_overwrite_what_the_page_added(history, begun):
    saved, _, answer = begun
    seen = history.get(saved.id)
    history.add(saved, answer.id, user("B"))
    with pytest.raises(ChangedElsewhere):
        history.save(seen, [user("A"), bot("a"), user("C")])


def test_the_terminal_keeps_the_other_branches(history, begun):
    saved, question, first = begun
    history.select(saved.id, question.id, below=False)
    history.add(saved, question.id, bot("b"))
    history.save(history.get(saved.id), [user("A"), bot("b"), user("C"), bot("c")])
    history.select(saved.id, first.id)
    assert texts(history, saved) == ["A", "a"]


def attempts(other, hers, saved):
    """All that somebody could try on another's conversation."""
    return [
        lambda: other.get(hers.conversation),
        lambda: other.delete(hers.conversation),
        lambda: other.select(hers.conversation, hers.id),
        lambda: other.amend(hers.conversation, hers.id, user("x")),
        lambda: other.change(replace(saved, title="x")),
        lambda: other.add(saved, hers.id, bot("x")),
        lambda: other.save(saved, [user("x")]),
    ]


def test_owners_do_not_meet(history, begun):
    saved, question, _ = begun
    ada, bob = history.of("ada"), history.of("bob")
    hers = ada.add(SavedConversation("tiny"), None, user("骆驼"))
    for other in (history, bob):
        assert other.find("骆驼") == []
        assert other.path(hers.conversation) == other.nodes(hers.conversation) == []
        for attempt in attempts(other, hers, ada.get(hers.conversation)):
            with pytest.raises((NotFoundError, ChangedElsewhere)):
                attempt()
        other.save(ada.get(hers.conversation), [])
    with pytest.raises(ChangedElsewhere):
        ada.add(ada.get(hers.conversation), question.id, bot("into another's conversation"))
    assert [found.title for found in ada.find()] == ["骆驼"]
    assert ada.messages(hers.conversation) == [user("骆驼")]
    assert history.messages(saved.id) == [user("A"), bot("a")]


def test_renaming_and_the_system_prompt(history, begun):
    saved = history.get(begun[0].id)
    history.change(replace(saved, title="Llamas", system="Be kind."))
    assert (history.get().title, history.get().system) == ("Llamas", "Be kind.")
    with pytest.raises(ChangedElsewhere):
        history.save(saved, [user("x")])


def test_export(history, begun, tmp_path):
    saved, question, _ = begun
    history.select(saved.id, question.id, below=False)
    history.add(saved, question.id, bot("**b**"), AnswerInfo("killa", "stop"))
    history.change(replace(history.get(saved.id), system="Be kind."))
    path, nodes, saved = history.path(saved.id), history.nodes(saved.id), history.get(saved.id)
    assert as_markdown(saved, path) == "# A\n\n## System\n\nBe kind.\n\n## You\n\nA\n\n## killa\n\n**b**\n"
    exported = document(saved, path, nodes)
    assert [node["content"] for node in exported["nodes"]] == ["A", "a", "**b**"]
    (tmp_path / "a.json").write_text(json.dumps(exported), encoding="utf-8")
    assert read_conversation(tmp_path / "a.json") == [Message("system", "Be kind."), user("A"), bot("**b**")]


@given(st.lists(st.integers(0, 10), min_size=1, max_size=12))
def test_every_message_is_on_the_path_that_selecting_it_gives(tmp_path_factory, choices):
    """Messages at random places: selecting any of them shows it, its ancestors, and a leaf at the end."""
    history = History(tmp_path_factory.mktemp("tree") / "file")
    first = history.add(SavedConversation("tiny"), None, user("0"))
    saved, made = history.get(first.conversation), [first]
    for number, choice in enumerate(choices, 1):
        made.append(history.add(saved, made[choice % len(made)].id, user(str(number))))
    parents = {node.id: node.parent for node in made}
    for node in made:
        history.select(saved.id, node.id)
        path = [one.id for one in history.path(saved.id)]
        assert node.id in path
        assert [parents[one] for one in path] == [None, *path[:-1]]
        assert path[-1] not in parents.values()
    history.close()
