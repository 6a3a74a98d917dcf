"""`POST /api/chat` and `POST /api/generate`: JSON objects on lines of their own, or one with the whole answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from arriero.chat import Stream
from arriero.messages import Piece, Usage
from arriero.server.access_log import AccessRecord
from arriero.server.errors import OLLAMA, describe_at
from arriero.server.lenient import note_ignored
from arriero.server.routes.arguments import as_object
from arriero.server.routes.ollama.schemas import ChatBody, GenerateBody, GenerationBody, find
from arriero.server.service import Service
from arriero.server.streaming import EventStream, FinishReason, MergedStreams, finish_of, json_line

REASONS: dict[FinishReason, str] = {"stop": "stop", "length": "length", "tool_calls": "stop"}
Fields = Callable[[Piece], dict[str, Any]]


class Fault(BaseModel):
    """The body of every response here that is not a success: what went wrong."""

    error: str


class FinalResponse(BaseModel, extra="allow"):
    """A whole answer; durations are in nanoseconds."""

    model: str
    created_at: str
    done: bool
    done_reason: str


class ChatResponse(FinalResponse):
    """The answer to a conversation."""

    message: dict[str, Any]


class GenerateResponse(FinalResponse):
    """The answer to a prompt."""

    response: str


FAULTS: dict[int | str, dict[str, Any]] = {"4XX": {"model": Fault}, "5XX": {"model": Fault}}
LINES_TOO: dict[int | str, dict[str, Any]] = {200: {"content": {"application/x-ndjson": {}}}, **FAULTS}


class LineStream(EventStream):
    """JSON objects on lines of their own (https://github.com/ndjson/ndjson-spec)."""

    media_type = "application/x-ndjson"


def add_routes(app: FastAPI, service: Service) -> None:
    """Add chat and generate to `app`."""

    async def respond(body: GenerationBody, request: Request, start: Callable[[], Stream], fields: Fields) -> Response:
        served = find(service, body.model)
        streams = await service.begin(request, served, lambda _: start())
        lines = _LineBuilder(body.model, fields)
        if body.stream is not False:
            return LineStream(lines.of(streams), streams)
        [reply] = await streams.replies(request.receive)
        last = Piece(reply.text, reply.finish_reason, reply.usage, reply.tool_calls, reasoning=reply.reasoning)
        return JSONResponse(lines.last(last, streams.record))

    @app.post("/api/chat", response_model=ChatResponse, responses=LINES_TOO)
    async def chat(body: ChatBody, request: Request) -> Response:
        """Answer a conversation; without turns there is nothing to do, for the model is loaded."""
        model = find(service, body.model).chat
        if not body.messages:
            return JSONResponse(_LineBuilder(body.model, _turn).loaded())
        messages = body.conversation()
        options, sampling = body.prompt_and_sampling(model, {"tools": body.tool_list()})
        note_ignored(request, body)
        return await respond(body, request, lambda: model.stream(messages, sampling, **options), _turn)

    @app.post("/api/generate", response_model=GenerateResponse, responses=LINES_TOO)
    async def generate(body: GenerateBody, request: Request) -> Response:
        """Answer one prompt; without one there is nothing to do, for the model is loaded."""
        model = find(service, body.model).chat
        if not body.prompt:
            return JSONResponse(_LineBuilder(body.model, _text).loaded())
        messages, (options, sampling) = body.conversation(), body.prompt_and_sampling(model, {})
        note_ignored(request, body)
        return await respond(body, request, lambda: model.stream(messages, sampling, **options), _text)


class _LineBuilder:
    """The lines of one answer to who asked for `model`; `fields` puts text and calls into the API's words."""

    def __init__(self, model: str, fields: Fields) -> None:
        self._model = model
        self._part = fields

    async def of(self, streams: MergedStreams) -> AsyncGenerator[bytes, None]:
        """The lines as the answer comes. A failure is a line too, in the place of what is missing."""
        try:
            async for _, piece in streams:
                if piece.finish_reason is None or piece.text or piece.tool_calls or piece.reasoning:
                    yield _line(self._now(piece, done=False))
                if piece.finish_reason is not None:
                    yield _line(self.last(Piece("", piece.finish_reason, piece.usage), streams.record))
        except Exception as error:
            yield _line(describe_at(OLLAMA, error)[1])

    def last(self, piece: Piece, record: AccessRecord) -> dict[str, Any]:
        """The object that ends an answer; its text is what no line before has brought."""
        reason, usage = finish_of(piece)
        counted = _metrics(usage, record)
        return {**self._now(piece, done=True), "done_reason": REASONS[reason], **counted}

    def loaded(self) -> dict[str, Any]:
        """The answer to nothing."""
        return {**self._now(Piece(""), done=True), "done_reason": "load"}

    def _now(self, piece: Piece, *, done: bool) -> dict[str, Any]:
        created = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        return {"model": self._model, "created_at": created, **self._part(piece), "done": done}


def _line(value: dict[str, Any]) -> bytes:
    return json_line(value) + b"\n"


def _text(piece: Piece) -> dict[str, Any]:
    return {"response": piece.text, **_thought(piece)}


def _thought(piece: Piece) -> dict[str, str]:
    return {"thinking": piece.reasoning} if piece.reasoning else {}


def _turn(piece: Piece) -> dict[str, Any]:
    made = [{"id": call.id, "function": {"name": call.name, "arguments": as_object(call)}} for call in piece.tool_calls]
    calls = {"tool_calls": made} if made else {}
    return {"message": {"role": "assistant", "content": piece.text, **_thought(piece), **calls}}


def _metrics(usage: Usage, record: AccessRecord) -> dict[str, int]:
    """Counts in tokens and durations in nanoseconds, none of which is 0: clients divide by them."""
    total = record.elapsed()
    first = record.first_token_s if record.first_token_s is not None else total
    durations = {"total_duration": total, "prompt_eval_duration": first, "eval_duration": total - first}
    return {
        "load_duration": 0,
        "prompt_eval_count": usage.prompt_tokens,
        "eval_count": usage.completion_tokens,
        **{name: max(1, round(seconds * 1e9)) for name, seconds in durations.items()},
    }
