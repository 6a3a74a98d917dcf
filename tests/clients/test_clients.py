"""Clients that we did not write, unmodified, against a real `arriero serve` with the embedded model.

They run in environments of their own, which `make clients` builds; what came of it becomes the table in the docs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.catalogue import CLIENTS, DOCS, HERE, TABLE, Client
from tests.real import linked

EMBEDDING = "all-minilm-l6-v2"
BY_SCRIPT = pytest.mark.parametrize("client", CLIENTS, ids=[client.script for client in CLIENTS])


@pytest.fixture(scope="module")
def url(session_home: Path, embedded_model: Path) -> Iterator[str]:
    """Where the server is."""
    linked(session_home, EMBEDDING)
    command = [sys.executable, "-m", "arriero.cli", "serve", "--model", embedded_model.name, "--port", "0"]
    command += ["--embedding", EMBEDDING]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            serving = next(filter(None, (re.search(r"serving .* at (http://[^ ,]+)", line) for line in process.stderr)))
            log = threading.Thread(target=list, args=(process.stderr,))  # or the pipe would be full one day
            log.start()
            yield serving[1]
        finally:
            process.terminate()
        log.join()


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.timeout(400)
@BY_SCRIPT
def test_a_client_works_unmodified(client: Client, tmp_path: Path, request: pytest.FixtureRequest):
    if not client.interpreter.exists():
        pytest.skip("the clients are not installed: make clients")
    command = [client.interpreter, client.file, request.getfixturevalue("url")]
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.stdout, ended.stderr
    client.result.write_text(ended.stdout.splitlines()[-1] + "\n", encoding="utf-8")
    result = json.loads(client.result.read_text(encoding="utf-8"))
    assert (result["client"], result["version"]) == (client.package, client.version), "make clients installs it anew"
    assert set(result["ran"].values()) == {"ok"}, ended.stderr
    assert ended.returncode == 0


def test_every_script_is_run():
    scripts = {file.name for file in (HERE / "scripts").iterdir() if file.is_file() and file.stem != "smoke"}
    assert {client.script for client in CLIENTS} == scripts


@BY_SCRIPT
def test_the_docs_name_every_client_and_its_version(client: Client):
    table = TABLE.search(DOCS.read_text(encoding="utf-8"))
    assert table is not None
    [row] = [row for row in table[0].splitlines() if f"`{client.script}`" in row]
    assert row.startswith(f"| `{client.script}` | {client.package} | {client.version} | ")
