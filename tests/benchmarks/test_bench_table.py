"""`python -m benchmarks`, what `make bench` runs, and the frame of its table."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.autograd import DeviceType

from benchmarks.lib.figures import percentiles, slopes
from benchmarks.lib.launches import summed
from benchmarks.lib.parts import FailedError, Run, SkippedError, failed, rows, table

ROOT = Path(__file__).parents[2]
SECONDS = 400  # on a machine that does other things, too


def run_in(folder: Path, seconds: float = 60) -> Run:
    return Run(folder, folder, time.monotonic() + seconds)


def test_a_part_that_fails_is_a_row_and_the_others_go_on(tmp_path):
    def fails(run):
        yield "first", "1"
        raise FailedError("no | luck")

    def skipped(run):
        raise SkippedError("no GPU is here")
        yield

    parts = {"fails": (9.0, fails), "breaks": (9.0, lambda run: iter([1 / 0])), "skipped": (9.0, skipped)}
    run = run_in(tmp_path)
    measured = [row for name in parts for row in rows(run, name, parts)]
    assert [row[:3] for row in measured if row[1] != "seconds"] == [
        ("fails", "first", "1"),
        ("fails", "", "failed: no | luck"),
        ("breaks", "", "failed: ZeroDivisionError: division by zero"),
        ("skipped", "", "skipped: no GPU is here"),
    ]
    assert failed(measured)
    assert "| fails |  | failed: no / luck |" in table("head", measured).splitlines()


def test_a_command_is_ended_when_its_time_is_over(tmp_path):
    def slow(run):
        yield "never", run.call("-c", "import time; time.sleep(60)")

    run = run_in(tmp_path)
    result = rows(run, "slow", {"slow": (0.5, slow)})
    assert result[0][2].startswith("failed: not done after 0 s")


def test_what_a_command_has_measured_is_kept_though_it_fails(tmp_path):
    # a step of the training benchmark that waited for the GPU took the figures of all others along
    def measured(run):
        yield "waits", run.call("-c", "print('{\"waits\": 1}'); raise SystemExit(1)")["waits"]
        yield "never", run.call("-c", "raise SystemExit('no luck')")

    assert [row[1:] for row in rows(run_in(tmp_path), "part", {"part": (60.0, measured)})[:2]] == [
        ("waits", 1),
        ("", "failed: no luck"),
    ]


def test_a_graph_is_one_launch_of_many_kernels():
    def event(key, device, count, microseconds=0.0, **rest):
        return SimpleNamespace(
            key=key, device_type=device, count=count, self_device_time_total=microseconds,
            **{"is_user_annotation": False} | rest,
        )  # fmt: skip

    figures = summed(
        [
            event("cudaGraphLaunch", DeviceType.CPU, 1),
            event("cudaLaunchKernelExC", DeviceType.CPU, 5),
            event("cudaStreamSynchronize", DeviceType.CPU, 3),
            event("a kernel", DeviceType.CUDA, 400, 2000.0),
            event("Memcpy HtoD (Pinned -> Device)", DeviceType.CUDA, 2, 3000.0),
            event("Optimizer.step", DeviceType.CUDA, 1, 9000.0, is_user_annotation=True),
        ]
    )
    longest = figures.pop("longest")
    assert figures == {"launches": 6, "kernels": 402, "busy": pytest.approx(0.005)}
    assert list(longest) == ["Memcpy HtoD (Pinned -> Device)", "a kernel"]


def test_slopes_are_for_a_thousand_requests():
    assert slopes([100, 200, 300, 400], [1000, 2000, 2000, 2100]) == {
        "all": pytest.approx(3300),
        "last_half": pytest.approx(1000),
    }
    assert percentiles([]) is None
    assert percentiles([3.0, 1.0, 2.0]) == {"p50": 2.0, "p95": 3.0, "p99": 3.0}


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_one_table_with_machine_versions_and_date(model_dir, tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--model", model_dir, "--parts", "start", "answering", "loop"]
    environment = os.environ | {"OUT": str(tmp_path)}
    ended = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=SECONDS, check=False, cwd=ROOT, env=environment
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr[-3000:]
    head, _, heads, *_ = ended.stdout.splitlines()
    assert " cores of " in head
    assert "torch " in head
    assert heads == "| part | measured | figure |"
    for line in ("| start | arriero ask, openvino | first byte after ", "| answering | openvino, 1 / 8 at once | "):
        assert f"\n{line}" in ended.stdout
    assert ended.stdout.endswith((tmp_path / "table.md").read_text(encoding="utf-8") + "\n")
