"""LangChain's prompts, messages and tools as ours, and our answers as LangChain's."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolCallChunk,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.prompt_values import ChatPromptValue, PromptValue, StringPromptValue
from langchain_core.utils.function_calling import convert_to_openai_tool

from arriero.chat import Options, Reply
from arriero.errors import UsageError
from arriero.formatting import nearest
from arriero.messages import Message, NamedTool, Piece, Role, ToolCall, ToolChoice
from arriero.tools import ToolChoiceName, tool_choice_of

ROLES: Mapping[type[BaseMessage], Role] = {
    SystemMessage: "system",
    HumanMessage: "user",
    AIMessage: "assistant",
    ToolMessage: "tool",
}
REASONING = "reasoning_content"  # where LangChain's own models of DeepSeek and Ollama have it
CALLS = ("tool_call", "tool_call_chunk", "tool_use")  # parts of a content that say again what `tool_calls` says
ALIASES = {"model_name_or_path": "model", "max_tokens": "max_new_tokens"}
OF_SERVERS = ("api_key", "base_url", "max_retries", "timeout")  # what LangChain's models of remote servers take


def prompt_value(prompt: LanguageModelInput) -> PromptValue:
    """What `invoke` takes as LangChain's value of a prompt, which is text or messages as one needs it."""
    if isinstance(prompt, PromptValue):
        return prompt
    if isinstance(prompt, str):
        return StringPromptValue(text=prompt)
    return ChatPromptValue(messages=convert_to_messages(prompt))


def turns(messages: Iterable[BaseMessage]) -> list[Message]:
    """A conversation."""
    return list(map(_turn, messages))


def _turn(message: BaseMessage) -> Message:
    """One message; raises UsageError for kinds and contents the model cannot be given."""
    role = next((role for kind, role in ROLES.items() if isinstance(message, kind)), None)
    if role is None:
        raise UsageError(f"the model takes system, human, AI and tool messages, got a {type(message).__name__}")
    calls = _calls(message) if isinstance(message, AIMessage) else ()
    blocks = [message.content] if isinstance(message.content, str) else message.content
    texts = [{"type": "text", "text": block} if isinstance(block, str) else block for block in blocks]
    repeated = ("reasoning", *(CALLS if calls else ()))  # blocks of what other fields of the message carry
    texts = [block for block in texts if block.get("type") not in repeated]
    if others := [str(block.get("type")) for block in texts if block.get("type") != "text"]:
        raise UsageError(f"the model takes text, got content of type {', '.join(others)}")
    return Message(
        role,
        "".join(block["text"] for block in texts),
        calls,
        message.tool_call_id if isinstance(message, ToolMessage) else None,
        reasoning_content=message.additional_kwargs.get(REASONING) if role == "assistant" else None,
    )


def _calls(message: AIMessage) -> tuple[ToolCall, ...]:
    """The calls of tools, also those whose arguments are not JSON."""
    valid = [(call["id"], call["name"], json.dumps(call["args"], ensure_ascii=False)) for call in message.tool_calls]
    others = [(call["id"], call["name"], call["args"]) for call in message.invalid_tool_calls]
    return tuple(ToolCall(number or "", name or "", arguments or "") for number, name, arguments in valid + others)


def answer(reply: Reply, facts: Mapping[str, Any]) -> AIMessage:
    """A whole answer. Calls whose arguments are no JSON object, as where the answer was cut off, are invalid ones."""
    made = [(call, call.given) for call in reply.tool_calls]
    calls = [{"name": call.name, "args": given, "id": call.id} for call, given in made if isinstance(given, dict)]
    cut = [
        InvalidToolCall(name=call.name, args=given, id=call.id, error="no JSON object", type="invalid_tool_call")
        for call, given in made
        if isinstance(given, str)
    ]
    thought = {REASONING: reply.reasoning} if reply.reasoning else {}
    return AIMessage(reply.text, additional_kwargs=thought, tool_calls=calls, invalid_tool_calls=cut, **facts)


def answer_chunk(piece: Piece, facts: Mapping[str, Any]) -> AIMessageChunk:
    """A part of an answer; of a call, what has come of it since the last part."""
    calls = [
        ToolCallChunk(
            name=delta.name or None,
            args=delta.arguments,
            id=delta.id or None,
            index=delta.index,
            type="tool_call_chunk",
        )
        for delta in piece.call_deltas
    ]
    last: Literal["last"] | None = None if piece.finish_reason is None else "last"
    thought = {REASONING: piece.reasoning} if piece.reasoning else {}
    return AIMessageChunk(
        content=piece.text, additional_kwargs=thought, tool_call_chunks=calls, chunk_position=last, **facts
    )


def choice_of(value: str | bool | Mapping[str, Any] | None) -> ToolChoice:
    """LangChain's choice of tools: "any" or True demands a call, any other text names a tool."""
    if value in ("any", True):
        return "required"
    if value in (None, False):
        return "auto"
    if isinstance(value, str) and value not in get_args(ToolChoiceName):
        return NamedTool(value)
    return tool_choice_of(value)  # type: ignore[arg-type]


def chat_options(given: dict[str, Any]) -> Options:
    """Take what `Chat.stream` has besides messages and sampling, but log-probabilities, out of a call's arguments."""
    options = Options()
    if given.get("chat_template_kwargs"):
        options["chat_template_kwargs"] = given["chat_template_kwargs"]
    if given.get("tools"):
        options["tools"] = [convert_to_openai_tool(tool) for tool in given["tools"]]
        options["tool_choice"] = choice_of(given.get("tool_choice"))
    if given.get("parallel_tool_calls") is not None:
        options["parallel_tool_calls"] = given["parallel_tool_calls"]
    if (response_format := given.get("response_format")) is not None:
        match response_format:
            case {"type": "json_schema", "json_schema": {"schema": Mapping() as schema}}:
                options["schema"] = schema
            case {"type": "json_object"}:
                options["schema"] = {"type": "object"}
            case {"type": "text"}:
                pass
            case _:
                raise UsageError(
                    f"response_format must be OpenAI's json_schema or json_object, got {response_format!r}"
                )
    for name in ("tools", "tool_choice", "parallel_tool_calls", "response_format", "chat_template_kwargs"):
        given.pop(name, None)
    return options


def renamed(given: Mapping[str, Any], accepted: Collection[str]) -> dict[str, Any]:
    """`given` under our names; raises UsageError for a name that is not accepted, with the nearest that is."""
    named: dict[str, Any] = {}
    for name, value in given.items():
        own = ALIASES.get(name, name)
        if own not in accepted:
            names = [*accepted, *(alias for alias, meant in ALIASES.items() if meant in accepted)]
            near = nearest(name, names)
            hint = 'the model runs in this process; for a server\'s give the object base_url="http://…"'
            raise UsageError(
                f"unknown argument {name!r}" + (f"; did you mean {near!r}?" if near else ""),
                hint=hint if name in OF_SERVERS else "",
            )
        if own in named:
            raise UsageError(f"{own!r} is given twice, under two names")
        named[own] = value
    return named


def listed(stop: list[str] | str | None) -> Sequence[str]:
    """Stop strings as a list; a bare text is one."""
    return [stop] if isinstance(stop, str) else stop or ()
