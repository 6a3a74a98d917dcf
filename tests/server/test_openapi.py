"""Requests that schemathesis makes from our OpenAPI document, good ones and bad ones, under all of its checks.

One setting is ours: a request that fits the document may be refused with 400, for a document cannot say that turns
alternate, that ids end with the vocabulary, or that a schema must be one that can be guaranteed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from arriero.server import create_app
from arriero.server.auth import Keys
from arriero.server.models import Models
from tests.conftest import TOOL_TEMPLATE

HERE = Path(__file__).parent
SETTINGS = """
continue-on-failure = true
[generation]
database = "none"
[checks]
positive_data_acceptance.expected-statuses = ["2xx", 400, 404, 409]
"""


ALL = "examples,coverage,fuzzing,stateful"


@pytest.mark.parametrize(
    ("examples", "phases"),
    [(5, "fuzzing"), pytest.param(150, ALL, marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
)
def test_the_server_keeps_to_its_document(serve, scripted_chat, embedder, tmp_path, examples, phases):
    chat = scripted_chat("Hello", "{}", template=TOOL_TEMPLATE)
    app = create_app(None, keys=Keys({"ana": "ana-key-1"}, "admin-key-1"))
    app.service.open(Models(chat, embedder=embedder))
    served = serve(chat=chat, app=app)
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    command = ["-m", "schemathesis.cli", "run", f"{served.url}/openapi.json", "--checks", "all", "--seed", "1"]
    options = ["--max-examples", str(examples), "--phases", phases, "-H", "Authorization: Bearer admin-key-1"]
    done = subprocess.run(
        [sys.executable, *command, *options], capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.server.openapi_hooks", "PYTHONPATH": str(HERE.parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) generated", done.stdout)[1]) > 20 * examples
    assert chat.engine.asked, "some requests are good ones"
    assert 'arriero_embeddings_total{model="words"}' in app.service.metrics.text().decode()
