"""The figures that matter most, in one table in Markdown that can be pasted: a few minutes on two cores.

    python -m benchmarks [--parts NAME …] [--model NAME_OR_DIR] [--seconds N]          (make bench)

    start        from `arriero ask` to the first byte of its answer
    answering    tokens/s and first tokens of our Chat beside the engine alone
    loop         how late a ticker is in an event loop with LangChain streams
    serving      tokens/s and first tokens over HTTP beside the engine alone
    training     samples/s of the tutorial's recipe and of `arriero train`
    download     `arriero download` beside curl and sha256sum

One short round each: for figures to compare versions by, run the commands that benchmarks/__init__.py lists. Every part
is a process of its own. One that fails or takes too long is a line of the table with the reason, and the others go on.
Exits with 1 if any failed. What the commands wrote is in OUT (default: runs/bench).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from arriero.settings import EMBEDDED_MODEL
from benchmarks.lib import command
from benchmarks.lib.parts import FailedError, Line, Part, Run, SkippedError, failed, rows, table
from benchmarks.lib.sheets import seconds

DATA = Path(__file__).parents[1] / "examples" / "data" / "llama-driver.json"


def start(run: Run) -> Iterator[Line]:
    """Cold starts."""
    part = _answering(run, "cold", "--starts", 3)
    for engine, figures in part["engines"].items():
        first, whole = figures["first_byte_s"]["median"], figures["whole_s"]
        yield f"arriero ask, {engine}", f"first byte after {seconds(first)}, whole after {seconds(whole)}"
    yield from _missing(part)


def answering(run: Run) -> Iterator[Line]:
    """Our Chat beside the engines alone."""
    variants = ("arriero-openvino", "openvino", "arriero-transformers", "transformers")
    part = _answering(run, "speed", "--variants", *variants, "--requests", 1, 8, "--tokens", 64, "--rounds", 1)
    for variant, figures in part["variants"].items():
        yield f"{variant}, {_counts(figures)}", _speed(figures, lambda each: each["first_token_s"])
    yield from _missing(part)


def loop(run: Run) -> Iterator[Line]:
    """The event loop beside LangChain streams."""
    part = _answering(run, "loop", "--engines", "openvino", "--seconds", 5)
    for engine, figures in part["engines"].items():
        for count, each in figures["streams"].items():
            late = " / ".join(seconds(each["late_s"][name]) for name in ("p50", "p99", "longest"))
            yield f"a tick of 5 ms beside {count} streams over {engine}", f"late by {late} (p50 / p99 / longest)"
    yield from _missing(part)


def serving(run: Run) -> Iterator[Line]:
    """HTTP beside the engine alone."""
    short = ("--variants", "openvino", "arriero serve", "--requests", 1, 8, "--tokens", 64, "--rounds", 1)
    part = run.call("-m", "benchmarks.serving", "--parts", "speed", *short, "--model", run.model, "--json")["parts"][
        "speed"
    ]
    for variant, figures in part["variants"].items():
        yield f"{variant}, {_counts(figures)}", _speed(figures, lambda each: each["first_s"]["p50"])
    yield from _missing(part)


def training(run: Run) -> Iterator[Line]:
    """The tutorial's recipe and ours."""
    short = ("--variants", "tutorial", "arriero train", "--steps", 2, "--rounds", 1, "--system", "Be brief.")
    document = run.call("-m", "benchmarks.training", DATA, *short, "--model", run.model, "--json")
    for variants in document["workloads"].values():
        for variant, figures in variants.items():
            if "error" in figures:
                raise FailedError(f"{variant}: {figures['error']}")
            samples, memory = figures["samples_per_second"]["median"], figures["peak_memory_bytes"] / 1e9
            ratio = f"ratio {figures['ratio']:.2f}, peak {memory:.1f} GB"
            yield variant, f"{samples:.2f} samples/s, {ratio}, {figures['share_computed']:.0%} of the matrix rate"


def download(run: Run) -> Iterator[Line]:
    """Beside curl."""
    if shutil.which("curl") is None:
        raise SkippedError("curl is not installed")
    document = run.call("-m", "benchmarks.downloading", "--bytes", 2e8, "--rounds", 3, "--json")
    time_, cpu = document["ratio"]["seconds"], document["ratio"]["cpu_seconds"]
    yield "arriero download beside curl + sha256sum, 200 MB", f"{time_:.2f} of the time, {cpu:.2f} of the CPU"
    yield "sent twice after ten kills", f"{document['sent_twice']:.2%}"


PARTS: dict[str, Part] = {  # seconds at most
    "start": (120, start),
    "answering": (240, answering),
    "loop": (120, loop),
    "serving": (180, serving),
    "training": (240, training),
    "download": (120, download),
}


def _answering(run: Run, part: str, *arguments: object) -> Any:
    document = run.call("-m", "benchmarks.answering", "--parts", part, *arguments, "--model", run.model, "--json")
    return document["parts"][part]


def _counts(figures: Any) -> str:
    return f"{' / '.join(figures['requests'])} at once"


def _speed(figures: Any, first: Callable[[Any], float]) -> str:
    by_count = list(figures["requests"].values())
    rates = " / ".join(f"{each['tokens_per_second']['median']:,.0f}" for each in by_count)
    ratios = " / ".join(f"{each['ratio']:.2f}" for each in by_count if each["ratio"] is not None) or "none"
    return f"{rates} tokens/s, ratio {ratios}, first token {' / '.join(seconds(first(each)) for each in by_count)}"


def _missing(part: Any) -> Iterator[Line]:
    for name, reason in part["not_measured"].items():
        yield name, f"not measured: {reason}"


def main() -> int:
    """Run the parts, print and write the table."""
    options = parsed()
    out = Path(os.environ.get("OUT") or "runs/bench").resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        run = Run(out, Path(work), time.monotonic() + options.seconds, model=options.model)
        measured = [row for name in options.parts for row in rows(run, name, PARTS)]
    text = table(command.head(command.facts() | {"model": options.model}), measured)
    (out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return 1 if failed(measured) else 0


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), metavar="NAME")
    parser.add_argument("--model", default=EMBEDDED_MODEL, help="a model's name or directory")
    parser.add_argument("--seconds", type=float, default=900, help="for all parts together")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
