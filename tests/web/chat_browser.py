"""The page in a real server, and a real browser's tabs on it: fixtures, and what a visitor does there."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Request, expect, sync_playwright

from tests.web.browsing import CHROMIUM, FLAGS, served

expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server with routes of its own and the page, on a free port; each test sets the site it wants."""
    started = threading.Event()

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        started.set()
        yield {"own": "state"}

    app = FastAPI(lifespan=lifespan)
    app.post("/")(lambda: {"answer": "posted"})
    app.get("/health")(lambda: {"status": "ok"})
    app.post("/v1/chat/completions")(lambda: {"choices": []})
    with served(app=app) as host:
        app.get("/later")(lambda: {"status": "added after the page"})
        assert started.wait(60), "the app's own lifespan must run"
        yield host


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One process for all: contexts share nothing."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def context(address, chromium) -> Iterator[Callable[[], BrowserContext]]:
    """Begin a browser of its own; anything it asks of another machine, and anything it complains of, is an error."""
    wrong: list[str] = []

    def note(request: Request) -> None:
        if urlsplit(request.url).scheme in ("http", "https", "ws") and urlsplit(request.url).netloc != address:
            wrong.append(request.url)

    with contextlib.ExitStack() as begun:

        def begin(**options: object) -> BrowserContext:
            made = chromium.new_context(**options)
            begun.callback(made.close)
            made.set_default_timeout(60_000)
            made.on("requestfinished", note)
            made.on("requestfailed", lambda request: None if request.failure == "csp" else note(request))
            made.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
            return made

        yield begin
    assert wrong == []


@pytest.fixture
def tab(address, context) -> Callable[[], Page]:
    """Open the page in a browser of its own."""

    def open_tab(**options: object) -> Page:
        page = context(**options).new_page()
        page.goto(f"http://{address}/")
        return page

    return open_tab


def send(page: Page, question: str) -> None:
    box = page.get_by_test_id("stChatInputTextArea")
    box.fill(question)
    box.press("Enter")


def messages(page: Page) -> Locator:
    return page.get_by_test_id("stChatMessage")


def text(message: Locator) -> Locator:
    """What an answer says, without what stands below it."""
    return message.get_by_test_id("stMarkdownContainer").first


def press(page: Page, name: str, number: int = -1) -> None:
    """Click the visible button whose key begins with `name`; the last one by default."""
    buttons = page.locator(f"[class*='st-key-{name}'] button:visible")
    (buttons.last if number == -1 else buttons.nth(number)).click()
