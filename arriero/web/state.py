"""What stands behind the page. Streamlit runs its script anew for every visit and click, so the page looks it up here.

One process serves one page (Streamlit's own limit), so there is one site to hold; `mount` sets it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from starlette.requests import cookie_parser

from arriero.errors import UsageError
from arriero.history import History
from arriero.web.backend import Backend
from arriero.web.comparing.rounds import Rounds
from arriero.web.completions import LiveCompletions

COOKIE = "arriero_browser"
BROWSER = "browser-"  # the owner's name begins with it


@dataclass(frozen=True, slots=True)
class Visitor:
    """One person. `owner` is whose conversations these are: None is who sits at this machine, as in the terminal.

    "" is somebody who is not recognised, so that his conversations are his for one visit. `admin` may train,
    change data and models.
    """

    owner: str | None = None
    admin: bool = True


def browser(headers: Mapping[str, str]) -> str | None:
    """The name of the browser that sends these headers, which nobody can guess; None before it has the cookie."""
    identity = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
    return f"{BROWSER}{identity}" if re.fullmatch("[0-9a-f]{32}", identity) else None


def _anybody(_: Mapping[str, str]) -> Visitor:
    return Visitor()


@dataclass(frozen=True)
class Site:
    """The models behind the page, who a visitor is by his browser's headers, and the file of conversations.

    `by_cookie`: browsers are distinguished by a cookie, for nothing else tells who they are. `adopt`
    serves an adapter's directory under a name from now on; None where the models are another server's.
    """

    backend: Backend
    visitor: Callable[[Mapping[str, str]], Visitor] = _anybody
    by_cookie: bool = False
    history: History = field(default_factory=History)
    adopt: Callable[[str, Path], object] | None = None

    @cached_property
    def answers(self) -> LiveCompletions:
        """The answers in flight."""
        return LiveCompletions(self.backend)

    @cached_property
    def rounds(self) -> Rounds:
        """The comparisons, in flight or ended."""
        return Rounds()


_site: list[Site] = []


def set_site(site: Site) -> None:
    """Let the page answer with this."""
    _site[:] = [site]


def told_by_cookie() -> bool:
    """Whether browsers are to be given a cookie; not before `set_site`."""
    return any(site.by_cookie for site in _site)


def get_site() -> Site:
    """What the page answers with now; raises UsageError before `set_site`."""
    if not _site:
        raise UsageError("the page has no model to answer with", hint="start it with `arriero serve`")
    return _site[0]
