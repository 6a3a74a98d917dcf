"""Slash commands, over plain lines."""

from __future__ import annotations

import io
import json
import sys

import pytest

from arriero.history import History, SavedConversation
from arriero.messages import Message, Sampling
from arriero.terminal import converse


@pytest.fixture
def history(tmp_path):
    opened = History(tmp_path / "conversations.sqlite3")
    yield opened
    opened.close()


@pytest.fixture
def talk(monkeypatch, capsys, history):
    def run(chat, *lines, **options):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        converse(chat, Sampling(), history=history, **options)
        return capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/hlep", "unknown command /hlep\n  try: /help"),
        ("/set temprature 1", "no setting temprature\n  try: /set temperature"),
        ("/set temperature 9", "temperature must be between 0 and 2, got 9"),
        ("/set temperature hot", "temperature must be a number, got 'hot'"),
        ("/set max_new_tokens 1.5", "max_new_tokens must be a whole number"),
        ("/set logit_bias 5", "logit_bias is written as"),
        ('/set logit_bias {"x": 5}', "logit_bias's token must be a whole number, got 'x'"),
        ("/retry", "nothing was asked yet"),
        ("/undo", "nothing was asked yet"),
        ("/tokens", "nothing was asked yet"),
        ("/save", "a file's name is missing"),
        ("/save no/such/directory/x.json", "cannot write"),
        ("/load none.json", "no file none.json"),
        ("/open x", "a conversation's number is expected, got 'x'"),
        ("/open 7", "no conversation has the number 7"),
        ("/delete 7", "no conversation has the number 7"),
        ("/adapter no-such-directory", "is not an adapter directory"),
    ],
)
def test_what_makes_no_sense_is_told_and_the_conversation_goes_on(scripted_chat, talk, line, told):
    output = talk(scripted_chat("one"), line, "a")
    assert output.err.startswith("error: ")
    assert told in output.err
    assert output.out == "one\n"


def test_a_question_may_begin_with_a_path(scripted_chat, talk):
    chat = scripted_chat("one")
    talk(chat, "/etc/passwd, what is it?", "  /help as a word")
    asked = [{"role": "user", "content": "/etc/passwd, what is it?"}]
    assert chat.engine.asked[0][0] == chat.render(asked)
    assert len(chat.engine.asked) == 2


def test_settings(scripted_chat, talk):
    chat = scripted_chat("one", "two", "three")
    shown = talk(
        chat, "/set temperature 0.5", "/set seed 7", '/set stop ["a", "b"]', '/set logit_bias {"7": -5}', "/set", "q",
        "/set stop ,", "/set seed default", "q", "/set stop default", "/set logit_bias default", "q",
    )  # fmt: skip
    first, second, third = (asked[1] for asked in chat.engine.asked)
    assert (first.temperature, first.seed, first.stop, first.logit_bias) == (0.5, 7, ("a", "b"), ((7, -5),))
    assert (second.temperature, second.seed, second.stop) == (0.5, None, (",",))
    assert (third.stop, third.logit_bias) == ((), ())
    assert "  temperature          0.5\n" in shown.err
    assert "  top_p                (1.0)\n" in shown.err, "the model's own is in brackets"


def test_the_system_prompt(scripted_chat, talk, history):
    chat = scripted_chat("one", "two")
    errors = talk(chat, "/system", "/system Be brief.", "a", "/system default", "b").err
    assert "the model's own" in errors
    with_system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}]
    assert chat.engine.asked[0][0] == chat.render(with_system)
    assert chat.engine.asked[1][0][:2] == chat.render(with_system[1:])[:2] != chat.engine.asked[0][0][:2]
    assert history.get().system is None


def test_tokens_are_those_the_engine_got(scripted_chat, talk):
    chat = scripted_chat("one")
    shown = talk(chat, "hi", "/tokens ids", "/tokens text", "/tokens letters")
    ids = chat.engine.asked[0][0]
    assert json.loads(shown.out.split("\n")[1]) == ids
    assert shown.out.split("\n")[2] == "<s><user>hi</s><bot>"
    assert f"the last prompt: {len(ids)} tokens; the window: 256" in shown.err
    assert "shows ids or text, got letters" in shown.err


