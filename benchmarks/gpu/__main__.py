"""Everything that is measured on a GPU, for gpu.sh: parts in processes of their own, then one table in Markdown.

    python -m benchmarks.gpu --work DIRECTORY [--tiny] [--parts NAME …] [--seconds N]

A part has a limit of its own, and no more than what is left of --seconds. One that fails, takes too long or does not
apply is a line of the table with the reason, and the others go on. Exits with 1 if any failed.

    train       a small model: arriero train, what its check of the first step said, ask --adapter, merge
    four_bit    the same with the base in 4 bits: train, ask, merge --allow-quantised
    graphs      arriero train with and without CUDA graphs
    training    training.py --device cuda: the tutorial's recipe and ours on the shape of an 8B, short and full rows
    engine      an 8B: our Chat over transformers with CUDA graphs and without, and transformers alone
    decode      what a decode step launches and copies to the host, with graphs and without
    vllm        an 8B: our Chat over vLLM
    bare_vllm   vLLM alone
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "examples" / "data" / "llama-driver.json"
PACKAGES = ("torch", "transformers", "peft", "vllm", "liger-kernel", "bitsandbytes", "flash-attn-3", "llguidance")
Line = tuple[str, str]  # what was measured, and how much of it


class FailedError(Exception):
    """A part has no figures, for this reason."""


class SkippedError(Exception):
    """A part does not apply here, for this reason."""


@dataclass(slots=True)
class Run:
    """Where results (`out`) and models (`work`) go, when all has to be over, and when the part in progress has."""

    out: Path
    work: Path
    tiny: bool
    end: float
    part: str = ""
    part_end: float = 0.0

    def call(self, *command: object) -> Any:
        """The JSON document that a Python script writes; `<part>.log` and `<part>.json` in `out` have all it wrote."""
        left = min(self.end, self.part_end) - time.monotonic()
        with (self.out / f"{self.part}.log").open("a+b") as log:
            start = log.seek(0, os.SEEK_END)
            text = captured([sys.executable, *map(str, command)], log, left)
            if text is None:
                log.seek(start)
                raise FailedError(reason(log.read().decode(errors="replace")))
        with (self.out / f"{self.part}.json").open("a") as file:
            file.write(text)
        try:
            return json.loads(text)
        except ValueError as error:
            raise FailedError(f"what it wrote is no JSON: {error}") from error

    def arriero(self, *command: object) -> Any:
        """The same of the command line."""
        return self.call("-m", "arriero.cli", *command, "--json")

    def model(self, size: str) -> Path:
        """A random model, made when it is first asked for."""
        path = self.work / size
        if not (path / "tokenizer.json").is_file():
            left = min(self.end, self.part_end) - time.monotonic()
            command = [sys.executable, "-m", "benchmarks.gpu.models", str(path), "tiny" if self.tiny else size]
            with (self.out / f"{self.part}.log").open("ab") as log:
                if captured(command, log, left) is None:
                    raise FailedError(f"the random model {size} could not be made")
        return path


def captured(command: list[str], log: Any, seconds: float) -> str | None:
    """Standard output of a command, None where it failed; ends all its processes when the time is over."""
    if seconds <= 0:
        raise SkippedError("no time was left")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, start_new_session=True) as process:
        try:
            text = process.communicate(timeout=seconds)[0].decode()
        except subprocess.TimeoutExpired as error:
            raise FailedError(f"not done after {seconds:.0f} s") from error
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    return text if process.returncode == 0 else None


def reason(text: str) -> str:
    """The last line of what a failed command wrote, after the error where that line is only what to try."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it wrote nothing"]
    return " ".join(lines[-2:] if lines[-1].startswith("try:") else lines[-1:])


def train(run: Run) -> Iterator[Line]:
    """Train, ask and merge a small model."""
    adapter = run.work / "adapter"
    yield from trained(run, adapter)
    report = json.loads((adapter / "report.json").read_text(encoding="utf-8"))
    checked = report["verify"]
    told = f"worst {checked['worst']:.2f} of what rounding explains, at most 3" if checked else "not done"
    yield "check of the first step", f"{told}{'; it fell back' if checked and checked['fell_back'] else ''}"
    yield from asked_and_merged(run, adapter)


def trained(run: Run, adapter: Path, *options: object) -> Iterator[Line]:
    """One run of `arriero train`."""
    small = ("--model", run.model("1b"), "--epochs", 0.2 if run.tiny else 1, "--report-answers", 0)
    found = run.arriero("train", ROWS, "--output", adapter, *small, *options)
    yield (
        " ".join(map(str, ("train", *options))),
        f"{found['logical_tokens_per_second']:,.0f} tokens/s, loss {found['train_loss']:.3f}, "
        f"peak {found['peak_memory_bytes'] / 1e9:.1f} GB",
    )


def asked_and_merged(run: Run, adapter: Path, *options: object) -> Iterator[Line]:
    """An answer with the adapter, and the adapter in its base."""
    base = ("--model", run.model("1b"))
    asked = ("--engine", "transformers", "--temperature", 0, "--max-new-tokens", 16)
    answer = run.arriero("ask", "Who are you?", "--adapter", adapter, *base, *asked)
    yield "ask --adapter", f"{answer['usage']['completion_tokens']} tokens by {answer['engine']}"
    target = adapter.with_name(f"{adapter.name}-merged")
    merged = run.arriero("merge", adapter, "--output", target, *base, *options)
    yield " ".join(map(str, ("merge", *options))), f"mean KL {merged['mean_kl']:.1e} to the adapter unmerged"


