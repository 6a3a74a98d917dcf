"""A server's models behind the LangChain classes, in place of a Chat and of an embedding model of this process."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

from pydantic import SecretStr
from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_exponential, wait_random

from arriero.chat import Options
from arriero.errors import BusyError, EngineError, OfflineError
from arriero.history import to_openai
from arriero.messages import Message, NamedTool, Piece, Sampling, Tool, Usage
from arriero.remote import ChunkReader, Server, completion_body

KEY = "ARRIERO_API_KEY"  # the environment variable that `arriero web --server` takes its key from too
BACKOFF = wait_exponential(multiplier=0.5) + wait_random(0, 1)  # seconds
LONGEST = 120.0  # seconds between two tries, whatever the server asks for; as OpenAI's clients have it
Result = TypeVar("Result")
AChunks = tuple[AsyncGenerator[dict[str, Any]], list[dict[str, Any]]]


def connect(url: str, key: SecretStr | None, timeout: float | None) -> Server:
    """The server at `url`, which gets the key of the environment where none is given; nothing is asked of it yet."""
    return Server(url, key.get_secret_value() if key is not None else os.environ.get(KEY), timeout=timeout)


def retried(retries: int) -> dict[str, Any]:
    """Arguments for tenacity: at most `retries` more tries, after what may go better later, when the server says so."""
    return {
        "stop": stop_after_attempt(retries + 1),
        "retry": retry_if_exception_type((BusyError, OfflineError)),
        "wait": _wait,
        "reraise": True,
    }


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    asked_for = error.retry_after if isinstance(error, BusyError) else None
    return min(asked_for, LONGEST) if asked_for is not None else min(BACKOFF(state), 8.0)


class RemoteChat:
    """A model of a server, asked as a Chat is. `name` is its id or an adapter's; None is the server's default.

    Nothing is asked of the server before the first call.
    """

    def __init__(self, server: Server, name: str | None, retries: int) -> None:
        self.server = server
        self.retries = retries
        self._name = name

    @cached_property
    def model(self) -> str:
        """The model's id."""
        return self._name if self._name is not None else str(self.ask(self.server.models)[0]["id"])

    @property
    def known_id(self) -> str | None:
        """The model's id, where it was given or has been asked for."""
        return self.__dict__.get("model", self._name)

    def ask(self, call: Callable[..., Result], *given: Any) -> Result:
        """The result of `call`, which is tried again where that may help."""
        return Retrying(**retried(self.retries))(call, *given)

    def with_adapter(self, name: str | None) -> RemoteChat:
        """Another model or adapter of the same server."""
        return RemoteChat(self.server, name, self.retries)

    def stream(self, messages: Sequence[Message], sampling: Sampling, **options: Any) -> RemoteStream:
        """See `Chat.stream`; what the server refuses is raised by the first step."""

        def body() -> dict[str, Any]:  # it may have to ask for the model's name, which an event loop cannot wait for
            last = messages[-1]
            continued = last.role == "assistant" and not last.tool_calls
            return completion_body(self.model, messages, sampling, continued=continued) | _form(options)

        return RemoteStream(self, body)

    def render(self, messages: Sequence[Message], **options: Any) -> list[int]:
        """See `Chat.render`; EngineError where the server has no /tokenize, as Arriero and vLLM have."""
        return self._tokens(messages=list(map(to_openai, messages)), **_form(options))

    def token_ids(self, text: str) -> list[int]:
        """Ids of plain text; raises as `render`."""
        return self._tokens(prompt=text, add_special_tokens=False)

    def _tokens(self, **body: Any) -> list[int]:
        tokens = self.ask(self.server.ask, "POST", "/tokenize", {"model": self.model, **body}).get("tokens")
        if not isinstance(tokens, list):
            raise EngineError(f"{self.server.address} does not tell the tokens", hint="is it Arriero, or vLLM?")
        return tokens


def _form(options: Options | Mapping[str, Any]) -> dict[str, Any]:
    """Options of `Chat.stream` as fields of a request."""
    form = dict(options)
    if tools := form.get("tools"):
        form["tools"] = [Tool.of(tool).definition for tool in tools]
    if isinstance(choice := form.get("tool_choice"), NamedTool):
        form["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    if (schema := form.pop("schema", None)) is not None:
        named = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        form["response_format"] = {"type": "json_object"} if schema == {"type": "object"} else named
    return form


class RemoteStream(Iterator[Piece], AsyncIterator[Piece]):
    """An answer of a server on its way, read as `arriero.stream.Stream` is. Until it begins it is tried again."""

    def __init__(self, chat: RemoteChat, body: Callable[[], dict[str, Any]]) -> None:
        self._chat = chat
        self._body = body
        self._pieces = self._read()
        self._apieces = self._aread()

    def __next__(self) -> Piece:
        return next(self._pieces)

    async def __anext__(self) -> Piece:
        return await anext(self._apieces)

    def close(self) -> None:
        """Close the connection, at which the server stops."""
        self._pieces.close()

    async def aclose(self) -> None:
        """`close` for async code."""
        await self._apieces.aclose()

    def _begin(self) -> tuple[Generator[dict[str, Any]], list[dict[str, Any]]]:
        chunks = self._chat.server.chunks(self._body())
        return chunks, list(itertools.islice(chunks, 1))

    def _read(self) -> Generator[Piece]:
        reader = ChunkReader()
        chunks, first = self._chat.ask(self._begin)
        with closing(chunks):
            yield from filter(None, map(reader.read, itertools.chain(first, chunks)))
        yield _ended(reader)

    async def _abegin(self) -> AChunks:
        chunks = self._chat.server.achunks(await asyncio.to_thread(self._body))
        return chunks, [chunk for chunk in [await anext(chunks, None)] if chunk is not None]

    async def _aread(self) -> AsyncGenerator[Piece]:
        reader = ChunkReader()
        begun: AChunks = await AsyncRetrying(**retried(self._chat.retries))(self._abegin)
        async with aclosing(begun[0]):
            for piece in filter(None, map(reader.read, begun[1])):
                yield piece
            async for chunk in begun[0]:
                if (later := reader.read(chunk)) is not None:
                    yield later
        yield _ended(reader)


def _ended(reader: ChunkReader) -> Piece:
    """The last piece; of a server that does not count tokens, with counts of 0."""
    piece = reader.last()
    return replace(piece, usage=piece.usage or Usage(0, 0))


class RemoteEmbedder:
    """An embedding model of a server, None its default."""

    def __init__(self, server: Server, model: str | None, dimensions: int | None, retries: int) -> None:
        self._server = server
        self._retries = retries
        self._fields = {"model": model, "dimensions": dimensions}

    def embed(self, texts: Sequence[str], kind: str) -> list[list[float]]:
        """The vectors of texts, each with the model's prompt for that `kind`."""
        body = {"input": texts, "input_type": kind, "encoding_format": "float", **self._fields}
        given = {name: value for name, value in body.items() if value is not None}
        answer = Retrying(**retried(self._retries))(self._server.ask, "POST", "/v1/embeddings", given)
        try:
            return [row["embedding"] for row in sorted(answer["data"], key=lambda row: row["index"])]
        except (KeyError, TypeError) as error:
            raise EngineError(f"{self._server.address} gives no embeddings") from error
