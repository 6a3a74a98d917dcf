"""What Anthropic's clients send: turns of blocks, tools, a system prompt beside them; and what that is in our words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from arriero.chat import Chat, PromptOptions
from arriero.messages import Message, NamedTool, Sampling, Tool, ToolCall, ToolChoice
from arriero.server.errors import NO_THREADS, RequestError, at
from arriero.server.lenient import NO_EFFECT, LenientBody, Stops, Unsupported
from arriero.server.routes.thinking import with_thinking
from arriero.server.schemas import Schema, Temperature, TopP, Whole, text_parts


class TextBlock(LenientBody):
    """Text."""

    type: Literal["text"]
    text: str


Texts = Annotated[list[TextBlock], BeforeValidator(text_parts("text"), json_schema_input_type=str | list[TextBlock])]


class ToolUseBlock(LenientBody):
    """A call that the model made; `input` holds its arguments."""

    type: Literal["tool_use"]
    id: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)]
    input: dict[str, Any]

    def call(self) -> ToolCall:
        """This call in our words."""
        return ToolCall(self.id, self.name, json.dumps(self.input, ensure_ascii=False))


class ToolResultBlock(LenientBody):
    """What a call brought. Chat templates have no place for `is_error`, so the text says it."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Texts | None = None
    is_error: bool | None = None

    def message(self) -> Message:
        """This result as a turn of its own."""
        text = _text(self.content or ())
        return Message("tool", f"Error: {text}" if self.is_error else text, tool_call_id=self.tool_use_id)


class ThinkingBlock(LenientBody):
    """What a model thought before an earlier answer; many templates leave it out. Nobody here signs it."""

    type: Literal["thinking", "redacted_thinking"]
    thinking: str | None = None
    signature: str | None = None


Block = Annotated[TextBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock, Field(discriminator="type")]


class Turn(LenientBody):
    """One turn. Its texts are joined, on lines of their own."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[list[Block], BeforeValidator(text_parts("text"), json_schema_input_type=str | list[Block])]

    def messages(self) -> list[Message]:
        """This turn in our words: the results of tools come first, as turns of their own."""
        results = [block.message() for block in self.content if isinstance(block, ToolResultBlock)]
        calls = tuple(block.call() for block in self.content if isinstance(block, ToolUseBlock))
        text = _text([block for block in self.content if isinstance(block, TextBlock)])
        thoughts = [block.thinking for block in self.content if isinstance(block, ThinkingBlock) and block.thinking]
        reasoning = "\n".join(thoughts) if self.role == "assistant" and thoughts else None
        turn = Message(self.role, text, calls, reasoning_content=reasoning)
        return [*results, turn] if text or calls or not results else results


class ToolBody(LenientBody):
    """A tool of the client's own; those that Anthropic's servers run have other types and are refused."""

    type: Literal["custom"] | None = None
    name: str
    description: str | None = None
    input_schema: Schema


class ToolChoiceBody(LenientBody):
    """Whether a tool is called, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    def choice(self) -> ToolChoice:
        """The choice in our words; RequestError where the name is missing."""
        match self.type:
            case "tool" if self.name is None:
                raise RequestError("the field tool_choice.name is missing", param="tool_choice.name")
            case "tool":
                return NamedTool(str(self.name))
            case "any":
                return "required"
            case chosen:
                return chosen


class ThinkingBody(LenientBody):
    """Whether to think before the answer, and at most how many tokens; "adaptive" leaves it to the model."""

    type: str
    budget_tokens: Annotated[Whole, Field(ge=0)] | None = None
    display: Annotated[str | None, NO_EFFECT] = None


class OutputFormat(LenientBody):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    schema_: Annotated[Schema, Field(alias="schema")]


class OutputConfig(LenientBody):
    """The form of the answer."""

    format: OutputFormat | None = None


class ConversationBody(LenientBody):
    """A conversation and what may follow it: the body of `POST /v1/messages/count_tokens`. null counts as absent."""

    model: str
    messages: Annotated[list[Turn], Field(min_length=1)]
    system: Texts | None = None
    tools: list[ToolBody] | None = None
    tool_choice: ToolChoiceBody | None = None
    thinking: ThinkingBody | None = None
    output_config: OutputConfig | None = None
    output_format: Unsupported = None
    container: Unsupported = None
    mcp_servers: Unsupported = None
    thread: Schema | None = None

    def conversation(self) -> list[Message]:
        """The turns, the system prompt first."""
        system = [] if self.system is None else [Message("system", _text(self.system))]
        return [*system, *(message for turn in self.messages for message in turn.messages())]

    def check(self) -> None:
        """RequestError for what would change the answer and is not supported."""
        if self.thread:
            raise RequestError("conversations are not kept here", param="thread", code=NO_THREADS)

    def prompt_options(self) -> PromptOptions:
        """The options of `Chat.render`; RequestError names the field that is wrong."""
        self.check()
        output = self.output_config.format if self.output_config is not None else None
        with at("tools"):
            tools = [Tool(tool.name, tool.description or "", tool.input_schema) for tool in self.tools or ()]
        choice = self.tool_choice.choice() if self.tool_choice is not None else "auto"
        return {"tools": tools, "tool_choice": choice, "schema": output.schema_ if output is not None else None}

    def prompt_and_sampling(self, chat: Chat, sampling: Sampling) -> tuple[PromptOptions, Sampling]:
        """`prompt_options` and sampling for a model, with what is said of thinking."""
        thinking = self.thinking or ThinkingBody(type="adaptive")
        enabled = {"enabled": True, "disabled": False}.get(thinking.type)
        return with_thinking(
            chat, self.prompt_options(), sampling, enabled, param="thinking", limit=thinking.budget_tokens
        )


class MessagesRequest(ConversationBody):
    """The body of `POST /v1/messages`. null counts as absent."""

    max_tokens: Annotated[Whole, Field(ge=1)] | None = None
    stop_sequences: Stops | None = None
    stream: bool | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: Annotated[Whole, Field(ge=0)] | None = None

    def sampling(self) -> Sampling:
        """How to choose tokens."""
        return Sampling(
            max_new_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=tuple(self.stop_sequences or ()),
        )

    def calls_taken(self, calls: Sequence[ToolCall], made: int) -> Iterator[ToolCall]:
        """Those of `calls` that the client takes after `made` others: all, or only the first of an answer."""
        single = self.tool_choice is not None and self.tool_choice.disable_parallel_tool_use
        yield from calls[: max(0, 1 - made)] if single else calls


def _text(blocks: Sequence[TextBlock]) -> str:
    return "\n".join(block.text for block in blocks)
