"""`python -m benchmarks.serving`, run as a person would, with a model that is small enough."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.serving import client

ROOT = Path(__file__).parents[2]
SECONDS = 400  # on a machine that does other things, too


def benchmark(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.serving", *arguments]
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=SECONDS, check=False, cwd=ROOT
    )


@pytest.fixture
def measured(model_dir: Path):
    """The parts of the document that a run writes."""

    def run(*arguments: object) -> dict:
        ended = benchmark("--model", model_dir, "--json", *arguments)
        assert ended.returncode == 0, ended.stderr[-3000:]
        return json.loads(ended.stdout)["parts"]

    return run


def test_events_have_the_time_of_their_last_byte():
    arrivals = [(1.0, b"data: a\n"), (2.0, b"\ndata: b\n\nda"), (3.0, b"ta: c\n\n"), (4.0, b"data: never ended")]
    assert list(client.events(arrivals)) == [(2.0, b"a"), (2.0, b"b"), (3.0, b"c")]


def test_an_answer_is_read_from_a_stream_and_from_a_whole_body():
    def call(kind: str, *parts: str):
        found = client.Call()
        found.headers = {"content-type": kind}
        found.arrivals = [(float(when), part.encode()) for when, part in enumerate(parts)]
        found.whole = True
        return found

    def chunk(delta: dict, reason: str | None = None) -> str:
        return f"data: {json.dumps({'choices': [{'delta': delta, 'finish_reason': reason}]})}\n\n"

    counted = 'data: {"choices": [], "usage": {"completion_tokens": 9}}\n\ndata: [DONE]\n\n'
    texts = (chunk({"role": "assistant", "content": ""}), chunk({"content": "a"}), chunk({"content": "b"}))
    stream = client.Answer.of(call("text/event-stream; charset=utf-8", *texts, chunk({}, "stop"), counted))
    assert stream == client.Answer(texts=[1.0, 2.0], tokens=9, finish_reason="stop", done=True)
    assert stream.gaps() == [1.0]
    assert client.Answer.of(call("text/event-stream", *texts)) == client.Answer(texts=[1.0, 2.0], tokens=2)

    body = {"choices": [{"message": {"content": "ab"}, "finish_reason": "length"}], "usage": {"completion_tokens": 3}}
    whole = client.Answer.of(call("application/json", json.dumps(body)))
    assert whole == client.Answer(texts=[0.0], tokens=3, finish_reason="length", done=True)
    refused = client.Answer.of(call("application/json", '{"error": {"message": "full"}}'))
    assert (refused.error, refused.finish_reason) == ("full", None)


def test_metrics_are_summed_over_labels():
    text = '# HELP a x\n# TYPE a counter\na_total{model="m",path="/"} 2.0\na_total{model="n"} 1.5\nrunning 3.0\n'
    assert client.samples(text) == {"a_total": 3.5, "running": 3.0}


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_speed_is_measured_for_every_server(measured):
    found = measured("--parts", "speed", "--requests", 1, 3, "--tokens", 8, "--rounds", 2)["speed"]
    assert list(found["variants"]) == [
        "openvino",
        "arriero serve",
        "transformers serve",
        "transformers serve, batching",
    ]
    assert found["not_measured"] == {"llama.cpp": "no --llama-python was given"}
    for name, variant in found["variants"].items():
        assert set(variant["requests"]) == {"1", "3"}
        for figures in variant["requests"].values():
            assert figures["tokens_per_second"]["low"] > 0, name
            assert 0 < figures["first_s"]["p50"] <= figures["first_s"]["p95"] <= figures["first_s"]["p99"]
            assert (figures["gap_s"] is None) == (name == "openvino")
            assert 1 <= figures["tokens_per_answer"] <= 8
            assert figures["unfinished"] == 0
            assert 0 <= figures["others"] <= 1
    bare, ours = (found["variants"][name]["requests"]["3"] for name in ("openvino", "arriero serve"))
    assert bare["ratio"] == 1
    assert bare["tokens_per_answer"] == ours["tokens_per_answer"], "the same prompts, to the last token"
    assert ours["ms_per_token"]["children"] > 0, "the engine's own process is seen"


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_what_the_server_withstands(measured):
    parts = ("abort", "memory", "stall", "overflow", "drain")
    small = ("--aborted", 80, "--answers", 160, "--streams", 3, "--clients", 12, "--room", 2, 3)
    found = measured("--parts", *parts, *small)
    nobody = {"running": 0, "waiting": 0}
    assert found["abort"]["aborted"] == 80
    assert found["abort"]["left"] == nobody
    assert set(found["abort"]["in_time"]) == {"stream", "whole", "prefill", "waiting"}
    assert found["abort"]["ordinary_s"]["after"] > 0
    assert [point[0] for point in found["memory"]["resident"]] == [8 * part for part in range(1, 21)]
    assert all(min(server, engine) > 50e6 for _, server, engine in found["memory"]["resident"])
    assert found["stall"]["first_s"]["beside"] > 0
    overflow = found["overflow"]
    assert overflow["statuses"].keys() <= {"200", "503"}
    assert sum(overflow["statuses"].values()) == overflow["clients"] == 12
    assert overflow["whole"] == overflow["statuses"]["200"] >= 5
    assert overflow["retry_after"] == overflow["statuses"].get("503", 0)
    assert overflow["left"] == nobody
    for end in found["drain"]["ends"]:
        assert end["completed"] + end["broken_off"] == 3
        assert end["cut"] == 0
        assert end["late"].keys() <= {"503", "refused"}


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_a_server_that_cannot_start_does_not_stop_the_others(tmp_path, model_dir):
    some = ("--variants", "openvino", "llama.cpp", "--llama-python", sys.executable, "--gguf", tmp_path / "none.gguf")
    ended = benchmark(
        "--model", model_dir, "--parts", "speed", *some, "--requests", 1, "--tokens", 4, "--rounds", 1, "--markdown"
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "\n| openvino | 1 | " in ended.stdout
    assert "- not measured: llama.cpp: it ended with 1" in ended.stdout


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_a_batch_is_measured_beside_the_engine(measured):
    found = measured("--parts", "batch", "--rows", 200, "--rounds", 1, "--engine", "transformers")["batch"]
    assert found["rows"] == 200
    assert found["ratio"] > 0
    assert next(iter(found["first_token_s"])) == "alone"
    assert all(seconds > 0 for seconds in found["first_token_s"].values())
