"""A conversation and what may follow it: messages, tools, tool_choice, response_format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol

from pydantic import AliasChoices, BeforeValidator, Field

from arriero.chat import PromptOptions
from arriero.constraint import JsonSchema
from arriero.messages import Message, Tool
from arriero.server.errors import RequestError, at
from arriero.server.lenient import NO_EFFECT, Ignored, NullOnly, OpenAIBody, RefusedUnless, Unsupported
from arriero.server.schemas import Schema, Whole, text_parts
from arriero.tools import NO_PARAMETERS, ToolCall, ToolChoiceName

ROLE_ALIASES = {"developer": "system"}


class TextPart(OpenAIBody):
    """A part of a message's content; a refusal, as which an answer may come, says its text as `refusal`."""

    type: Literal["text", "refusal"]
    text: Annotated[str, Field(validation_alias=AliasChoices("text", "refusal"))]


Content = Annotated[list[TextPart], BeforeValidator(text_parts("text"), json_schema_input_type=str | list[TextPart])]


class FunctionCall(OpenAIBody):
    """Which function is called; `arguments` is the text of a JSON object."""

    name: str
    arguments: str


class ToolCallBody(OpenAIBody):
    """A call of a tool that the model made."""

    id: str
    type: Literal["function"] | None = None
    function: FunctionCall
    index: Annotated[Whole | None, NO_EFFECT] = None  # as in the chunks of a stream

    def call(self) -> ToolCall:
        """This call in our words."""
        function = {"name": self.function.name, "arguments": self.function.arguments}
        return ToolCall.of({"id": self.id, "function": function})


class ChatMessage(OpenAIBody):
    """One turn; the parts of its content are joined.

    "developer" is the newer word for "system", `reasoning` another one for `reasoning_content`. Chat templates have no
    place for `name`. A `refusal` is what the assistant said where it said nothing else.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    tool_calls: list[ToolCallBody] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    annotations: Ignored = None
    name: Annotated[str | None, NO_EFFECT] = None
    audio: NullOnly = None
    function_call: NullOnly = None

    def message(self) -> Message:
        """This turn as a Message."""
        if self.content is None and self.role != "assistant":
            raise RequestError("the content is missing", param="content")
        calls = [call.call() for call in self.tool_calls or ()]
        text = "".join(part.text for part in self.content or ()) or self.refusal or ""
        role: Any = ROLE_ALIASES.get(self.role, self.role)
        reasoning = self.reasoning if self.reasoning_content is None else self.reasoning_content
        reasoning = reasoning if role == "assistant" else None
        return Message(role, text, tuple(calls), self.tool_call_id, reasoning_content=reasoning)


class FunctionBody(OpenAIBody):
    """A function that may be called. `strict` changes nothing: a call that must be made always fits its schema."""

    name: str
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class ToolBody(OpenAIBody):
    """A tool; functions are the only ones."""

    type: Literal["function"]
    function: FunctionBody

    def tool(self) -> Tool:
        """This tool in our words."""
        parameters = NO_PARAMETERS if self.function.parameters is None else self.function.parameters
        return Tool(self.function.name, self.function.description or "", parameters)


class NamedFunction(OpenAIBody):
    """The name of a function."""

    name: str


class NamedToolBody(OpenAIBody):
    """The choice of one tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class SchemaBody(OpenAIBody):
    """A JSON schema that the answer fits. `name` and `description` have no effect, `strict` is always so."""

    name: str
    description: str | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextFormat(OpenAIBody):
    """Free text."""

    type: Literal["text"]


class ObjectFormat(OpenAIBody):
    """Any JSON object."""

    type: Literal["json_object"]


class SchemaFormat(OpenAIBody):
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
    messages = [] if system is None else [Message("system", system)]
    for number, turn in enumerate(turns):
        with at(f"{field}[{number}]"):
            messages.append(turn.message())
    return messages


class PromptBody(OpenAIBody):
    """What shapes the prompt besides its messages: tools, response format, how it ends (`Chat.stream` says how)."""

    tools: list[ToolBody] | None = None
    tool_choice: ToolChoiceName | NamedToolBody | None = None
    response_format: Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")] | None = None
    parallel_tool_calls: bool | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: Schema | None = None
    chat_template: Unsupported = None
    documents: Unsupported = None
    function_call: Annotated[Any, RefusedUnless(("none", "auto"))] = None
    functions: Unsupported = None

    def prompt_options(self) -> PromptOptions:
        """The options of `Chat.render`; RequestError names the field that is wrong."""
        options: PromptOptions = {
            "continue_final_message": self.continue_final_message,
            "add_generation_prompt": self.add_generation_prompt,
            "chat_template_kwargs": self.chat_template_kwargs,
        }
        with at("tools"):
            options["tools"] = [tool.tool() for tool in self.tools or ()]
        choice = self.tool_choice or "auto"
        options["tool_choice"] = choice if isinstance(choice, str) else choice.model_dump()
        if self.parallel_tool_calls is False:
            options["parallel_tool_calls"] = False
        match self.response_format:
            case SchemaFormat(json_schema=body) if body.schema_ is not None:
                with at("response_format.json_schema.schema"):
                    options["schema"] = JsonSchema(body.schema_).schema
            case ObjectFormat() | SchemaFormat():
                options["schema"] = {"type": "object"}
        return options