def four_bit(run: Run) -> Iterator[Line]:
    """The same over a base in 4 bits."""
    yield from trained(run, run.work / "four-bit", "--load-in-4bit")
    yield from asked_and_merged(run, run.work / "four-bit", "--allow-quantised")


def graphs(run: Run) -> Iterator[Line]:
    """Training with CUDA graphs and without."""
    from arriero.hardware import gpus

    if not gpus():
        raise SkippedError("no GPU is here, and graphs are CUDA's")
    for choice in ("off", "on"):
        yield from trained(run, run.work / f"graphs-{choice}", "--cuda-graphs", choice)


def training(run: Run) -> Iterator[Line]:
    """The table of training.py."""
    tiny = ("--tiny",) if run.tiny else ()
    found = run.call("-m", "benchmarks.training", "--device", "cuda", *tiny, "--rounds", 1, "--steps", 2, "--json")
    yield "matrix products", f"{found['matrix_tflops']['after']:,.4g} TFLOP/s on {found['machine']}"
    for workload, variants in found["workloads"].items():
        for variant, figures in variants.items():
            yield f"{workload}: {variant}", figures.get("error") or speed(figures)


def speed(figures: dict[str, Any]) -> str:
    """A variant's figures of training.py."""
    logical, computed = (figures[f"{kind}_tokens_per_second"] for kind in ("logical", "computed"))
    share, memory = figures["share_computed"], figures["peak_memory_bytes"] / 1e9
    tokens = f"{logical:,.0f} tokens/s ({computed:,.0f} computed)"
    return f"{tokens}, {share:.1%} of the matrix rate, ratio {figures['ratio']}, peak {memory:.1f} GB"


def answering(*variants: str) -> Callable[[Run], Iterator[Line]]:
    """A part: these variants of answering.py."""

    def part(run: Run) -> Iterator[Line]:
        if any("vllm" in variant for variant in variants) and importlib.util.find_spec("vllm") is None:
            raise SkippedError("vllm is not installed")
        size = ("--tokens", 8, "--requests", 1, 3) if run.tiny else ("--tokens", 128, "--requests", 1, 8, 32)
        wanted = ("--model", run.model("8b"), "--vllm-python", sys.executable, "--variants", *variants)
        found = run.call("-m", "benchmarks.answering", *wanted, *size, "--rounds", 1, "--json")["parts"]["speed"]
        for variant, figures in found["variants"].items():
            rates = [f"{each['tokens_per_second']['median']:,.0f}" for each in figures["requests"].values()]
            yield f"{variant}, {' / '.join(figures['requests'])} at once", f"{' / '.join(rates)} tokens/s"
        for variant, why in found["not_measured"].items():
            yield variant, f"failed: {why}"

    return part


def decode(run: Run) -> Iterator[Line]:
    """The counts of decode.py."""
    counted = run.call("-m", "benchmarks.answering.decode", "--model", run.model("1b"), "--requests", 1, 8, "--json")
    for count, found in counted.items():
        for name, each in found.items():
            yield f"{name}, {count} at once", f"{each['launches']:,} launches, {each['copies']} copies to the host"


PARTS: dict[str, tuple[float, Callable[[Run], Iterator[Line]]]] = {  # seconds at most
    "train": (110, train),
    "training": (200, training),
    "engine": (150, answering("arriero-transformers", "arriero-transformers-eager", "transformers")),
    "decode": (60, decode),
    "vllm": (150, answering("arriero-vllm")),
    "four_bit": (100, four_bit),
    "graphs": (80, graphs),
    "bare_vllm": (150, answering("vllm")),
}


def main() -> int:
    """Run the parts, print and write the table."""
    options = parsed()
    out = Path(os.environ.get("OUT") or "runs/gpu").resolve()
    out.mkdir(parents=True, exist_ok=True)
    run = Run(out, options.work, options.tiny, time.monotonic() + options.seconds)
    rows = [row for name in options.parts for row in lines(run, name)]
    table = "\n".join([described(), "", "| part | measured | figure |", "|---|---|---|", *map(cells, rows), ""])
    (out / "table.md").write_text(table, encoding="utf-8")
    print(table)
    return 1 if any(row[2].startswith("failed") for row in rows) else 0


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where models go")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes; needs no GPU")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=470, help="for all parts together")
    return parser.parse_args()


def lines(run: Run, name: str) -> list[tuple[str, str, str]]:
    """A part's lines of the table, the last of which says why there are no more where it failed."""
    print(f"gpu: {name}", file=sys.stderr)
    limit, part = PARTS[name]
    started = time.monotonic()
    run.part, run.part_end = name, started + limit
    rows: list[tuple[str, str, str]] = []
    try:
        rows.extend((name, what, figure) for what, figure in part(run))
    except SkippedError as why:
        rows.append((name, "", f"skipped: {why}"))
    except Exception as error:  # no fault of one part may take the table from the others
        told = str(error) if isinstance(error, FailedError) else f"{type(error).__name__}: {error}"
        rows.append((name, "", f"failed: {told}"))
    return [*rows, (name, "seconds", f"{time.monotonic() - started:.0f}")]


def described() -> str:
    """The card and the versions of what computes."""
    card = "no GPU"
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        card = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip() or card
    return f"{card}; Python {sys.version.split()[0]}, {', '.join(versions(PACKAGES))}"


def versions(packages: Iterable[str]) -> Iterator[str]:
    """Of those that are installed."""
    for package in packages:
        try:
            yield f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue


def cells(row: tuple[str, ...]) -> str:
    """A line of the table."""
    return f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in row)} |"


if __name__ == "__main__":
    sys.exit(main())
