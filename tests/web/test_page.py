"""The page as Streamlit's own test harness draws it: what is shown, and what reaches the engine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import FastAPI
from streamlit.testing.v1 import AppTest

from arriero.chat import Chat
from arriero.errors import UsageError
from arriero.messages import Message, Sampling
from arriero.web import SCRIPT, mount
from arriero.web.page import as_markdown, follow
from arriero.web.session import Session
from arriero.web.state import set_chat


@pytest.fixture
def opened() -> Callable[[Chat], AppTest]:
    """Draw the page over a Chat, without a browser."""

    def visit(chat: Chat) -> AppTest:
        set_chat(chat)
        return AppTest.from_file(SCRIPT, default_timeout=60).run()

    return visit


def ask(page: AppTest, question: str) -> AppTest:
    page.chat_input[0].set_value(question).run()
    assert not page.exception
    return page


def answers(page: AppTest) -> list[tuple[str, str]]:
    """The answers on the page, each with the remarks below it."""
    return [(message.markdown[0].value, message.caption[0].value) for message in page.chat_message if message.caption]


def test_the_page_says_who_answers(scripted_chat, opened):
    chat = scripted_chat("abc")
    chat.adapter = chat.engine.load_adapter(Path("runs/llama-driver"))
    page = opened(chat)
    assert page.title[0].value == "🦙 Arriero"
    assert [text.value for text in page.sidebar.text] == ["tiny", "llama-driver", "scripted, no model"]


def test_a_conversation_of_two_turns(scripted_chat, opened):
    page = ask(ask(opened(scripted_chat("**abc**", "def")), "<b>hi</b>"), "and?")
    assert page.chat_message[0].text[0].value == "<b>hi</b>", "drawn as text, not as Markdown"
    speeds = [f"{turn.tokens_per_second:.1f} tokens/s" for turn in page.session_state.session.turns]
    assert answers(page) == [
        ("**abc**", f"8 tokens · 13 in the prompt · {speeds[0]}"),
        ("def", f"4 tokens · 28 in the prompt · {speeds[1]}"),
    ]


def test_the_settings_reach_the_engine(scripted_chat, opened):
    chat = scripted_chat("abcdef")
    page = opened(chat)
    ask(page, "hi")
    assert chat.engine.asked[-1][1:] == (chat.defaults, 250)  # what the window of 256 leaves after 6 prompt ids
    page.sidebar.number_input[0].set_value(0.5)
    page.sidebar.number_input[1].set_value(3)
    ask(page, "and?")
    expected = Sampling(temperature=0.5, max_new_tokens=3).over(chat.defaults)
    assert chat.engine.asked[-1][1:] == (expected, 3)
    text, remarks = answers(page)[-1]
    assert text == "abc"
    assert remarks.startswith("**Cut off**")


def test_the_system_prompt_is_the_trained_one_until_it_is_edited_for_a_new_conversation(scripted_chat, opened):
    chat = scripted_chat("abc")
    chat.renderer = replace(chat.renderer, system="be kind")
    page = opened(chat)
    assert page.sidebar.text_area[0].value == "be kind"
    page.sidebar.text_area[0].set_value("be brief").run()
    ask(page, "hi")
    assert chat.engine.asked[-1][0] == chat.render([Message("system", "be brief"), Message("user", "hi")])
    assert page.sidebar.text_area[0].disabled
    page.sidebar.button[0].click().run()
    assert page.chat_message == []
    assert not page.sidebar.text_area[0].disabled
    assert page.sidebar.text_area[0].value == "be brief"


def test_an_error_is_shown_and_the_conversation_goes_on(scripted_chat, opened):
    page = ask(opened(scripted_chat("abc")), "hi")
    ask(page, "a" * 300)
    assert page.error[0].value.startswith("The prompt has ")
    assert "the model's window holds 256. Shorten the conversation" in page.error[0].value
    ask(page, "and?")
    assert [text for text, _ in answers(page)] == ["abc", "abc"]
    assert len(page.error) == 1


def test_redraws_are_at_most_twenty_a_second_and_only_for_news(scripted_chat, monkeypatch):
    session = Session(scripted_chat("a" * 200, gate=0))
    turn = session.ask("hi", Sampling())
    waits: list[float] = []
    advance = session.advance

    def release_at_the_third(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            session.chat.engine.release.set()
        advance(seconds)

    monkeypatch.setattr(session, "advance", release_at_the_third)
    drawn: list[str] = []

    class Place:
        caption = drawn.append
        markdown = drawn.append

    follow(session, turn, Place())
    assert (drawn[0], drawn[-1]) == ("Thinking …", "a" * 200)
    assert "" not in drawn
    assert len(drawn) - 1 <= len(waits) - 2
    assert set(waits) == {0.05}


@pytest.mark.parametrize(
    ("said", "drawn"),
    [
        ("$5 or $6", r"\$5 or \$6"),
        ("costs $5/$6", r"costs \$5/\$6"),
        ("so $a^2$ and $$b$$", "so $a^2$ and $$b$$"),
        (r"so \( a^2 \) and \[ b \]", "so $a^2$ and $$ b $$"),
        (r"`\(a\) $5` and \$5", r"`\(a\) $5` and \$5"),
        ("```\necho $HOME \\(x\\)\n```", "```\necho $HOME \\(x\\)\n```"),
        ("```\necho $HOME", "```\necho $HOME"),
    ],
)
def test_dollars_and_maths(said, drawn):
    assert as_markdown(said) == drawn


def test_without_streamlit_the_error_says_what_to_install(scripted_chat, monkeypatch):
    monkeypatch.setitem(sys.modules, "streamlit", None)
    with pytest.raises(UsageError) as caught:
        mount(FastAPI(), scripted_chat("abc"))
    assert caught.value.hint == 'pip install "arriero[web]"'