def test_saved_to_a_file_and_loaded_again(scripted_chat, talk, tmp_path, history):
    chat = scripted_chat("one", "two")
    file = tmp_path / "kept.json"
    errors = talk(chat, "/system Be brief.", "a", f"/save {file}", f"/save {file}", "/clear", f"/load {file}", "b").err
    assert "was left as it is" in errors, "there is nobody to ask"
    texts = [("system", "Be brief."), ("user", "a"), ("assistant", "one"), ("user", "b")]
    messages = [{"role": role, "content": text} for role, text in texts]
    assert json.loads(file.read_text())["messages"] == messages[:3]
    assert chat.engine.asked[1][0] == chat.render(messages)
    assert [saved.length for saved in history.find()] == [4, 2], "what was loaded is a conversation of its own"


@pytest.mark.parametrize(
    "content", ["[", "{}", "[1]", '[{"role": "user"}]', '[{"role": "robot", "content": "x"}]', "[]", b"\xff"]
)
def test_a_file_that_holds_no_conversation(scripted_chat, talk, tmp_path, content):
    (tmp_path / "bad.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    output = talk(scripted_chat("one"), f"/load {tmp_path}/bad.json")
    assert "bad.json holds no conversation: " in output.err


@pytest.mark.parametrize(
    "turns",
    [
        [("assistant", "Welcome.")],
        [("system", "Be brief.")],
        [("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "")],
        [("user", "a"), ("system", "Now in French."), ("assistant", "c")],
    ],
)
def test_turns_are_loaded_in_whatever_order_the_template_takes_them(scripted_chat, talk, tmp_path, turns):
    """An order that training would not take was no conversation here, though the model answers it."""
    chat = scripted_chat("one")
    messages = [{"role": role, "content": content} for role, content in turns]
    (tmp_path / "kept.json").write_text(json.dumps(messages))
    talk(chat, f"/load {tmp_path}/kept.json", "more")
    assert chat.engine.asked[0][0] == chat.render([*messages, {"role": "user", "content": "more"}])


def test_conversations_are_listed_opened_and_deleted(scripted_chat, talk, history):
    chat = scripted_chat("one", "two", "three", "four")
    output = talk(
        chat, "first", "/clear", "second", "/history", "/history fir", "/open 1", "more", "/delete 2", "/open 2"
    )
    lines = [line.split() for line in output.err.splitlines() if line.startswith("   ")]
    assert [(line[0], line[-1]) for line in lines] == [("2", "second"), ("1", "first"), ("1", "first")]
    texts = [("user", "first"), ("assistant", "one"), ("user", "more")]
    assert chat.engine.asked[2][0] == chat.render([{"role": role, "content": text} for role, text in texts])
    assert "> first\none" in output.err, "what was said last is shown again"
    assert "no conversation has the number 2" in output.err
    assert [saved.id for saved in history.find()] == [1]


def test_deleting_the_current_conversation_begins_another(scripted_chat, talk, history):
    talk(scripted_chat("one", "two"), "a", "/delete 1", "b")
    assert [message.content for message in history.messages(history.get().id)] == ["b", "two"]


def test_a_resumed_conversation(scripted_chat, talk, history):
    saved = history.save(SavedConversation("other"), [Message("user", "a"), Message("assistant", "\x1b[2Jb")])
    chat = scripted_chat("one")
    output = talk(chat, "c", new=SavedConversation("tiny"), resumed=saved)
    assert "held with other; tiny goes on" in output.err
    assert "> a\n[2Jb\n" in output.err
    assert history.get().length == 4


def test_nothing_is_kept_without_a_history(scripted_chat, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\n/history\n/open 1\n/delete 1\n"))
    converse(scripted_chat("one"), Sampling())
    errors = capsys.readouterr().err
    assert "nothing is there" in errors
    assert errors.count("no conversations are kept") == 2


def test_lines_that_are_no_text(scripted_chat, monkeypatch):
    from arriero.errors import UsageError

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="utf-8"))
    with pytest.raises(UsageError, match="not UTF-8"):
        converse(scripted_chat("one"), Sampling())


def test_help_names_every_command(scripted_chat, talk):
    from arriero.terminal.commands import NAMES

    errors = talk(scripted_chat("one"), "/help").err
    assert all(f"  /{name} " in errors for name in NAMES)
    assert max(map(len, errors.splitlines())) <= 80
