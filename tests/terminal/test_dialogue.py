"""What was said, as it is kept and taken back."""

from __future__ import annotations

import re

import pytest

from arriero.errors import EngineError, UsageError
from arriero.history import History, SavedConversation
from arriero.messages import Message, Sampling
from arriero.terminal import dialogue as module
from arriero.terminal.commands import Commands
from arriero.terminal.dialogue import Dialogue
from arriero.terminal.screen import Thinking
from tests.prompt.reasoning import QWEN3

ADAPTED = "Be Killa."


@pytest.fixture
def history(tmp_path):
    opened = History(tmp_path / "conversations.sqlite3")
    yield opened
    opened.close()


@pytest.fixture
def talk(scripted_chat, history):
    def build(*answers, **options):
        return Dialogue(scripted_chat(*answers, **options), Sampling(), history)

    return build


def nothing(text):
    pass


def contents(messages):
    return [message.content for message in messages]


def stored(history):
    return contents(history.messages(history.get().id))


def test_the_question_is_kept_before_the_answer_comes(talk, history):
    """A program that dies while the model thinks leaves the question behind."""
    dialogue, seen = talk("one"), []
    dialogue.ask("a", lambda text: seen.append(stored(history)))
    assert seen[0] == ["a"]
    assert stored(history) == ["a", "one"]


def test_an_answer_in_flight_is_kept(talk, history, monkeypatch):
    monkeypatch.setattr(module, "SAVE_SECONDS", 0.0)
    dialogue, seen = talk("one"), []
    dialogue.ask("a", lambda text: seen.append(stored(history)))
    assert ["a", "on"] in seen


def test_a_stopped_answer_is_kept_as_far_as_it_came(talk, history):
    dialogue = talk("one two")

    def interrupt(text):
        if text == "n":
            raise KeyboardInterrupt

    assert dialogue.ask("a", interrupt) == "cancelled"
    assert stored(history) == contents(dialogue.turns) == ["a", "on"]
    assert dialogue.chat.engine.generations[0].cancelled


def test_a_failing_answer_leaves_no_trace(talk, history):
    dialogue = talk("one", "two")
    dialogue.ask("a", nothing)

    def fail(text):
        raise EngineError("broken")

    with pytest.raises(EngineError):
        dialogue.ask("b", fail)
    with pytest.raises(EngineError):
        dialogue.retry(fail)
    with pytest.raises(UsageError, match="lone surrogate"):
        dialogue.ask("\ud800", nothing)
    assert stored(history) == contents(dialogue.turns) == ["a", "one"]


def test_retrying_and_taking_back(talk, history):
    dialogue = talk("one", "two", "three", " ")
    dialogue.ask("a", nothing)
    dialogue.ask("b", nothing)
    dialogue.retry(nothing)
    assert stored(history) == ["a", "one", "b", "three"]
    assert dialogue.chat.engine.asked[2][0] == dialogue.chat.engine.asked[1][0] == dialogue.last_prompt()
    dialogue.retry(nothing)
    assert stored(history) == ["a", "one", "b", "three"], "an answer of blanks replaces nothing"
    assert dialogue.undo() == "b"
    assert stored(history) == ["a", "one"]
    assert dialogue.undo() == "a"
    assert history.find() == []
    with pytest.raises(UsageError, match="nothing was asked"):
        dialogue.undo()


def test_the_window_s_use_is_that_of_the_next_prompt(talk):
    dialogue = talk("one")
    before = dialogue.used
    dialogue.ask("abc", nothing)
    # <user> a b c </s> <bot> o n e </s>
    assert dialogue.used == before + 10
    dialogue.turns.append(Message("user", "\ud800"))
    assert dialogue.used is None


def test_going_on_where_another_program_stopped(talk, history):
    first = talk("one")
    first.system = "Be brief."
    first.ask("a", nothing)
    history.save(history.get(), [*first.turns, Message("user", "unanswered")])
    second = talk("two")
    assert second.resume(history.get()) == "unanswered"
    second.ask("b", nothing)
    assert stored(history) == ["a", "one", "b", "two"]
    texts = [("system", "Be brief."), ("user", "a"), ("assistant", "one"), ("user", "b")]
    asked = [{"role": role, "content": text} for role, text in texts]
    assert second.chat.engine.asked[0][0] == second.chat.render(asked)
    assert second.notices == []


