"""The streams of one request: merged, counted, and stopped as soon as the client has gone away; server-sent events.

A request with n answers has n streams of the engine. MergedStreams reads them all and owns the request's slots, so
closing it, which happens on every way out, ends the work and gives the slots back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Literal, TypeVar, get_args

from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from arriero.chat import Reply, Stream
from arriero.errors import EngineError
from arriero.messages import Piece, Usage
from arriero.server.access_log import AccessRecord
from arriero.server.errors import RequestError

T = TypeVar("T")
FinishReason = Literal["stop", "length", "tool_calls"]
STREAM_TOO: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
LINE_BREAKS = "\u0085\u2028\u2029"  # those that JSON texts may hold as they are
STALLED_SECONDS = 60.0  # after which a stream whose client reads nothing is given up
FINISH_REASONS: dict[str | None, FinishReason] = {reason: reason for reason in get_args(FinishReason)}


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`; if the client goes away first, `work` is cancelled and ClientDisconnect raised.

    The request's body must have been read, so that a disconnect is all that can still be received.
    """
    # The work is started first: an async generator that never ran would not run its `finally` either. Both tasks are
    # awaited after their cancellation, so that nothing of the request runs on when this returns.
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


class MergedStreams(AsyncIterator[tuple[int, Piece]]):
    """The pieces of one or several streams as they come, each with its stream's number.

    `close` stops what still runs and gives the slots back; it must be called, and may be called again.
    """

    def __init__(
        self, streams: Sequence[Stream], record: AccessRecord, on_close: Callable[[MergedStreams], None]
    ) -> None:
        """`streams` may be filled until `start`; `on_close` is called once, by `close`."""
        self.record = record
        self.failed = False
        self._streams = streams
        self._on_close: Callable[[MergedStreams], None] | None = on_close
        self._ended = 0
        self._first: tuple[int, Piece] | None = None
        # Bounded: what a slow client does not read stays with the engine's streams, and no task runs far ahead.
        self._pieces: asyncio.Queue[tuple[int, Piece] | Exception] = asyncio.Queue(maxsize=64)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Wait for the first piece, raising what fails before it."""
        if len(self._streams) > 1:
            self._tasks = [asyncio.create_task(self._read(n, stream)) for n, stream in enumerate(self._streams)]
        self._first = await self._next()
        self.record.first_token_s = self.record.elapsed()

    async def __anext__(self) -> tuple[int, Piece]:
        if self._first is not None:
            numbered, self._first = self._first, None
        elif self._ended == len(self._streams):
            self.close()
            raise StopAsyncIteration
        else:
            numbered = await self._next()
        piece = numbered[1]
        if piece.usage is not None:
            self._count(piece, piece.usage)
        return numbered

    async def _next(self) -> tuple[int, Piece]:
        try:
            if not self._tasks:  # a single stream needs no task and no queue
                return 0, await anext(self._streams[0])
            received = await self._pieces.get()
            if isinstance(received, Exception):
                raise received
            return received
        except Exception:
            self.failed = True
            raise

    async def _read(self, number: int, stream: Stream) -> None:
        try:
            async for piece in stream:
                await self._pieces.put((number, piece))
        except Exception as error:
            await self._pieces.put(error)

    def _count(self, last: Piece, usage: Usage) -> None:
        """A stream's last piece."""
        self._ended += 1
        self.record.prompt_tokens = max(self.record.prompt_tokens, usage.prompt_tokens)
        self.record.completion_tokens += usage.completion_tokens
        self.record.finish_reasons.append(str(last.finish_reason))

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the longest prompt; known from `start` on."""
        return max(stream.usage.prompt_tokens for stream in self._streams)

    async def replies(self, receive: Receive) -> list[Reply]:
        """All answers whole, in order."""
        try:
            return await while_connected(receive, self._collect())
        finally:
            self.close()

    async def _collect(self) -> list[Reply]:
        pieces: list[list[Piece]] = [[] for _ in self._streams]
        async for number, piece in self:
            pieces[number].append(piece)
        for stream_pieces in pieces:
            finish_of(stream_pieces[-1])
        return [Reply.of(stream_pieces) for stream_pieces in pieces]

    def cancel_all(self) -> None:
        """Cancel all streams; their last pieces have the finish reason "cancelled"."""
        for stream in self._streams:
            stream.cancel()

    def close(self) -> None:
        """Stop the engine's work, if any is left, and give the slots back."""
        on_close, self._on_close = self._on_close, None
        if on_close is None:
            return
        if self._ended < len(self._streams):
            self.record.finish_reasons.append("error" if self.failed else "cancelled")
            self.record.prompt_tokens = self.prompt_tokens
            self.record.completion_tokens = sum(stream.usage.completion_tokens for stream in self._streams)
        for task in self._tasks:
            task.cancel()
        for stream in self._streams:
            stream.close()
        on_close(self)


def finish_of(last: Piece) -> tuple[FinishReason, Usage]:
    """Finish reason and counts of a stream's last piece; RequestError for "cancelled", which OpenAI does not have."""
    if last.usage is None:
        raise EngineError("the answer ended without counts")
    reason = FINISH_REASONS.get(last.finish_reason)
    if reason is None:
        raise shutdown_error()
    return reason, last.usage


def shutdown_error() -> RequestError:
    """For answers that the server's end has cut short."""
    message = "the answer was broken off: the server is shutting down"
    return RequestError(message, status=503, code="broken_off", retry_after=1)


class EventStream(StreamingResponse):
    """Server-sent events from an async generator; `streams` are closed when the client goes away or is done.

    Starlette leaves the generator to the garbage collector, and for newer servers notices a client that has gone
    away only when it next has something to send. Hence the race with the disconnect here, and `aclosing`: without it
    the generator, and what it holds, would live until some later collection.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], streams: MergedStreams) -> None:
        super().__init__(events, headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        self.events = events
        self.streams = streams

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(STALLED_SECONDS):
                await send(message)

        try:
            async with contextlib.aclosing(self.events):
                with contextlib.suppress(ClientDisconnect, TimeoutError):
                    await while_connected(receive, self.stream_response(send_in_time))
        finally:
            self.streams.close()


def event(data: Any, name: str | None = None) -> bytes:
    """A server-sent event (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
    head = f"event: {name}\n".encode() if name is not None else b""
    return head + b"data: " + json_line(data) + b"\n\n"


def json_line(data: Any) -> bytes:
    """JSON in which nothing ends a line, also for clients that end lines where Python's `splitlines` does."""
    encoded = to_json(data)
    for character in LINE_BREAKS:
        encoded = encoded.replace(character.encode(), f"\\u{ord(character):04x}".encode())
    return encoded
