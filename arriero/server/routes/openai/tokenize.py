"""Text and conversations as token ids, and back: what the engine would receive, exactly."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from arriero.chat import Chat
from arriero.server.errors import RequestError
from arriero.server.lenient import OpenAIBody, Unsupported, note_ignored
from arriero.server.routes.openai.messages import PromptBody, Turns, conversation
from arriero.server.schemas import AnyTokenIds
from arriero.server.service import Service


class TokenizeRequest(PromptBody):
    """A text in `prompt`, or a conversation as chat completions take it. Without `model` the default one's tokens."""

    model: str | None = None
    prompt: str | None = None
    messages: Turns | None = None
    add_special_tokens: bool | None = None
    return_token_strs: Unsupported = None

    def ids(self, chat: Chat) -> list[int]:
        """The token ids; RequestError unless exactly one of prompt and messages is given."""
        if (self.prompt is None) == (self.messages is None):
            raise RequestError("give either prompt or messages", param="prompt")
        if self.messages is not None:
            if self.add_special_tokens:
                raise RequestError("the chat template says which tokens there are", param="add_special_tokens")
            return chat.render(conversation(self.messages), **self.prompt_options())
        for field in ("tools", "response_format", "chat_template_kwargs"):
            if getattr(self, field):
                raise RequestError(f"{field} belongs to messages, not to a prompt", param=field)
        with_special = self.add_special_tokens is not False
        return list(chat.renderer.tokenizer.encode(self.prompt, add_special_tokens=with_special))


class Tokens(BaseModel):
    """The ids, how many there are and how many the model's window holds."""

    tokens: list[int]
    count: int
    max_model_len: int


class DetokenizeRequest(OpenAIBody):
    """Token ids. Without `model` those of the default one."""

    model: str | None = None
    tokens: AnyTokenIds


class Detokenized(BaseModel):
    """The text that the ids spell, special tokens included."""

    prompt: str


def add_routes(app: FastAPI, service: Service) -> None:
    """Add tokenize and detokenize to `app`."""

    @app.post("/tokenize")
    async def tokenize(body: TokenizeRequest, request: Request) -> Tokens:
        """The token ids of a text, or of the prompt that a conversation becomes."""
        note_ignored(request, body)
        chat = service.models.find(body.model).chat
        ids = await run_in_threadpool(body.ids, chat)
        return Tokens(tokens=ids, count=len(ids), max_model_len=chat.window)

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeRequest, request: Request) -> Detokenized:
        """The text of token ids."""
        note_ignored(request, body)
        chat = service.models.find(body.model).chat
        chat.check_ids(body.tokens)
        return Detokenized(prompt=await run_in_threadpool(chat.renderer.tokenizer.decode, body.tokens))