def test_another_model_is_told_and_remembered(talk, history):
    history.save(SavedConversation("llama", "/runs/killa"), [Message("user", "a"), Message("assistant", "b")])
    dialogue = talk("c")
    dialogue.resume(history.get())
    assert dialogue.notices == ["this conversation was held with llama + killa; tiny goes on with it"]
    dialogue.ask("d", nothing)
    assert (history.get().model, history.get().adapter) == ("tiny", None)


def test_two_programs_in_one_conversation_end_up_with_two(talk, history):
    first = talk("one", "two")
    first.ask("a", nothing)
    second = talk("three")
    second.resume(history.get())
    second.ask("c", nothing)
    first.ask("b", nothing)
    assert contents(history.messages(1)) == ["a", "one", "c", "three"]
    assert contents(history.messages(2)) == ["a", "one", "b", "two"]
    assert "goes on as conversation 2" in first.notices[0]


def test_a_disk_that_fails_does_not_end_the_conversation(talk, history):
    dialogue = talk("one", "two")
    dialogue.ask("a", nothing)
    history.close()
    dialogue.ask("b", nothing)
    assert contents(dialogue.turns) == ["a", "one", "b", "two"]
    (notice,) = dialogue.notices
    assert "nothing is kept" in notice


def test_an_adapter_brings_its_own_system_prompt(talk, history, trained_adapter):
    dialogue = talk("one")
    dialogue.system = "Be brief."
    dialogue.switch_adapter(trained_adapter)
    assert [each.directory for each in dialogue.chat.engine.adapters] == [trained_adapter]
    assert (dialogue.chat.adapter_name, dialogue.system) == ("killa", None)
    dialogue.ask("a", nothing)
    asked = [{"role": "system", "content": ADAPTED}, {"role": "user", "content": "a"}]
    assert dialogue.chat.engine.asked[0][0] == dialogue.chat.with_adapter(None).render(asked)
    assert dialogue.chat.engine.options[0]["adapter"] is dialogue.chat.adapter
    assert history.get().adapter == str(trained_adapter)
    dialogue.switch_adapter(None)
    dialogue.ask("b", nothing)
    assert dialogue.chat.engine.options[1]["adapter"] is None
    assert dialogue.chat.renderer.system is None


def test_clearing_begins_another_conversation(talk, history):
    dialogue = talk("one", "two")
    dialogue.ask("a", nothing)
    dialogue.begin()
    dialogue.ask("b", nothing)
    assert [saved.title for saved in history.find()] == ["b", "a"]
    assert history.get(1).length == 2


def test_reasoning_is_kept_beside_the_answer_and_shown_in_its_place(talk, history, capsys):
    """It was printed as the answer, and went back to the model as what it had said."""
    dialogue, shown = talk("<think>hm</think>yes", template=QWEN3), []
    dialogue.watch = Thinking("; /reasoning shows what")
    dialogue.ask("a", shown.append)
    assert "".join(shown) == "yes"
    assert dialogue.turns[-1] == Message("assistant", "yes", reasoning_content="hm")
    assert history.messages(history.get().id) == dialogue.turns
    errors = capsys.readouterr().err.splitlines()
    assert errors[0] == "[thinking …]"
    assert re.fullmatch(r"\[thought for \d+\.\d s; /reasoning shows what\]", errors[1])
    Commands(dialogue).obey("/reasoning")
    assert capsys.readouterr().err == "hm\n"


def test_reasoning_that_was_cut_is_kept_without_an_answer(talk, history):
    dialogue = talk("<think>hm hm", template=QWEN3)
    dialogue.sampling = Sampling(max_new_tokens=9)
    assert dialogue.ask("a", nothing) == "length"
    assert history.messages(history.get().id)[-1] == Message("assistant", "", reasoning_content="hm")
