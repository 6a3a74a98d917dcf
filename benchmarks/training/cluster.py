"""What training by several workers loses and takes: `python -m benchmarks.training.cluster [--parts resume memory]`.

    resume   two workers on a Ray cluster of this machine, one of them killed -9 after KILL_AT steps: optimizer steps
             that are made again, seconds until the first of them and until the run is as far as it was
    memory   two workers of torchrun with the weights whole in each (DDP) and shared out (FSDP2): resident memory of a
             worker at its highest, and in the second half of the run

The embedded model on the CPU, 12 steps of 4 rows, a checkpoint every 2 steps.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from arriero.cluster.connect import connect
from arriero.cluster.training.driver import train
from arriero.training import StepReport

KILL_AT, EPOCHS, ROWS = 5, 2, 24
OPTIONS: dict[str, Any] = {"epochs": EPOCHS, "batch_size": 4, "save_steps": 2, "eval_fraction": 0.0}


def rows(directory: Path) -> Path:
    """A file of rows to train on."""
    file = directory / "rows.json"
    counts = range(1, ROWS + 1)
    texts = [{"instruction": f"Count to {n}.", "input": "", "output": " ".join(map(str, range(n)))} for n in counts]
    file.write_text(json.dumps(texts), encoding="utf-8")
    return file


class Killer:
    """An `on_step` that kills a worker once, and tells the time of what comes after."""

    def __init__(self) -> None:
        self.killed = self.again = self.caught_up = 0.0
        self.last = self.lost = 0

    def __call__(self, report: StepReport) -> None:
        """Called in the driver for every step that it hears of."""
        if report.loss is None:
            return
        now = time.monotonic()
        if not self.killed:
            if report.step >= KILL_AT:
                self.killed = now
                _workers(psutil.Process(), "RayTrainWorker")[-1].kill()
        elif not self.again and report.step <= self.last:
            self.again, self.lost = now, self.last - report.step + 1
        if self.again and not self.caught_up and report.step >= self.last:
            self.caught_up = now
        if not self.again:
            self.last = max(self.last, report.step)


def _workers(parent: psutil.Process, title: str) -> list[psutil.Process]:
    workers = []
    for process in parent.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if title in " ".join(process.cmdline()):
                workers.append(process)
    return workers


def resume(directory: Path) -> dict[str, Any]:
    """Kill a worker, see when and where the run goes on."""
    killer = Killer()
    began = time.monotonic()
    with connect("local", cpus=2):
        report = train(
            rows(directory),
            output=directory / "ray",
            ray="local",
            workers=2,
            report_answers=0,
            on_step=killer,
            **OPTIONS,
        )
    return {
        "killed_after_step": killer.last,
        "resumed_from": report.resumed_from,
        "steps_lost": killer.lost,
        "first_step_again_s": round(killer.again - killer.killed, 1),
        "caught_up_s": round(killer.caught_up - killer.killed, 1),
        "whole_run_s": round(time.monotonic() - began, 1),
    }


def memory(directory: Path) -> dict[str, Any]:
    """By --shard."""
    figures = {}
    for shard in ("off", "on"):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        command += ["-m", "arriero.cli", "train", str(rows(directory)), "--output", str(directory / shard)]
        command += ["--shard", shard, "--report-answers", "0", "--json"]
        command += [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            steady = _steady(process)
            report = json.loads(process.stdout.read()) if process.stdout else {}
        peak = report["peak_memory_bytes"] // 10**6
        figures[shard] = {"steady_mb": steady, "peak_mb": peak, "seconds": report["seconds"]}
    return figures


def _steady(process: subprocess.Popen[str]) -> int:
    """Resident megabytes of a worker, the median of the second half of the time that it runs."""
    samples = []
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            workers = _workers(psutil.Process(process.pid), "arriero.cli")
            if len(workers) == 2:
                samples.append(workers[0].memory_info().rss)
        time.sleep(0.2)
    return int(statistics.median(samples[len(samples) // 2 :])) // 10**6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["resume", "memory"])
    given = parser.parse_args()
    for name, measure in {"resume": resume, "memory": memory}.items():
        if name in given.parts:
            with tempfile.TemporaryDirectory() as directory:
                print(name, json.dumps(measure(Path(directory))), flush=True)


if __name__ == "__main__":
    main()
