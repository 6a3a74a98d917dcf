"""The same measurement of a Chat over each engine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from benchmarks.lib.channel import Document
from benchmarks.lib.children import Bench, Child, ChildError, reason

ENGINES = ("openvino", "transformers", "vllm", "transformers-process")
CHAT = "benchmarks.answering.ways.chat"


def each_engine(
    bench: Bench, part: str, measured: Callable[[Child], Document], *, module: str = CHAT, **job: Any
) -> Document:
    """What is `measured` of a child over each engine, and why not of others."""
    result: Document = {"engines": {}, "not_measured": {}}
    for engine in bench.options.engines:
        print(f"{part}: {engine}", file=sys.stderr)
        try:
            with bench.child(bench.way(module, engine=engine, **job)) as child:
                result["engines"][engine] = measured(child) | child.about
        except ChildError as error:
            result["not_measured"][engine] = reason(engine, error)
    return result
