"""The Chat behind the page. Streamlit runs `page.py` anew for every visit and click, so the page looks it up here.

One process serves one page (Streamlit's own limit), so there is one source of Chats to hold; `mount` sets it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from arriero.errors import UsageError

if TYPE_CHECKING:
    from arriero.chat import Chat

_source: list[Callable[[], Chat]] = []


def set_source(source: Callable[[], Chat]) -> None:
    """Let the page answer with the Chat that `source` gives when a question is asked; it may be another each time."""
    _source[:] = [source]


def set_chat(chat: Chat) -> None:
    """Let the page always answer with this Chat."""
    set_source(lambda: chat)


def get_chat() -> Chat:
    """The Chat that the page answers with now; raises UsageError before `set_source`."""
    if not _source:
        raise UsageError("the page has no model to answer with", hint="start it with `arriero serve`")
    return _source[0]()
