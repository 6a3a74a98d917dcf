"""`arriero batch`: the server's answers without a server, a word for every bad file, and a rerun after any end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

import arriero
from arriero.batches import BatchFileError
from arriero.errors import UsageError
from arriero.locks import held
from tests.server.test_batches import line


def written(file, *lines):
    file.write_text("".join(json.dumps(each) + "\n" for each in lines))
    return file


def lines_of(file):
    return [json.loads(each) for each in file.read_text().splitlines()]


def said(line):
    body = line["response"]["body"]
    return body["choices"][0].get("text") or body["choices"][0]["message"]["content"]


def test_answers_and_refusals_are_the_servers_and_a_rerun_asks_nothing(run, model_dir, embedding_dir, tmp_path, home):
    prompts = [line(f"row-{n}", "/v1/completions", prompt=f"q{n}", max_tokens=3, temperature=0) for n in range(5)]
    unknown = line("none", model="none", messages=[{"role": "user", "content": "hi"}])
    vector = line("vector", "/v1/embeddings", input="hi")
    file = written(tmp_path / "in.jsonl", *prompts, unknown, vector)
    models = ("--model", model_dir, "--embedding", embedding_dir, "--engine", "transformers")
    options = ("--output", tmp_path / "out.jsonl", *models, "--json")
    code, out, told = run("batch", file, *options)
    document = json.loads(out)
    assert (code, document["rows"], document["answered"], document["failed"]) == (3, 7, 7, 1), told
    assert "1 of 7 rows failed" in told
    lines = lines_of(tmp_path / "out.jsonl")
    assert [each["custom_id"] for each in lines] == [*(f"row-{n}" for n in range(5)), "none", "vector"]
    assert all(said(each) for each in lines[:5])
    error = lines[5]["response"]
    assert (error["status_code"], error["body"]["error"]["code"]) == (404, "model_not_found")
    assert lines[6]["response"]["body"]["data"][0]["embedding"]
    code, out, _ = run("batch", file, *options)
    assert (code, json.loads(out)["answered"]) == (3, 0)
    assert not (home / "responses.sqlite3").exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize(
    ("lines", "code", "told"),
    [
        (None, 4, "no file"),
        ([], 1, "the file is empty"),
        ([line("a"), line("a")], 1, "line 2: custom_id 'a' is that of line 1"),
        ([line("a", "/v1/images", prompt="")], 1, "line 1: url must be"),
        ([line("a", stream=True)], 1, "line 1: stream must be left out"),
    ],
)
def test_what_cannot_be_answered_is_said_before_a_model_is_loaded(run, tmp_path, lines, code, told):
    file = tmp_path / "in.jsonl"
    if lines is not None:
        written(file, *lines)
    found, _, error = run("batch", file, "--output", tmp_path / "out.jsonl", "--model", "no-such-model")
    assert (found, told in error) == (code, True), error
    assert not list(tmp_path.glob("out*"))


def test_places_where_no_answers_can_go(run, tmp_path):
    file = written(tmp_path / "in.jsonl", line("a"))
    for output, told in (
        (file, "the file of the requests itself"),
        (tmp_path, "is a directory"),
        (file / "out", "there can be no directory"),
    ):
        code, _, error = run("batch", file, "--output", output, "--model", "no-such-model")
        assert (code, told in error) == (2, True), error
    with held(tmp_path / ".out.jsonl.lock", lambda _: None):
        code, _, error = run("batch", file, "--output", tmp_path / "out.jsonl", "--model", "no-such-model")
    assert code == 2
    assert f"process {os.getpid()}" in error, "who else is writing there"
    (tmp_path / "notes.jsonl").write_text("mine\n")
    code, _, error = run("batch", file, "--output", tmp_path / "notes.jsonl", "--model", "no-such-model")
    assert code == 2
    assert "of another run" in error
    assert (tmp_path / "notes.jsonl").read_text() == "mine\n"


async def test_from_python_where_a_loop_runs_as_in_a_notebook(tmp_path, model_dir, home):
    """`asyncio.run() cannot be called from a running event loop` was all it said there."""
    file = written(tmp_path / "in.jsonl", line("a", "/v1/completions", prompt="hi", max_tokens=2))
    seen = []
    report = arriero.batch(
        file, output=tmp_path / "new" / "out.jsonl", model=model_dir, engine="transformers",
        progress=lambda *numbers: seen.append(numbers),
    )  # fmt: skip
    assert (report.rows, report.answered, report.failed) == (1, 1, 0)
    assert seen == [(0, 1, 0), (1, 1, 0)]
    with pytest.raises(BatchFileError, match="line 1"):
        arriero.batch(written(file, {}), output=tmp_path / "other.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_is_continued_and_no_row_answered_twice(run, tmp_path, model_dir, how):
    rows = [line(f"row-{n}", "/v1/completions", prompt=f"q{n}", max_tokens=12, temperature=0) for n in range(20)]
    file, output = written(tmp_path / "in.jsonl", *rows), tmp_path / "out.jsonl"
    partial = tmp_path / "out.jsonl.partial"
    options = ["batch", file, "--output", output, "--model", model_dir, "--engine", "transformers", "--at-once", "2"]
    command = [sys.executable, "-m", "arriero.cli", *map(str, options)]
    pause = threading.Event()
    with subprocess.Popen(command, env=os.environ, stderr=subprocess.PIPE, text=True) as process:
        while not partial.exists() or partial.read_bytes().count(b"\n") < 3:
            assert process.poll() is None, process.stderr.read()
            pause.wait(0.01)
        process.send_signal(how)
        interrupted = process.stderr.read()
    assert process.returncode == (-9 if how is signal.SIGKILL else 130)
    assert ("the same command continues" in interrupted) == (how is signal.SIGINT)
    kept = [each for each in partial.read_bytes().splitlines(keepends=True) if each.endswith(b"\n")]
    assert 3 <= len(kept) < 20
    code, out, err = run(*options, "--json")
    assert (code, json.loads(out)["answered"]) == (0, 20 - len(kept)), err
    lines = output.read_bytes().splitlines(keepends=True)
    assert [json.loads(each)["custom_id"] for each in lines] == [row["custom_id"] for row in rows]
    assert set(kept) <= set(lines), "an answer that was there was asked for again"


def test_engines_elsewhere_take_the_place_of_this_ones_and_unknown_options_are_refused(tmp_path, scripted_chat, home):
    """A misspelt option would have been dropped, and its default have answered."""
    file, chat, asked = written(tmp_path / "in.jsonl", line("a"), line("b")), scripted_chat("one", "two"), []

    def load(model, **how):
        asked.append((model, how["system"]))
        return chat

    report = arriero.batch(file, tmp_path / "out.jsonl", model="tiny", system="Be Killa.", load=load, at_once=1)
    assert (report.failed, asked) == (0, [("tiny", "Be Killa.")])
    assert [said(each) for each in lines_of(tmp_path / "out.jsonl")] == ["one", "two"]
    with pytest.raises(UsageError, match="no option replica; there are adapter, "):
        arriero.batch(file, tmp_path / "out.jsonl", replica=2)
