"""Everything that is measured on a GPU, for gpu.sh: parts in processes of their own, then one table in Markdown.

    python -m benchmarks.gpu --work DIRECTORY [--tiny] [--parts NAME …] [--seconds N]

A part has a limit of its own, and no more than what is left of --seconds. One that fails, takes too long or does not
apply is a line of the table with the reason, and the others go on. Exits with 1 if any failed.

    train       a small model: arriero train, what its check of the first step said, ask --adapter, merge
    four_bit    the same with the base in 4 bits: train, ask, merge --allow-quantised
    graphs      arriero train with and without CUDA graphs
    training    the tutorial's recipe and ours on the shape of an 8B, short and full rows
    engine      an 8B: our Chat over transformers with CUDA graphs and without, and transformers alone
    decode      what a decode step launches and copies to the host, with graphs and without
    vllm        an 8B: our Chat over vLLM
    bare_vllm   vLLM alone
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.lib.parts import FailedError, Line, Part, Run, SkippedError, captured, failed, rows, table
from benchmarks.lib.versions import versions

ROWS = Path(__file__).parents[2] / "examples" / "data" / "llama-driver.json"


def train(run: Run) -> Iterator[Line]:
    """Train, ask and merge a small model."""
    adapter = run.work / "adapter"
    yield from trained(run, adapter)
    report = json.loads((adapter / "report.json").read_text(encoding="utf-8"))
    checked = report["verify"]
    worst = f"worst {checked['worst']:.2f} of what rounding explains, at most 3" if checked else "not done"
    yield "check of the first step", f"{worst}{'; it fell back' if checked and checked['fell_back'] else ''}"
    yield from asked_and_merged(run, adapter)


def trained(run: Run, adapter: Path, *options: object) -> Iterator[Line]:
    """One run of `arriero train`."""
    small = ("--model", model(run, "1b"), "--epochs", 0.2 if run.tiny else 1, "--report-answers", 0)
    report = run.arriero("train", ROWS, "--output", adapter, *small, *options)
    yield (
        " ".join(map(str, ("train", *options))),
        f"{report['logical_tokens_per_second']:,.0f} tokens/s, loss {report['train_loss']:.3f}, "
        f"peak {report['peak_memory_bytes'] / 1e9:.1f} GB",
    )


def asked_and_merged(run: Run, adapter: Path, *options: object) -> Iterator[Line]:
    """An answer with the adapter, and the adapter in its base."""
    base = ("--model", model(run, "1b"))
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
    """The table of benchmarks.training."""
    tiny = ("--tiny",) if run.tiny else ()
    document = run.call("-m", "benchmarks.training", "--device", "cuda", *tiny, "--rounds", 1, "--steps", 2, "--json")
    yield "matrix products", f"{document['matrix_tflops']['after']:,.4g} TFLOP/s on {document['machine']}"
    for workload, variants in document["workloads"].items():
        for variant, figures in variants.items():
            yield f"{workload}: {variant}", figures.get("error") or speed(figures)


def speed(figures: dict[str, Any]) -> str:
    """A variant's figures of that."""
    logical, computed = (figures[f"{kind}_tokens_per_second"] for kind in ("logical", "computed"))
    share, memory = figures["share_computed"], figures["peak_memory_bytes"] / 1e9
    tokens = f"{logical:,.0f} tokens/s ({computed:,.0f} computed)"
    return f"{tokens}, {share:.1%} of the matrix rate, ratio {figures['ratio']}, peak {memory:.1f} GB"


def answering(*variants: str) -> Callable[[Run], Iterator[Line]]:
    """A part: these variants of benchmarks.answering."""

    def part(run: Run) -> Iterator[Line]:
        if any("vllm" in variant for variant in variants) and importlib.util.find_spec("vllm") is None:
            raise SkippedError("vllm is not installed")
        size = ("--tokens", 8, "--requests", 1, 3) if run.tiny else ("--tokens", 128, "--requests", 1, 8, 32)
        chosen = ("--model", model(run, "8b"), "--vllm-python", sys.executable, "--variants", *variants)
        command = ("-m", "benchmarks.answering", *chosen, *size, "--rounds", 1, "--json")
        speeds = run.call(*command)["parts"]["speed"]
        for variant, figures in speeds["variants"].items():
            rates = [f"{each['tokens_per_second']['median']:,.0f}" for each in figures["requests"].values()]
            yield f"{variant}, {' / '.join(figures['requests'])} at once", f"{' / '.join(rates)} tokens/s"
        for variant, why in speeds["not_measured"].items():
            yield variant, f"failed: {why}"

    return part


def decode(run: Run) -> Iterator[Line]:
    """The counts of a decode step."""
    chosen = ("--model", model(run, "1b"), "--parts", "decode", "--requests", 1, 8)
    counted = run.call("-m", "benchmarks.answering", *chosen, "--json")["parts"]["decode"]["requests"]
    for count, figures in counted.items():
        for name, each in figures.items():
            yield f"{name}, {count} at once", f"{each['launches']:,} launches, {each['copies']} copies to the host"


def model(run: Run, size: str) -> Path:
    """A random model, made when it is first asked for."""
    path = run.work / size
    if not (path / "tokenizer.json").is_file():
        command = [sys.executable, "-m", "benchmarks.gpu.models", str(path), "tiny" if run.tiny else size]
        with (run.out / f"{run.part}.log").open("ab") as log:
            if captured(command, log, run.left()) is None:
                raise FailedError(f"the random model {size} could not be made")
    return path


PARTS: dict[str, Part] = {
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
    run = Run(out, options.work, time.monotonic() + options.seconds, tiny=options.tiny)
    measured = [row for name in options.parts for row in rows(run, name, PARTS)]
    text = table(described(), measured)
    (out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return 1 if failed(measured) else 0


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where models go")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes; needs no GPU")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=470, help="for all parts together")
    return parser.parse_args()


def described() -> str:
    """The card and the versions of what computes."""
    card = "no GPU"
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        card = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip() or card
    return f"{card}; {', '.join(f'{name} {version}' for name, version in versions().items())}"


if __name__ == "__main__":
    sys.exit(main())
