"""What training takes beside other busy programs, by how long OpenMP's threads spin before they sleep.

    python -m benchmarks.training.busy DATA [--rows 96] [--spins default 0 1000 10000] [--loops 2] [--rounds 2]
        [--json | --markdown]

`arriero train` on the first rows of DATA, once with nothing beside it and once beside busy loops of Python, for every
spin count in turn; "default" is OpenMP's own, "arriero" what the command sets by itself. Counted are the optimizer
steps after the first. With as many loops as cores the fair share is half of them, that is twice the quiet time of
the fastest variant; a share of 1 means that nothing is lost to waiting. Run it with nothing else on the machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from arriero.hardware import cores
from benchmarks.lib import command
from benchmarks.lib.channel import Document
from benchmarks.lib.sheets import Sheet

LOOP = "while True: pass"
SET_BY_USERS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
OPENMP_DEFAULT = "300000"  # libgomp's, where there are as many cores as threads


def main() -> int:
    """Parse, measure, print."""
    parser = command.parser(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--spins", nargs="+", default=["default", "arriero", "0", "1000", "10000", "100000"])
    parser.add_argument("--loops", type=int, default=cores())
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    if not options.data.is_file():
        print(f"skipped: there is no file {options.data}", file=sys.stderr)
        return 0
    document = command.facts() | {"loops": options.loops, "spins": measure(options)}
    command.show(document, [sheet(document)], options)
    return 0


def measure(options: argparse.Namespace) -> list[Document]:
    """Seconds of a step, quiet and busy, for each spin count; all rounds."""
    times: dict[str, dict[str, list[float]]] = {spins: {"quiet": [], "busy": []} for spins in options.spins}
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        rows.write_text(json.dumps(json.loads(options.data.read_text(encoding="utf-8"))[: options.rows]))
        for number in range(options.rounds):
            for spins in options.spins if number % 2 == 0 else reversed(options.spins):
                for name, loops in (("quiet", 0), ("busy", options.loops)):
                    with busy(loops):
                        steps = train(rows, Path(folder) / f"{number}-{spins}-{name}", spins, options.model)
                    times[spins][name] += steps
                    print(f"{spins:>8} {name:5} {statistics.median(steps):6.2f} s a step", file=sys.stderr)
    return with_shares(times, options.loops)


def train(rows: Path, output: Path, spins: str, model: str | None) -> list[float]:
    """Seconds of each optimizer step but the first, of one run in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in SET_BY_USERS}
    if spins != "arriero":
        environment["GOMP_SPINCOUNT"] = OPENMP_DEFAULT if spins == "default" else spins
    arguments = [sys.executable, "-m", "arriero.cli", "train", str(rows), "--output", str(output), "--epochs", "1"]
    arguments += ["--eval-fraction", "0", "--json", *(["--model", model] if model is not None else [])]
    subprocess.run(arguments, env=environment, check=True, capture_output=True)
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    times = [line["seconds"] for line in lines if "loss" in line]
    return [after - before for before, after in itertools.pairwise(times)]


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """`loops` busy loops beside what is done within."""
    running = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def with_shares(times: Mapping[str, Mapping[str, list[float]]], loops: int) -> list[Document]:
    """Medians, against the fastest quiet variant and against the fair share beside `loops` others."""
    medians = {spins: {name: statistics.median(steps) for name, steps in by.items()} for spins, by in times.items()}
    best = min(median["quiet"] for median in medians.values())
    fair = best * (cores() + loops) / cores()
    return [
        {"spins": spins, **median, "quiet_of_best": best / median["quiet"], "of_fair_share": fair / median["busy"]}
        for spins, median in medians.items()
    ]


def sheet(document: Document) -> Sheet:
    """A line for each spin count."""
    return Sheet(
        f"Seconds of a step of 16 rows, {cores()} cores, beside {document['loops']} busy loops",
        ["spins", "quiet", "of the best", "busy", "of a fair share"],
        [
            [
                row["spins"],
                f"{row['quiet']:.2f}",
                f"{row['quiet_of_best']:.0%}",
                f"{row['busy']:.2f}",
                f"{row['of_fair_share']:.2f}",
            ]
            for row in document["spins"]
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
