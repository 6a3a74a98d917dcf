"""A conversation and what may follow it, in OpenAI's words: messages, tools, the form of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol

from pydantic import BeforeValidator, Field

from arriero.chat import Form
from arriero.constraint import JsonSchema
from arriero.messages import Message, Tool
from arriero.server.body import RequestBody, Schema, parts
from arriero.server.errors import RequestError, at
from arriero.tools import ToolCall

OWN_ROLES = {"developer": "system"}


class TextPart(RequestBody):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


Content = Annotated[list[TextPart], BeforeValidator(parts("text"), json_schema_input_type=str | list[TextPart])]


class CalledFunction(RequestBody):
    """Which function is called; `arguments` is the text of a JSON object."""

    name: str
    arguments: str


class CallBody(RequestBody):
    """A call of a tool that the model made."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None  # as in the chunks of a stream; without effect


class ChatMessage(RequestBody):
    """One turn; the parts of its content are joined.

    "developer" is the newer word for "system". `name` has no effect: chat templates have no place for it. What an
    answer's message holds besides may come back only empty.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: str | None = None
    tool_calls: list[CallBody] | None = None
    tool_call_id: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    def message(self) -> Message:
        """This turn as a Message."""
        if self.content is None and self.role != "assistant":
            raise RequestError("the content is missing", param="content")
        calls = [ToolCall.of(call.model_dump(exclude={"index"})) for call in self.tool_calls or ()]
        text = "".join(part.text for part in self.content or ())
        role: Any = OWN_ROLES.get(self.role, self.role)
        return Message(role, text, tuple(calls), self.tool_call_id)


class FunctionBody(RequestBody):
    """A function that may be called. `strict` changes nothing: a call that must be made always fits its schema."""

    name: str
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class ToolBody(RequestBody):
    """A tool; functions are the only ones."""

    type: Literal["function"]
    function: FunctionBody


class NamedFunction(RequestBody):
    """The name of a function."""

    name: str


class NamedToolBody(RequestBody):
    """The choice of one tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class SchemaBody(RequestBody):
    """A JSON schema that the answer fits. `name` and `description` have no effect, `strict` is always so."""

    name: str
    description: str | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextFormat(RequestBody):
    """Free text."""

    type: Literal["text"]


class ObjectFormat(RequestBody):
    """Any JSON object."""

    type: Literal["json_object"]


class SchemaFormat(RequestBody):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: SchemaBody


Turns = Annotated[list[ChatMessage], Field(min_length=1)]


class Turn(Protocol):
    """A turn of any endpoint."""

    def message(self) -> Message:
        """This turn as a Message; UsageError where it cannot be one."""


def conversation(turns: Sequence[Turn], field: str = "messages", *, system: str | None = None) -> list[Message]:
    """The messages, checked one by one, after a system prompt; RequestError names the one in `field` that is wrong."""
    found = [] if system is None else [Message("system", system)]
    for number, turn in enumerate(turns):
        with at(f"{field}[{number}]"):
            found.append(turn.message())
    return found


class Asked(RequestBody):
    """The tools that may be called, the form of the answer, and what the prompt ends with (`Chat.stream` says how)."""

    tools: list[ToolBody] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolBody | None = None
    response_format: Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")] | None = None
    parallel_tool_calls: bool | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None

    def form(self) -> Form:
        """What `Chat.render` is asked for besides; RequestError names the field that is wrong."""
        found: Form = {
            "continue_final_message": self.continue_final_message,
            "add_generation_prompt": self.add_generation_prompt,
        }
        with at("tools"):
            found["tools"] = [Tool.of(tool.model_dump(exclude_none=True)) for tool in self.tools or ()]
        chosen = self.tool_choice or "auto"
        found["tool_choice"] = chosen if isinstance(chosen, str) else chosen.model_dump()
        if self.parallel_tool_calls is False:
            found["parallel_tool_calls"] = False
        match self.response_format:
            case SchemaFormat(json_schema=wanted) if wanted.schema_ is not None:
                with at("response_format.json_schema.schema"):
                    found["schema"] = JsonSchema(wanted.schema_).schema
            case ObjectFormat() | SchemaFormat():
                found["schema"] = {"type": "object"}
        return found
