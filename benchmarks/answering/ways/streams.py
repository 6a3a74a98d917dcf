"""A child: LangChain streams beside a ticker in the same event loop, whose lateness says how free they leave it."""

from __future__ import annotations

import asyncio
import itertools
import time

import arriero
from arriero.langchain import ChatArriero
from benchmarks.lib.channel import Answer, Document, serve
from benchmarks.lib.figures import quantile

PACE = 0.005  # seconds between two ticks


def load(job: Document) -> tuple[Answer, Document]:
    """One ChatArriero for all streams."""
    chat = arriero.load(job["model"], engine=job["engine"])
    model = ChatArriero(chat=chat, temperature=0.0, max_new_tokens=job["tokens"])
    return lambda command: asyncio.run(measure(model, **command)), {"description": chat.engine.description}


async def measure(model: ChatArriero, questions: list[str], seconds: float) -> Document:
    """How much later than due a tick came, in seconds, beside a stream for each question; one that ends begins anew."""
    chunks = [0] * len(questions)

    async def read(number: int) -> None:
        for turn in itertools.count():
            async for _ in model.astream(f"{questions[number]} This is part {turn}."):
                chunks[number] += 1

    streams = [asyncio.create_task(read(number)) for number in range(len(questions))]
    while not all(chunks):  # until every stream runs
        await asyncio.sleep(PACE)
    before = sum(chunks)
    late = await ticks(seconds)
    after = sum(chunks)
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    return {
        "ticks": len(late),
        "late_s": {"p50": quantile(late, 0.5), "p99": quantile(late, 0.99), "longest": max(late)},
        "chunks_per_second": (after - before) / seconds,
    }


async def ticks(seconds: float) -> list[float]:
    """How much later each tick came."""
    late, end = [], time.perf_counter() + seconds
    while (asleep := time.perf_counter()) < end:
        await asyncio.sleep(PACE)
        late.append(time.perf_counter() - asleep - PACE)
    return late


if __name__ == "__main__":
    serve(load)
