"""The part that measures how free LangChain streams leave the event loop they run in."""

from __future__ import annotations

import itertools

from benchmarks.answering.engines import each_engine
from benchmarks.lib.channel import Document
from benchmarks.lib.children import Bench, Child
from benchmarks.lib.questions import long_answers

STREAMS = (0, 1, 8)


def measure(bench: Bench) -> Document:
    """By number of streams: how late a ticker's ticks came."""
    questions = list(itertools.islice(long_answers(), max(STREAMS)))

    def measured(child: Child) -> Document:
        return {
            "streams": {
                str(count): child.ask(questions=questions[:count], seconds=bench.options.seconds) for count in STREAMS
            }
        }

    streams = "benchmarks.answering.ways.streams"
    figures = each_engine(bench, "loop", measured, module=streams, tokens=bench.options.tokens)
    return {"seconds": bench.options.seconds, **figures}
