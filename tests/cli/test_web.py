"""`arriero web`: the page alone over another server, and the browser that is opened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from arriero.cli.main import main
from arriero.server import create_app
from arriero.server.auth import Keys
from tests.server.conftest import serve  # noqa: F401  a fixture


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--server", "machine:6006"], 2, "http://host:port"),
        (["--server", "http://127.0.0.1:9", "--model", "tiny"], 2, "no model is loaded here"),
        (["--server", "http://127.0.0.1:9", "--host", "0.0.0.0", "--no-api-key"], 2, "at 127.0.0.1 only"),
        (["--server", "http://127.0.0.1:9"], 7, "http://127.0.0.1:9 cannot be reached"),
    ],
)
def test_what_is_wrong_is_told_at_once(capsys, arguments, code, told):
    assert main(["web", "--no-browser", *arguments]) == code
    assert told in capsys.readouterr().err


def test_a_server_that_wants_a_key(serve, scripted_chat, capsys, monkeypatch):  # noqa: F811  the fixture
    chat = scripted_chat("abc")
    url = serve(chat=chat, app=create_app(chat, keys=Keys({"anna": "anna-secret"}))).url
    assert main(["web", "--no-browser", "--server", url]) == 5
    assert "ARRIERO_API_KEY" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="a browser that is a shell script")
def test_the_page_alone_opens_the_browser_and_ends_with_ctrl_c(serve, tmp_path: Path, home):  # noqa: F811  the fixture
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    os.mkfifo(opened)
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)
    command = [sys.executable, "-m", "arriero.cli", "web", "--server", serve("abc").url]
    with subprocess.Popen(command, env={**os.environ, "BROWSER": str(browser)}, stderr=subprocess.PIPE) as process:
        url = opened.read_text().strip()
        assert '<div id="root">' in httpx.get(url, timeout=60).text
        assert httpx.get(url, headers={"host": "elsewhere.invalid"}).status_code == 400
        process.send_signal(signal.SIGINT)
        assert b"Traceback" not in process.communicate(timeout=60)[1]
    assert process.returncode == 130
