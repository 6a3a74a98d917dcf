"""`arriero batch --ray`: a file answered by replicas, also after the command was killed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.model, pytest.mark.timeout(250)]
ROWS = [f"r{number}" for number in range(48)]


def line(name):
    messages = [{"role": "user", "content": f"Count to {name}."}]
    body = {"messages": messages, "max_tokens": 16, "temperature": 0}
    return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body})


def test_a_killed_batch_on_replicas_answers_the_rest_and_none_twice(embedded_model, tmp_path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(map(line, ROWS)))
    batch = ["batch", source, "--output", target, "--model", embedded_model, "--ray", "local", "--replicas", "2"]
    command = [sys.executable, "-m", "arriero.cli", *map(str, batch)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as first:
        reached = next(row for row in first.stderr if row.startswith("row "))
        first.kill()
    assert not target.exists(), "it was killed before the end"
    again = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True).stderr
    answered = int(again.partition(" of them answered earlier")[0].rpartition(" ")[2])
    assert int(reached.split()[1]) <= answered < len(ROWS)
    rows = [json.loads(row) for row in target.read_text().splitlines()]
    assert [row["custom_id"] for row in rows] == ROWS
    assert {row["response"]["status_code"] for row in rows} == {200}
