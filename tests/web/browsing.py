"""The page in a real server and a real browser, that lets no request leave the machine unnoticed."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Page, Request, sync_playwright
from streamlit.runtime import Runtime

import arriero.web
from arriero.web import mount

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@contextmanager
def served(script: Path = arriero.web.SCRIPT, app: FastAPI | None = None) -> Iterator[str]:
    """The page, or another script in its place, in `app` or one of its own, on a free port: host and port.

    Streamlit allows one runtime in a process and keeps it when it has stopped, so that is let go of here.
    """
    Runtime._instance = None
    app = FastAPI() if app is None else app
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as listener:
        patch.setattr(arriero.web, "SCRIPT", script)
        mount(app)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
            Runtime._instance = None


@contextmanager
def tabs(address: str, outside: list[str]) -> Iterator[Callable[..., Page]]:
    """Open tabs at `address`, with the options of a browser's context; `outside` collects requests to others."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")

    def note(request: Request) -> None:
        if urlsplit(request.url).scheme in ("http", "https", "ws", "wss") and urlsplit(request.url).netloc != address:
            outside.append(request.url)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)

        def open_tab(path: str = "/", **options: object) -> Page:
            page = browser.new_context(**options).new_page()
            page.set_default_timeout(60_000)
            page.on("request", note)
            page.goto(f"http://{address}{path}")
            return page

        yield open_tab
        browser.close()
