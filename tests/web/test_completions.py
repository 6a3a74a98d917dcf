"""Answers in flight belong to their conversations: they go on, end, fail and stop whoever looks."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass

import pytest

from arriero.errors import EngineError
from arriero.history import SavedConversation
from arriero.messages import Message, Sampling, Usage
from arriero.web.completion import LiveCompletion, Request


def begin(site, question="hi", **options) -> LiveCompletion:
    """Ask in a new conversation."""
    node = site.history.add(SavedConversation("tiny"), None, Message("user", question))
    messages = [Message("user", question)]
    return site.answers.start(
        Request(site.history, node.conversation, node.id, "tiny", messages, Sampling(), **options)
    )


def ended(answer: LiveCompletion) -> LiveCompletion:
    assert answer.ended.wait(60)
    return answer


def until_said(answer: LiveCompletion, text: str) -> None:
    while answer.text != text:  # the test's own time limit ends this
        assert not answer.ended.wait(0.01)


def stored(site, answer: LiveCompletion) -> list[str]:
    return [message.content for message in site.history.messages(answer.request.conversation)]


def test_an_answer_is_saved_with_what_it_took(scripted_chat, site):
    here = site(tiny=scripted_chat("abc"))
    answer = ended(begin(here))
    assert stored(here, answer) == ["hi", "abc"]
    info = here.history.path(answer.request.conversation)[-1].info
    assert (info.model, info.finish_reason, info.prompt_tokens, info.completion_tokens) == ("tiny", "stop", 6, 4)
    assert 0 < info.first_token_s <= info.seconds
    assert here.answers.get(answer.request.conversation) is None


@pytest.mark.parametrize(("gate", "kept"), [(0, []), (3, ["abc"])])
def test_stopping_keeps_what_was_said_and_frees_the_engine(scripted_chat, site, gate, kept):
    chat = scripted_chat("abcdef", gate=gate)
    here = site(tiny=chat)
    answer = begin(here)
    assert chat.engine.reached.wait(60)
    until_said(answer, "".join(kept))
    here.answers.stop(answer.request.conversation)
    assert answer.ended.is_set()
    assert answer.finish_reason == "cancelled"
    while not chat.engine.generations[0].cancelled:  # the thread that asked lets go of it a moment later
        assert len(chat.engine.generations) == 1
    assert stored(here, answer) == ["hi", *kept]
    assert here.answers.get(answer.request.conversation) is None


def test_an_answer_that_is_stopped_before_it_began_ends(scripted_chat, site):
    """A task that is cancelled before its first step never runs its own cleaning up."""
    here = site(tiny=scripted_chat("abc", gate=0))
    for _ in range(20):
        answer = begin(here)
        here.answers.stop(answer.request.conversation, 60)
        assert answer.ended.is_set()
        assert stored(here, answer) == ["hi"]


def test_a_second_question_stops_the_first_answer_of_its_conversation_only(scripted_chat, site):
    chat = scripted_chat("abcdef", gate=3)
    here = site(tiny=chat)
    first, other = begin(here), begin(here, "other")
    until_said(first, "abc")
    until_said(other, "abc")
    second = here.answers.start(first.request)
    assert first.finish_reason == "cancelled"
    assert not other.ended.is_set()
    chat.engine.release.set()
    assert ended(second).finish_reason == ended(other).finish_reason == "stop"


def test_a_failing_engine_keeps_what_was_said_and_the_error(scripted_chat, site):
    chat = scripted_chat("abcdef", gate=3)
    here = site(tiny=chat)
    answer = begin(here)
    until_said(answer, "abc")
    chat.engine.generations[0].fail(EngineError("the engine is out of hay"))
    assert str(ended(answer).error) == "the engine is out of hay"
    assert stored(here, answer) == ["hi", "abc"]
    assert here.answers.get(answer.request.conversation) is answer


def test_a_defect_is_logged_and_becomes_an_error(scripted_chat, site, monkeypatch, caplog):
    chat = scripted_chat("abcdef", gate=3)
    here = site(tiny=chat)
    answer = begin(here)
    until_said(answer, "abc")
    monkeypatch.setattr("arriero.engines.detokenizer.Detokenizer.push", lambda *_: 1 / 0)
    chat.engine.release.set()
    assert str(ended(answer).error) == "the answer broke off: division by zero"
    assert "ZeroDivisionError" in caplog.text
    assert chat.engine.generations[0].cancelled


def test_a_model_that_is_gone_is_told(scripted_chat, site):
    here = site({})
    assert "not served any more" in str(ended(begin(here)).error)


def test_a_long_answer_is_saved_before_it_ends(scripted_chat, site, monkeypatch):
    monkeypatch.setattr("arriero.web.completion.SAVE_SECONDS", 0.0)
    chat = scripted_chat("abcdef", gate=3)
    here = site(tiny=chat)
    answer = begin(here)
    until_said(answer, "abc")
    while stored(here, answer) != ["hi", "abc"]:
        assert not answer.ended.wait(0.01)
    chat.engine.release.set()
    ended(answer)
    assert stored(here, answer) == ["hi", "abcdef"]


def test_an_answer_that_cannot_be_saved_is_still_there_to_be_seen(scripted_chat, site):
    chat = scripted_chat("abc", gate=2)
    here = site(tiny=chat)
    answer = begin(here)
    here.history.delete(answer.request.conversation)
    chat.engine.release.set()
    assert "was deleted" in str(ended(answer).error)
    assert answer.text == "abc"
    assert here.answers.get(answer.request.conversation) is answer
    with sqlite3.connect(here.history.file) as db:
        assert db.execute("SELECT count(*) FROM message").fetchone() == (0,), "nothing is left of it"
    db.close()


def test_a_cut_answer_goes_on_in_its_place(scripted_chat, site):
    chat = scripted_chat("def")
    here = site(tiny=chat)
    question = here.history.add(SavedConversation("tiny"), None, Message("user", "hi"))
    saved = here.history.get(question.conversation)
    cut = here.history.add(saved, question.id, Message("assistant", "abc"))
    turns = [Message("user", "hi"), Message("assistant", "abc")]
    answer = ended(
        here.answers.start(Request(here.history, saved.id, question.id, "tiny", turns, Sampling(), continued=cut))
    )
    assert stored(here, answer) == ["hi", "abcdef"]
    assert chat.engine.asked[0][0] == chat.render(turns, continue_final_message=True)


@dataclass
class Waiting:
    """Pieces that wait for their turn until they are closed."""

    ahead: int | None = 2
    usage: Usage | None = None

    def __aiter__(self):
        return self

    async def __anext__(self):
        import asyncio

        await asyncio.Event().wait()

    async def aclose(self) -> None:
        self.ahead = None


def test_the_position_in_the_queue_is_told(scripted_chat, site, monkeypatch):
    here, pieces = site(tiny=scripted_chat("abc")), Waiting()
    monkeypatch.setattr(here.backend, "astream", lambda *_, **__: pieces)
    answer = begin(here)
    while answer.ahead is None:
        assert not answer.ended.wait(0.01)
    assert answer.ahead == 2
    here.answers.stop(answer.request.conversation)
    assert answer.ahead is None


def test_many_stops_and_starts_from_many_threads_leave_nothing_running(scripted_chat, site):
    chat = scripted_chat("abcdef", gate=0)
    here = site(tiny=chat)
    first = begin(here)
    threads = [threading.Thread(target=lambda: here.answers.start(first.request)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    here.answers.stop(first.request.conversation)
    assert here.answers.get(first.request.conversation) is None
    chat.engine.release.set()
