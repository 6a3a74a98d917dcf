"""The conversation page as Streamlit's own test harness draws it: every control, and what reaches the engine."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from arriero.history import History, SavedConversation
from arriero.messages import Message, Sampling
from arriero.web import SCRIPT, Remote, Site, set_site
from arriero.web.completion import LiveCompletion, Request
from tests.prompt.reasoning import QWEN3
from tests.web.chat_page import ask, click, keys, run, said


def test_a_process_spawned_after_a_visit_does_not_draw_the_page(opened, scripted_chat):
    """Streamlit makes the page's script the main module, and a spawned process imports that: it died of it."""
    opened(served=scripted_chat("abc"))
    process = multiprocessing.get_context("spawn").Process(target=abs, args=(-1,))
    process.start()
    process.join()
    assert process.exitcode == 0


def test_a_conversation_of_two_turns(scripted_chat, opened):
    chat = scripted_chat("**abc**", "def")
    page = opened(tiny=chat)
    assert page.subheader[0].value == "What shall we talk about?"
    ask(ask(page, "<b>hi</b>"), "and?")
    assert said(page) == ["<b>hi</b>", "**abc**", "and?", "def"]
    messages = [Message("user", "<b>hi</b>"), Message("assistant", "**abc**"), Message("user", "and?")]
    assert chat.engine.asked[1][0] == chat.render(messages)
    assert any("8 tokens" in caption.value for caption in page.chat_message[1].caption)
    assert not page.subheader


def test_what_is_blank_is_not_asked(scripted_chat, opened):
    chat = scripted_chat("abc")
    page = ask(opened(tiny=chat), "  ")
    assert page.chat_message == []
    assert chat.engine.asked == []


def test_another_answer_and_back(scripted_chat, opened):
    chat = scripted_chat("one", "two")
    page = ask(opened(tiny=chat), "hi")
    click(page, keys(page, "regenerate")[0])
    assert said(page) == ["hi", "two"]
    assert chat.engine.asked[0][0] == chat.engine.asked[1][0]
    assert page.button(key=keys(page, "next")[0]).disabled
    click(page, keys(page, "previous")[0])
    assert said(page) == ["hi", "one"]
    assert "1 / 2" in [caption.value for caption in page.caption]


def test_an_edited_question_is_a_branch(scripted_chat, opened):
    chat = scripted_chat("one", "two", "three")
    page = ask(ask(opened(tiny=chat), "A"), "B")
    click(page, keys(page, "edit")[0])
    page.text_area(key=f"words-{keys(page, 'send')[0].removeprefix('send-')}").set_value("A!")
    click(page, keys(page, "send")[0])
    assert said(page) == ["A!", "three"]
    assert chat.engine.asked[2][0] == chat.render([Message("user", "A!")])
    click(page, keys(page, "previous")[0])
    assert said(page) == ["A", "one", "B", "two"]


def test_an_edit_can_be_given_up(scripted_chat, opened):
    chat = scripted_chat("one")
    page = ask(opened(tiny=chat), "A")
    click(page, keys(page, "edit")[0])
    click(page, keys(page, "cancel")[0])
    assert said(page) == ["A", "one"]
    assert len(chat.engine.asked) == 1


def test_a_cut_answer_is_continued(scripted_chat, opened):
    chat = scripted_chat("abcdef", "def")
    page = opened(tiny=chat)
    page.number_input(key="set_max_new_tokens").set_value(3)
    ask(page, "hi")
    assert said(page) == ["hi", "abc"]
    assert any("cut off" in caption.value for caption in page.caption)
    page.number_input(key="set_max_new_tokens").set_value(10)
    click(page, keys(page, "continue")[0])
    assert said(page) == ["hi", "abcdef"]
    turns = [Message("user", "hi"), Message("assistant", "abc")]
    assert chat.engine.asked[1][0] == chat.render(turns, continue_final_message=True)
    assert keys(page, "continue") == []


def test_the_settings_reach_the_engine(scripted_chat, opened):
    chat = scripted_chat("abcdef")
    page = ask(opened(tiny=chat), "hi")
    assert chat.engine.asked[-1][1:] == (chat.defaults, 250)  # what the window of 256 leaves after 6 prompt ids
    given = Sampling(3, 0.5, 0.9, 7, 0.1, 1.1, 0.5, -0.5, 0, ("x", "yz"))
    for name in ("temperature", "top_p", "max_new_tokens", "seed", "top_k", "min_p", "repetition_penalty"):
        page.number_input(key=f"set_{name}").set_value(getattr(given, name))
    page.number_input(key="set_presence_penalty").set_value(0.5)
    page.number_input(key="set_frequency_penalty").set_value(-0.5)
    page.text_area(key="set_stop").set_value("x\nyz\n")
    ask(page, "and?")
    assert chat.engine.asked[-1][1:] == (given.over(chat.defaults), 3)


def test_the_system_prompt_is_the_trained_one_until_it_is_edited(scripted_chat, opened):
    chat = scripted_chat("abc")
    chat.renderer = replace(chat.renderer, system="be kind")
    page = opened(tiny=chat)
    assert page.text_area[0].value == "be kind"
    ask(page, "hi")
    assert chat.engine.asked[-1][0] == chat.render([Message("user", "hi")]), "the renderer puts it there"
    click(page, "new")
    page.text_area[0].set_value("be brief")
    ask(run(page), "hi")
    assert chat.engine.asked[-1][0] == chat.render([Message("system", "be brief"), Message("user", "hi")])
    assert page.text_area[0].value == "be brief"
    page.text_area[0].set_value("")
    ask(run(page), "and?")
    turns = [Message("user", "hi"), Message("assistant", "abc"), Message("user", "and?")]
    assert chat.engine.asked[-1][0] == chat.render([Message("system", ""), *turns]), "none at all is a choice too"


