"""The part that compares a batch with asking the engine directly, and says what it costs somebody who asks beside it.

Both ways answer the same conversations with the same loaded model, in turns, so that the ratio holds on a machine that
others use too. The first token beside a batch is measured with batches held to their part of the slots, and with all.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import arriero
from arriero.batches import Journal, Requests, answer_all
from arriero.chat import Chat
from arriero.messages import Message, Sampling
from arriero.server import create_app
from arriero.server.admission import Limits
from arriero.server.auth import Caller
from arriero.server.in_process import in_process_client
from benchmarks.lib.channel import Document
from benchmarks.lib.children import Bench
from benchmarks.serving.client import CHAT

AT_ONCE = 32
TOKENS = 32


def body(number: int, tokens: int = TOKENS) -> dict[str, Any]:
    """A request whose answer does not end before its limit, as a rule."""
    text = f"Tell me a long story about {number} llamas."
    return {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "temperature": 0}


def written(directory: Path, rows: int) -> Requests:
    """The file of requests."""
    file = directory / "in.jsonl"
    lines = ({"custom_id": str(n), "method": "POST", "url": CHAT, "body": body(n)} for n in range(rows))
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Requests(file)


async def by_batch(chat: Chat, requests: Requests) -> None:
    """As `arriero batch` does once the model is loaded: application, journal and all."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal", requests)
        async with in_process_client(create_app(chat, limits=Limits(max_running=AT_ONCE))) as ask:
            await answer_all(requests, journal, ask, at_once=AT_ONCE)
        journal.write(Path(folder) / "out.jsonl")
        journal.close()
        assert not journal.failed


async def directly(chat: Chat, requests: Requests) -> None:
    """The same conversations, from the engine's queue as fast as it takes them."""
    free = asyncio.Semaphore(AT_ONCE)

    async def ask(number: int) -> None:
        async with free:
            asked = body(number)
            messages = [Message(**message) for message in asked["messages"]]
            async for _ in chat.stream(messages, Sampling(max_new_tokens=TOKENS, temperature=0.0)):
                pass

    await asyncio.gather(*(ask(number) for number in range(len(requests.rows))))


async def first_token(chat: Chat, requests: Requests, slots: int | None) -> float:
    """Median seconds to somebody's first token, beside a batch that has at most `slots`, or alone."""
    app = create_app(chat, limits=Limits(max_running=AT_ONCE, max_batch_running=slots))
    times = []
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal", requests)
        async with in_process_client(app) as ask, in_process_client(app, Caller("a batch")) as background:
            running = []
            if slots is not None:
                running = [asyncio.create_task(answer_all(requests, journal, background, at_once=slots))]
            while running and not len(journal):
                await asyncio.sleep(0.01)  # until the batch runs evenly
            for number in range(8):
                began = time.perf_counter()
                await ask(CHAT, body(1000 + number, tokens=1))
                times.append(time.perf_counter() - began)
            for batch in running:
                assert not batch.done(), "the batch ended before it was measured; more --rows"
                batch.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        journal.close()
    return statistics.median(times)


async def timed(work: Callable[[Chat, Requests], Awaitable[None]], chat: Chat, requests: Requests) -> float:
    """Rows a second."""
    began = time.perf_counter()
    await work(chat, requests)
    return len(requests.rows) / (time.perf_counter() - began)


def measure(bench: Bench) -> Document:
    """Rows a second in both ways, and first-token times."""
    options = bench.options
    print("batch", file=sys.stderr)
    with closing(arriero.load(options.model, engine=options.engine)) as chat:
        return asyncio.run(_measured(chat, written(bench.folder, options.rows), options.rounds))


async def _measured(chat: Chat, requests: Requests, rounds: int) -> Document:
    await directly(chat, requests)  # warms up
    pairs = [(await timed(by_batch, chat, requests), await timed(directly, chat, requests)) for _ in range(rounds)]
    slots: tuple[int | None, ...] = (None, Limits(max_running=AT_ONCE).batch_slots, AT_ONCE)
    return {
        "rows": len(requests.rows),
        "at_once": AT_ONCE,
        "tokens": TOKENS,
        "engine": chat.engine.name,
        "batch_rows_per_second": [round(batch, 2) for batch, _ in pairs],
        "direct_rows_per_second": [round(direct, 2) for _, direct in pairs],
        "ratio": round(statistics.median(batch / direct for batch, direct in pairs), 3),
        "first_token_s": {
            "alone" if most is None else f"beside a batch of {most}": round(await first_token(chat, requests, most), 3)
            for most in slots
        },
    }
