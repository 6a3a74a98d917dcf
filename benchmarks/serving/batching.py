"""Rows of a batch in a second against asking the engine directly, and what a batch costs somebody who asks beside it.

    python -m benchmarks.serving.batching [--rows 64] [--rounds 3] [--model MODEL]

Both ways answer the same conversations with the same loaded model, in turns, so that the ratio holds on a machine that
others use too. The first token beside a batch is measured with batches held to their part of the places, and with all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
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

AT_ONCE = 32
TOKENS = 32
CHAT = "/v1/chat/completions"


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
    with tempfile.TemporaryDirectory() as place:
        journal = Journal(Path(place) / "journal", requests)
        async with in_process_client(create_app(chat, limits=Limits(max_running=AT_ONCE))) as ask:
            await answer_all(requests, journal, ask, at_once=AT_ONCE)
        journal.write(Path(place) / "out.jsonl")
        journal.close()
        assert not journal.failed


async def directly(chat: Chat, requests: Requests) -> None:
    """The same conversations, from the engine's queue as fast as it takes them."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with room:
            asked = body(number)
            messages = [Message(**message) for message in asked["messages"]]
            async for _ in chat.stream(messages, Sampling(max_new_tokens=TOKENS, temperature=0.0)):
                pass

    await asyncio.gather(*(one(number) for number in range(len(requests.rows))))


async def first_token(chat: Chat, requests: Requests, places: int | None) -> float:
    """Median seconds to somebody's first token, beside a batch that has at most so many places, or alone."""
    app = create_app(chat, limits=Limits(max_running=AT_ONCE, max_batch_running=places))
    times = []
    with tempfile.TemporaryDirectory() as place:
        journal = Journal(Path(place) / "journal", requests)
        async with in_process_client(app) as ask, in_process_client(app, Caller("a batch")) as background:
            running = []
            if places is not None:
                running = [asyncio.create_task(answer_all(requests, journal, background, at_once=places))]
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


async def measure(chat: Chat, requests: Requests, rounds: int) -> dict[str, Any]:
    """All figures."""
    await directly(chat, requests)  # warms up
    pairs = [(await timed(by_batch, chat, requests), await timed(directly, chat, requests)) for _ in range(rounds)]
    part = Limits(max_running=AT_ONCE).batch_slots
    return {
        "rows": len(requests.rows),
        "at_once": AT_ONCE,
        "tokens": TOKENS,
        "engine": chat.engine.name,
        "batch_rows_per_second": [round(batch, 2) for batch, _ in pairs],
        "direct_rows_per_second": [round(direct, 2) for _, direct in pairs],
        "ratio": round(statistics.median(batch / direct for batch, direct in pairs), 3),
        "first_token_s": {
            "alone": round(await first_token(chat, requests, None), 3),
            f"beside a batch of {part} places": round(await first_token(chat, requests, part), 3),
            f"beside a batch of {AT_ONCE} places": round(await first_token(chat, requests, AT_ONCE), 3),
        },
    }


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        chat = arriero.load(options.model)
        try:
            requests = written(Path(directory), options.rows)
            print(json.dumps(asyncio.run(measure(chat, requests, options.rounds)), indent=2))
        finally:
            chat.close()


if __name__ == "__main__":
    main()
