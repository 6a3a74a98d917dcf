"""The items of a conversation: messages, calls of functions and what these brought, reasoning, references.

They come as the API's documentation has them, as its client's `model_dump()` writes them, or from the store.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, TypeAdapter
from pydantic_core import PydanticCustomError

from arriero.messages import Message, Role, ToolCall
from arriero.server.lenient import OpenAIBody
from arriero.server.routes.openai.messages import ROLE_ALIASES
from arriero.server.schemas import text_parts

Name = Annotated[str, Field(min_length=1)]
Status = Literal["in_progress", "completed", "incomplete"]
ITEMS = ("message", "function_call", "function_call_output", "reasoning", "item_reference")
PARTS = ("input_text", "output_text", "text", "refusal")


def allowed_types(what: str, *kinds: str) -> BeforeValidator:
    """A validator that refuses, by its name, what has a type that is not among `kinds`."""

    def check(value: object) -> object:
        kind = value.get("type") if isinstance(value, dict) else None
        if isinstance(kind, str) and kind not in kinds:
            raise PydanticCustomError(
                "unsupported", "{what} of the type {kind} is not supported", {"what": what, "kind": kind}
            )
        return value

    return BeforeValidator(check)


def _kind(value: object) -> object:
    """The type of an item; messages and references may come without."""
    if not isinstance(value, dict):
        return getattr(value, "type", None)
    kind = value.get("type")
    return kind if kind is not None else "item_reference" if "id" in value and "role" not in value else "message"


class TextPart(OpenAIBody):
    """Text; what an answer's part holds besides may come back with it."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class RefusalPart(OpenAIBody):
    """What a model said in place of an answer."""

    type: Literal["refusal"]
    refusal: str


Part = Annotated[Annotated[TextPart | RefusalPart, Field(discriminator="type")], allowed_types("content", *PARTS)]
Texts = Annotated[list[Part], BeforeValidator(text_parts("input_text"), json_schema_input_type=str | list[Part])]


class MessageItem(OpenAIBody):
    """One turn. Its texts are joined."""

    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: Texts
    id: Name | None = None
    status: Status | None = None

    def message(self) -> Message:
        """This turn as a Message."""
        role: Any = ROLE_ALIASES.get(self.role, self.role)
        return Message(role, _joined(self.content))

    def kept(self) -> dict[str, Any]:
        """This item as it is kept and listed, but for its id."""
        own: dict[str, Any] = {"type": "output_text", "annotations": []} if self.role == "assistant" else {}
        content = [{"type": "input_text", "text": _joined([part])} | own for part in self.content]
        return {"type": "message", "role": self.role, "content": content, "status": self.status or "completed"}


class CallItem(OpenAIBody):
    """A call that the model made; `arguments` is the text of a JSON object."""

    type: Literal["function_call"]
    call_id: Name
    name: Name
    arguments: str
    id: Name | None = None
    status: Status | None = None

    def message(self) -> Message:
        """This call as a turn."""
        return Message("assistant", "", (ToolCall(self.call_id, self.name, self.arguments or "{}"),))

    def kept(self) -> dict[str, Any]:
        """This item as it is kept and listed, but for its id."""
        call = {"type": self.type, "call_id": self.call_id, "name": self.name, "arguments": self.arguments}
        return {**call, "status": self.status or "completed"}


class ResultItem(OpenAIBody):
    """What a call brought."""

    type: Literal["function_call_output"]
    call_id: Name
    output: Texts
    id: Name | None = None
    status: Status | None = None

    def message(self) -> Message:
        """This result as a turn."""
        return Message("tool", _joined(self.output), tool_call_id=self.call_id)

    def kept(self) -> dict[str, Any]:
        """This item as it is kept and listed, but for its id."""
        result = {"type": self.type, "call_id": self.call_id, "output": _joined(self.output)}
        return {**result, "status": self.status or "completed"}


class ReasoningText(OpenAIBody):
    """What was thought."""

    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(OpenAIBody):
    """What a model thought before an earlier answer or call; many templates leave it out."""

    type: Literal["reasoning"]
    id: Name | None = None
    content: list[ReasoningText] | None = None

    def message(self) -> Message | None:
        """A turn that says nothing yet; none where the text is not there."""
        text = "".join(part.text for part in self.content or ())
        return Message("assistant", "", reasoning_content=text) if text else None

    def kept(self) -> dict[str, Any]:
        """This item as it is kept and listed, but for its id."""
        content = [part.model_dump() for part in self.content or ()]
        return {"type": self.type, "summary": [], **({"content": content} if content else {})}


class ReferenceItem(OpenAIBody):
    """An item of a kept response."""

    type: Literal["item_reference"] | None = None
    id: Name


Item = MessageItem | CallItem | ResultItem | ReasoningItem
InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[ResultItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[ReferenceItem, Tag("item_reference")],
    Discriminator(_kind),
    allowed_types("an item", *ITEMS),
]
PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
_stored_items: TypeAdapter[list[Item]] = TypeAdapter(list[Item])


def from_stored(kept: Iterable[dict[str, Any]]) -> list[Item]:
    """Items from what was kept of them, or from a response's output."""
    return _stored_items.validate_python(list(kept))


def new_id(kind: str) -> str:
    """An id for an item of that type."""
    return f"{PREFIXES[kind]}_{secrets.token_hex(12)}"


def kept(items: Iterable[Item]) -> list[dict[str, Any]]:
    """The items as they are kept and listed, each with an id that no other has."""
    by_id: dict[str, dict[str, Any]] = {}
    for item in items:
        fields = item.kept()
        identity = item.id if item.id is not None and item.id not in by_id else new_id(fields["type"])
        by_id[identity] = {"id": identity, **fields}
    return list(by_id.values())


def to_messages(items: Iterable[Item]) -> list[Message]:
    """The items as turns: calls in a row, and text and reasoning beside them, are one turn of the assistant's."""
    merged: list[Message] = []
    for message in filter(None, (item.message() for item in items)):
        last = merged[-1] if merged else None
        # The API has an item for each thought, text and call; templates know one turn that thinks, speaks and calls.
        both: tuple[Role, ...] = (last.role, message.role) if last is not None else ()
        bare = last is not None and last.reasoning_content is not None and not (last.content or last.tool_calls)
        calls = last is not None and (last.tool_calls or message.tool_calls)
        if last is not None and both == ("assistant", "assistant") and (calls or bare):
            text = "\n".join(filter(None, (last.content, message.content)))
            thought = "\n".join(filter(None, (last.reasoning_content, message.reasoning_content))) or None
            merged[-1] = replace(
                last, content=text, tool_calls=last.tool_calls + message.tool_calls, reasoning_content=thought
            )
        else:
            merged.append(message)
    return [turn for turn in merged if turn.content or turn.tool_calls or turn.reasoning_content is None]


def _joined(content: Sequence[TextPart | RefusalPart]) -> str:
    return "".join(part.refusal if isinstance(part, RefusalPart) else part.text for part in content)
