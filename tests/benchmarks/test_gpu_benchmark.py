"""benchmarks/gpu.sh, run as on a machine with a GPU, with models that are small enough for this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import training
from benchmarks.lib.parts import FailedError, Run, rows

ROOT = Path(__file__).parents[2]
SCRIPT, WHEELS = ROOT / "benchmarks" / "gpu.sh", ROOT / "benchmarks" / "gpu" / "wheels.txt"
CONSTRAINTS = ROOT / "constraints-gpu.txt"
SECONDS = 600  # on a machine that does other things, too


@pytest.fixture
def table(tmp_path):
    """Run it; `(part, what was measured) -> figure` of the table it wrote, and the exit code."""

    def run(*arguments: object, wheels: Path | None = None) -> tuple[dict[tuple[str, str], str], int]:
        command = [SCRIPT, *(("--wheels", wheels) if wheels else ()), "--tiny", *arguments]
        environment = os.environ | {"OUT": str(tmp_path / "out"), "PYTHON": sys.executable}
        ended = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=SECONDS, check=False, env=environment
        )
        text = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
        assert ended.stdout.endswith(f"{text}\n"), ended.stderr[-3000:]
        rows = [line.strip("| ").split(" | ") for line in text.splitlines()[4:]]
        return {(row[0].strip(), row[1].strip()): row[-1] for row in rows}, ended.returncode

    return run


def test_versions_of_the_wheels_to_bring_are_known():
    """`pip download` would else fetch the newest of one that constraints-gpu.txt has lost."""
    names = {line for line in WHEELS.read_text().splitlines() if not line.startswith("#")}
    constrained = {line.partition("==")[0] for line in CONSTRAINTS.read_text().splitlines()}
    assert names <= constrained


def test_variants_that_are_done_are_lines_though_another_takes_too_long(tmp_path, monkeypatch):
    """`short_rows` was ended while its third variant computed, and its table had no figure at all."""
    figures = {
        "logical_tokens_per_second": 9000.0,
        "computed_tokens_per_second": 6000.0,
        "share_computed": 0.25,
        "peak_memory_bytes": 20e9,
        "ratio": None,
    }
    document = {"machine": "a GPU", "matrix_tflops": {"after": 700.0}, "workloads": {"short": {"ours": figures}}}

    def late(_run, *command):
        Path(command[command.index("--partial") + 1]).write_text(json.dumps(document))
        raise FailedError("not done after 180 s")

    def broken(_run, *_command):
        raise FailedError("no luck")

    def measured(call):
        monkeypatch.setattr(Run, "call", call)
        run = Run(tmp_path, tmp_path, time.monotonic() + 60)
        return [row[1:] for row in rows(run, "part", {"part": (60.0, training("short", 12, "ours", "tutorial"))})[:-1]]

    assert measured(late) == [
        ("matrix products", "700 TFLOP/s on a GPU"),
        ("ours", "9,000 tokens/s (6,000 computed), 25.0% of the matrix rate, peak 20.0 GB"),
        ("", "failed: not done after 180 s"),
    ]
    assert measured(broken) == [("", "failed: no luck")], "what an earlier run left is none of this one's"


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_every_part_that_a_cpu_can_do_has_its_figures(table):
    found, code = table("--parts", "train", "short_rows", "engine", "decode", "--seconds", SECONDS)
    assert not [figure for figure in found.values() if figure.startswith("failed")], found
    assert code == 0
    assert found["train", "train"].endswith(" GB")
    assert found["train", "check of the first step"].startswith("worst ")
    assert found["train", "ask --adapter"].endswith(" tokens by transformers")
    assert found["train", "merge"].startswith("mean KL ")
    assert " nats per loss token, the base " in found["train", "evaluate, held-out rows"]
    assert "of the matrix rate, ratio 1.0," in found["short_rows", "tutorial"]
    for variant in ("arriero train", "without CUDA graphs"):
        assert "of the matrix rate, ratio " in found["short_rows", variant]
    assert found["short_rows", "arriero train: check of the first step"].startswith("worst ")
    assert found["decode", "graphs, 8 at once"].endswith(" on a GPU, 1 copies to the host")
    for variant in ("arriero-transformers-process", "arriero-transformers-eager", "transformers"):
        rates = found["engine", f"{variant}, 1 / 3 at once"].removesuffix(" tokens/s").split(" / ")
        assert all(float(rate.replace(",", "")) > 0 for rate in rates)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_the_part_in_4_bits(table):
    pytest.importorskip("bitsandbytes")
    found, code = table("--parts", "four_bit", "--seconds", SECONDS)
    assert code == 0, found
    assert found["four_bit", "ask --adapter"].endswith(" tokens by transformers")
    assert found["four_bit", "merge --allow-quantised"].startswith("mean KL ")


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_parts_that_fail_or_have_no_time_are_lines_of_the_table(table, tmp_path, monkeypatch):
    (tmp_path / "bitsandbytes.py").write_text("raise OSError('no library')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    found, code = table("--parts", "four_bit", "vllm", "train", "--seconds", 60)
    assert found["four_bit", ""].startswith("failed: ")
    assert "bitsandbytes does not work here: no library" in found["four_bit", ""], "the reason, not only what to try"
    assert found["vllm", ""] == "skipped: vllm is not installed"
    assert ("train", "seconds") in found
    assert code == 1
    found, code = table("--parts", "short_rows", "train", "--seconds", 0.5)
    assert found["short_rows", ""].startswith(("failed: not done after 0 s", "skipped: no time"))
    assert found["train", ""] == "skipped: no time was left"