def test_models_come_and_go_while_the_page_is_open(scripted_chat, opened):
    base, killa = scripted_chat("base"), scripted_chat("killa")
    chats = {"tiny": base}
    page = ask(opened(chats), "A")
    killa.adapter = killa.engine.load_adapter(Path("runs/killa"))
    chats["killa"] = killa
    run(page)
    assert page.selectbox[0].options == ["tiny", "killa (adapter of tiny)"]
    page.selectbox[0].set_value("killa")
    ask(run(page), "B")
    assert said(page) == ["A", "base", "B", "killa"]
    chats["killa"] = scripted_chat("replaced")
    ask(page, "C")
    assert said(page)[-1] == "replaced"
    del chats["killa"]
    ask(page, "D")
    assert (page.selectbox[0].value, said(page)[-1]) == ("tiny", "base")


def test_an_error_is_shown_and_the_conversation_goes_on(scripted_chat, opened):
    page = ask(opened(tiny=scripted_chat("abc")), "hi")
    ask(page, "a" * 300)
    assert page.error[0].value.startswith("The prompt has ")
    assert keys(page, "try")
    ask(page, "and?")
    assert said(page)[-1] == "abc"
    assert not page.error


def test_a_blank_answer_is_told(scripted_chat, opened):
    page = ask(opened(tiny=scripted_chat("  ", "abc")), "hi")
    assert "The model said nothing." in [caption.value for caption in page.caption]
    click(page, keys(page, "try")[0])
    assert said(page) == ["hi", "abc"]


def test_reasoning_is_folded_away(scripted_chat, opened):
    page = ask(opened(tiny=scripted_chat("<think>hm\n</think>\n\nyes")), "hi")
    assert [expander.label for expander in page.chat_message[1].expander] == ["Reasoning"]
    assert [markdown.value for markdown in page.chat_message[1].markdown] == ["hm", "yes"]
    assert page.chat_message[1].code[0].value == "yes", "what is copied"


def test_reasoning_that_comes_apart_is_folded_and_kept_and_can_be_turned_off(scripted_chat, opened):
    """What the template's switch says is asked for with each answer; without a switch there is nothing to choose."""
    chat = scripted_chat("<think>hm</think>yes", template=QWEN3)
    page = ask(opened(tiny=chat), "hi")
    assert [expander.label for expander in page.chat_message[1].expander] == ["Reasoning"]
    assert [markdown.value for markdown in page.chat_message[1].markdown] == ["hm", "yes"]
    assert page.chat_message[1].code[0].value == "yes", "what is copied"
    assert not chat.renderer.tokenizer.decode(chat.engine.asked[0][0]).endswith("</think>\n\n")
    page.segmented_control(key="set_thinking").set_value(False)
    ask(page, "again")
    assert chat.renderer.tokenizer.decode(chat.engine.asked[1][0]).endswith("<bot><think>\n\n</think>\n\n")
    without = ask(opened(tiny=scripted_chat("x")), "hi").get("segmented_control")
    assert "set_thinking" not in [control.key for control in without]


def test_the_page_over_another_server_and_without_it(serve, tmp_path):
    served = serve("abcdef", "def")
    here = Site(Remote(served.url), history=History(tmp_path / "file"))
    set_site(here)
    page = run(AppTest.from_file(SCRIPT, default_timeout=60))
    page.number_input(key="set_max_new_tokens").set_value(3)
    ask(run(page), "hi")
    assert said(page) == ["hi", "abc"]
    click(page, keys(page, "continue")[0])
    assert said(page) == ["hi", "abcdef"]
    assert "Context: 12 of 256 tokens" in [caption.value for caption in page.caption]
    here.answers.close()
    set_site(Site(Remote("http://127.0.0.1:9"), history=here.history))
    run(page)
    assert "The server at http://127.0.0.1:9 cannot be reached" in page.error[0].value.replace("\\", "")
    assert said(page) == ["hi", "abcdef"], "what was said can still be read"
    ask(page, "and?")
    assert page.error


class EndsMeanwhile(threading.Event):
    """An answer's end that comes right after somebody has looked so many times, as the answers' thread may have it."""

    def __init__(self, looks: int, forget: Callable[[], object]) -> None:
        super().__init__()
        self._looks, self._forget = looks, forget

    def is_set(self) -> bool:
        before = super().is_set()
        self._looks -= 1
        if not before and self._looks <= 0:
            self.wait()
        return before

    def wait(self, timeout: float | None = None) -> bool:
        self.set()
        self._forget()
        return True


@pytest.mark.parametrize("looks", range(1, 5))
def test_an_answer_that_ends_while_the_page_is_drawn_is_drawn(scripted_chat, site, looks):
    """It was taken for running at first and not later, and its question for one without an answer."""
    here = site(tiny=scripted_chat("abc"))
    saved = here.history.save(SavedConversation("tiny"), [Message("user", "hi"), Message("assistant", "Bye")])
    question, node = here.history.path(saved.id)
    asked = Request(here.history, saved.id, question.id, "tiny", [question.message], Sampling())
    ended = EndsMeanwhile(looks, lambda: here.answers._answers.clear())
    here.answers._answers[saved.id] = LiveCompletion(asked, text="Bye", node=node.id, finish_reason="stop", ended=ended)
    page = AppTest.from_file(SCRIPT, default_timeout=60)
    page.query_params["c"] = str(saved.id)
    run(page)
    assert said(page) == ["hi", "Bye"]
    assert not any("said nothing" in caption.value for caption in page.caption)
