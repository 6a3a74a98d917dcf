"""The part that measures the time from the start of `arriero ask` to its answer."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.lib.channel import Document
from benchmarks.lib.children import Bench, ChildError, reason


def measure(bench: Bench) -> Document:
    """Seconds from the start of `arriero ask` to its answer's first byte and to its end, the engines in turn."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in bench.options.engines}
    reasons: dict[str, str] = {}
    for start in range(bench.options.starts + 1):
        for name in [name for name in bench.options.engines if name not in reasons]:
            print(f"cold: start {start}, {name}", file=sys.stderr)
            try:
                asked = _asked(bench.options.model, name, bench.folder / f"{name}.log")
            except ChildError as error:
                reasons[name] = reason(name, error)
                continue
            if start:  # the first one fills caches, and may export the model
                times[name].append(asked)
    return {
        "engines": {
            name: {
                "first_byte_s": {"median": statistics.median(first for first, _ in seconds), "all": seconds},
                "whole_s": statistics.median(whole for _, whole in seconds),
            }
            for name, seconds in times.items()
            if name not in reasons
        },
        "not_measured": reasons,
    }


def _asked(model: Path, engine: str, log: Path) -> tuple[float, float]:
    command = [sys.executable, "-m", "arriero.cli", "ask", "Hi", "--engine", engine, "--model", str(model)]
    start = time.perf_counter()
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr) as process,
    ):
        assert process.stdout is not None
        os.read(process.stdout.fileno(), 1)
        first = time.perf_counter() - start
        process.stdout.read()
        process.wait()
        whole = time.perf_counter() - start
    if process.returncode:
        raise ChildError(f"arriero ask ended with {process.returncode}\n{log.read_text(errors='replace')[-3000:]}")
    return first, whole
