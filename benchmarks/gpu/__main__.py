"""Everything that is measured on a GPU, for gpu.sh: parts in processes of their own, then one table in Markdown.

    python -m benchmarks.gpu --work DIRECTORY [--tiny] [--parts NAME …] [--seconds N]

A part has a limit of its own, and no more than what is left of --seconds. One that fails, takes too long or does not
apply is a line of the table with the reason, after the variants that were done, and the others go on. Exits with 1 if
any failed.

    short_rows  rows as long as the tutorial's on the shape of an 8B, by the tutorial's recipe and by ours, with CUDA
                graphs and without: tokens/s, share of the matrix rate, launches, the check of the first step
    full_rows   the same of rows of 4,096 tokens
    engine      an 8B, 1, 8 and 32 requests at once: our Chat over transformers as `arriero serve` has it, the same
                without CUDA graphs and without a process of its own, and transformers.generate
    decode      the same 8B: launches, kernels and time of a decode step, with graphs and without
    train       a 1B: arriero train, what its check of the first step said, ask --adapter, evaluate, merge, doctor
    four_bit    the same with the base in 4 bits: train, ask, evaluate, merge --allow-quantised
    vllm        that 8B: our Chat over vLLM
    bare_vllm   vLLM alone

What matters most comes first, and what there is no time for is left out. In two goes of at most 450 s all but vLLM has
time: `--parts short_rows full_rows train`, and `--parts engine decode four_bit`.
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

from benchmarks.lib.parts import FailedError, Line, Part, Row, Run, SkippedError, captured, failed, rows, table
from benchmarks.lib.sheets import check, launches
from benchmarks.lib.versions import versions

ROWS = Path(__file__).parents[2] / "examples" / "data" / "llama-driver.json"


def train(run: Run) -> Iterator[Line]:
    """Train, ask and merge a small model."""
    adapter = run.work / "adapter"
    yield from trained(run, adapter)
    report = json.loads((adapter / "report.json").read_text(encoding="utf-8"))
    checked = report["verify"]
    yield "check of the first step", check(checked) if checked else "not done"
    yield from used(run, adapter)
    speedups = run.arriero("doctor")["full_speed"] or {}
    lacking = [name for name, state in speedups.items() if state != "installed"]
    yield "doctor: lacking for full speed", ", ".join(lacking) or "nothing"


def trained(run: Run, adapter: Path, *options: object) -> Iterator[Line]:
    """One run of `arriero train`."""
    small = ("--model", model(run, "1b"), "--epochs", 0.2 if run.tiny else 1, "--report-answers", 0)
    report = run.arriero("train", ROWS, "--output", adapter, *small, *options)
    yield (
        " ".join(map(str, ("train", *options))),
        f"{report['logical_tokens_per_second']:,.0f} tokens/s, loss {report['train_loss']:.3f}, "
        f"peak {report['peak_memory_bytes'] / 1e9:.1f} GB",
    )


def used(run: Run, adapter: Path, *options: object) -> Iterator[Line]:
    """An answer with the adapter, its loss, and the adapter in its base."""
    base = ("--model", model(run, "1b"))
    asked = ("--engine", "transformers", "--temperature", 0, "--max-new-tokens", 16)
    answer = run.arriero("ask", "Who are you?", "--adapter", adapter, *base, *asked)
    yield "ask --adapter", f"{answer['usage']['completion_tokens']} tokens by {answer['engine']}"
    found = run.arriero("evaluate", ROWS, "--held-out", "--adapter", adapter, *base)
    yield "evaluate, held-out rows", f"{found['nll']:.4f} nats per loss token, the base {found['base']['nll']:.4f}"
    target = adapter.with_name(f"{adapter.name}-merged")
    merged = run.arriero("merge", adapter, "--output", target, *base, *options)
    yield " ".join(map(str, ("merge", *options))), f"mean KL {merged['mean_kl']:.1e} to the adapter unmerged"


def four_bit(run: Run) -> Iterator[Line]:
    """The same over a base in 4 bits."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise SkippedError("bitsandbytes is not installed")
    yield from trained(run, run.work / "four-bit", "--load-in-4bit")
    yield from used(run, run.work / "four-bit", "--allow-quantised")


def training(workload: str, steps: int, *variants: str) -> Callable[[Run], Iterator[Line]]:
    """A part: a workload of benchmarks.training."""

    def part(run: Run) -> Iterator[Line]:
        size = ("--tiny", "--steps", 1) if run.tiny else ("--steps", steps)
        chosen = ("--workloads", workload, "--variants", *variants, "--rounds", 1)
        file, late = run.work / f"{run.part}.json", None
        file.unlink(missing_ok=True)
        command = ("-m", "benchmarks.training", "--device", "cuda", *chosen, *size, "--partial", file, "--json")
        try:
            document = run.call(*command)
        except FailedError as error:
            if not file.is_file():
                raise
            document, late = json.loads(file.read_text(encoding="utf-8")), error
        yield "matrix products", f"{document['matrix_tflops']['after']:,.4g} TFLOP/s on {document['machine']}"
        for measured in document["workloads"].values():
            for variant, figures in measured.items():
                yield variant, f"failed: {figures['error']}" if "error" in figures else speed(figures)
                yield from ((f"{variant}: {name}", text) for name, text in noted(figures))
        if late:
            raise late

    return part


