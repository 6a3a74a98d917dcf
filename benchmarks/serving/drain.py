"""The part that ends the server while streams run."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import signal
import time

import uvloop

from benchmarks.lib.channel import Document
from benchmarks.lib.children import Bench
from benchmarks.lib.questions import long_answers
from benchmarks.serving.asking import AT_ONCE, SHORT, SOON, ask, room
from benchmarks.serving.client import Answer, fetch
from benchmarks.serving.servers import Server, Target, serving


def measure(bench: Bench) -> Document:
    """SIGTERM while streams run, with much time to finish them and with little."""
    ends = []
    for seconds in bench.options.drain:
        with serving(bench, "--drain-seconds", seconds) as server:
            ends.append({"drain_seconds": seconds, **uvloop.run(_drain(server, bench))})
    return {"streams": bench.options.streams, "ends": ends}


async def _drain(server: Server, bench: Bench) -> Document:
    target, questions = server.target, long_answers()
    calls = [await ask(target, next(questions), room(bench, 256)) for _ in range(bench.options.streams)]
    await asyncio.gather(*(call.until(SOON) for call in calls))
    start = time.perf_counter()
    server.process.send_signal(signal.SIGTERM)
    refusing = await _refusing(target) - start
    late = [await _late(target, next(questions)) for _ in range(AT_ONCE)]
    await asyncio.gather(*(call.ended.wait() for call in calls))
    answers = [Answer.of(call) for call in calls]
    code = await asyncio.to_thread(server.process.wait)
    return {
        "completed": sum(answer.done and answer.finish_reason is not None for answer in answers),
        "broken_off": sum(answer.done and answer.error is not None for answer in answers),
        "cut": sum(not answer.done for answer in answers),
        "refusing_s": refusing,
        "late": dict(collections.Counter(late)),
        "seconds": time.perf_counter() - start,
        "exit_code": code,
    }


async def _refusing(target: Target) -> float:
    """When the server first said that it takes no more work, or did not answer any more."""
    with contextlib.suppress(OSError):
        while "draining" not in await fetch(target.port, "/ready"):
            pass
    return time.perf_counter()


async def _late(target: Target, question: str) -> str:
    """What becomes of a new request."""
    try:
        call = await ask(target, question, SHORT)
    except OSError:
        return "refused"
    await call.ended.wait()
    return str(call.status)
