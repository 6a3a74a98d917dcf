"""Answers over HTTP: off the event loop while rendering, and stopped as soon as the client has gone away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable
from typing import Literal, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from arriero.chat import Chat, Stream
from arriero.errors import EngineError
from arriero.messages import Message, Piece, Sampling, Usage

T = TypeVar("T")
Pieces = AsyncGenerator[Piece, None]
WireReason = Literal["stop", "length"]


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`; if the client goes away first, `work` is cancelled and ClientDisconnect raised.

    The request's body must have been read, so that a disconnect is all that can still be received.
    """
    # The work is started first: an async generator that never ran would not run its `finally` either.
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def answer(receive: Receive, chat: Chat, messages: list[Message], sampling: Sampling) -> Pieces:
    """The pieces of an answer of which the first is already there, so what fails early fails here.

    Closing the generator stops the engine.
    """
    # Not raced against the disconnect: a thread cannot be cancelled, and its generation would be nobody's.
    pieces = await run_in_threadpool(chat.astream, messages, sampling)
    return _chain(await while_connected(receive, anext(pieces)), pieces)


async def _chain(first: Piece, rest: Stream) -> Pieces:
    async with contextlib.aclosing(rest):
        yield first
        async for piece in rest:
            yield piece


async def whole(receive: Receive, pieces: Pieces) -> tuple[str, WireReason, Usage]:
    """The text of all pieces, why it ends and the token counts."""
    collected = await while_connected(receive, _list(pieces))
    return "".join(piece.text for piece in collected), *ending(collected[-1])


async def _list(pieces: Pieces) -> list[Piece]:
    return [piece async for piece in pieces]


def ending(last: Piece) -> tuple[WireReason, Usage]:
    """Why an answer ended; EngineError if the engine was closed under it, for which the wire has no word."""
    reason = last.finish_reason
    if last.usage is None or reason is None or reason == "cancelled" or reason == "tool_calls":
        raise EngineError("the answer was broken off: the engine is closing")
    return reason, last.usage


class EventStream(StreamingResponse):
    """Server-sent events from an async generator, which is closed when the client goes away or is done.

    Starlette leaves the generator to the garbage collector, and for newer servers notices a client that has gone
    away only when it next has something to send.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(events, headers={"cache-control": "no-cache"})
        self.events = events

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        async with contextlib.aclosing(self.events):
            with contextlib.suppress(ClientDisconnect):
                await while_connected(receive, self.stream_response(send))
