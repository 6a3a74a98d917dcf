"""`POST /`, the endpoint that the tutorial builds: a prompt in, a response and the time out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.requests import Request

from arriero.messages import Message, Sampling
from arriero.server.schemas import MaxTokens, RequestBody, Temperature, TopP
from arriero.server.service import Service

DEFAULT_TOKENS = 512
Exchange = Annotated[list[str], Field(min_length=2, max_length=2)]


class Prompt(RequestBody):
    """A question, and the questions and answers before it as [question, answer] pairs.

    `max_length` counts the answer's tokens only; without it there are at most 512, as in the tutorial. The tutorial
    sends `prompt` alone, its relatives the others too.
    """

    prompt: str
    history: list[Exchange] | None = None
    max_length: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None

    def messages(self) -> list[Message]:
        """The conversation this asks to be continued."""
        turns = [text for exchange in self.history or [] for text in exchange] + [self.prompt]
        return [Message("assistant" if index % 2 else "user", text) for index, text in enumerate(turns)]

    def sampling(self) -> Sampling:
        """How to choose tokens."""
        limit = DEFAULT_TOKENS if self.max_length is None else self.max_length
        return Sampling(max_new_tokens=limit, temperature=self.temperature, top_p=self.top_p)


class PromptResponse(BaseModel):
    """The answer; `status` is always 200 and `time` the server's local time, "YYYY-MM-DD HH:MM:SS"."""

    response: str
    status: int
    time: str


def add_routes(app: FastAPI, service: Service) -> None:
    """Add `POST /`, answered by the default model."""

    @app.post("/")
    async def respond(body: Prompt, request: Request) -> PromptResponse:
        """Answer one prompt."""
        served = service.models.default
        streams = await service.begin(request, served, lambda _: served.chat.stream(body.messages(), body.sampling()))
        [reply] = await streams.replies(request.receive)
        return PromptResponse(response=reply.text, status=200, time=f"{datetime.now():%Y-%m-%d %H:%M:%S}")
