"""The page in a real server, beside the app's own routes, and in a real browser."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Locator, Page, Request, expect, sync_playwright
from streamlit import config
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from arriero.messages import Message
from arriero.web import mount
from arriero.web.state import set_chat

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
expect.set_options(timeout=60_000)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server with routes of its own and the page, on a free port; each test sets the Chat it wants."""
    started = threading.Event()

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        started.set()
        yield {"own": "state"}

    app = FastAPI(lifespan=lifespan)
    app.post("/")(lambda: {"answer": "posted"})
    app.get("/health")(lambda: {"status": "ok"})
    app.post("/v1/chat/completions")(lambda: {"choices": []})
    mount(app, None)
    app.get("/later")(lambda: {"status": "added after the page"})
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    assert started.wait(60), "the app's own lifespan must run"
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_the_page_and_the_apps_own_routes_live_side_by_side(address):
    with httpx.Client(base_url=f"http://{address}") as client:
        assert '<div id="root">' in client.get("/").text
        assert "img-src 'self'" in client.get("/").headers["content-security-policy"]
        assert client.get("/_stcore/health").text == "ok"
        assert client.post("/").json() == {"answer": "posted"}
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/later").json() == {"status": "added after the page"}
        assert "swagger" in client.get("/docs").text
        assert client.get("/v1/typo").json() == {"detail": "Not Found"}
        assert client.get("/v1/chat/completions").status_code == 405
    assert config.get_option("browser.gatherUsageStats") is False
    assert config.get_option("server.fileWatcherType") == "none"


def test_a_page_of_another_site_may_not_open_the_connection(address, monkeypatch):
    looked_up: list[str] = []
    monkeypatch.setattr("streamlit.net_util.get_external_ip", lambda: looked_up.append("on the internet"))
    path = f"ws://{address}/_stcore/stream"
    with connect(path, origin=f"http://{address}"):
        pass
    with pytest.raises(InvalidStatus, match="403"), connect(path, origin="http://elsewhere.invalid"):
        pass
    assert looked_up == []


@pytest.fixture
def tab(address) -> Iterator[Callable[[], Page]]:
    """Open the page in a browser tab; anything a tab asks of another machine is an error."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    outside: list[str] = []

    def note(request: Request) -> None:
        if urlsplit(request.url).scheme in ("http", "https", "ws") and urlsplit(request.url).netloc != address:
            outside.append(request.url)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)

        def open_tab() -> Page:
            page = browser.new_context().new_page()
            page.set_default_timeout(60_000)
            page.on("requestfinished", note)
            page.on("requestfailed", lambda request: None if request.failure == "csp" else note(request))
            page.goto(f"http://{address}/")
            return page

        yield open_tab
        browser.close()
    assert outside == []


def send(page: Page, question: str) -> None:
    box = page.get_by_test_id("stChatInputTextArea")
    box.fill(question)
    box.press("Enter")


def messages(page: Page) -> Locator:
    return page.get_by_test_id("stChatMessage")


def test_two_questions_and_their_streamed_answers(scripted_chat, tab):
    chat = scripted_chat("Hello **you**", "Bye", gate=5)
    set_chat(chat)
    page = tab()
    expect(page).to_have_title("Arriero")
    send(page, "Hi")
    expect(messages(page).last).to_have_text("🦙Hello")  # while the engine is held at its gate
    chat.engine.release.set()
    expect(messages(page).last.locator("strong")).to_have_text("you")
    expect(messages(page).last).to_contain_text("tokens/s")
    send(page, "And?")
    expect(messages(page)).to_have_count(4)
    expect(messages(page).last).to_contain_text("Bye4 tokens")
    said = [Message("user", "Hi"), Message("assistant", "Hello **you**"), Message("user", "And?")]
    assert chat.engine.asked[1][0] == chat.render(said)


@pytest.mark.parametrize(("gate", "kept"), [(5, "Hello"), (0, "")])
def test_the_stop_button_stops_the_engine_and_keeps_what_was_said(scripted_chat, tab, gate, kept):
    chat = scripted_chat("Hello you", gate=gate)
    set_chat(chat)
    page = tab()
    send(page, "Hi")
    expect(messages(page).last).to_have_text("🦙" + (kept or "Thinking …"))
    page.get_by_test_id("stChatInputStopButton").click()
    expect(messages(page).last).to_have_text(f"🦙{kept}Stopped")
    assert chat.engine.generations[0].cancelled
    chat.engine.release.set()
    send(page, "Go on")
    expect(messages(page).last).to_contain_text("Hello you")
    before = [Message("user", "Hi"), Message("assistant", kept)] if kept else []
    assert chat.engine.asked[1][0] == chat.render([*before, Message("user", "Go on")])


def test_a_click_elsewhere_does_not_break_off_the_answer(scripted_chat, tab):
    chat = scripted_chat("Hello you", gate=5)
    set_chat(chat)
    page = tab()
    send(page, "Hi")
    expect(messages(page).last).to_have_text("🦙Hello")
    page.get_by_role("spinbutton", name="Temperature").fill("0.5")
    page.get_by_role("spinbutton", name="Temperature").press("Enter")
    page.get_by_role("button", name="Stop", exact=True).wait_for()  # stands in for the input's own
    assert not chat.engine.generations[0].cancelled
    chat.engine.release.set()
    expect(messages(page).last).to_contain_text("Hello you10 tokens")
    assert len(chat.engine.asked) == 1


def test_nothing_that_is_said_becomes_html_or_is_loaded_from_elsewhere(scripted_chat, tab):
    html = "<b id=bold>bold</b><img src=http://elsewhere.invalid/1.png>"
    set_chat(scripted_chat(f"{html} ![picture](http://elsewhere.invalid/2.png)"))
    page = tab()
    send(page, f"{html} **not bold**")
    expect(messages(page).last).to_contain_text("tokens/s")
    expect(messages(page).first).to_contain_text(f"{html} **not bold**")
    expect(messages(page).last).to_contain_text(html)
    expect(page.locator("#bold, [src='http://elsewhere.invalid/1.png']")).to_have_count(0)


def test_two_tabs_have_conversations_of_their_own(scripted_chat, tab):
    chat = scripted_chat("one", "two")
    set_chat(chat)
    first, second = tab(), tab()
    send(first, "A")
    expect(messages(first).last).to_contain_text("one")
    send(second, "B")
    expect(messages(second).last).to_contain_text("two")
    expect(messages(second)).to_have_count(2)
    assert chat.engine.asked[1][0] == chat.render([Message("user", "B")])
    first.get_by_role("button", name="New conversation").click()
    expect(messages(first)).to_have_count(0)
    expect(messages(second)).to_have_count(2)


def test_closing_the_tab_frees_the_engine(scripted_chat, tab):
    chat = scripted_chat("Hello you", gate=5)
    set_chat(chat)
    page, other = tab(), tab()
    send(page, "Hi")
    expect(messages(page).last).to_have_text("🦙Hello")
    page.close()
    while not chat.engine.generations[0].cancelled:  # the test's own time limit ends this
        other.evaluate("() => new Promise(requestAnimationFrame)")


def test_a_refused_question_is_explained_and_the_conversation_goes_on(scripted_chat, tab):
    set_chat(scripted_chat("Hello"))
    page = tab()
    send(page, "a" * 300)
    expect(page.get_by_test_id("stAlert")).to_contain_text("The prompt has 304 tokens")
    send(page, "Hi")
    expect(messages(page).last).to_contain_text("Hello6 tokens")
