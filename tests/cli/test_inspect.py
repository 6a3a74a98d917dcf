"""arriero inspect: JSON as other programs rely on it, tokens in colour, the page."""

from __future__ import annotations

import json
from functools import partial

import pytest

from tests.conftest import ROWS


@pytest.fixture
def run(run, home):
    return partial(run, "inspect")


def test_the_json_document(run, rows_file, model_dir):
    code, out, _ = run(rows_file, "--model", model_dir, "--json", "--limit", 2)
    document = json.loads(out)
    assert code == 0
    assert {
        "rows", "kept", "dropped", "duplicates", "tokens", "loss_tokens", "prefix_tokens", "computed_tokens",
        "longest", "examples",
    } <= set(document)  # fmt: skip
    assert (document["rows"], document["kept"], document["dropped"]) == (len(ROWS), len(ROWS), [])
    assert [set(example) >= {"row", "ids", "mask", "text"} for example in document["examples"]] == [True, True]
    assert document["examples"][0]["text"] == "<s><user>who 0?</s><bot>me</s>"
    assert document["estimate"]["seconds_per_epoch"] > 0


def test_no_weights_are_needed(run, rows_file, model_dir, tmp_path):
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((model_dir / name).read_bytes())
    (tmp_path / "chat_template.jinja").write_bytes((model_dir / "chat_template.jinja").read_bytes())
    assert run(rows_file, "--model", tmp_path, "--json")[0] == 0


def test_dropped_rows_are_told_with_their_reason(run, tmp_path, model_dir):
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([*ROWS, {"instruction": "q", "output": ""}]))
    code, out, err = run(file, "--model", model_dir)
    assert code == 0
    assert "dropped rows.json, row 8: the output is empty" in err
    assert "system prompt: the chat template's own\n" in err
    assert "kept" in out


def test_shown_rows_are_coloured_by_what_training_does_with_them(run, rows_file, model_dir, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    code, out, _ = run(rows_file, "--model", model_dir, "--show", 1)
    assert code == 0
    assert "\x1b[1;90m<bot>\x1b[0m\x1b[32mm\x1b[0m\x1b[32me\x1b[0m\x1b[1;32m</s>\x1b[0m" in out


def test_the_page_is_written(run, rows_file, model_dir, tmp_path):
    page = tmp_path / "report.html"
    assert run(rows_file, "--model", model_dir, "--html", page)[0] == 0
    assert page.read_text().startswith("<!doctype html>")
    code, _, err = run(rows_file, "--model", model_dir, "--html", tmp_path / "no" / "report.html")
    assert (code, "cannot write" in err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["none.json"], 4, "no file none.json"),
        (["no such"], 4, "not a data set's name"),
        (["ROWS", "--format", "xml"], 2, "xml"),
        (["ROWS", "--limit", "-3"], 2, "--show and --limit are numbers of rows, got -3"),
        (["ROWS", "--max-length", "1"], 2, "max_length must be at least 2"),
        (["ROWS", "--format", "sharegpt"], 1, "is in the alpaca format, the data in sharegpt"),
    ],
)
def test_bad_input(run, rows_file, model_dir, arguments, code, told):
    arguments = [rows_file if argument == "ROWS" else argument for argument in arguments]
    found, out, err = run(*arguments, "--model", model_dir)
    assert (found, out) == (code, "")
    assert told in err
    assert "Traceback" not in err
