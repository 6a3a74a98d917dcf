"""The request: a conversation, what may follow it, and what is only taken."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from arriero.chat import PromptOptions
from arriero.constraint import JsonSchema
from arriero.messages import NamedTool, Tool, ToolChoice
from arriero.server.errors import RequestError, at
from arriero.server.lenient import NO_EFFECT, OpenAIBody, Unsupported
from arriero.server.routes.openai.messages import ObjectFormat, TextFormat
from arriero.server.routes.openai.responses.items import InputItem, MessageItem, allowed_types
from arriero.server.routes.openai.schemas import SamplingBody
from arriero.server.schemas import Schema, Whole
from arriero.tools import NO_PARAMETERS, ToolChoiceName

LOGPROBS = "message.output_text.logprobs"


class FunctionTool(OpenAIBody):
    """A function that may be called. `strict` changes nothing: a call that must be made always fits its schema."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None

    def tool(self) -> Tool:
        """This tool in our words."""
        return Tool(self.name, self.description or "", NO_PARAMETERS if self.parameters is None else self.parameters)


class NamedFunction(OpenAIBody):
    """The choice of one function that must be called."""

    type: Literal["function"]
    name: str


class AllowedTools(OpenAIBody):
    """The choice of those of the tools that may be called, or of which one must be."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunction], Field(min_length=1)]


class NamedSchema(OpenAIBody):
    """JSON that fits a schema. `name` and `description` have no effect, `strict` is always so."""

    type: Literal["json_schema"]
    name: str
    schema_: Annotated[Schema, Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class TextBody(OpenAIBody):
    """The form of the answer. `verbosity` has no effect."""

    format: Annotated[TextFormat | ObjectFormat | NamedSchema, Field(discriminator="type")] | None = None
    verbosity: Annotated[str | None, NO_EFFECT] = None


ToolBody = Annotated[FunctionTool, allowed_types("a tool", "function")]
ToolChoiceBody = Annotated[
    ToolChoiceName | Annotated[NamedFunction | AllowedTools, Field(discriminator="type")],
    allowed_types("a choice", "function", "allowed_tools"),
]


class ResponseRequest(SamplingBody):
    """The body of `POST /v1/responses`. null counts as absent."""

    model: str | None = None
    input: str | Annotated[list[InputItem], Field(min_length=1)] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    max_output_tokens: Annotated[Whole, Field(ge=1)] | None = None
    tools: list[ToolBody] | None = None
    tool_choice: ToolChoiceBody | None = None
    parallel_tool_calls: bool | None = None
    text: TextBody | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    # Sent back as they came, and without effect otherwise.
    metadata: dict[str, str] | None = None
    reasoning: Annotated[Schema | None, NO_EFFECT] = None
    max_tool_calls: Annotated[Whole | None, NO_EFFECT] = None
    prompt_cache_key: Annotated[str | None, NO_EFFECT] = None
    safety_identifier: Annotated[str | None, NO_EFFECT] = None
    # Taken; with "auto" a prompt that does not fit is refused, too.
    truncation: Annotated[Literal["auto", "disabled"] | None, NO_EFFECT] = None
    service_tier: Annotated[str | None, NO_EFFECT] = None
    stream_options: Annotated[Schema | None, NO_EFFECT] = None
    background: Unsupported = None
    conversation: Unsupported = None
    prompt: Unsupported = None
    moderation: Unsupported = None

    def items(self) -> list[Any]:
        """The new items, references among them; RequestError where there are none and no previous response."""
        if self.input is None and self.previous_response_id is None:
            raise RequestError("the field input is missing", param="input")
        if isinstance(self.input, str):
            return [MessageItem.model_validate({"role": "user", "content": self.input})]
        return list(self.input or ())

    def alternatives(self) -> int | None:
        """How many alternatives for each token, None without log-probabilities."""
        return (self.top_logprobs or 0) if self.top_logprobs or LOGPROBS in (self.include or ()) else None

    def prompt_options(self) -> PromptOptions:
        """The options of `Chat.render`; RequestError names the field that is wrong."""
        tools = self.tools or []
        choice: ToolChoice = "auto"
        match self.tool_choice:
            case AllowedTools(mode=mode, tools=allowed):
                names = {tool.name for tool in allowed}
                if unknown := sorted(names - {tool.name for tool in tools}):
                    raise RequestError(f"there is no tool {unknown[0]!r}", param="tool_choice.tools")
                tools, choice = [tool for tool in tools if tool.name in names], mode
            case NamedFunction(name=name):
                choice = NamedTool(name)
            case str(word):
                choice = word
        with at("tools"):
            prompt_options: PromptOptions = {"tools": [tool.tool() for tool in tools], "tool_choice": choice}
        schema = self.answer_schema()
        return {**prompt_options, "schema": schema, "parallel_tool_calls": self.parallel_tool_calls is not False}

    def answer_schema(self) -> Schema | None:
        """The JSON schema that the answer fits, None for free text."""
        match self.text.format if self.text is not None else None:
            case ObjectFormat():
                return {"type": "object"}
            case NamedSchema(schema_=schema):
                with at("text.format.schema"):
                    return dict(JsonSchema(schema).schema)
        return None
