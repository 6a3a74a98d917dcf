"""How fast LoRA training is, from the tutorial's recipe to `arriero train`, step by step.

    python -m benchmarks.training DATA [--model NAME_OR_DIR] [--steps N] [--rounds N] [--quality] [--json | --markdown]
    python -m benchmarks.training [DATA --model TOKENIZER_DIR] --device cuda [--tiny]

On a CPU: the embedded model, or `--model`, in bfloat16. Every variant computes the same optimizer steps of 16 rows of
DATA, each in a process of its own, so that its peak memory is its own; the first step is a warm-up. Rounds go through
the variants forwards and backwards in turn, so that a machine that becomes slower does so for all. `--quality` also
trains longer with both recipes and measures both adapters on the same held-out rows.

On CUDA: a model of the shape of Llama 3.1 8B with random weights made on the GPU, and two workloads: rows as long as
DATA's under the tokenizer in `--model` (without it, as long as the tutorial's rows are), and full rows of 4,096
tokens. 16 steps go before the counted ones of the former, 4 with the tutorial's recipe: a CUDA graph is replayed from
the third row of its size on. `--tiny` runs that on a CPU with a tiny shape.

`--partial FILE` has the document of the variants that are done, for whoever ends this before all are.

Exits with 1 if a variant failed, or a step made the host wait for the GPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib import command
from benchmarks.lib.children import environment
from benchmarks.lib.machine import Device, matrix_rate
from benchmarks.lib.shapes import LLAMA_8B, TINY
from benchmarks.training.figures import BASELINE, CHANGES, OURS, WITHOUT_GRAPHS, figures, with_ratios
from benchmarks.training.jobs import SAMPLES, Job, Source, Workload, full, synthetic, within
from benchmarks.training.sheets import sheets

SYSTEM = "现在你要扮演皇帝身边的女人--甄嬛"
CUDA_VARIANTS = (BASELINE, OURS, WITHOUT_GRAPHS)
FULL_ROW, FULL_ROW_TINY = 4096, 96  # tokens
WARM_UPS, WARM_UPS_TINY = 16, 2  # steps of rows whose sizes differ
FEW_WARM_UPS = 4  # of the baseline, which has no graphs and takes longest
WORKLOADS = ("short", "full")
SEEDS = (1, 2)
HELD_OUT = 128  # rows, about
Results = dict[tuple[str, str], list[dict[str, Any]]]  # (workload, variant) -> one of each round


def main() -> int:
    """Parse, measure, print."""
    options = parsed()
    if options.data is not None and not options.data.is_file():
        print(f"skipped: there is no file {options.data}", file=sys.stderr)
        return 0
    with prepared(options) as folder:
        document = measure(options, folder)
    command.show(document, list(sheets(document)), options)
    return 1 if any("error" in figures or figures.get("host_waits") for figures in all_figures(document)) else 0


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = command.parser(__doc__)
    parser.add_argument("data", type=Path, nargs="?", help="instruction data; may be left out with --device cuda")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--system", default=SYSTEM)
    parser.add_argument("--rows", type=int, help="rows drawn from DATA; default: as many as the steps take")
    parser.add_argument("--steps", type=int, default=3, help="counted optimizer steps of 16 rows")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--variants", nargs="+", choices=tuple(CHANGES), default=tuple(CHANGES), metavar="NAME")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=WORKLOADS, help="with --device cuda")
    parser.add_argument("--quality", type=int, nargs="?", const=480, default=0, metavar="ROWS")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="of --quality")
    parser.add_argument("--partial", type=Path, metavar="FILE", help="the document so far")
    parser.add_argument("--tiny", action="store_true", help="with --device cuda: a tiny shape, on the CPU")
    options = parser.parse_args()
    if options.data is None and (options.device == "cpu" or options.model):
        parser.error("DATA is needed")
    if options.tiny and options.device == "cpu":
        parser.error("--tiny goes with --device cuda")
    if options.device == "cuda" and not options.tiny and not torch.cuda.is_available():
        parser.error("this machine has no CUDA GPU; --tiny runs the same code on its CPU")
    chosen = CUDA_VARIANTS if options.device == "cuda" else tuple(name for name in CHANGES if name != WITHOUT_GRAPHS)
    options.variants = [name for name in options.variants if name in chosen]
    return options


@contextmanager
def prepared(options: argparse.Namespace) -> Iterator[Path]:
    """A folder for everything that is made on the way; the model becomes a directory."""
    from arriero import hub

    if options.device == "cpu" or options.model:
        options.model = hub.resolve(options.model).resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ARRIERO_HOME"] = str(Path(folder) / "home")
        yield Path(folder)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The document of one run."""
    shape = {} if options.device == "cpu" else TINY if options.tiny else LLAMA_8B
    device: Device = "cuda" if options.device == "cuda" and not options.tiny else "cpu"
    source = Source(options.data, options.model, options.system) if options.model else None
    before = matrix_rate(device)
    workloads = list(chosen(options, source, shape))
    sizes = parameters(options.model, shape)
    results: Results = {}
    for number in range(options.rounds):
        pairs = list(itertools.product(workloads, options.variants))
        for workload, variant in reversed(pairs) if number % 2 else pairs:
            given = workload.warmed_up_by(FEW_WARM_UPS) if variant == BASELINE else workload
            result = run(Job(variant, given, device, options.model, shape), folder)
            results.setdefault((workload.name, variant), []).append(result)
            if options.partial:
                so_far = described(options, workloads, results, sizes, (before, before))
                whole = options.partial.with_suffix(".new")  # this may be ended while it writes
                whole.write_text(json.dumps(so_far), encoding="utf-8")
                whole.replace(options.partial)
    document = described(options, workloads, results, sizes, (before, matrix_rate(device)))
    if options.quality and source is not None and not shape:
        document["quality"] = quality(options, source, folder)
    return document


