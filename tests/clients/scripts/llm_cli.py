"""Simon Willison's llm, as a command, with the server in extra-openai-models.yaml."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from smoke import MODEL, QUESTION, SCHEMA, SYSTEM, URL, City, check, report

ENTRY = "- model_id: {0}\n  model_name: {0}\n  api_base: {1}/v1\n  supports_tools: true\n  supports_schema: true\n"
OPTIONS = ("-o", "temperature", "0", "-o", "max_tokens", "40")
home = tempfile.TemporaryDirectory()
Path(home.name, "extra-openai-models.yaml").write_text(ENTRY.format(MODEL, URL) + ENTRY.format("unknown", URL))


def llm(*arguments, fails=False):
    """What it prints; on standard error where it `fails`."""
    environment = os.environ | {"LLM_USER_PATH": home.name, "OPENAI_API_KEY": "none"}
    command = [sys.executable, "-m", "llm", *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert bool(ended.returncode) is fails, ended.stderr
    return ended.stderr if fails else ended.stdout


@check
def stream():
    assert "Paris" in llm("-m", MODEL, *OPTIONS, QUESTION)


@check
def answer_and_usage():
    assert "Paris" in llm("-m", MODEL, *OPTIONS, "--no-stream", "--system", SYSTEM, QUESTION)
    assert json.loads(llm("logs", "--json", "-n", "1"))[0]["output_tokens"] > 0


@check
def go_on():
    assert llm("-m", MODEL, *OPTIONS, "--continue", "Are you sure?").strip()


@check
def schema():
    City.model_validate_json(llm("-m", MODEL, *OPTIONS, "--schema", json.dumps(SCHEMA), QUESTION))


@check
def tools():
    code = "def weather(city: str) -> str:\n    'Weather of a city'\n    return 'sunny'\n"
    for streamed in ((), ("--no-stream",)):
        assert llm("-m", MODEL, *OPTIONS, "--functions", code, *streamed, QUESTION).strip()


@check
def unknown_model():
    assert "unknown" in llm("-m", "unknown", *OPTIONS, QUESTION, fails=True)


report("llm")
