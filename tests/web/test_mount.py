"""The page beside the app's own routes: who may connect, cookies, and what is missing without Streamlit."""

from __future__ import annotations

import re
import sys

import httpx
import pytest
from fastapi import FastAPI
from streamlit import config
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from arriero.errors import ArrieroError, UsageError
from arriero.web import browser, mount
from arriero.web.faults import sentences


def test_the_page_and_the_apps_own_routes_live_side_by_side(address):
    with httpx.Client(base_url=f"http://{address}") as client:
        for path in ("/", "/compare"):
            assert '<div id="root">' in client.get(path).text
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
    assert config.get_option("runner.postScriptGC") is False, "with it the stop button took a second"


def test_the_first_page_is_also_where_its_name_leads(address):
    """Streamlit answered "Page not found" there, over an empty page."""
    came = httpx.get(f"http://{address}/chat?c=1", follow_redirects=True)
    assert (came.status_code, str(came.url)) == (200, f"http://{address}/?c=1")


@pytest.mark.parametrize(
    ("message", "hint", "shown"),
    [("no file x", "another one", "No file x. Another one."), ("请选择。", "", "请选择。"), ("which?", "", "Which?")],
)
def test_an_error_becomes_sentences_of_either_language(message, hint, shown):
    """A Chinese one ended with two full stops."""
    assert sentences(ArrieroError(message, hint=hint)) == shown


def test_a_page_of_another_site_may_not_open_the_connection(address, monkeypatch):
    looked_up: list[str] = []
    monkeypatch.setattr("streamlit.net_util.get_external_ip", lambda: looked_up.append("on the internet"))
    path = f"ws://{address}/_stcore/stream"
    with connect(path, origin=f"http://{address}"):
        pass
    with pytest.raises(InvalidStatus, match="403"), connect(path, origin="http://elsewhere.invalid"):
        pass
    assert looked_up == []


def test_a_cookie_is_given_where_there_is_need_of_one_and_stays_the_same(address, site, scripted_chat):
    """A year after the first visit it was gone, and over a link from another site, where a strict one is not sent."""
    chat = scripted_chat("abc")
    site(tiny=chat)
    assert "set-cookie" not in httpx.get(f"http://{address}/").headers
    site(tiny=chat, options={"by_cookie": True})
    with httpx.Client(base_url=f"http://{address}") as client:
        given = client.get("/").headers["set-cookie"]
        assert re.fullmatch(r"arriero_browser=[0-9a-f]{32}; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax", given)
        assert client.get("/compare").headers["set-cookie"] == given
        assert "arriero" not in httpx.get(f"http://{address}/_stcore/health").headers.get("set-cookie", "")
    assert browser({"cookie": "arriero_browser=guessed"}) is None


def test_without_streamlit_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "streamlit", None)
    with pytest.raises(UsageError) as caught:
        mount(FastAPI())
    assert caught.value.hint == 'pip install "arriero[web]"'
