"""The part that cuts requests off in different states."""

from __future__ import annotations

import asyncio
import collections
import itertools
import random
from collections.abc import Iterator

import uvloop

from arriero import hub
from benchmarks.lib.channel import Document
from benchmarks.lib.children import Bench
from benchmarks.lib.questions import long_answers, long_questions
from benchmarks.serving.asking import SHORT, SOON, ask, emptied, left, ordinary, room
from benchmarks.serving.servers import Target, serving

LONG = 1_800  # tokens of a prompt that is aborted during its prefill, in models with room for it
EACH = 10  # of every kind of request, in a wave of aborted ones
KINDS = ("stream", "whole", "prefill", "waiting")


def measure(bench: Bench) -> Document:
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
    """Fill all slots and the queue, then cut everything off; how many of each kind were in its state by then."""
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
