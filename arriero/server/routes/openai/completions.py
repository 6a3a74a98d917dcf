"""OpenAI's older completions: prompts that are continued as they are, without the chat template.

https://platform.openai.com/docs/api-reference/completions describes them. A prompt is text, which is encoded as the
tokenizer does by itself (control tokens included, as who writes such prompts expects), or token ids.
"""

from __future__ import annotations

import codecs
import secrets
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from arriero.chat import Chat, Stream
from arriero.messages import TokenLogprob, Usage
from arriero.server.errors import RequestError, describe
from arriero.server.lenient import RefusedUnless, Unsupported, note_ignored
from arriero.server.routes.openai.logprobs import logprob, prepare
from arriero.server.routes.openai.schemas import DONE, SamplingBody, Streamed, TokenCounts, counts, now
from arriero.server.schemas import Choices, TokenIds, Whole
from arriero.server.service import Service
from arriero.server.streaming import STREAM_TOO, EventStream, FinishReason, MergedStreams, event, finish_of

DEFAULT_TOKENS = 16  # OpenAI's


class CompletionRequest(SamplingBody, Streamed):
    """The body of `POST /v1/completions`. null counts as absent; without `model` the default one answers."""

    model: str | None = None
    prompt: str | TokenIds | Annotated[list[str], Field(min_length=1)] | Annotated[list[TokenIds], Field(min_length=1)]
    max_tokens: Annotated[Whole, Field(ge=0)] | None = None
    n: Choices | None = None
    best_of: Choices | None = None
    echo: bool | None = None
    logprobs: Annotated[Whole, Field(ge=0, le=5)] | None = None
    add_special_tokens: Annotated[Any, RefusedUnless((True,))] = None
    response_format: Annotated[Any, RefusedUnless(({"type": "text"},))] = None
    suffix: Unsupported = None

    def check(self) -> None:
        """RequestError for what is asked for and cannot be given."""
        if self.best_of not in (None, self.n or 1):
            raise RequestError("best_of other than n is not supported", param="best_of", code="unsupported_parameter")
        if self.max_tokens == 0 and not self.echo:
            raise RequestError("max_tokens 0 is only allowed with echo, or nothing is left", param="max_tokens")

    def prompts(self, chat: Chat) -> list[list[int]]:
        """The ids of every prompt."""
        single = isinstance(self.prompt, str) or isinstance(self.prompt[0], int)
        encode = chat.renderer.tokenizer.encode
        prompts: Any = [self.prompt] if single else self.prompt
        return [encode(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]

    def start(self, chat: Chat, prompt: list[int], number: int) -> Stream:
        """The answer of that number to a prompt; with echo and logprobs the prompt is scored too."""
        if self.max_tokens == 0:
            return chat.score_ids(prompt, logprobs=self.logprobs or 0)
        sampling = self.sampling_for(self.max_tokens or DEFAULT_TOKENS, number)
        scores = bool(self.echo) and self.logprobs is not None
        return chat.stream_ids(prompt, sampling, logprobs=self.logprobs, prompt_logprobs=scores)


class TextChoice(BaseModel):
    """One of the answers."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: FinishReason


class TextCompletion(BaseModel):
    """Whole answers; `created` is in seconds since 1970."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: TokenCounts


def add_routes(app: FastAPI, service: Service) -> None:
    """Add completions to `app`."""

    @app.post("/v1/completions", response_model=TextCompletion, responses=STREAM_TOO)
    async def complete(body: CompletionRequest, request: Request) -> Response:
        """Continue one or several prompts, at once or as a stream of server-sent events."""
        note_ignored(request, body)
        served = service.models.find(body.model)
        chat = served.chat
        body.check()
        prompts = await run_in_threadpool(body.prompts, chat)
        answers_per_prompt = body.n or 1
        texts: list[_TextBuilder] = []

        def start(number: int) -> Stream:
            prompt = prompts[number // answers_per_prompt]
            prepare(chat, body.logprobs)
            stream = body.start(chat, prompt, number % answers_per_prompt)
            echoed = prompt if body.echo else []
            texts.append(_TextBuilder(chat, stream, echoed, spelled=body.logprobs is not None))
            return stream

        streams = await service.begin(request, served, start, len(prompts) * answers_per_prompt)
        head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": now(),
            "model": served.name,
        }
        if body.stream:
            return EventStream(_events(head, streams, texts, answers_per_prompt if body.wants_usage else 0), streams)
        replies = await streams.replies(request.receive)
        choices = [
            {
                "index": index,
                **text.choice_fields(reply.text, reply.logprobs, last=True),
                "finish_reason": reply.finish_reason,
            }
            for index, (reply, text) in enumerate(zip(replies, texts, strict=True))
        ]
        return JSONResponse(
            {**head, "choices": choices, "usage": counts([reply.usage for reply in replies], answers_per_prompt)}
        )


async def _events(
    head: dict[str, Any], streams: MergedStreams, texts: list[_TextBuilder], answers_per_prompt: int
) -> AsyncGenerator[bytes, None]:
    """The chunks of a stream; `answers_per_prompt` answers to a prompt where token counts are wanted, else 0."""
    usages: list[Usage | None] = [None] * len(texts)
    try:
        async for index, piece in streams:
            reason = None
            if piece.finish_reason is not None:
                reason, usages[index] = finish_of(piece)
            choice_fields = texts[index].choice_fields(piece.text, piece.logprobs, last=reason is not None)
            choice = {"index": index, **choice_fields, "finish_reason": reason}
            yield event({**head, "choices": [choice]} | ({"usage": None} if answers_per_prompt else {}))
        if answers_per_prompt:
            yield event(
                {**head, "choices": [], "usage": counts([usage for usage in usages if usage], answers_per_prompt)}
            )
    except Exception as error:
        yield event(describe(error)[1])
    yield DONE


class _TextBuilder:
    """One answer's text, with the prompt before the first part where it is `echoed`, and how far it has come."""

    def __init__(self, chat: Chat, stream: Stream, echoed: Sequence[int], *, spelled: bool) -> None:
        self._chat = chat
        self._stream = stream
        self._echoed = echoed
        self._scored = bool(echoed)
        self._spelled = spelled
        self._offset = 0
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def choice_fields(self, text: str, logprobs: Sequence[TokenLogprob], *, last: bool) -> dict[str, Any]:
        """The next part's text and log-probabilities, in the older shape.

        Where the prompt is scored, the token that ends the answer is among the tokens: lm-eval and others count on as
        many of them as were generated.
        """
        tokens: list[TokenLogprob | int] = [*logprobs]
        if self._echoed:
            text = self._chat.renderer.tokenizer.decode(self._echoed) + text
            tokens = [self._echoed[0], *self._stream.prompt_logprobs, *tokens]
            self._echoed = ()
        if last and self._scored and self._stream.end_logprob is not None:
            tokens.append(self._stream.end_logprob)
        lists = self._lists(tokens) if self._spelled else None
        self._offset += len(text)
        return {"text": text, "logprobs": lists}

    def _lists(self, tokens: Sequence[TokenLogprob | int]) -> dict[str, list[Any]]:
        """The tokens' texts, values and offsets; a bare id is that of the first token, which nothing stands before."""
        offset = self._offset  # in characters; an incremental decoder, for a token may hold a part of one
        lists: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token in tokens:
            token_id = token if isinstance(token, int) else token.token_id
            lists["tokens"].append(self._token(token_id))
            lists["token_logprobs"].append(None if isinstance(token, int) else logprob(token.logprob))
            lists["top_logprobs"].append(None if isinstance(token, int) else self._ranked(token))
            lists["text_offset"].append(offset)
            offset += len(self._characters.decode(self._chat.spell(token_id)))
        return lists

    def _ranked(self, token: TokenLogprob) -> dict[str, float]:
        """The chosen token, which OpenAI always has among them, and the most probable; of equal texts the first."""
        top: dict[str, float] = {}
        for token_id, value in ((token.token_id, token.logprob), *token.top):
            top.setdefault(self._token(token_id), logprob(value))
        return top

    def _token(self, token_id: int) -> str:
        """A token's text; as OpenAI writes it where it is a part of a character: bytes:\\xe4\\xbd."""
        spelled = self._chat.spell(token_id)
        try:
            return spelled.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)
