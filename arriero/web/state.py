"""The Chat behind the page. Streamlit runs `page.py` anew for every visit and click, so the page looks it up here.

One process serves one page (Streamlit's own limit), so there is one Chat to hold; `mount` sets it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from arriero.errors import UsageError

if TYPE_CHECKING:
    from arriero.chat import Chat

_held: list[Chat] = []


def set_chat(chat: Chat) -> None:
    """Let the page answer with this Chat."""
    _held[:] = [chat]


def get_chat() -> Chat:
    """The Chat that the page answers with; raises UsageError before `set_chat`."""
    if not _held:
        raise UsageError("the page has no model to answer with", hint="start it with `arriero serve`")
    return _held[0]
