"""What is kept of a conversation: small values that know nothing of SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from arriero.errors import ArrieroError
from arriero.messages import FinishReason, Message

TITLE_LENGTH = 60


class ChangedElsewhere(ArrieroError):
    """Another program changed or deleted the conversation since it was read."""


@dataclass(frozen=True, slots=True)
class SavedConversation:
    """A conversation without its messages. `id` is None until it is first saved; `length` counts its path's messages.

    `model` is what `--model` takes, `adapter` the adapter's directory where it is known, else its name. `system` is
    the system prompt that was set for this conversation, None where the model's or the adapter's own was used.
    """

    model: str
    adapter: str | None = None
    system: str | None = None
    title: str = ""
    id: int | None = None
    length: int = 0
    revision: int = 0
    changed: datetime = field(default_factory=datetime.now, kw_only=True)


@dataclass(frozen=True, slots=True)
class AnswerInfo:
    """What an answer took. What was not counted or did not come to pass is None.

    `model` is the name it was asked by; `seconds` go from the question to the end, `first_token_s` to the first text.
    """

    model: str
    finish_reason: FinishReason | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float | None = None
    first_token_s: float | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens per second after the first; None where they were not counted."""
        if self.completion_tokens is None or self.seconds is None or self.first_token_s is None:
            return None
        decoding = self.seconds - self.first_token_s
        return (self.completion_tokens - 1) / decoding if decoding > 0 and self.completion_tokens > 1 else None


@dataclass(frozen=True, slots=True)
class Node:
    """A message in its conversation's tree. `siblings` are the ids that follow the same parent, this one's included.

    `History.add` fills in `conversation`, which it may have begun.
    """

    id: int
    parent: int | None
    message: Message
    info: AnswerInfo | None = None
    siblings: tuple[int, ...] = ()
    conversation: int | None = None


def to_openai(message: Message) -> dict[str, Any]:
    """A message as OpenAI's JSON object, which `Message.of` reads again."""
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning_content is not None:
        fields["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        fields["tool_calls"] = [call.definition for call in message.tool_calls]
    if message.tool_call_id is not None:
        fields["tool_call_id"] = message.tool_call_id
    return fields


def title_of(messages: Sequence[Message]) -> str:
    """The beginning of the first question, on one line."""
    question = next((message.content for message in messages if message.role == "user"), "")
    line = " ".join(question.split())
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1].rstrip() + "…"
