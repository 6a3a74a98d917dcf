"""`POST /v1/messages`, whole or as a stream, and the count of a prompt's tokens."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterator
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from arriero.chat import Reply, Stream
from arriero.messages import Piece, Sampling, ToolCall
from arriero.server.errors import ANTHROPIC, describe_at
from arriero.server.lenient import note_ignored
from arriero.server.routes.anthropic.schemas import ConversationBody, MessagesRequest
from arriero.server.routes.arguments import as_object, as_object_text
from arriero.server.service import Service
from arriero.server.streaming import STREAM_TOO, EventStream, FinishReason, MergedStreams, event, finish_of

REASONS: dict[FinishReason, str] = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
SIGNED: dict[str, dict[str, str]] = {"thinking": {"signature": ""}}  # clients expect the field; nobody signs here


class Counts(BaseModel):
    """Counts in tokens. Nothing is said of caches, which are the engine's business."""

    input_tokens: int
    output_tokens: int


class MessageResponse(BaseModel):
    """An answer; `content` is a list of thinking, text and tool_use blocks, which may be sent back as they are."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: Counts


class TokenCount(BaseModel):
    """How many tokens the prompt has."""

    input_tokens: int


class Fault(BaseModel):
    """What went wrong."""

    type: str
    message: str


class FaultBody(BaseModel):
    """The body of every response here that is not a success."""

    type: Literal["error"]
    error: Fault


FAULTS: dict[int | str, dict[str, Any]] = {"4XX": {"model": FaultBody}, "5XX": {"model": FaultBody}}


def add_routes(app: FastAPI, service: Service) -> None:
    """Add messages to `app`."""

    @app.post(ANTHROPIC, response_model=MessageResponse, responses=STREAM_TOO | FAULTS)
    async def create(body: MessagesRequest, request: Request) -> Response:
        """Answer a conversation, at once or as a stream of server-sent events."""
        served = service.models.find(body.model)
        messages = body.conversation()
        options, sampling = body.prompt_and_sampling(served.chat, body.sampling())
        note_ignored(request, body)

        def start(_: int) -> Stream:
            return served.chat.stream(messages, sampling, **options)

        streams = await service.begin(request, served, start)
        builder = _MessageBuilder(served.name, body)
        if body.stream:
            return EventStream(builder.events(streams), streams)
        [reply] = await streams.replies(request.receive)
        last = Piece("", reply.finish_reason, reply.usage, stop=reply.stop)
        return JSONResponse(builder.whole(builder.blocks(reply), last))

    @app.post(f"{ANTHROPIC}/count_tokens", responses=FAULTS)
    async def count(body: ConversationBody, request: Request) -> TokenCount:
        """How many tokens the prompt of this conversation has, without answering it."""
        chat = service.models.find(body.model).chat
        messages, (options, _) = body.conversation(), body.prompt_and_sampling(chat, Sampling())
        note_ignored(request, body)
        ids = await run_in_threadpool(lambda: chat.render(messages, **options))
        return TokenCount(input_tokens=len(ids))


class _MessageBuilder:
    """One answer, from its beginning to its end."""

    def __init__(self, model: str, body: MessagesRequest) -> None:
        self._head = {"id": f"msg_{secrets.token_hex(12)}", "type": "message", "role": "assistant", "model": model}
        self._body = body
        self._calls = 0
        self._index = 0  # of the block that is open, or comes next
        self._open: str | None = None  # the type of the block that is

    def blocks(self, reply: Reply) -> list[dict[str, Any]]:
        """The blocks of a whole answer."""
        thoughts = [{"type": "thinking", "thinking": reply.reasoning, "signature": ""}] if reply.reasoning else []
        texts = [{"type": "text", "text": reply.text}] if reply.text else []
        calls = self._body.calls_taken(reply.tool_calls, 0)
        return [*thoughts, *texts, *(_block(call, as_object(call)) for call in calls)]

    def whole(self, content: list[dict[str, Any]], last: Piece) -> dict[str, Any]:
        """The whole answer, which ended with the piece `last`."""
        stop_fields, usage = _stop_fields(last)
        return {**self._head, "content": content, **stop_fields, "usage": usage}

    async def events(self, streams: MergedStreams) -> AsyncGenerator[bytes, None]:
        """The events of a stream, in the order of https://docs.anthropic.com/en/api/messages-streaming."""
        begun: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None}
        usage = {"input_tokens": streams.prompt_tokens, "output_tokens": 0}
        yield _event("message_start", message={**self._head, **begun, "usage": usage})
        try:
            async for _, piece in streams:
                for event_bytes in self._piece_events(piece):
                    yield event_bytes
                if piece.finish_reason is not None:
                    stop_fields, counts = _stop_fields(piece)
                    for event_bytes in self._close():
                        yield event_bytes
                    yield _event("message_delta", delta=stop_fields, usage=counts)
                    yield _event("message_stop")
        except Exception as error:
            yield _event(**describe_at(ANTHROPIC, error)[1])

    def _piece_events(self, piece: Piece) -> Iterator[bytes]:
        for kind, text in (("thinking", piece.reasoning), ("text", piece.text)):
            if text:
                yield from self._begin(kind)
                yield self._block("delta", delta={"type": f"{kind}_delta", kind: text})
        for call in self._body.calls_taken(piece.tool_calls, self._calls):
            self._calls += 1
            yield from self._close()
            # Calls come whole from the engine's text, so each is a block that begins, has one delta, and ends.
            yield self._block("start", content_block=_block(call, {}))
            yield self._block("delta", delta={"type": "input_json_delta", "partial_json": as_object_text(call)})
            yield self._block("stop")
            self._index += 1

    def _begin(self, kind: str) -> Iterator[bytes]:
        """Begin a block, unless it is open."""
        if self._open != kind:
            yield from self._close()
            self._open = kind
            yield self._block("start", content_block={"type": kind, kind: ""} | SIGNED.get(kind, {}))

    def _close(self) -> Iterator[bytes]:
        """End the block of text or thinking, if one is open."""
        if self._open is not None:
            yield self._block("stop")
            self._open = None
            self._index += 1

    def _block(self, what: str, **fields: Any) -> bytes:
        return _event(f"content_block_{what}", index=self._index, **fields)


def _event(type: str, **fields: Any) -> bytes:  # noqa: A002  so a body that has its type is an event as it is
    return event({"type": type, **fields}, name=type)


def _block(call: ToolCall, values: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": values}


def _stop_fields(last: Piece) -> tuple[dict[str, str | None], dict[str, int]]:
    """Why the answer ended, and its counts."""
    reason, usage = finish_of(last)
    stop = last.stop if reason == "stop" else None
    counts = {"input_tokens": usage.prompt_tokens, "output_tokens": usage.completion_tokens}
    return {
        "stop_reason": "stop_sequence" if stop is not None else REASONS[reason],
        "stop_sequence": stop,
    }, counts
