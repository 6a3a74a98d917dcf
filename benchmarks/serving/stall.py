"""The part that measures what a long prompt does to short streams."""

from __future__ import annotations

import asyncio
import itertools

import uvloop

from arriero import hub
from benchmarks.lib.channel import Document
from benchmarks.lib.children import Bench
from benchmarks.lib.figures import quantile
from benchmarks.lib.questions import long_answers, long_questions
from benchmarks.serving.asking import SHORT, SOON, ask, ordinary, room
from benchmarks.serving.client import Answer
from benchmarks.serving.servers import Target, serving


def measure(bench: Bench) -> Document:
    """Streams of short prompts while a prompt near the window's end is prefilled."""
    with serving(bench) as server:
        return uvloop.run(_stall(server.target, bench))


async def _stall(target: Target, bench: Bench) -> Document:
    window, streams, questions = hub.window(bench.options.model), bench.options.streams, long_answers()
    longs = long_questions(bench.renderer, window - SHORT - 8)
    await ordinary(target, next(questions))
    alone = await ask(target, next(longs), SHORT)
    await alone.ended.wait()
    calls = [await ask(target, next(questions), room(bench, 512)) for _ in range(streams)]
    await asyncio.gather(*(call.until(8 * SOON) for call in calls))
    long = await ask(target, next(longs), SHORT)
    await long.ended.wait()
    for call in calls:
        call.abort()
    sent, begun = long.sent, Answer.of(long).texts[0]
    phases: dict[str, list[float]] = {"before": [], "during": []}
    for call in calls:
        texts = Answer.of(call).texts
        for earlier, later in itertools.pairwise(texts):
            if later <= sent:
                phases["before"].append(later - earlier)
            elif earlier < begun:
                phases["during"].append(later - earlier)
    return {
        "streams": streams,
        "still_running": sum(not call.whole for call in calls),
        "prompt_tokens": window - SHORT - 8,
        "first_s": {"alone": Answer.of(alone).texts[0] - alone.sent, "beside": begun - sent},
        "gap_s": {
            name: {"p50": quantile(gaps, 0.5), "p99": quantile(gaps, 0.99), "longest": max(gaps)} if gaps else None
            for name, gaps in phases.items()
        },
    }
