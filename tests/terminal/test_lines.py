"""The chat loop, over a scripted chat."""

from __future__ import annotations

import io
import sys

import pytest

from arriero.messages import Sampling
from arriero.terminal import converse


@pytest.fixture
def talk(monkeypatch, capsys):
    def run(chat, *lines):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        converse(chat, Sampling())
        return capsys.readouterr()

    return run


def test_the_second_question_carries_the_first_turn(scripted_chat, talk):
    chat = scripted_chat("one", "two")
    assert talk(chat, "a", "b").out == "one\ntwo\n"
    turns = [("user", "a"), ("assistant", "one"), ("user", "b")]
    assert chat.engine.asked[1][0] == chat.render([{"role": role, "content": text} for role, text in turns])


def test_clear_starts_over_and_exit_leaves(scripted_chat, talk):
    chat = scripted_chat("one")
    talk(chat, "a", "/clear", "", "b", "/exit", "c")
    assert [asked[0] for asked in chat.engine.asked] == [chat.render([{"role": "user", "content": q}]) for q in "ab"]


@pytest.mark.parametrize("line", ["exit", "quit", "/quit", "/bye", " /bye "])
def test_words_of_other_programs_leave(scripted_chat, talk, line):
    chat = scripted_chat("one")
    assert talk(chat, line, "a") == ("", "")
    assert chat.engine.asked == []


def test_a_question_mark_asks_for_help_and_exit_in_a_question_is_a_question(scripted_chat, talk):
    chat = scripted_chat("one")
    output = talk(chat, "/?", "exit where?")
    assert "/help" in output.err
    assert output.out == "one\n"


def test_what_deletes_is_never_suggested(scripted_chat, talk):
    assert "/delete" not in talk(scripted_chat("one"), "/delet 7").err


def test_a_question_that_does_not_fit_is_told_and_taken_back(scripted_chat, talk):
    chat = scripted_chat("one", "two")
    output = talk(chat, "a", "x" * 300, "b")
    assert "window holds 256" in output.err
    assert output.out == "one\ntwo\n"
    assert len(chat.engine.asked[1][0]) < 30


def test_an_answer_of_blanks_is_not_kept(scripted_chat, talk):
    """The template refuses an empty turn, so every later question failed."""
    chat = scripted_chat("  \n", "two")
    assert "error" not in talk(chat, "a", "b").err
    assert chat.engine.asked[1][0] == chat.render([{"role": "user", "content": "b"}])


def test_an_unknown_command_is_not_sent_to_the_model(scripted_chat, talk):
    chat = scripted_chat("one")
    assert "unknown command /hlep" in talk(chat, "/hlep me").err
    assert chat.engine.asked == []
