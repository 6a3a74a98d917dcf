"""OpenAI's chat completions, as https://platform.openai.com/docs/api-reference/chat describes them.

What would change the answer and is not supported is refused by name; what else is not used is named in a header.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterable
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from arriero.chat import Chat, Reply, Stream
from arriero.messages import Piece, Sampling, TokenLogprob, Usage
from arriero.server.errors import RequestError, describe
from arriero.server.lenient import Ignored, NullOnly, RefusedUnless, Unsupported, note_ignored
from arriero.server.routes.openai.logprobs import prepare, token_entries
from arriero.server.routes.openai.messages import PromptBody, Turns, conversation
from arriero.server.routes.openai.schemas import DONE, SamplingBody, Streamed, TokenCounts, counts, now
from arriero.server.schemas import Choices, MaxTokens, Whole
from arriero.server.service import Service
from arriero.server.streaming import STREAM_TOO, EventStream, FinishReason, MergedStreams, event, finish_of


class ChatRequest(SamplingBody, PromptBody, Streamed):
    """The body of `POST /v1/chat/completions`. null counts as absent; without `model` the default one answers."""

    model: str | None = None
    messages: Turns
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    n: Choices | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    max_reasoning_tokens: Annotated[Whole, Field(ge=0)] | None = None
    thinking_token_budget: Annotated[Whole, Field(ge=0)] | None = None
    metadata: Ignored = None
    prediction: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    reasoning_effort: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    store: Ignored = None
    verbosity: Ignored = None
    add_special_tokens: Unsupported = None
    audio: NullOnly = None
    best_of: Annotated[Any, RefusedUnless((1,))] = None
    echo: Unsupported = None
    modalities: Annotated[Any, RefusedUnless((["text"], []))] = None
    moderation: NullOnly = None
    web_search_options: NullOnly = None

    def overridden(self) -> Iterable[str]:
        """Of two words for the same the one that does not count; see `Streamed`."""
        yield from super().overridden()
        if self.max_tokens is not None and self.limit() != self.max_tokens:
            yield "max_tokens"
        if self.max_reasoning_tokens is not None and self.thinking_token_budget not in (
            None,
            self.max_reasoning_tokens,
        ):
            yield "thinking_token_budget"

    def limit(self) -> int | None:
        """The longest answer in tokens."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def sampling_for(self, max_new_tokens: int | None, number: int = 0) -> Sampling:
        """See `SamplingBody`; `thinking_token_budget` is vLLM's word for `max_reasoning_tokens`."""
        limit = self.thinking_token_budget if self.max_reasoning_tokens is None else self.max_reasoning_tokens
        return replace(super().sampling_for(max_new_tokens, number), max_reasoning_tokens=limit)

    def alternatives(self) -> int | None:
        """How many alternatives for each token, None without log-probabilities."""
        if self.top_logprobs and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs to be true", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


class AssistantFunctionCall(BaseModel):
    """Which function the model wants called; `arguments` is the text of a JSON object."""

    name: str
    arguments: str


class AssistantToolCall(BaseModel):
    """A call of a tool."""

    id: str
    type: Literal["function"] = "function"
    function: AssistantFunctionCall


class AssistantMessage(BaseModel):
    """The model's turn; it can be sent back as it is. Its content is null where it only calls tools.

    `reasoning_content` is there where the model thought before it answered.
    """

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | None = None
    tool_calls: list[AssistantToolCall] = []


class Choice(BaseModel):
    """One of the answers. `logprobs` holds `content`: the tokens of the text with their log-probabilities."""

    index: int
    message: AssistantMessage
    logprobs: dict[str, Any] | None
    finish_reason: FinishReason


class Completion(BaseModel):
    """Whole answers; `created` is in seconds since 1970."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: TokenCounts


def add_routes(app: FastAPI, service: Service) -> None:
    """Add chat completions to `app`."""

    @app.post(
        "/v1/chat/completions",
        response_model=Completion,
        responses=STREAM_TOO,
    )
    async def complete(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation, at once or as a stream of server-sent events."""
        note_ignored(request, body)
        served = service.models.find(body.model)
        chat = served.chat
        messages, options = conversation(body.messages), body.prompt_options()
        limit, top_logprobs = body.limit(), body.alternatives()

        def start(number: int) -> Stream:
            prepare(chat, top_logprobs)
            return chat.stream(messages, body.sampling_for(limit, number), logprobs=top_logprobs, **options)

        streams = await service.begin(request, served, start, body.n or 1)
        kind = "chat.completion.chunk" if body.stream else "chat.completion"
        head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "object": kind, "created": now(), "model": served.name}
        spelled = top_logprobs is not None
        if body.stream:
            return EventStream(
                _ChunkBuilder(chat, head, with_usage=body.wants_usage, spelled=spelled).of(streams), streams
            )
        replies = await streams.replies(request.receive)
        choices = [_choice(chat, index, reply, spelled=spelled) for index, reply in enumerate(replies)]
        return JSONResponse({**head, "choices": choices, "usage": counts([reply.usage for reply in replies])})


def _choice(chat: Chat, index: int, reply: Reply, *, spelled: bool) -> dict[str, Any]:
    content = None if reply.tool_calls and not reply.text else reply.text
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.tool_calls:
        message["tool_calls"] = [call.definition for call in reply.tool_calls]
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(chat, reply.logprobs) if spelled else None,
        "finish_reason": reply.finish_reason,
    }


def _delta(piece: Piece) -> dict[str, Any]:
    delta: dict[str, Any] = {"reasoning_content": piece.reasoning} if piece.reasoning else {}
    if piece.text:
        delta["content"] = piece.text
    if piece.call_deltas:
        delta["tool_calls"] = [call.definition for call in piece.call_deltas]
    return delta


def _logprobs(chat: Chat, tokens: tuple[TokenLogprob, ...]) -> dict[str, Any]:
    return {"content": token_entries(chat, tokens), "refusal": None}


class _ChunkBuilder:
    """OpenAI's stream: role, texts and calls, finish reason, token counts if asked for, [DONE].

    A failure is an event too, in the place of what is missing.
    """

    def __init__(self, chat: Chat, head: dict[str, Any], *, with_usage: bool, spelled: bool) -> None:
        self._chat = chat
        self._head = head
        self._with_usage = with_usage
        self._spelled = spelled
        self._usages: list[Usage] = []

    async def of(self, streams: MergedStreams) -> AsyncGenerator[bytes, None]:
        """The events of these answers."""
        begun: set[int] = set()
        try:
            async for index, piece in streams:
                if index not in begun:
                    begun.add(index)
                    yield self._chunk(index, {"role": "assistant", "content": ""})
                if piece.text or piece.call_deltas or piece.logprobs or piece.reasoning:
                    yield self._chunk(index, _delta(piece), piece.logprobs)
                if piece.finish_reason is not None:
                    reason, usage = finish_of(piece)
                    self._usages.append(usage)
                    yield self._chunk(index, {}, reason=reason)
            if self._with_usage:
                yield event({**self._head, "choices": [], "usage": counts(self._usages)})
        except Exception as error:
            yield event(describe(error)[1])
        yield DONE

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: tuple[TokenLogprob, ...] = (),
        reason: FinishReason | None = None,
    ) -> bytes:
        spelled = _logprobs(self._chat, logprobs) if self._spelled and logprobs else None
        choice = {"index": index, "delta": delta, "logprobs": spelled, "finish_reason": reason}
        chunk = {**self._head, "choices": [choice]}
        return event(chunk | {"usage": None} if self._with_usage else chunk)
