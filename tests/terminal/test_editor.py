"""The conversation in a real pseudo-terminal: editing, keys, commands, what is kept."""

from __future__ import annotations

import stat

import pytest

from arriero.history import History
from tests.terminal.terminals import Terminal

READY = r"/ 256 tokens"
ENTER, ALT_ENTER, CTRL_C, CTRL_D, CTRL_R, TAB = "\r", "\x1b\r", "\x03", "\x04", "\x12", "\t"


@pytest.fixture
def start(model_dir, tmp_path):
    made = []

    def build(*answers, gate="-"):
        made.append(Terminal("tests.terminal.program", str(model_dir), gate, *answers, home=tmp_path))
        made[-1].wait(READY)
        return made[-1]

    yield build
    for terminal in made:
        terminal.close()


@pytest.fixture
def said(tmp_path):
    """What is stored, conversation by conversation, the newest first."""

    def read():
        history = History(tmp_path / "conversations.sqlite3")
        kept = [[message.content for message in history.messages(saved.id)] for saved in history.find()]
        history.close()
        return kept

    return read


def test_lines_pastes_and_what_was_asked_before(start, said, tmp_path):
    terminal = start("one", "two", "three", "four")
    terminal.type("a" + ALT_ENTER + "b" + ENTER)
    terminal.wait("one")
    terminal.wait(READY)
    terminal.type("\x1b[200~c\nd\re\x1b[201~" + ENTER)
    terminal.wait("two")
    terminal.wait(READY)
    terminal.type(CTRL_R + "c" + ENTER + ENTER)
    terminal.wait("three")
    terminal.wait(READY)
    terminal.type("x\x1b[D骆" + ENTER)
    terminal.wait("four")
    terminal.wait(READY)
    terminal.type(CTRL_D)
    assert terminal.end() == 0
    assert said() == [["a\nb", "one", "c\nd\ne", "two", "c\nd\ne", "three", "骆x", "four"]]
    assert stat.S_IMODE((tmp_path / "questions").stat().st_mode) == 0o600
    again = start("five")
    again.type("\x1b[A" + ENTER)
    again.wait("five")
    again.wait(READY)
    again.type(CTRL_D)
    assert again.end() == 0
    assert said()[0] == ["骆x", "five"]


def test_ctrl_c_stops_an_answer_and_keeps_what_was_said(start, said):
    terminal = start("abcdef", gate="3")
    terminal.type("a" + ENTER)
    terminal.wait("abc")
    assert not terminal.echoes(), "what is typed ahead would stand in the middle of the answer"
    terminal.type(CTRL_C)
    terminal.wait(r"\[stopped\]")
    terminal.wait(READY)
    terminal.type("half a question" + CTRL_C + "/tokens text" + ENTER)
    terminal.wait("<s><user>a</s><bot>")
    terminal.wait("the last prompt: 5 tokens")
    terminal.wait(READY)
    terminal.type(CTRL_C)
    terminal.wait("Ctrl-C again leaves")
    terminal.type("y" + CTRL_C)
    terminal.type(CTRL_C)
    assert terminal.end() == 0
    assert said() == [["a", "abc"]]


def test_the_footer_says_what_one_wants_to_know(start):
    terminal = start("abc")
    terminal.type("why?" + ENTER)
    terminal.wait("abc")
    footer = terminal.wait(r"tiny  ·  [\d.]+ tokens/s  ·  \d+ / 256 tokens  ·  why\?")
    assert " 16 / 256" in footer  # <s> <user> w h y ? </s> <bot> a b c </s> <user> ? </s> <bot>


def test_a_terminal_s_own_language_is_not_spoken_by_the_model(start):
    terminal = start("\x1b]0;owned\x07\x1b[2Jsafe")
    terminal.type("a" + ENTER)
    terminal.wait(r"\]0;owned\[2Jsafe")


def test_commands_are_completed_and_files_are_not_overwritten(start, said, tmp_path):
    terminal = start("one", "two")
    terminal.type("a" + ENTER)
    terminal.wait("one")
    terminal.wait(READY)
    terminal.type("/sav")
    terminal.wait("Write the conversation")
    terminal.type(TAB)
    terminal.wait("e")  # the letter that was missing
    terminal.type(ENTER + f" {tmp_path}/kept.json" + ENTER)
    terminal.wait("2 messages written")
    kept = (tmp_path / "kept.json").read_text()
    terminal.wait(READY)
    terminal.type(f"/save {tmp_path}/ke")
    terminal.wait("kept.json")  # in the menu
    terminal.type(TAB)
    terminal.wait("pt.json")
    terminal.type(ENTER + ENTER)
    terminal.wait(r"Overwrite it\? \[y/N\]")
    terminal.type("n" + ENTER)
    terminal.wait("was left as it is")
    terminal.wait(READY)
    terminal.type("/undo" + ENTER)
    terminal.wait("taken back")
    terminal.wait(READY)
    terminal.type("bc" + ENTER)  # after the question that was taken back
    terminal.wait("two")
    terminal.wait(READY)
    terminal.type(f"/save {tmp_path}/kept.json" + ENTER)
    terminal.wait(r"\[y/N\]")
    terminal.type("y" + ENTER)
    terminal.wait("2 messages written")
    terminal.wait(READY)
    terminal.type("/exit" + ENTER)
    assert terminal.end() == 0
    assert '"abc"' not in kept
    assert '"abc"' in (tmp_path / "kept.json").read_text()
    assert said() == [["abc", "two"]]
