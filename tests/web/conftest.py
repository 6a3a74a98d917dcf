"""The page over scripted engines, with conversations in a file of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arriero.chat import Chat
from arriero.history import History
from arriero.web import Local, Site, set_site
from tests.server.conftest import serve  # noqa: F401  a fixture
from tests.web.chat_browser import address, chromium, context, tab  # noqa: F401  fixtures
from tests.web.chat_page import opened  # noqa: F401  a fixture


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Put chats behind the page, by name: `site(tiny=chat)`; what is put into the mapping later is there too."""
    made: list[Site] = []

    def put(chats: dict[str, Chat] | None = None, options: dict[str, Any] | None = None, **more: Chat) -> Site:
        served = {} if chats is None else chats
        served.update(more)
        history = History(tmp_path / "conversations.sqlite3")
        made.append(Site(Local(served.items), history=history, **(options or {})))
        set_site(made[-1])
        return made[-1]

    yield put
    for one in made:
        one.answers.close()
        one.history.close()
