"""Text and conversations as token ids, and back: what the engine would receive, exactly."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from arriero.chat import Chat
from arriero.server.body import RequestBody
from arriero.server.errors import RequestError
from arriero.server.routes.conversation import Asked, Turns, conversation
from arriero.server.service import Service


class TokenizeRequest(Asked):
    """A text in `prompt`, or a conversation as chat completions take it. Without `model` the default one's tokens."""

    model: str | None = None
    prompt: str | None = None
    messages: Turns | None = None
    add_special_tokens: bool | None = None

    def ids(self, chat: Chat) -> list[int]:
        """The token ids; RequestError unless exactly one of prompt and messages is given."""
        if (self.prompt is None) == (self.messages is None):
            raise RequestError("give either prompt or messages", param="prompt")
        if self.messages is not None:
            if self.add_special_tokens is not None:
                raise RequestError("the chat template says which tokens there are", param="add_special_tokens")
            return chat.render(conversation(self.messages), **self.form())
        if self.tools or self.response_format:
            raise RequestError(
                "tools and formats belong to messages", param="tools" if self.tools else "response_format"
            )
        with_special = self.add_special_tokens is not False
        return list(chat.renderer.tokenizer.encode(self.prompt, add_special_tokens=with_special))


class Tokens(BaseModel):
    """The ids, how many there are and how many the model's window holds."""

    tokens: list[int]
    count: int
    max_model_len: int


class DetokenizeRequest(RequestBody):
    """Token ids. Without `model` those of the default one."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]


class Detokenized(BaseModel):
    """The text that the ids spell, special tokens included."""

    prompt: str


def add_routes(app: FastAPI, service: Service) -> None:
    """Add tokenize and detokenize to `app`."""

    def chosen(model: str | None) -> Chat:
        return (service.models.default if model is None else service.models.find(model)).chat

    @app.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> Tokens:
        """The token ids of a text, or of the prompt that a conversation becomes."""
        chat = chosen(body.model)
        ids = await run_in_threadpool(body.ids, chat)
        return Tokens(tokens=ids, count=len(ids), max_model_len=chat.window)

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> Detokenized:
        """The text of token ids."""
        chat = chosen(body.model)
        chat.check_ids(body.tokens)
        return Detokenized(prompt=await run_in_threadpool(chat.renderer.tokenizer.decode, body.tokens))
