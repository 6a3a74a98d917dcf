"""A client of servers that speak OpenAI's protocol, as `arriero serve`, vLLM and many others do.

https://platform.openai.com/docs/api-reference/chat-streaming. Reasoning comes as `reasoning_content`, or `reasoning`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from typing import Any

import httpx

from arriero.errors import (
    AccessError,
    ArrieroError,
    BusyError,
    EngineError,
    NotFoundError,
    OfflineError,
    UsageError,
    retry_after,
)
from arriero.history import to_openai
from arriero.messages import CallDelta, FinishReason, Message, Piece, Sampling, ToolCall, Usage

SECONDS = 10.0  # for a connection, and for an answer that is computed at once
REASONS: dict[str, FinishReason] = {"length": "length", "tool_calls": "tool_calls"}
FIELDS = {"max_new_tokens": "max_tokens"}
KINDS: dict[int, type[ArrieroError]] = {
    400: UsageError,
    401: AccessError,
    403: AccessError,
    404: NotFoundError,
    422: UsageError,
}
BUSY = (408, 409, 429)  # and 500 and more: after these OpenAI's clients ask again
COMPLETIONS = "/v1/chat/completions"
LAST = b"\n"  # ends a stream's last line, where the server does not


class Server:
    """The server at `url`, with or without /v1 at its end; `key` is sent where it is given.

    `timeout` is in seconds, for each time that something is waited for; by default an answer may wait for its turn
    as long as the server lets it. Raises UsageError for what is no HTTP address. What `ask`, `chunks` and `achunks`
    raise is BusyError where it may go better later, OfflineError where nobody is there, and else as the status says.
    """

    def __init__(self, url: str, key: str | None = None, *, timeout: float | None = None) -> None:
        self.address = url.rstrip("/").removesuffix("/v1")
        try:
            parsed = httpx.URL(self.address)
        except httpx.InvalidURL as error:
            raise UsageError(f"{url!r} is no address: {error}") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise UsageError(f"a server's address is written http://host:port, got {url!r}")
        self._single = SECONDS if timeout is None else timeout
        self._options: dict[str, Any] = {
            "base_url": parsed,
            "timeout": httpx.Timeout(SECONDS, read=None) if timeout is None else timeout,
            "headers": {"authorization": f"Bearer {key}"} if key is not None else {},
            "verify": httpx.create_ssl_context(),  # reading the certificates takes longer than a short answer
        }

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The JSON object that a request is answered with."""
        with self._reached(), httpx.Client(**{**self._options, "timeout": self._single}) as client:
            response = client.request(method, path, json=body)
        _check(response, response.content)
        return _object(response.content)

    def models(self) -> list[dict[str, Any]]:
        """OpenAI's objects of the models, each with an `id`, the default first."""
        models = self.ask("GET", "/v1/models").get("data")
        if not isinstance(models, list) or not all(isinstance(model, dict) and "id" in model for model in models):
            raise EngineError(f"{self.address} gives no list of models", hint="is it an OpenAI-compatible server?")
        return models

    def chunks(self, body: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        """The chunks of a chat completion. Closing it closes the connection, at which the server stops."""
        with (
            self._reached(),
            httpx.Client(**self._options) as client,
            client.stream("POST", COMPLETIONS, json=body) as response,
        ):
            _check(response, response.read() if response.is_error else b"")
            reader = EventReader()
            for data in response.iter_bytes():
                yield from reader.read(data)
                if reader.ended:
                    return
            yield from reader.read(LAST)

    async def achunks(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """`chunks` for async code."""
        with self._reached():
            async with (
                httpx.AsyncClient(**self._options) as client,
                client.stream("POST", COMPLETIONS, json=body) as response,
            ):
                _check(response, await response.aread() if response.is_error else b"")
                reader = EventReader()
                async for data in response.aiter_bytes():
                    for event in reader.read(data):
                        yield event
                    if reader.ended:
                        return
                for event in reader.read(LAST):
                    yield event

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise OfflineError(
                f"the server at {self.address} cannot be reached: {reason}", hint="does the server run?"
            ) from error


def completion_body(
    model: str, messages: Sequence[Message], sampling: Sampling, *, continued: bool = False
) -> dict[str, Any]:
    """The body of a request for a stream. With `continued` the last message, the assistant's, is continued."""
    body: dict[str, Any] = {"model": model, "messages": list(map(to_openai, messages))}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    for field in Sampling.__slots__:
        if (value := getattr(sampling, field)) not in (None, ()):
            body[FIELDS.get(field, field)] = dict(value) if field == "logit_bias" else value
    return body | ({"continue_final_message": True, "add_generation_prompt": False} if continued else {})


class EventReader:
    """Bytes of server-sent events, cut anywhere -> the JSON object of each line of data. `ended`: [DONE] has come.

    https://html.spec.whatwg.org/multipage/server-sent-events.html: lines end at \\r\\n, \\n or \\r. httpx's iter_lines
    and str.splitlines also split at U+0085, U+2028 and others, which JSON may hold as they are.
    """

    def __init__(self) -> None:
        self.ended = False
        self._rest = b""  # the begun line

    def read(self, data: bytes) -> Iterator[dict[str, Any]]:
        """The events that are complete with this; an \\r\\n that is cut leaves an empty line, which means nothing."""
        *lines, self._rest = re.split(rb"\r\n?|\n", self._rest + data)
        for line in lines:
            event = _event(line.decode(errors="replace"))
            if event is None:
                self.ended = True
                return
            if event:
                yield event


class ChunkReader:
    """Chunks of one answer -> pieces. `usage` is there once the server has sent it."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self._reason: str | None = None
        self._calls: list[CallDelta] = []

    def read(self, chunk: Mapping[str, Any]) -> Piece | None:
        """The piece of a chunk, if there is something in it."""
        if isinstance(counts := chunk.get("usage"), dict):
            details = counts.get("completion_tokens_details") or {}
            tokens = (counts.get("prompt_tokens"), counts.get("completion_tokens"), details.get("reasoning_tokens"))
            self.usage = Usage(*(int(count or 0) for count in tokens))
        choice: Mapping[str, Any] = next(iter(chunk.get("choices") or ()), {})
        self._reason = choice.get("finish_reason") or self._reason
        delta = choice.get("delta") or {}
        calls = tuple(_call_delta(call) for call in delta.get("tool_calls") or ())
        self._calls += calls
        text, thought = delta.get("content") or "", delta.get("reasoning_content") or delta.get("reasoning") or ""
        return Piece(text, call_deltas=calls, reasoning=thought) if text or thought or calls else None

    def last(self) -> Piece:
        """The last piece, with the calls as a whole; EngineError where the server has not said that it was the end."""
        if self._reason is None:
            raise EngineError("the server broke the answer off")
        made = tuple(ToolCall(call.id, call.name, call.arguments) for call in CallDelta.joined(self._calls))
        return Piece("", REASONS.get(self._reason, "stop"), self.usage, made)


def _call_delta(call: Mapping[str, Any]) -> CallDelta:
    function = call.get("function") or {}
    name, arguments = function.get("name") or "", function.get("arguments") or ""
    return CallDelta(call.get("index") or 0, arguments, call.get("id") or "", name)


def _event(line: str) -> dict[str, Any] | None:
    """The JSON object of a line of server-sent events, {} where there is none, None at the end; raises an error's."""
    data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
    if data == "[DONE]":
        return None
    event = _object(data) if data else {}
    if event.get("error"):
        raise EngineError(f"the server refused: {_told(data)}")
    return event


def _object(text: str | bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise EngineError(f"the server answered with what is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise EngineError(f"the server answered with {type(document).__name__} instead of a JSON object")
    return document


def _check(response: httpx.Response, content: bytes) -> None:
    """Raise the error of a response that is one."""
    status = response.status_code
    if not response.is_error:
        return
    message = f"the server refused: {_told(content) or f'HTTP status {status}'}"
    if status in BUSY or status >= 500:
        raise BusyError(message, retry_after=retry_after(response.headers.get("retry-after")))
    key = "give the server's key: api_key= in Python, --api-key-file or ARRIERO_API_KEY on the command line"
    raise KINDS.get(status, EngineError)(message, hint=key if status in (401, 403) else "")


def _told(content: str | bytes) -> str | None:
    """What an error's body says, in OpenAI's or in any other shape."""
    try:
        document = json.loads(content)
        error = document.get("error", document)
        message = error if isinstance(error, str) else error.get("message") or error.get("detail")
    except (ValueError, AttributeError):
        return None
    return message if isinstance(message, str) else None
