"""One conversation of the page, without a page: what is said, sent, stopped and refused."""

from __future__ import annotations

import threading

import pytest

from arriero.errors import ContextLengthError, EngineError
from arriero.messages import Message, Sampling, Usage
from arriero.web.session import Session, Turn

GREEDY = Sampling()


def complete(session: Session, question: str, sampling: Sampling = GREEDY) -> Turn:
    turn = session.ask(question, sampling)
    read_on(session, turn)
    return turn


def read_on(session: Session, turn: Turn) -> None:
    while turn.running:
        session.advance(0.05)


def held(session: Session, question: str, text: str) -> Turn:
    """A turn whose answer is held at the engine's gate after `text`."""
    turn = session.ask(question, GREEDY)
    while turn.answer != text:
        session.advance(0.01)
    return turn


def test_an_answer_arrives_with_counts_and_speed(scripted_chat):
    turn = complete(Session(scripted_chat("abc")), "hi")
    assert (turn.answer, turn.finish_reason, turn.error) == ("abc", "stop", None)
    assert turn.usage == Usage(6, 4)
    assert turn.tokens_per_second == pytest.approx(4 / turn.seconds)


def test_the_second_prompt_contains_the_first_turn(scripted_chat):
    session = Session(scripted_chat("abc", "def"))
    complete(session, "hi")
    complete(session, "and?")
    assert [turn.answer for turn in session.turns] == ["abc", "def"]
    said = [Message("user", "hi"), Message("assistant", "abc"), Message("user", "and?")]
    assert session.chat.engine.asked[1][0] == session.chat.render(said)


def test_the_answer_grows_while_the_engine_works(scripted_chat):
    session = Session(scripted_chat("abcdef", gate=3))
    turn = held(session, "hi", "abc")
    assert turn.running
    session.chat.engine.release.set()
    read_on(session, turn)
    assert turn.answer == "abcdef"


def test_an_answer_that_is_there_at_once_needs_no_reading(scripted_chat, monkeypatch):
    session = Session(scripted_chat("abc"))
    submit = session.chat.engine.submit

    def slow_submit(*args, **options):
        generation = submit(*args, **options)
        list(generation)
        return generation

    monkeypatch.setattr(session.chat.engine, "submit", slow_submit)
    turn = session.ask("hi", GREEDY)
    assert (turn.answer, turn.running) == ("abc", False)
    session.advance(0.05)
    session.stop()
    assert turn.finish_reason == "stop"


def test_a_stop_frees_the_engine_and_keeps_what_was_said(scripted_chat):
    session = Session(scripted_chat("abcdef", gate=3))
    turn = held(session, "hi", "abc")
    session.stop()
    assert (turn.answer, turn.finish_reason, turn.usage) == ("abc", "cancelled", None)
    assert session.chat.engine.generations[0].cancelled
    session.chat.engine.release.set()
    complete(session, "and?")
    said = [Message("user", "hi"), Message("assistant", "abc"), Message("user", "and?")]
    assert session.chat.engine.asked[1][0] == session.chat.render(said)


def test_a_stop_while_the_prompt_is_read_frees_the_engine(scripted_chat):
    session = Session(scripted_chat("abc", gate=0))
    turn = session.ask("hi", GREEDY)
    session.stop()
    assert session.chat.engine.generations[0].cancelled
    assert (turn.answer, turn.finish_reason) == ("", "cancelled")
    assert session.messages == [], "a question without an answer is not part of the conversation"


def test_a_new_question_stops_the_answer_under_way(scripted_chat):
    session = Session(scripted_chat("abcdef", gate=3))
    first = held(session, "hi", "abc")
    second = session.ask("no, wait", GREEDY)
    assert first.finish_reason == "cancelled"
    assert [generation.cancelled for generation in session.chat.engine.generations] == [True, False]
    session.stop(first)
    assert second.running, "stopping an old turn must not stop the new one"


def test_an_answer_goes_on_in_another_thread(scripted_chat):
    session = Session(scripted_chat("abcdef", gate=3))
    turn = held(session, "hi", "abc")
    session.chat.engine.release.set()
    thread = threading.Thread(target=read_on, args=(session, turn))
    thread.start()
    thread.join()
    assert turn.answer == "abcdef"


def test_an_answer_cut_by_length_says_so(scripted_chat):
    turn = complete(Session(scripted_chat("abcdef")), "hi", Sampling(max_new_tokens=3))
    assert (turn.answer, turn.finish_reason) == ("abc", "length")


def test_a_refused_question_is_kept_with_its_error_and_the_conversation_goes_on(scripted_chat):
    session = Session(scripted_chat("abc"))
    complete(session, "hi")
    refused = session.ask("a" * 300, GREEDY)
    assert isinstance(refused.error, ContextLengthError)
    assert not refused.running
    assert complete(session, "and?").answer == "abc"
    said = [Message("user", "hi"), Message("assistant", "abc"), Message("user", "and?")]
    assert session.chat.engine.asked[-1][0] == session.chat.render(said)


def test_a_failing_engine_is_an_error_of_the_turn(scripted_chat):
    session = Session(scripted_chat("abcdef", gate=3))
    turn = held(session, "hi", "abc")
    session.chat.engine.generations[0].fail(EngineError("the engine is out of hay"))
    read_on(session, turn)
    assert (turn.answer, turn.finish_reason) == ("abc", None)
    assert str(turn.error) == "the engine is out of hay"


def test_a_defect_on_the_way_is_logged_and_shown_as_an_error(scripted_chat, monkeypatch, caplog):
    session = Session(scripted_chat("abcdef", gate=3))
    turn = held(session, "hi", "abc")
    monkeypatch.setattr("arriero.engines.detokenizer.Detokenizer.push", lambda *_: 1 / 0)
    session.chat.engine.release.set()
    read_on(session, turn)
    assert turn.answer == "abc"
    assert str(turn.error) == "the answer broke off: division by zero"
    assert "ZeroDivisionError" in caplog.text
    assert session.chat.engine.generations[0].cancelled


@pytest.mark.parametrize(
    ("trained", "shown", "sent"),
    [
        (None, "", []),
        ("be kind", "be kind", []),  # the renderer puts it there, as in training
        ("be kind", "be brief", [Message("system", "be brief")]),
        ("be kind", "", [Message("system", "")]),
        (None, "be brief", [Message("system", "be brief")]),
    ],
)
def test_only_a_changed_system_prompt_is_sent(scripted_chat, trained, shown, sent):
    from dataclasses import replace

    chat = scripted_chat("abc")
    chat.renderer = replace(chat.renderer, system=trained)
    session = Session(chat)
    assert session.system == (trained or "")
    session.system = shown
    assert session.messages == sent
    complete(session, "hi")
    assert chat.engine.asked[0][0] == chat.render([*sent, Message("user", "hi")])


def test_a_new_conversation_forgets_the_turns_and_stops_the_answer(scripted_chat):
    session = Session(scripted_chat("abcdef", gate=3))
    held(session, "hi", "abc")
    session.system = "be brief"
    session.reset()
    assert session.turns == []
    assert session.system == "be brief"
    assert session.chat.engine.generations[0].cancelled
