"""The part that asks more at once than the server has room for."""

from __future__ import annotations

import asyncio
import collections
import itertools

import uvloop

from benchmarks.lib.channel import Document
from benchmarks.lib.children import Bench
from benchmarks.lib.questions import long_answers
from benchmarks.serving.asking import left, room
from benchmarks.serving.client import CHAT, Answer, Call, chat_body
from benchmarks.serving.servers import Target, serving


def measure(bench: Bench) -> Document:
    """More requests at once than there is room for."""
    running, waiting = bench.options.room
    with serving(bench, "--max-running", running, "--max-waiting", waiting) as server:
        return {"max_running": running, "max_waiting": waiting, **uvloop.run(_overflow(server.target, bench))}


async def _overflow(target: Target, bench: Bench) -> Document:
    questions = itertools.islice(long_answers(), bench.options.clients)
    calls = [await Call.open(target.port) for _ in range(bench.options.clients)]
    for call, question in zip(calls, questions, strict=True):
        call.send(CHAT, chat_body(target.model, question, room(bench, 64)))
    await asyncio.gather(*(call.ended.wait() for call in calls))
    answers = [Answer.of(call) for call in calls]
    refused = [call for call in calls if call.status == 503]
    return {
        "clients": len(calls),
        "statuses": dict(sorted(collections.Counter(str(call.status) for call in calls).items())),
        "whole": sum(answer.done and answer.finish_reason is not None for answer in answers),
        "retry_after": sum("retry-after" in call.headers for call in refused),
        "refused_s": max((call.arrivals[-1][0] - call.sent for call in refused), default=None),
        "left": await left(target),
    }
