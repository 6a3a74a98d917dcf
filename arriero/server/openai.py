"""OpenAI's chat completions and models, as https://platform.openai.com/docs/api-reference/chat describes them.

What is not supported is refused by name, never ignored; only `user`, an opaque tag, is accepted and has no effect.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from arriero.chat import Chat
from arriero.messages import Message, Sampling, Usage
from arriero.server.answer import EventStream, Pieces, WireReason, answer, ending, whole
from arriero.server.body import MaxTokens, RequestBody, Temperature, TopP
from arriero.server.errors import RequestError, describe

STREAM_TOO: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}


class TextPart(RequestBody):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


def _parts(content: object) -> object:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise PydanticCustomError("content", "Input should be text or a list of text parts")
    return content


def _strings(stop: object) -> object:
    if not isinstance(stop, str | list):
        raise PydanticCustomError("stop", "Input should be a string or a list of up to 4 strings")
    return [stop] if isinstance(stop, str) else stop


StopString = Annotated[str, Field(min_length=1)]
StopStrings = Annotated[list[StopString], Field(max_length=4)]
Stop = Annotated[StopStrings, BeforeValidator(_strings, json_schema_input_type=StopString | StopStrings)]
Content = Annotated[list[TextPart], BeforeValidator(_parts, json_schema_input_type=str | list[TextPart])]


class ChatMessage(RequestBody):
    """One turn; the parts of its content are joined."""

    role: Literal["system", "user", "assistant"]
    content: Content


class StreamOptions(RequestBody):
    """What a stream carries besides text."""

    include_usage: bool | None = None


class ChatRequest(RequestBody):
    """The body of `POST /v1/chat/completions`. null counts as absent."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stop: Stop | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    user: str | None = None

    def conversation(self) -> list[Message]:
        """The messages with their parts joined."""
        return [Message(turn.role, "".join(part.text for part in turn.content)) for turn in self.messages]

    def sampling(self) -> Sampling:
        """How to choose tokens; RequestError where two fields contradict each other."""
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise RequestError("give max_tokens or max_completion_tokens, not both", param="max_tokens")
        return Sampling(
            max_new_tokens=self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=tuple(self.stop or ()),
        )

    def wants_usage(self) -> bool:
        """Whether the stream ends with token counts; RequestError where there is no stream."""
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options is only allowed when stream is true", param="stream_options")
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class AnswerMessage(BaseModel):
    """The model's turn; it can be sent back as it is."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """The one answer of a completion."""

    index: int = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: WireReason


class TokenCounts(BaseModel):
    """Counts in tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """A whole answer; `created` is in seconds since 1970."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: TokenCounts


class Model(BaseModel):
    """A model that can be asked for; `created` is when the server started, in seconds since 1970."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["arriero"] = "arriero"


class ModelList(BaseModel):
    """All models that can be asked for."""

    object: Literal["list"] = "list"
    data: list[Model]


def model_id(chat: Chat) -> str:
    """What requests call the model: the adapter's name if there is one, else the model's."""
    return chat.model if chat.adapter is None else chat.adapter


async def _events(head: dict[str, Any], pieces: Pieces, *, with_usage: bool) -> AsyncGenerator[bytes, None]:
    """OpenAI's stream: role, texts, finish reason, token counts if asked for, [DONE]; a failure is an event too."""

    def chunk(choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
        return _event({**head, "choices": choices} | ({"usage": usage} if with_usage else {}))

    async with contextlib.aclosing(pieces):
        try:
            yield chunk(_delta({"role": "assistant", "content": ""}))
            async for piece in pieces:
                if piece.text:
                    yield chunk(_delta({"content": piece.text}))
                if piece.finish_reason is not None:
                    reason, usage = ending(piece)
                    yield chunk(_delta({}, reason))
                    if with_usage:
                        yield chunk([], _counts(usage))
        except Exception as error:
            yield _event(describe(error)[1])
    yield b"data: [DONE]\n\n"


def _delta(delta: dict[str, str], reason: WireReason | None = None) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _counts(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


def add_routes(app: FastAPI, chat: Chat) -> None:
    """Add chat completions and models to `app`, answered by `chat`."""
    served = Model(id=model_id(chat), created=int(time.time()))

    def check(model: str) -> None:
        if model != served.id:
            raise RequestError(
                f"the model {model!r} is not served here, {served.id!r} is",
                param="model",
                code="model_not_found",
                status=404,
            )

    @app.post("/v1/chat/completions", response_model=Completion, responses=STREAM_TOO)
    async def complete(body: ChatRequest, request: Request) -> Completion | Response:
        """Answer a conversation, at once or as a stream of server-sent events."""
        check(body.model)
        with_usage = body.wants_usage()
        pieces = await answer(request.receive, chat, body.conversation(), body.sampling())
        head: dict[str, Any] = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "object": "chat.completion.chunk" if body.stream else "chat.completion",
            "created": int(time.time()),
            "model": served.id,
        }
        if body.stream:
            return EventStream(_events(head, pieces, with_usage=with_usage))
        text, reason, usage = await whole(request.receive, pieces)
        choice = Choice(message=AnswerMessage(content=text), finish_reason=reason)
        return Completion(**head, choices=[choice], usage=TokenCounts(**_counts(usage)))

    @app.get("/v1/models")
    async def models() -> ModelList:
        """The one model that is served."""
        return ModelList(data=[served])

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> Model:
        """The model of that name."""
        check(model)
        return served
