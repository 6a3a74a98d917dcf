"""README's commands from top to bottom, and those of docs/batch.md and docs/cli.md, run as they are written.

They run in an empty ARRIERO_HOME, with the embedded model in place of the large one. Its config.toml makes answers and
training short, and lets servers take any port; nothing else is changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.written import ROOT, blocks, lines
from tests.real import linked

pytestmark = [pytest.mark.slow, pytest.mark.model, pytest.mark.timeout(900)]
LARGE, EMBEDDED = "llama-3.1-8b-instruct", "smollm2-135m-instruct"
PORT = "http://127.0.0.1:6006"
SHORT = """
[ask]
max-new-tokens = 24
[chat]
max-new-tokens = 24
[train]
epochs = 1
batch-size = 8
learning-rate = 0.002
report-answers = 1
[serve]
port = 0
[web]
port = 0
"""
SCHEMA = {"type": "object", "properties": {"dear": {"type": "boolean"}}, "required": ["dear"]}


def commands(file: str, *beginnings: str) -> list[str]:
    """The lines of a text's blocks that begin so, in their order; requests too, which begin with a brace."""
    return [each.text for each in lines() if each.file == ROOT / file and each.text.startswith(beginnings)]


def block(file: str, word: str) -> str:
    """The first block of a text with that in it."""
    return next(each.text for each in blocks() if each.file == ROOT / file and word in each.text)


class Desk:
    """A directory with a reader's files, and the environment in which they type."""

    def __init__(self, directory: Path) -> None:
        self.directory, home = directory / "work", directory / "home"
        self.opened = directory / "opened"
        for name in ("smollm2-135m-instruct", "all-minilm-l6-v2"):
            linked(home, name)
        (home / "config.toml").write_text(SHORT)
        os.mkfifo(self.opened)
        browser = directory / "browser"
        browser.write_text(f'#!/bin/sh\necho "$1" > {self.opened}\n')
        browser.chmod(0o755)
        here = {"ARRIERO_HOME": str(home), "BROWSER": str(browser), "PYTHONPATH": str(ROOT), "TERM": "dumb"}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, **here, "PATH": path}
        self.directory.mkdir()
        rows = json.loads((ROOT / "examples/data/llama-driver.json").read_text(encoding="utf-8"))[:40]
        self.write("my.json", json.dumps(rows))
        self.write("more.json", json.dumps(rows[:16]))
        self.write("my.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        self.write("in.jsonl", "".join(f"{line}\n" for line in commands("docs/batch.md", '{"custom_id"')))
        text = {"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": {"input": "A llama."}}
        self.write("texts.jsonl", json.dumps(text) + "\n")
        self.write("prices.schema.json", json.dumps(SCHEMA))
        for name in ("notes.txt", "may.txt", "june.txt", "question.txt", "changes.diff"):
            self.write(name, "Wool is dear this year. Is it?")

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text, encoding="utf-8")

    def lines(self, name: str) -> list[dict]:
        return [json.loads(line) for line in (self.directory / name).read_text(encoding="utf-8").splitlines()]

    def run(self, line: str, said: str = "") -> str:
        """Type a line into a shell; what comes on standard output. It has to go well."""
        command = ["sh", "-c", line.replace(LARGE, EMBEDDED)]
        ended = subprocess.run(
            command, cwd=self.directory, env=self.environment, input=said, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, f"{line}\n{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}"
        return ended.stdout

    def python(self, text: str) -> str:
        """Run a block of Python."""
        self.write("block.py", text.replace(LARGE, EMBEDDED))
        return self.run("python block.py")

    @contextlib.contextmanager
    def serving(self, line: str) -> Iterator[str]:
        """A server that was started so; its address. Ctrl-C ends it."""
        command = ["sh", "-c", f"exec {line}"]
        with subprocess.Popen(
            command, cwd=self.directory, env=self.environment, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            told = []
            for said in process.stderr:
                told.append(said)
                if found := re.search(r"serving .* at (http://[^ ,]+)", said):
                    break
            else:
                pytest.fail("".join([line, "\n", *told]))
            log = threading.Thread(target=list, args=(process.stderr,))
            log.start()
            try:
                yield found[1]
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(60)
                log.join()
        assert process.returncode in (130, -signal.SIGINT)

    def train(self) -> None:
        """README's adapter, and one as another program leaves it."""
        (line,) = commands("README.md", "arriero train ")
        if not (self.directory / "runs/mine").exists():
            self.run(line)
            assert (self.directory / "runs/mine/report.html").is_file()
            self.run("mkdir saves && cp -r runs/mine saves/lora && rm saves/lora/arriero.json")


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


def test_readme_from_top_to_bottom(desk):
    (curl,) = commands("README.md", "curl ")
    typed = commands("README.md", "arriero ")
    assert len(typed) > 15, "README lost its commands"
    for line in typed:
        if line.startswith("arriero train "):
            desk.train()
        elif line.startswith("arriero serve"):
            with desk.serving(line) as address:
                answer = json.loads(desk.run(f"{curl.replace(PORT, address)} --silent --show-error"))
                assert (list(answer), answer["status"]) == (["response", "status", "time"], 200)
                desk.python(block("README.md", "from openai").replace(PORT, address))
        elif line.startswith("arriero web"):
            with desk.serving(line) as address:
                assert desk.opened.read_text().strip().startswith(address)
                assert b'<div id="root">' in urllib.request.urlopen(address).read()
        else:
            out = desk.run(line, "Who are you?\n" if line.startswith("arriero chat") else "")
            assert out.strip() or not line.startswith(("arriero ask", "arriero chat", "arriero evaluate")), line
    answers = desk.lines("out.jsonl")
    assert [answer["response"]["status_code"] for answer in answers] == [200] * len(desk.lines("in.jsonl"))
    assert (desk.directory / "runs/merged/config.json").is_file()
    assert (desk.directory / "saves/lora/arriero.json").is_file(), "adopted"
    assert (desk.directory / "report.html").is_file()


def test_readme_s_python(desk):
    desk.train()
    assert desk.python(block("README.md", "import arriero")).strip()
    assert desk.python(block("docs/langchain.md", "from arriero.langchain")).strip()


def test_batches_as_their_page_has_them(desk):
    desk.train()
    for line in commands("docs/batch.md", "arriero batch "):
        if "--ray" not in line:
            for name in ("out.jsonl", "vectors.jsonl"):
                (desk.directory / name).unlink(missing_ok=True)
            desk.run(line)
    assert len(desk.lines("vectors.jsonl")[0]["response"]["body"]["data"][0]["embedding"]) == 384


@pytest.mark.parametrize("verb", ["models", "config", "doctor", "inspect", "ask"])
def test_the_examples_of_a_help_page(desk, verb):
    """Without those that need a network, a cluster or the demo's adapter; README has the other verbs."""
    elsewhere = ("owner/name", "--ray", "llama-driver", "remove")
    typed = [line for line in commands("docs/cli.md", f"arriero {verb}") if not any(word in line for word in elsewhere)]
    assert typed
    for line in typed:
        out = desk.run(line)
        assert "--json" not in line or json.loads(out)
