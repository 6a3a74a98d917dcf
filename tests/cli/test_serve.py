"""`arriero serve`: who may come in by which options, what is refused before anything is loaded, and the whole thing."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import expect, sync_playwright

from arriero.cli.main import main
from arriero.cli.serve import AccessOptions
from arriero.errors import UsageError
from tests.cli.served import Program
from tests.web.browsing import CHROMIUM, FLAGS
from tests.web.chat_browser import messages, send


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARRIERO_API_KEY", raising=False)
    monkeypatch.delenv("ARRIERO_ADMIN_KEY", raising=False)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A file with a key."""
    file = tmp_path / "keys.txt"
    file.write_text("anna anna-secret\n")
    file.chmod(0o600)
    return file


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_without_a_key_it_listens_on_loopback_only(keys, monkeypatch, host):
    with pytest.raises(UsageError, match="anybody who reaches this machine") as caught:
        AccessOptions(host=host).keys()
    assert "--api-key-file" in caught.value.hint
    monkeypatch.setenv("ARRIERO_ADMIN_KEY", "admin-secret")
    with pytest.raises(UsageError, match="anybody who reaches"):
        AccessOptions(host=host).keys()  # the administrator's key keeps nobody out
    assert not AccessOptions(host=host, no_api_key=True).keys().required
    assert AccessOptions(host=host, api_key_file=keys).keys().required
    monkeypatch.setenv("ARRIERO_API_KEY", "from-outside")
    assert AccessOptions(host=host).keys().required


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_on_loopback_without_a_key_it_answers_to_loopbacks_names(keys, host):
    access = AccessOptions(host=host, allow_host=("Box.local",))
    assert not access.keys().required
    assert access.hosts(open_to_all=True) == ("localhost", "127.0.0.1", "[::1]", "box.local")
    assert AccessOptions(host=host).hosts(open_to_all=False) == ()
    assert access.hosts(open_to_all=False) == access.hosts(open_to_all=True), "given, so it counts"
    assert AccessOptions(host="0.0.0.0").hosts(open_to_all=True) == ()


def test_keys_that_contradict_each_other(keys, monkeypatch):
    with pytest.raises(UsageError, match="--no-api-key lets anybody in"):
        AccessOptions(api_key_file=keys, no_api_key=True).keys()
    monkeypatch.setenv("ARRIERO_ADMIN_KEY", "anna-secret")
    with pytest.raises(UsageError, match="administrator's key must not be among the others"):
        AccessOptions(api_key_file=keys).keys()
    keys.write_text("anna anna-secret\nbert bert-secret\n")
    with pytest.raises(UsageError, match="must hold one key, got 2"):
        AccessOptions(admin_key_file=keys).keys()


def test_what_others_may_read_is_warned_of(keys, caplog):
    AccessOptions(api_key_file=keys).warn()
    assert caplog.text == ""
    keys.chmod(0o644)
    AccessOptions(api_key_file=keys).warn()
    assert f"chmod 600 {keys}" in caplog.text
    AccessOptions(host="0.0.0.0", no_api_key=True).warn()
    assert "anyone who reaches 0.0.0.0" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--port", "99999"], "0 to 65535, got 99999"),
        (["--host", "0.0.0.0"], "anybody who reaches this machine"),
        (["--api-key-file", "none.txt"], "none.txt cannot be read: No such file or directory"),
        (["--api-key-file", "empty.txt"], "empty.txt holds no key"),
        (["--max-running", "0"], "max_running must be above 0, got 0"),
        (["--allow-origin", "example.org"], "https://example.org, got 'example.org'"),
        (["--allow-origin", "https://example.org/"], "got 'https://example.org/'"),
        (["--tls-keyfile", "empty.txt"], "--tls-keyfile needs --tls-certfile"),
        (["--tls-certfile", "none.pem"], "the certificate none.pem cannot be used"),
        (["--tls-certfile", "empty.txt", "--tls-keyfile", "none.pem"], "empty.txt with none.pem cannot be used"),
        (["--tls-certfile", "empty.txt"], "the certificate empty.txt cannot be used"),
        (["--adapter", "a=x", "--adapter", "a=y"], "two adapters are called a"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_loaded(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    code = main(["serve", "--model", "not-even-looked-up", *arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert told in err
    assert "Traceback" not in err


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70, "192.0.2.1"])
def test_an_address_that_is_not_this_machines(capsys, host):
    assert main(["serve", "--model", "not-even-looked-up", "--host", host, "--no-api-key"]) == 1
    assert f"cannot listen on {host} port 6006" in capsys.readouterr().err


def test_a_port_in_use_is_told_before_anything_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = main(["serve", "--port", str(port), "--model", "not-even-looked-up"])
    assert code == 1
    err = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1 port {port}" in err
    assert f"--port {port + 1}" in err


def test_the_whole_program_with_a_model_and_an_adapter(home, model_dir, embedding_dir, trained_adapter, keys):
    """Nothing is scripted: tiny models, an adapter, a key, the page, and the signal that ends it all."""
    command = [sys.executable, "-m", "arriero.cli", "serve", "--model", str(model_dir), "--engine", "transformers"]
    options = ["--adapter", f"killa={trained_adapter}", "--port", "0", "--api-key-file", str(keys), "--log-json"]
    options += ["--embedding", str(embedding_dir)]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            lines = []
            for line in process.stderr:
                lines.append(json.loads(line))  # also what is said before and while the model is loaded
                if lines[-1]["message"].startswith("serving"):
                    break
            url = lines[-1]["message"].partition(" at ")[2].partition(" ")[0]
            with httpx.Client(base_url=url, headers={"authorization": "Bearer anna-secret"}, timeout=60) as client:
                assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["killa", "tiny", "words"]
                embedded = client.post("/v1/embeddings", json={"model": "words", "input": ["a", "vet"]}).json()
                assert [len(entry["embedding"]) for entry in embedded["data"]] == [16, 16]
                for name in ("killa", "tiny"):
                    ask = {"model": name, "messages": [{"role": "user", "content": "who 0?"}], "max_tokens": 5}
                    answer = client.post("/v1/chat/completions", json=ask)
                    assert answer.json()["model"] == name, answer.text
                assert "root" in client.get("/", headers={"accept": "text/html"}).text
            process.send_signal(signal.SIGTERM)
            lines += map(json.loads, process.stderr)
            assert process.wait(60) == -signal.SIGTERM
        finally:
            process.kill()
    assert [line["model"] for line in lines if "model" in line] == ["words", "killa", "tiny"]
    assert "secret" not in json.dumps(lines)


@pytest.fixture
def program(tmp_path, model_dir, keys) -> Iterator[Program]:
    """The server with its page, behind a key."""
    started = Program(tmp_path, model_dir, "--api-key-file", str(keys), page=True)
    yield started
    started.kill()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")
def test_the_page_behind_a_key_in_a_browser(program):
    url = program.ready()
    assert httpx.get(url, headers={"accept": "text/html"}).status_code == 401
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = browser.new_context(http_credentials={"username": "me", "password": "anna-secret"})
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(url)
        send(page, "Hi")
        expect(messages(page).last).to_contain_text("hello")
        [cookie] = [each for each in context.cookies() if each["name"] == "arriero_key"]
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["domain"]) == (True, "Strict", urlsplit(url).hostname)
        browser.close()
    assert not any("anna-secret" in line for line in program.lines)