def described(
    options: argparse.Namespace,
    workloads: Sequence[Workload],
    results: Results,
    sizes: dict[str, int],
    matrix_rates: tuple[float, float],
) -> dict[str, Any]:
    """The document of these results."""
    device: Device = "cpu" if options.tiny else options.device
    shape = "tiny" if options.tiny else "Llama 3.1 8B"
    document: dict[str, Any] = {
        **command.facts(device, *matrix_rates),
        "model": {"name": options.model.name if options.device == "cpu" else shape, **sizes},
        "steps": options.steps,
        "samples_per_step": SAMPLES,
        "rounds": options.rounds,
        "workloads": {},
    }
    for workload in workloads:
        variants = {
            name: figures(workload, results[workload.name, name], sizes, max(matrix_rates))
            for name in options.variants
            if (workload.name, name) in results
        }
        with_ratios(variants)
        document["workloads"][workload.name] = variants
    return document


def chosen(options: argparse.Namespace, source: Source | None, shape: dict[str, Any]) -> Iterator[Workload]:
    """The workloads: warm-up steps and the counted ones."""
    warm_ups = WARM_UPS_TINY if options.tiny else WARM_UPS if shape else 1
    if source is not None:
        steps = warm_ups + options.steps
        workload = source.workload(options.data.name, steps, options.rows or steps * SAMPLES, seed=0)
        workload = replace(workload, warm_ups=warm_ups)
        yield within(workload, shape["vocab_size"]) if shape else workload
    elif "short" in options.workloads:
        yield synthetic(options.steps, shape["vocab_size"], warm_ups)
    if shape and "full" in options.workloads:
        yield full(options.steps, FULL_ROW_TINY if options.tiny else FULL_ROW, shape["vocab_size"])


def quality(options: argparse.Namespace, source: Source, folder: Path) -> dict[str, Any]:
    """Held-out figures after the same steps: the tutorial's recipe and ours, two orders of rows each."""
    runs, base, steps = [], {}, 0
    for seed, variant in itertools.product(SEEDS, (BASELINE, OURS)):
        workload = source.quality(options.quality, HELD_OUT, seed)
        job = Job(variant, workload, "cpu", options.model, {}, options.learning_rate, quality=True)
        result = run(job, folder)
        if "error" in result:
            raise SystemExit(f"{variant}, seed {seed}: {result['error']}")
        base, steps = result["base"], len(workload.steps)
        runs.append({"recipe": variant, "seed": seed, **result["adapter"]})
    return {"steps": steps, "learning_rate": options.learning_rate, "base": base, "runs": runs}


def run(job: Job, folder: Path) -> dict[str, Any]:
    """A variant's result, or its error, from a process of its own; it and what that prints go to standard error."""
    print(f"{job.workload.name}: {job.variant}", file=sys.stderr, flush=True)
    task, result = folder / "job.pickle", folder / "result.json"
    task.write_bytes(pickle.dumps(job))
    result.unlink(missing_ok=True)
    alone = {"CUDA_VISIBLE_DEVICES": "0", **environment()}  # with several GPUs the Trainer would use them all
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.training.child", str(task), str(result)],
        stdout=sys.stderr,
        env=alone,
    )
    lost = json.dumps({"error": f"its process ended with {ended.returncode}"})
    text = result.read_text(encoding="utf-8") if result.is_file() else lost
    print(text, file=sys.stderr, flush=True)  # whoever is ended before all variants are through has these
    outcome: dict[str, Any] = json.loads(text)
    return outcome


def parameters(model: Path | None, shape: dict[str, Any]) -> dict[str, int]:
    """Of the head, and of all that is neither head nor embedding."""
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(**shape) if shape else AutoConfig.from_pretrained(model, local_files_only=True)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config)
    head, embedding = base.get_output_embeddings().weight, base.get_input_embeddings().weight
    body = sum(weight.numel() for weight in base.parameters() if weight is not head and weight is not embedding)
    return {"body": body, "head": head.numel()}


def all_figures(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Figures of all variants of all workloads."""
    for variants in document["workloads"].values():
        yield from variants.values()


if __name__ == "__main__":
    sys.exit(main())
