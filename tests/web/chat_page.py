"""The conversation page in Streamlit's own test harness: opened, asked, clicked, read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from arriero.chat import Chat
from arriero.web import SCRIPT


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
