"""The part that counts what a decode step of the transformers engine asks of the device."""

from __future__ import annotations

from benchmarks.lib.channel import Document
from benchmarks.lib.children import Bench


def measure(bench: Bench) -> Document:
    """By number of requests, without CUDA graphs and with: launches, and copies to the host."""
    with bench.child(bench.way("benchmarks.answering.ways.decode")) as child:
        return {"requests": child.ask(requests=bench.options.requests)}
