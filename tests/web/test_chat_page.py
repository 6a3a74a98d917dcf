"""The conversation page as Streamlit's own test harness draws it: every control, and what reaches the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from arriero.chat import Chat
from arriero.messages import Message, Sampling
from arriero.web import SCRIPT, Site


@pytest.fixture
def opened(site) -> Callable[..., AppTest]:
    """Draw the page over chats, without a browser."""

    def visit(chats: dict[str, Chat] | None = None, **more: Chat) -> AppTest:
        site(chats, **more)
        return run(AppTest.from_file(SCRIPT, default_timeout=60))

    return visit


def run(page: AppTest) -> AppTest:
    page.run()
    assert not page.exception, page.exception
    return page


def ask(page: AppTest, question: str) -> AppTest:
    page.chat_input[0].set_value(question)
    return run(page)


def click(page: AppTest, key: str) -> AppTest:
    page.button(key=key).click()
    return run(page)


def said(page: AppTest) -> list[str]:
    """The turns on the page as they are drawn."""
    return [
        (message.text[0].value if message.text else message.markdown[0].value if message.markdown else "")
        for message in page.chat_message
    ]


def keys(page: AppTest, name: str) -> list[str]:
    return [button.key for button in page.button if (button.key or "").startswith(f"{name}-")]


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
