"""How soon a cancelled request of an engine ends, and how soon one that waits behind it begins."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from arriero.engines.base import Engine
from arriero.engines.generation import Generation
from benchmarks.lib.channel import Document
from benchmarks.lib.questions import greedily

SOON = 4  # tokens after which an answer is cancelled "during decode"
BASELINES = 4  # of them the first one is a warm-up
Submit = Callable[[list[int]], Generation]


def measure(engine: Engine, command: Document) -> Document:
    """All times in seconds, lists of one for each try.

    `first_token`: until a long prompt's first token; `alone`: until that of a short one; `behind`: the same for a short
    one that comes when a third of a long prompt has been prefilled, which goes on. Under `prefill` and `decode` the
    long one is cancelled then, or after a few tokens: until it `ended`, and until the short one's first token. Only
    tries in which it was cancelled in time count. No two prompts of `long` begin alike.
    """
    short, tokens = command["short"], command["tokens"]
    longs = iter(command["long"])

    def submit(ids: list[int]) -> Generation:
        return engine.submit(ids, greedily(tokens), max_new_tokens=tokens)

    alone = [_first(submit, short) for _ in range(BASELINES)][1:]
    reading = [_first(submit, ids) for ids in itertools.islice(longs, BASELINES)][1:]
    pause = statistics.median(reading) / 3
    behind = [_behind(submit, ids, short, pause) for ids in itertools.islice(longs, BASELINES)][1:]
    figures: Document = {"first_token": reading, "alone": alone, "behind": behind}
    for moment in ("prefill", "decode"):
        tries = [_cancel(submit, ids, short, pause, moment) for ids in itertools.islice(longs, command["repeats"])]
        counted = [times for times in tries if times is not None]
        figures[moment] = {name: [times[name] for times in counted] for name in ("ended", "short")}
    return figures


def _first(submit: Submit, ids: list[int]) -> float:
    """Seconds until the first token."""
    start, generation = time.perf_counter(), submit(ids)
    seconds = _begun(generation) - start
    generation.cancel()
    _ended(generation)
    return seconds


def _behind(submit: Submit, ids: list[int], short: list[int], pause: float) -> float:
    long = submit(ids)
    time.sleep(pause)
    seconds = _first(submit, short)
    long.cancel()
    _ended(long)
    return seconds


def _cancel(submit: Submit, ids: list[int], short: list[int], pause: float, moment: str) -> dict[str, float] | None:
    """Times from cancelling on; None where that came too late, or too early."""
    long = submit(ids)
    if moment == "prefill":
        time.sleep(pause)
    else:
        list(itertools.islice(long, SOON))
    waiting = submit(short)
    with ThreadPoolExecutor(2) as threads:
        ended, begun = threads.submit(_ended, long), threads.submit(_begun, waiting)
        start = time.perf_counter()
        long.cancel()
        times = {"ended": ended.result() - start, "short": max(0.0, begun.result() - start)}
    waiting.cancel()
    _ended(waiting)
    in_time = long.finish_reason == "cancelled" and (long.completion_tokens == 0) == (moment == "prefill")
    return times if in_time else None


def _begun(generation: Generation) -> float:
    """When the first token is there."""
    next(iter(generation), None)
    return time.perf_counter()


def _ended(generation: Generation) -> float:
    """When the last token is there."""
    for _ in generation:
        pass
    return time.perf_counter()
