"""The part that compares the prompt ids of all surfaces with those of `Chat.render`."""

from __future__ import annotations

from benchmarks.lib.channel import Document
from benchmarks.lib.children import Bench


def measure(bench: Bench) -> Document:
    """For each surface how many conversations it was given, and how many arrived differently."""
    with bench.child(bench.way("benchmarks.answering.ways.surfaces")) as child:
        return {"surfaces": child.ask()}
