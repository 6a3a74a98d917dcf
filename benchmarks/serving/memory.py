"""The part that watches the resident memory of server and engine over many short requests."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import uvloop

from benchmarks.lib.channel import Document
from benchmarks.lib.children import Bench
from benchmarks.lib.figures import slopes
from benchmarks.lib.questions import long_answers
from benchmarks.serving.asking import AT_ONCE, SHORT, ask
from benchmarks.serving.client import Answer
from benchmarks.serving.servers import Target, serving


def measure(bench: Bench) -> Document:
    """Bytes resident after every twentieth of many short requests, half of them streams; slopes of a line through them.

    Each point is (requests, the server's process, its children).
    """
    total, points, questions = bench.options.answers, [], long_answers()
    with serving(bench) as server:
        answered = 0
        for twentieth in range(1, 21):
            while answered < total * twentieth // 20:
                chosen = list(itertools.islice(questions, AT_ONCE))
                uvloop.run(_short(server.target, chosen))
                answered += AT_ONCE
            points.append((answered, *server.target.resident()))
    counts, server_bytes, child_bytes = zip(*points, strict=True)
    return {
        "resident": points,
        "per_1000": {"server": slopes(counts, server_bytes), "children": slopes(counts, child_bytes)},
    }


async def _short(target: Target, questions: Sequence[str]) -> None:
    calls = [await ask(target, text, SHORT, stream=bool(number % 2)) for number, text in enumerate(questions)]
    await asyncio.gather(*(call.ended.wait() for call in calls))
    if failed := [call.status for call in calls if not Answer.of(call).done]:
        raise RuntimeError(f"{len(failed)} of {len(calls)} requests were not answered: {failed}")
