"""A light HTTP client: a call keeps what comes back with its time, and reads it when all is over.

One request on a connection of its own, over bare asyncio and httptools, so that the client takes little of what is
measured. How much it does take is among the figures.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import httptools

CHAT = "/v1/chat/completions"
SAMPLE = re.compile(r"^(\w+)(?:\{.*\})? (\S+)$", re.MULTILINE)


class Call(asyncio.Protocol):
    """One request. `status` is None until the headers have come, `whole` true once everything has.

    `ended` is set by the end of the answer or of the connection, whichever comes first.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.arrivals: list[tuple[float, bytes]] = []
        self.sent = 0.0
        self.whole = False
        self.ended = asyncio.Event()
        self._awaited = 0
        self._enough = asyncio.Event()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.WriteTransport

    @classmethod
    async def open(cls, port: int) -> Call:
        """A call that is connected and has sent nothing yet."""
        return (await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port))[1]

    def send(self, path: str, body: Any = None) -> Call:
        """Send the request: a POST of JSON, or a GET where there is no body."""
        content = b"" if body is None else json.dumps(body).encode()
        method = "GET" if body is None else "POST"
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(content)}\r\n"
        self.sent = time.perf_counter()
        self._transport.write(f"{head}content-type: application/json\r\n\r\n".encode() + content)
        return self

    async def until(self, arrivals: int) -> None:
        """Wait for the first `arrivals` parts of the answer, or for its end."""
        self._awaited = arrivals
        if len(self.arrivals) < arrivals and not self.ended.is_set():
            await self._enough.wait()

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    # What follows is called by asyncio and httptools.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._end()

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        self.headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        """See httptools."""
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self.arrivals.append((time.perf_counter(), body))
        if len(self.arrivals) == self._awaited:
            self._enough.set()

    def on_message_complete(self) -> None:
        """See httptools."""
        self.whole = True
        self._end()
        self._transport.close()

    def _end(self) -> None:
        self._enough.set()
        self.ended.set()


@dataclass(slots=True)
class Answer:
    """What a call brought: when each piece of text came, how the answer ended, its tokens; `error` is the server's.

    `tokens` are those of the server's own count, of a stream without one its pieces of text.
    """

    texts: list[float] = field(default_factory=list)
    tokens: int = 0
    finish_reason: str | None = None
    error: str | None = None
    done: bool = False

    @classmethod
    def of(cls, call: Call) -> Answer:
        """Read a call that has ended, a stream or not."""
        answer = cls()
        if not call.headers.get("content-type", "").startswith("text/event-stream"):
            body = b"".join(part for _, part in call.arrivals)
            answer._take(call.arrivals[-1][0] if call.arrivals else 0.0, json.loads(body) if call.whole else {})
            answer.done = call.whole
            return answer
        for when, data in events(call.arrivals):
            if data == b"[DONE]":
                answer.done = True
            else:
                answer._take(when, json.loads(data))
        answer.tokens = answer.tokens or len(answer.texts)
        return answer

    def _take(self, when: float, chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            self.error = str(chunk["error"].get("message", ""))
        for choice in chunk.get("choices") or ():
            turn = choice.get("delta") or choice.get("message") or {}
            if turn.get("content"):
                self.texts.append(when)
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        if chunk.get("usage"):
            self.tokens = chunk["usage"]["completion_tokens"]

    def gaps(self) -> list[float]:
        """Seconds from each piece of text to the next."""
        return [after - before for before, after in itertools.pairwise(self.texts)]


def events(arrivals: list[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """Server-sent events, each with the time at which its last byte came."""
    incomplete = b""
    for when, data in arrivals:
        *ready, incomplete = (incomplete + data).split(b"\n\n")
        for lines in ready:
            for line in lines.splitlines():
                if line.startswith(b"data: "):
                    yield when, line.removeprefix(b"data: ")


def chat_body(model: str, question: str, tokens: int, *, stream: bool = True) -> dict[str, Any]:
    """A greedy chat completion of one question; a stream ends with token counts."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens,
        "temperature": 0.0,
    }
    return body | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})


async def fetch(port: int, path: str) -> str:
    """The body of a GET."""
    call = (await Call.open(port)).send(path)
    await call.ended.wait()
    return b"".join(part for _, part in call.arrivals).decode()


async def metrics(port: int) -> dict[str, float]:
    """What /metrics says, summed over labels."""
    return samples(await fetch(port, "/metrics"))


def samples(text: str) -> dict[str, float]:
    """Prometheus' text format as numbers by name, summed over labels."""
    totals: dict[str, float] = {}
    for name, value in SAMPLE.findall(text):
        totals[name] = totals.get(name, 0.0) + float(value)
    return totals
