"""OpenAI's responses, text in and text out: https://platform.openai.com/docs/api-reference/responses.

Nothing is stored: every request brings the whole conversation. What is not supported is refused by name.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import Response

from arriero.chat import Stream
from arriero.constraint import JsonSchema
from arriero.messages import Message, Usage
from arriero.server.answer import Answers, EventStream, ending
from arriero.server.body import MaxTokens, RequestBody, SamplingBody, Schema, parts
from arriero.server.errors import at, describe
from arriero.server.models import Served
from arriero.server.routes.conversation import OWN_ROLES, ObjectFormat, TextFormat, conversation
from arriero.server.routes.wire import STREAM_TOO, event
from arriero.server.service import Service


class InputPart(RequestBody):
    """A part of a message; an answer's own part may be sent back as it came, without logprobs and annotations."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: Annotated[list[Any], Field(max_length=0)] | None = None


class InputMessage(RequestBody):
    """One turn; an answer may be sent back as it came."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        list[InputPart], BeforeValidator(parts("input_text"), json_schema_input_type=str | list[InputPart])
    ]
    id: str | None = None
    status: Literal["completed", "incomplete"] | None = None

    def message(self) -> Message:
        """This turn as a Message."""
        role: Any = OWN_ROLES.get(self.role, self.role)
        return Message(role, "".join(part.text for part in self.content))


class NamedSchema(RequestBody):
    """JSON that fits a schema. `name` and `description` have no effect, `strict` is always so."""

    type: Literal["json_schema"]
    name: str
    schema_: Annotated[Schema, Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class TextBody(RequestBody):
    """The form of the answer."""

    format: Annotated[TextFormat | ObjectFormat | NamedSchema, Field(discriminator="type")] | None = None


class ResponseRequest(SamplingBody):
    """The body of `POST /v1/responses`. null counts as absent."""

    model: str
    input: str | Annotated[list[InputMessage], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: MaxTokens | None = None
    text: TextBody | None = None
    stream: bool | None = None
    store: Literal[False] | None = None
    user: str | None = None

    def conversation(self) -> list[Message]:
        """The turns; `instructions` go before them as the system prompt."""
        turns = self.input
        if isinstance(turns, str):
            turns = [InputMessage.model_validate({"role": "user", "content": turns})]
        return conversation(turns, "input", system=self.instructions)

    def schema_wanted(self) -> Mapping[str, Any] | None:
        """The JSON schema that the answer fits, None for free text."""
        match self.text.format if self.text is not None else None:
            case ObjectFormat():
                return {"type": "object"}
            case NamedSchema(schema_=schema):
                with at("text.format.schema"):
                    return JsonSchema(schema).schema
        return None


class ResponseBody(BaseModel, extra="allow"):
    """A response; times are in seconds since 1970."""

    id: str
    object: Literal["response"]
    created_at: float
    status: Literal["completed", "incomplete", "in_progress", "failed"]
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None


def add_routes(app: FastAPI, service: Service) -> None:
    """Add responses to `app`."""

    @app.post("/v1/responses", response_model=ResponseBody, responses=STREAM_TOO)
    async def respond(body: ResponseRequest, request: Request) -> Response:
        """Answer a text or a conversation, at once or as a stream of server-sent events."""
        served = service.models.find(body.model)
        messages, schema = body.conversation(), body.schema_wanted()

        def start(_: int) -> Stream:
            return served.chat.stream(messages, body.sampling_of(body.max_output_tokens), schema=schema)

        answers = await service.begin(request, served, start)
        made = _Response(served, body)
        if body.stream:
            return EventStream(made.events(answers), answers)
        [reply] = await answers.replies(request.receive)
        return JSONResponse(made.ended(reply.text, reply.finish_reason, reply.usage))


class _Response:
    """One response, from its beginning to its end."""

    def __init__(self, served: Served, body: ResponseRequest) -> None:
        chat = served.chat
        self._item_id = f"msg_{secrets.token_hex(12)}"
        self._number = 0
        wanted = body.text.format if body.text is not None else None
        self._head: dict[str, Any] = {
            "id": f"resp_{secrets.token_hex(12)}",
            "object": "response",
            "created_at": int(time.time()),
            "model": served.name,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "temperature": body.temperature if body.temperature is not None else chat.defaults.temperature,
            "top_p": body.top_p if body.top_p is not None else chat.defaults.top_p,
            "text": {"format": wanted.model_dump(by_alias=True) if wanted is not None else {"type": "text"}},
            "error": None,
            "incomplete_details": None,
            "metadata": {},
            "parallel_tool_calls": False,
            "tool_choice": "none",
            "tools": [],
            "store": False,
            "truncation": "disabled",
        }

    def _now(self, status: str, **more: Any) -> dict[str, Any]:
        return {**self._head, "status": status, "output": [], "usage": None, **more}

    def ended(self, text: str, reason: str | None, usage: Usage) -> dict[str, Any]:
        """The whole response; incomplete where the answer reached the limit of tokens."""
        whole = reason != "length"
        details = None if whole else {"reason": "max_output_tokens"}
        status = "completed" if whole else "incomplete"
        counted = {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.total_tokens,
        }
        return self._now(status, output=[self._item(status, text)], usage=counted, incomplete_details=details)

    def _item(self, status: str, text: str | None) -> dict[str, Any]:
        content = [] if text is None else [_part(text)]
        return {"id": self._item_id, "type": "message", "role": "assistant", "status": status, "content": content}

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = {"type": f"response.{kind}" if kind != "error" else kind, "sequence_number": self._number, **fields}
        self._number += 1
        return f"event: {data['type']}\n".encode() + event(data)

    async def events(self, answers: Answers) -> AsyncGenerator[bytes, None]:
        """The events of a stream, in the order that OpenAI's have."""
        place: dict[str, Any] = {"item_id": self._item_id, "output_index": 0, "content_index": 0}
        yield self._event("created", response=self._now("in_progress"))
        yield self._event("in_progress", response=self._now("in_progress"))
        yield self._event("output_item.added", output_index=0, item=self._item("in_progress", None))
        yield self._event("content_part.added", **place, part=_part(""))
        text = ""
        try:
            async for _, piece in answers:
                text += piece.text
                if piece.text:
                    yield self._event("output_text.delta", **place, delta=piece.text, logprobs=[])
                if piece.finish_reason is not None:
                    reason, usage = ending(piece)
                    done = self.ended(text, reason, usage)
                    yield self._event("output_text.done", **place, text=text, logprobs=[])
                    yield self._event("content_part.done", **place, part=_part(text))
                    yield self._event("output_item.done", output_index=0, item=done["output"][0])
                    yield self._event(done["status"], response=done)
        except Exception as error:
            fault = describe(error)[1]["error"]
            yield self._event("error", code=fault["code"] or fault["type"], message=fault["message"], param=None)
            failure = {"code": "server_error", "message": fault["message"]}
            yield self._event("failed", response=self._now("failed", error=failure))


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