def noted(figures: dict[str, Any]) -> Iterator[Line]:
    """What else is known of a variant."""
    if launched := figures.get("launched"):
        yield "in one step, or one full row", launches(launched)
    if waits := figures.get("host_waits"):
        yield "the host waits for the GPU", f"{len(waits)} times in a step: {' '.join(sorted(set(waits)))}"
    if graphs := figures.get("graphs"):
        yield "CUDA graphs", f"off: {graphs['off']}" if graphs["off"] else f"{graphs['captured']} captured"
    if checked := figures.get("checked"):
        yield "check of the first step", check(checked)
    for name in ("attention", "plan"):
        if name in figures:
            yield name, figures[name]


def speed(figures: dict[str, Any]) -> str:
    """A variant's figures of that."""
    logical, computed = (figures[f"{kind}_tokens_per_second"] for kind in ("logical", "computed"))
    share, memory = figures["share_computed"], figures["peak_memory_bytes"] / 1e9
    tokens = f"{logical:,.0f} tokens/s ({computed:,.0f} computed)"
    ratio = "" if figures["ratio"] is None else f", ratio {figures['ratio']}"
    return f"{tokens}, {share:.1%} of the matrix rate{ratio}, peak {memory:.1f} GB"


def answering(*variants: str) -> Callable[[Run], Iterator[Line]]:
    """A part: these variants of benchmarks.answering, each for itself, so that none takes another's figures along."""

    def part(run: Run) -> Iterator[Line]:
        if any("vllm" in variant for variant in variants) and importlib.util.find_spec("vllm") is None:
            raise SkippedError("vllm is not installed")
        for variant in variants:
            try:
                yield from answered(run, variant)
            except FailedError as error:
                yield variant, f"failed: {error}"

    return part


def answered(run: Run, variant: str) -> Iterator[Line]:
    """The speed of one variant."""
    size = ("--tokens", 8, "--requests", 1, 3) if run.tiny else ("--tokens", 128, "--requests", 1, 8, 32)
    chosen = ("--model", model(run, "8b"), "--vllm-python", sys.executable, "--variants", variant)
    speeds = run.call("-m", "benchmarks.answering", *chosen, *size, "--rounds", 1, "--json")["parts"]["speed"]
    for figures in speeds["variants"].values():
        rates = [f"{each['tokens_per_second']['median']:,.0f}" for each in figures["requests"].values()]
        yield f"{variant}, {' / '.join(figures['requests'])} at once", f"{' / '.join(rates)} tokens/s"
    for why in speeds["not_measured"].values():
        yield variant, f"failed: {why}"


def decode(run: Run) -> Iterator[Line]:
    """The counts of a decode step."""
    chosen = ("--model", model(run, "8b"), "--parts", "decode", "--requests", 1, 8, 32)
    counted = run.call("-m", "benchmarks.answering", *chosen, "--json")["parts"]["decode"]["requests"]
    for count, figures in counted.items():
        for name, each in figures.items():
            took = f", {each['seconds'] * 1000:,.1f} ms" if "seconds" in each else ""
            yield f"{name}, {count} at once", f"{launches(each)}, {each['copies']} copies to the host{took}"
            if each["graphs_off"]:
                yield f"{name}, {count} at once: off", each["graphs_off"]


def model(run: Run, size: str) -> Path:
    """A random model, made when it is first asked for."""
    path = run.work / size
    if not (path / "tokenizer.json").is_file():
        command = [sys.executable, "-m", "benchmarks.gpu.models", str(path), "tiny" if run.tiny else size]
        with (run.out / f"{run.part}.log").open("ab") as log:
            if captured(command, log, run.left())[0]:
                raise FailedError(f"the random model {size} could not be made")
    return path


PARTS: dict[str, Part] = {
    "short_rows": (180, training("short", 12, "arriero train", "without CUDA graphs", "tutorial")),
    "full_rows": (150, training("full", 2, "arriero train", "tutorial")),
    "engine": (240, answering("arriero-transformers-process", "arriero-transformers-eager", "transformers")),
    "decode": (80, decode),
    "train": (130, train),
    "four_bit": (120, four_bit),
    "vllm": (150, answering("arriero-vllm")),
    "bare_vllm": (150, answering("vllm")),
}


def main() -> int:
    """Run the parts, print and write the table."""
    options = parsed()
    out = Path(os.environ.get("OUT") or "runs/gpu").resolve()
    out.mkdir(parents=True, exist_ok=True)
    run = Run(out, options.work, time.monotonic() + options.seconds, tiny=options.tiny)
    head, text, measured = described(), "", list[Row]()
    for name in options.parts:
        measured += rows(run, name, PARTS)
        text = table(head, measured)
        (out / "table.md").write_text(text, encoding="utf-8")  # whoever ends this later has what there is
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
