"""What the parts that look at our server alone ask of it."""

from __future__ import annotations

import time

from arriero import hub
from benchmarks.lib.channel import Document
from benchmarks.lib.children import Bench
from benchmarks.serving.client import CHAT, Answer, Call, chat_body, metrics
from benchmarks.serving.servers import Target

AT_ONCE = 8
PATIENCE = 60.0  # seconds
SHORT = 16  # tokens of a short answer
SOON = 4  # parts of a stream after which it is well on its way
RUNNING, WAITING = "arriero_answers_running", "arriero_requests_waiting"


def room(bench: Bench, tokens: int) -> int:
    """At most `tokens`, or what a small window leaves beside a question."""
    return min(tokens, hub.window(bench.options.model) // 2 - 8)


async def ask(target: Target, question: str, tokens: int, *, stream: bool = True) -> Call:
    """A question on its way."""
    return (await Call.open(target.port)).send(CHAT, chat_body(target.model, question, tokens, stream=stream))


async def ordinary(target: Target, question: str) -> float:
    """Seconds until a short question's whole answer; where there is no room yet, it is asked again at once."""
    start = time.perf_counter()
    while True:
        call = await ask(target, question, SHORT, stream=False)
        await call.ended.wait()
        answer = Answer.of(call)
        if answer.finish_reason is not None:
            return call.arrivals[-1][0] - start
        if call.status != 503 or time.perf_counter() - start > PATIENCE:
            raise RuntimeError(f"an ordinary request got {call.status}: {answer.error or 'no answer'}")


async def emptied(target: Target) -> float:
    """Seconds until nobody is being answered and nobody waits, as far as that is waited for."""
    start = time.perf_counter()
    while sum((await left(target)).values()) and time.perf_counter() - start < PATIENCE:
        pass
    return time.perf_counter() - start


async def left(target: Target) -> Document:
    """How many are being answered and how many wait."""
    values = await metrics(target.port)
    return {"running": values[RUNNING], "waiting": values[WAITING]}
