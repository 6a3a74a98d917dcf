"""The parts of serving.py that look at our server alone: aborts, memory, a long prompt, overflow, its end."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import random
import signal
import statistics
import time
from collections.abc import Iterator, Sequence

import uvloop

from arriero import hub
from benchmarks.answering.speed import quantile
from benchmarks.lib.channel import Document
from benchmarks.lib.children import Bench
from benchmarks.lib.questions import long_answers, long_questions
from benchmarks.serving.client import CHAT, Answer, Call, chat_body, fetch, metrics
from benchmarks.serving.servers import Server, Target, serving

LONG = 1_800  # tokens of a prompt that is aborted while it is read, in models with room for it
EACH = 10  # of every kind of request, in a wave of aborted ones
SOON = 4  # parts of a stream after which it is well under way
PATIENCE = 60.0  # seconds
SHORT = 16  # tokens of a short answer
AT_ONCE = 8
RUNNING, WAITING = "arriero_answers_running", "arriero_requests_waiting"
KINDS = ("stream", "whole", "prefill", "waiting")


def room(bench: Bench, tokens: int) -> int:
    """So many tokens, or what a small window leaves beside a question."""
    return min(tokens, hub.window(bench.options.model) // 2 - 8)


async def ask(target: Target, question: str, tokens: int, *, stream: bool = True) -> Call:
    """A question on its way."""
    return (await Call.open(target.port)).send(CHAT, chat_body(target.model, question, tokens, stream=stream))


async def ordinary(target: Target, question: str) -> float:
    """Seconds until a short question's whole answer; where there is no place yet, it is asked again at once."""
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
    found = await metrics(target.port)
    return {"running": found[RUNNING], "waiting": found[WAITING]}


def abort(bench: Bench) -> Document:
    """Requests that are cut off in four different states, in waves, and an ordinary one after each wave."""
    with serving(bench, "--max-running", 3 * EACH, "--max-waiting", EACH) as server:
        return uvloop.run(_abort(server.target, bench))


async def _abort(target: Target, bench: Bench) -> Document:
    questions = long_answers()
    window = hub.window(bench.options.model)
    longs = long_questions(bench.renderer, min(LONG, window - SHORT - 8))
    await ordinary(target, next(questions))
    before = await ordinary(target, next(questions))
    in_time: collections.Counter[str] = collections.Counter()
    sent, after, empty = 0, [], []
    while sent < bench.options.aborted:
        in_time += await _wave(target, room(bench, 1024), questions, longs)
        sent += EACH * len(KINDS)
        after.append(await ordinary(target, next(questions)))
        empty.append(await emptied(target))
    return {
        "aborted": sent,
        "in_time": {kind: in_time[kind] for kind in KINDS},
        "ordinary_s": {"before": before, "after": max(after)},
        "emptied_s": max(empty),
        "left": await left(target),
    }


async def _wave(
    target: Target, tokens: int, questions: Iterator[str], longs: Iterator[str]
) -> collections.Counter[str]:
    """Fill all places and the queue, then cut everything off; how many of each kind were in its state by then."""
    calls = {"stream": [await ask(target, next(questions), tokens) for _ in range(EACH)]}
    calls["whole"] = [await ask(target, next(questions), tokens, stream=False) for _ in range(EACH)]
    await asyncio.gather(*(call.until(SOON) for call in calls["stream"]))
    calls["prefill"] = [await ask(target, next(longs), SHORT) for _ in range(EACH)]
    calls["waiting"] = [await ask(target, next(questions), tokens) for _ in range(EACH)]
    queued = (await left(target))["waiting"]  # asked last, so all requests have come by then
    in_time = collections.Counter(
        {kind: sum(not call.ended.is_set() and not call.status for call in calls[kind]) for kind in KINDS[1:]}
    )
    in_time["stream"] = sum(not call.ended.is_set() for call in calls["stream"])
    in_time["waiting"] = min(in_time["waiting"], int(queued))
    everything = list(itertools.chain(*calls.values()))
    random.Random(0).shuffle(everything)
    for call in everything:
        call.abort()
    await asyncio.gather(*(call.ended.wait() for call in everything))
    return in_time


def memory(bench: Bench) -> Document:
    """Bytes resident after every twentieth of many short requests, half of them streams; slopes of a line through them.

    Each point is (requests, the server's process, its children).
    """
    total, points, questions = bench.options.answers, [], long_answers()
    with serving(bench) as server:
        answered = 0
        for part in range(1, 21):
            while answered < total * part // 20:
                chosen = list(itertools.islice(questions, AT_ONCE))
                uvloop.run(_short(server.target, chosen))
                answered += AT_ONCE
            points.append((answered, *server.target.resident()))
    return {
        "resident": points,
        "per_1000": {"all": _slope(points), "last_half": _slope(points[10:])},
    }


async def _short(target: Target, questions: Sequence[str]) -> None:
    calls = [await ask(target, text, SHORT, stream=bool(number % 2)) for number, text in enumerate(questions)]
    await asyncio.gather(*(call.ended.wait() for call in calls))
    if failed := [call.status for call in calls if not Answer.of(call).done]:
        raise RuntimeError(f"{len(failed)} of {len(calls)} requests were not answered: {failed}")


def _slope(points: Sequence[tuple[int, int, int]]) -> dict[str, float]:
    """Bytes for every 1,000 requests."""
    counts, *sizes = zip(*points, strict=True)
    slopes = [1000 * statistics.linear_regression(counts, each).slope for each in sizes]
    return dict(zip(("server", "children"), slopes, strict=True))


def stall(bench: Bench) -> Document:
    """Streams of short prompts while a prompt near the window's end is read."""
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


def overflow(bench: Bench) -> Document:
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


def drain(bench: Bench) -> Document:
    """SIGTERM while streams run, with much time to finish them and with little."""
    found = []
    for seconds in bench.options.drain:
        with serving(bench, "--drain-seconds", seconds) as server:
            found.append({"drain_seconds": seconds, **uvloop.run(_drain(server, bench))})
    return {"streams": bench.options.streams, "ends": found}


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
