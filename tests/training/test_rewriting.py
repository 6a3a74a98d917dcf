"""A run on conversations whose history the template rewrites: from rows to an adapter that its contract knows again."""

from __future__ import annotations

import json

import pytest

from arriero.prompt import resolve
from tests.conftest import build_model, build_tokenizer, train_tiny
from tests.data.test_examples import REWRITING, TWICE


@pytest.fixture(scope="module")
def reasoning_model(tmp_path_factory):
    """The tiny model with R1's template."""
    directory = build_model(tmp_path_factory.mktemp("models") / "r1")
    build_tokenizer(REWRITING).save_pretrained(directory)
    return directory


def test_such_a_run_trains_each_answer_and_leaves_out_what_it_cannot(tmp_path, reasoning_model, caplog):
    """It was refused: the template is not prefix-stable."""
    talks = [json.loads(json.dumps(TWICE).replace('"q"', f'"q{number}"')) for number in range(4)]
    turns = [{"role": "user", "content": "q"}, {"role": "tool_call", "content": '{"name": "f", "arguments": {}}'}]
    rows = [*talks, {"messages": turns, "tools": [{"name": "f"}]}, {"text": "llamas " * 60}]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    output = train_tiny(file, reasoning_model, tmp_path / "run", epochs=1)
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert report["result"]["samples"] == 5
    assert report["data"]["dropped_count"] == 1
    assert report["plan"]["mode"] == "shared"
    assert report["verify"]["fell_back"] is False
    assert report["data"]["computed_tokens"] < report["data"]["tokens"]
    assert "left out rows.jsonl, row 4" in caplog.text
    assert resolve(reasoning_model, output).contract is not None
