"""Another server behind the page: its models, and answers of them as the page reads answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from arriero.errors import ArrieroError
from arriero.history import to_openai
from arriero.messages import Message, Piece, Sampling, Usage
from arriero.remote import ChunkReader, Server, completion_body
from arriero.web.backend import Choice


class Remote:
    """The models behind `url`; `key` is sent where it is given. See `arriero.remote.Server` for what it raises.

    Reasoning of earlier answers is not sent back: some servers refuse it, and most templates leave it out.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self._server = Server(url, key)
        self.address: str | None = self._server.address

    def choices(self) -> list[Choice]:
        """See `Backend.choices`."""
        models = self._server.models()
        return [Choice(model["id"], model.get("parent"), window=model.get("max_model_len")) for model in models]

    def count(self, name: str, messages: Sequence[Message]) -> int | None:
        """See `Backend.count`: what Arriero and vLLM tell at /tokenize."""
        body = {"model": name, "messages": list(map(to_openai, _without_reasoning(messages)))}
        try:
            count = self._server.ask("POST", "/tokenize", body).get("count")
        except ArrieroError:
            return None
        return count if isinstance(count, int) else None

    def astream(
        self,
        name: str,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        continue_final_message: bool = False,
        thinking: bool | None = None,
    ) -> RemotePieces:
        """See `Backend.astream`; other servers do not tell of a switch, so `thinking` is none."""
        body = completion_body(name, _without_reasoning(messages), sampling, continued=continue_final_message)
        return RemotePieces(self._server, body)


def _without_reasoning(messages: Sequence[Message]) -> list[Message]:
    return [replace(message, reasoning_content=None) for message in messages]


class RemotePieces:
    """An answer of another server, on its way."""

    ahead: int | None = None

    def __init__(self, server: Server, body: dict[str, Any]) -> None:
        self._reader = ChunkReader()
        self._pieces = self._read(server, body)

    @property
    def usage(self) -> Usage | None:
        """See `Pieces.usage`."""
        return self._reader.usage

    def __aiter__(self) -> RemotePieces:
        return self

    async def __anext__(self) -> Piece:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        """Close the connection, at which the server stops."""
        await self._pieces.aclose()

    async def _read(self, server: Server, body: dict[str, Any]) -> AsyncGenerator[Piece]:
        async with aclosing(server.achunks(body)) as chunks:
            async for chunk in chunks:
                if (piece := self._reader.read(chunk)) is not None:
                    yield piece
        yield self._reader.last()
