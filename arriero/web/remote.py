"""Another server that speaks OpenAI's protocol, as `arriero serve`, vLLM and many others do.

https://platform.openai.com/docs/api-reference/chat-streaming. Reasoning comes as `reasoning_content`, or `reasoning`.
That of earlier answers is not sent back: some servers refuse it, and most templates leave it out.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

import httpx

from arriero.errors import AccessError, ArrieroError, EngineError, NotFoundError, OfflineError, UsageError
from arriero.history import as_object
from arriero.messages import FinishReason, Message, Piece, Sampling, Usage
from arriero.web.backend import Choice

SECONDS = httpx.Timeout(10.0, read=None)  # an answer may wait for its turn as long as the server lets it
REASONS: dict[str, FinishReason] = {"length": "length", "tool_calls": "tool_calls"}
FIELDS = {"max_new_tokens": "max_tokens"}
KINDS: dict[int, type[ArrieroError]] = {
    400: UsageError,
    401: AccessError,
    403: AccessError,
    404: NotFoundError,
    422: UsageError,
}


class Remote:
    """The models behind `url`, with or without /v1 at its end; `key` is sent where it is given.

    Raises UsageError for what is no HTTP address.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self.address: str | None = url.rstrip("/").removesuffix("/v1")
        try:
            parsed = httpx.URL(self.address)
        except httpx.InvalidURL as error:
            raise UsageError(f"{url!r} is no address: {error}") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise UsageError(f"a server's address is written http://host:port, got {url!r}")
        self._options: dict[str, Any] = {
            "base_url": parsed,
            "timeout": SECONDS,
            "headers": {"authorization": f"Bearer {key}"} if key is not None else {},
        }

    def choices(self) -> list[Choice]:
        """See `Backend.choices`."""
        found = self._asked("GET", "/v1/models").get("data")
        if not isinstance(found, list) or not all(isinstance(one, dict) and "id" in one for one in found):
            raise EngineError(f"{self.address} gives no list of models", hint="is it an OpenAI-compatible server?")
        return [Choice(one["id"], one.get("parent"), window=one.get("max_model_len")) for one in found]

    def count(self, name: str, messages: Sequence[Message]) -> int | None:
        """See `Backend.count`: what Arriero and vLLM tell at /tokenize."""
        body = {"model": name, "messages": _objects(messages)}
        try:
            count = self._asked("POST", "/tokenize", body).get("count")
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
        body: dict[str, Any] = {"model": name, "messages": _objects(messages)}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        for field in Sampling.__slots__:
            if (value := getattr(sampling, field)) not in (None, ()):
                body[FIELDS.get(field, field)] = dict(value) if field == "logit_bias" else value
        if continue_final_message:
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        return RemotePieces(self._options, body)

    def _asked(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            with httpx.Client(**{**self._options, "timeout": 10.0}) as client:
                response = client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise _unreachable(self._options["base_url"], error) from error
        if response.is_error:
            raise _refused(response.status_code, response.content)
        return _object(response.content)


def _objects(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [as_object(replace(message, reasoning_content=None)) for message in messages]


class RemotePieces:
    """An answer of another server, on its way."""

    ahead: int | None = None

    def __init__(self, options: dict[str, Any], body: dict[str, Any]) -> None:
        self.usage: Usage | None = None
        self._options = options
        self._read = self._pieces(body)

    def __aiter__(self) -> RemotePieces:
        return self

    async def __anext__(self) -> Piece:
        return await anext(self._read)

    async def aclose(self) -> None:
        """Close the connection, at which the server stops."""
        await self._read.aclose()

    async def _pieces(self, body: dict[str, Any]) -> AsyncGenerator[Piece, None]:
        reason: str | None = None
        try:
            async with (
                httpx.AsyncClient(**self._options) as client,
                client.stream("POST", "/v1/chat/completions", json=body) as response,
            ):
                if response.is_error:
                    raise _refused(response.status_code, await response.aread())
                async for event in _events(response):
                    self._count(event)
                    for choice in event.get("choices") or ():
                        reason = choice.get("finish_reason") or reason
                        delta = choice.get("delta") or {}
                        text, thought = delta.get("content"), delta.get("reasoning_content") or delta.get("reasoning")
                        if text or thought:
                            yield Piece(text or "", reasoning=thought or "")
        except httpx.HTTPError as error:
            raise _unreachable(self._options["base_url"], error) from error
        if reason is None:
            raise EngineError("the server broke the answer off")
        yield Piece("", REASONS.get(reason, "stop"), self.usage)

    def _count(self, event: dict[str, Any]) -> None:
        if isinstance(counts := event.get("usage"), dict):
            self.usage = Usage(int(counts.get("prompt_tokens") or 0), int(counts.get("completion_tokens") or 0))


async def _events(response: httpx.Response) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON objects of server-sent events, up to [DONE]; one that tells of an error is raised."""
    async for line in response.aiter_lines():
        data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
        if data == "[DONE]":
            return
        if data:
            event = _object(data)
            if event.get("error"):
                raise _refused(500, data)
            yield event


def _object(text: str | bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise EngineError(f"the server answered with what is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise EngineError(f"the server answered with {type(found).__name__} instead of a JSON object")
    return found


def _refused(status: int, content: str | bytes) -> ArrieroError:
    """The error in a response, in OpenAI's or in any other shape."""
    try:
        told = json.loads(content)
        error = told.get("error", told)
        message = error if isinstance(error, str) else error.get("message") or error.get("detail")
    except (ValueError, AttributeError):
        message = None
    hint = "give the server's key with --api-key-file or ARRIERO_API_KEY" if status in (401, 403) else ""
    return KINDS.get(status, EngineError)(f"the server refused: {message or f'HTTP status {status}'}", hint=hint)


def _unreachable(address: object, error: Exception) -> ArrieroError:
    return OfflineError(
        f"the server at {address} cannot be reached: {error or type(error).__name__}", hint="does the server run?"
    )
