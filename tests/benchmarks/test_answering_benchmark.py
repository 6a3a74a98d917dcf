"""`python -m benchmarks.answering`, run as a person would, with a model that is small enough."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 400  # on a machine that does other things, too
MEASURED = [
    "arriero-openvino",
    "arriero-transformers",
    "arriero-transformers-process",
    "openvino",
    "openvino-defaults",
    "transformers",
]
ENGINES = ["openvino", "transformers"]


def benchmark(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.answering", *arguments]
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=SECONDS, check=False, cwd=ROOT
    )


def parts(model_dir: Path, *arguments: object) -> dict:
    ended = benchmark("--model", model_dir, "--json", *arguments)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout)
    assert found["model"] == model_dir.name
    assert found["versions"]["transformers"]
    assert found["matrix_tflops"]["before"] > 0
    return found["parts"]


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_every_variant_answers_the_same_questions(model_dir):
    found = parts(model_dir, "--requests", 1, 3, "--tokens", 8, "--rounds", 2, "--llama-python", "/no/python")["speed"]
    assert list(found["variants"]) == MEASURED
    assert found["not_measured"]["arriero-openvino-adapter"] == "no --adapter was given"
    assert found["not_measured"]["vllm"] == "no --vllm-python was given"
    assert "GGUF" in found["not_measured"]["llama.cpp"] or "--gguf" in found["not_measured"]["llama.cpp"]
    for name, variant in found["variants"].items():
        assert set(variant["requests"]) == {"1", "3"}
        for figures in variant["requests"].values():
            assert figures["tokens_per_second"]["low"] > 0, name
            assert 0 < figures["first_token_s"] <= figures["first_token_p95_s"]
            assert 1 <= figures["tokens_per_answer"] <= 8
            assert 0 <= figures["others"] <= 1
    bare, ours = (found["variants"][name]["requests"]["3"] for name in ("openvino", "arriero-openvino"))
    assert ours["ratio"] == 1
    assert bare["tokens_per_answer"] == ours["tokens_per_answer"], "the same ids and the same model"


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_agreement_tells_precisions_apart(model_dir):
    some = ("--candidates", "openvino int8", "openvino bfloat16", "transformers bfloat16")
    found = parts(model_dir, "--parts", "agreement", "ids", "--prompts", 12, *some)
    candidates = found["agreement"]["candidates"]
    assert not found["agreement"]["not_measured"]
    for figures in candidates.values():
        assert 0 <= figures["equal"] <= 1
        assert 0 < figures["common_tokens"] <= figures["reference_tokens"] <= 32
        assert figures["positions"] == round(12 * figures["reference_tokens"])
        assert 0 < figures["mean_kl"] < figures["p99_kl"]
        assert figures["same_top"] > 0.5
    assert candidates["openvino bfloat16"]["mean_kl"] < candidates["openvino int8"]["mean_kl"]
    surfaces = found["ids"]["surfaces"]
    assert len(surfaces) == 11
    assert [each for each in surfaces if each["different"]] == []


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_cancelling_memory_and_cold_starts_are_measured_on_every_engine(model_dir):
    small = ("--repeats", 2, "--answers", 80, "--starts", 1)
    found = parts(model_dir, "--parts", "cancel", "memory", "cold", *small)
    for part in found.values():
        assert list(part["engines"]) == ENGINES
        assert not part["not_measured"]
    for figures in found["cancel"]["engines"].values():
        assert min(figures["first_token"], figures["alone"], figures["behind"]) > 0
    for figures in found["memory"]["engines"].values():
        assert [answered for answered, _ in figures["resident"]] == [8 * part for part in range(1, 11)]
        assert all(size > 50e6 for _, size in figures["resident"])
    for figures in found["cold"]["engines"].values():
        assert 0 < figures["first_byte_s"]["median"] <= figures["whole_s"]


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_a_variant_that_cannot_be_loaded_does_not_stop_the_others(model_dir, tmp_path):
    some = ("--variants", "arriero-openvino-adapter", "transformers", "--requests", 1, "--tokens", 4, "--markdown")
    ended = benchmark("--model", model_dir, "--adapter", tmp_path, *some, "--rounds", 1)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "\n| transformers | " in ended.stdout
    assert "- not measured: arriero-openvino-adapter: NotFoundError: " in ended.stdout


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_a_decode_step_is_counted_and_the_event_loop_watched(model_dir):
    small = ("--requests", 1, 3, "--engines", "transformers", "--seconds", 0.3, "--tokens", 16)
    found = parts(model_dir, "--parts", "decode", "loop", *small)
    for figures in found["decode"]["requests"].values():
        assert figures["graphs"]["launches"] < figures["eager"]["launches"], "a replay is one launch"
        assert figures["graphs"]["copies"] <= figures["eager"]["copies"]
    streams = found["loop"]["engines"]["transformers"]["streams"]
    assert list(streams) == ["0", "1", "8"]
    for count, figures in streams.items():
        assert figures["ticks"] > 0
        assert figures["late_s"]["p50"] <= figures["late_s"]["p99"] <= figures["late_s"]["longest"]
        assert (figures["chunks_per_second"] > 0) == (count != "0")
