"""The web page: Streamlit inside the server's process, on its port, with its model.

`mount` adds the page to a FastAPI app. The page takes its own addresses only ("/" and Streamlit's files), so every
other path, a mistyped one of the API included, is answered by the app. Nothing is loaded from, or sent to, another
machine: usage statistics are off and a content security policy keeps the browser from following images in an answer.

    script/         what Streamlit runs at every visit and every click
    page.py         the page's frame, drawn from top to bottom by that script
    pages/          a Streamlit script for each page
    chatting/       parts of the conversation page
    comparing/      parts of the page "compare"
    datasets/       parts of the page of instruction files
    shelf/          parts of the page of models
    training/       parts of the page of training runs
    words/          everything the page says, in English and Chinese
    language.py     in which language it speaks to a visitor
    state.py        what stands behind the page: who visits, and what the visitor may see
    backend.py      what answers: the models of this process's server
    remote.py       the same, of another server
    alone.py        the page without a model of its own, in a small server on loopback
    completion.py   one answer in flight
    completions.py  all answers in flight, each of which belongs to its conversation
    background.py   the event loop behind all tabs and script runs
    jobs.py         work in a process of its own, whose state is a folder
    faults.py       draws an error
    llama.svg       the page's icon
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.routing import Match, Mount
from starlette.types import Message, Receive, Scope, Send

from arriero.errors import UsageError
from arriero.web.backend import Local
from arriero.web.remote import Remote
from arriero.web.state import BROWSER, COOKIE, Site, Visitor, browser, set_site, told_by_cookie

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["Local", "Remote", "Site", "Visitor", "browser", "mount", "set_site"]

SCRIPT = Path(__file__).parent / "script" / "arriero_page.py"
FIRST = "chat"
PAGES = tuple(f"/{file.stem}" for file in Path(__file__).with_name("pages").glob("*.py"))
FILES = ("", "/", "/favicon.png", "/manifest.json", *PAGES)
FOLDERS = ("/_stcore/", "/static/", "/media/", "/component/")
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
COOKIE_SECONDS = 365 * 24 * 3600
SETTINGS = {
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "type",  # a visitor does not get a stack trace; the server's log does
    "client.showErrorLinks": False,
    "client.toolbarMode": "minimal",
    "runner.fastReruns": False,  # with it a click looks like the stop button to the script
    "runner.magicEnabled": False,
    "runner.postScriptGC": False,  # it stops the whole process after each click, for longer with an engine loaded
    "server.fileWatcherType": "none",
    "server.headless": True,
    "theme.baseRadius": "medium",
    "theme.headingFontSizes": ["1.75rem", "1.4rem", "1.2rem", "1.1rem", "1rem", "1rem"],
    "theme.showWidgetBorder": True,
    "theme.light.primaryColor": "#2f6f62",
    "theme.light.backgroundColor": "#fdfcf9",
    "theme.light.secondaryBackgroundColor": "#f3f0e8",
    "theme.light.codeBackgroundColor": "#f4f2ec",
    "theme.light.textColor": "#26302d",
    "theme.light.linkColor": "#24695b",
    "theme.light.borderColor": "#e0dbcf",
    "theme.dark.primaryColor": "#3d8878",
    "theme.dark.backgroundColor": "#171c1a",
    "theme.dark.secondaryBackgroundColor": "#202725",
    "theme.dark.codeBackgroundColor": "#1d2422",
    "theme.dark.textColor": "#e4e9e6",
    "theme.dark.linkColor": "#7cc4b3",
    "theme.dark.borderColor": "#36403d",
}


def mount(app: FastAPI, site: Site | None = None) -> None:
    """Serve the page at "/" of `app`, over `site`, or over what `set_site` gives later.

    The app's own routes come first.

    The app's lifespan starts and stops Streamlit. One process has one page: a second mount takes the first one's
    slot in answering, and cannot be started beside it. Raises UsageError where streamlit is not installed.
    """
    try:
        from streamlit import config
    except ImportError as error:
        raise UsageError(
            "the web page needs streamlit, which is not installed", hint='pip install "arriero[web]"'
        ) from error
    for name, value in SETTINGS.items():
        config.set_option(name, value)
    if site is not None:
        set_site(site)
    page = _Page()
    app.router.routes.append(_PageMount("/", page, name="page"))
    app.router.lifespan_context = _both(app.router.lifespan_context, page)


def _both(outer: Any, page: _Page) -> Any:
    """The app's own lifespan with Streamlit's around it: a mounted app's lifespan is never called."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with page.streamlit.lifespan()(app), outer(app) as shared:
            yield shared

    return lifespan


class _PageMount(Mount):
    """A mount that matches the page's addresses and lets go of all others."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Starlette's question whether this route is meant."""
        match, child = super().matches(scope)
        if match is Match.NONE:
            return match, child
        path = scope["path"].removeprefix(child.get("root_path", ""))
        return (match, child) if path in FILES or path.startswith(FOLDERS) else (Match.NONE, {})


class _Page:
    """Streamlit as an ASGI app, made when it is first needed, for Streamlit allows one in a process."""

    @cached_property
    def streamlit(self) -> Any:
        """The `streamlit.App`."""
        from streamlit import App

        return App(SCRIPT)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].endswith(f"/{FIRST}"):  # Streamlit has its first page at "/" only
            query = scope["query_string"].decode("latin-1")
            await RedirectResponse("./" + (f"?{query}" if query else ""))(scope, receive, send)
            return
        if scope["type"] == "websocket" and not _same_origin(Headers(scope=scope)):
            # Streamlit would ask a service on the internet for this machine's address to decide on it.
            await send({"type": "websocket.close", "code": 1008})
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                if (cookie := _cookie(scope)) is not None:
                    headers.append("set-cookie", cookie)
            await send(message)

        await self.streamlit(scope, receive, guarded)


def _cookie(scope: Scope) -> str | None:
    """The cookie by which a browser that opens a page is known for another year, where there is need of one.

    Lax: over a link from another site a strict one does not come along, and would be replaced by a new one.
    """
    page = scope.get("method") == "GET" and scope["path"] in ("", "/", *PAGES)
    if not page or not told_by_cookie():
        return None
    known = browser(Headers(scope=scope))
    identity = secrets.token_hex(16) if known is None else known.removeprefix(BROWSER)
    secure = "; Secure" if scope["scheme"] == "https" else ""
    return f"{COOKIE}={identity}; Path=/; Max-Age={COOKIE_SECONDS}; HttpOnly; SameSite=Lax{secure}"


def _same_origin(headers: Headers) -> bool:
    """Whether the page that opens the connection came from this server; programs send no origin."""
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")
