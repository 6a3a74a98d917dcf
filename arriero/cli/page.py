"""The web page in the server's process: its models, who its visitors are, and where conversations are kept."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from arriero.errors import ArrieroError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from arriero.chat import Chat
    from arriero.history import History
    from arriero.server.app import Application
    from arriero.server.models import Models
    from arriero.web import Visitor

log = logging.getLogger(__name__)


def mount_page(app: Application, *, loopback: bool) -> Callable[[Models], None]:
    """Mount the web page, if it is installed; returns what gives it its models.

    `loopback`: only who sits at this machine reaches it, unless there are keys.
    """
    try:
        from starlette.datastructures import Headers

        from arriero.web import Local, Site, Visitor, browser, mount, set_site

        mount(app)
    except UsageError as error:
        log.warning("no web page: %s; %s", error.message, error.hint)
        return lambda _: None

    here = loopback and not app.service.keys.required  # who reaches the page sits at this machine

    def visitor(headers: Mapping[str, str]) -> Visitor:
        caller = app.service.keys.caller(Headers(headers))
        if caller is not None:
            return Visitor(caller.name, caller.admin)
        return Visitor() if here else Visitor(browser(headers) or "", admin=False)

    def show(models: Models) -> None:
        def served() -> Iterator[tuple[str, Chat]]:
            return ((one.name, app.service.admitted(one.chat)) for one in models.served())

        by_cookie = not here and not app.service.keys.required
        set_site(Site(Local(served), visitor, by_cookie=by_cookie, history=_history(), adopt=models.load))

    return show


def _history() -> History:
    """The saved conversations; where they cannot be kept, a file that is gone with this process."""
    from arriero.history import History

    try:
        return History()
    except ArrieroError as error:
        log.warning("%s; the page's conversations will be lost", error.message)
        return History(Path(tempfile.mkdtemp()) / "conversations.sqlite3")
