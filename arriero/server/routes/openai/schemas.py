"""What OpenAI's endpoints have in common on the wire: events, token counts, log-probabilities."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import BaseModel
from pydantic_core import to_json

from arriero.chat import Chat
from arriero.messages import TokenLogprob, Usage
from arriero.server.lenient import NO_EFFECT, OpenAIBody

STREAM_TOO: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
DONE = b"data: [DONE]\n\n"
IMPOSSIBLE = -9999.0


class CompletionDetails(BaseModel):
    """Of the tokens of answers."""

    reasoning_tokens: int


class TokenCounts(BaseModel):
    """Counts in tokens; the details are there where there was reasoning."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    completion_tokens_details: CompletionDetails | None = None


def counts(usages: Sequence[Usage], each: int | None = None) -> dict[str, Any]:
    """The tokens of all answers, and of the prompts, which have `each` answers, by default all, and count once."""
    prompt = sum(usage.prompt_tokens for usage in usages[:: each or len(usages)])
    completion = sum(usage.completion_tokens for usage in usages)
    found = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    reasoning = sum(usage.reasoning_tokens for usage in usages)
    return found | ({"completion_tokens_details": {"reasoning_tokens": reasoning}} if reasoning else {})


def event(data: Any) -> bytes:
    """A server-sent event (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
    return b"data: " + to_json(data) + b"\n\n"


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


def logprob(value: float) -> float:
    """As OpenAI writes it: -9999.0 is a token that cannot come, and JSON has no infinity and no NaN."""
    return value if value > IMPOSSIBLE else IMPOSSIBLE


def token_entry(chat: Chat, token_id: int, value: float) -> dict[str, Any]:
    """A token in the shape of chat completions: its text, log-probability and bytes."""
    spelled = chat.spell(token_id)
    return {"token": spelled.decode(errors="replace"), "logprob": logprob(value), "bytes": list(spelled)}


def token_entries(chat: Chat, tokens: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """Tokens with their alternatives in the shape of chat completions."""
    return [
        token_entry(chat, token.token_id, token.logprob)
        | {"top_logprobs": [token_entry(chat, other, value) for other, value in token.top]}
        for token in tokens
    ]


class StreamOptions(OpenAIBody):
    """What a stream carries besides text. Nothing is padded here, whatever `include_obfuscation` says."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[bool | None, NO_EFFECT] = None


class Streamed(OpenAIBody):
    """What is answered whole or as a stream."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def overridden(self) -> Iterable[str]:
        """The options, where there is no stream."""
        return ("stream_options",) if self.stream_options is not None and not self.stream else ()

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with token counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)
