"""Turns in OpenAI's, ShareGPT's and ms-swift's manner -> messages, with tools and calls of them.

    {"role": "assistant", "tool_calls": [{"id", "type", "function": {"name", "arguments"}}]}, {"role": "tool", …}
    {"from": "function_call", "value": '{"name", "arguments"}'}, {"from": "observation", "value"}    ShareGPT's
    {"role": "tool_call", "content": '{"name", "arguments"}'}, {"role": "tool_response", "content"}  ms-swift's

Arguments may be text or an object. A call without an id gets one, and a result without one belongs to the first call
that waits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from arriero.data.formats.meaning import LOSS, REASONING, is_trained, reasoning_of, refuse_other_parts
from arriero.data.records import Fault
from arriero.errors import UsageError
from arriero.messages import Message, Role, Tool, ToolCall

Speaker = Role | Literal["call"]
SPEAKERS: dict[str, Speaker] = {
    "human": "user", "user": "user",
    "gpt": "assistant", "assistant": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
    "system": "system", "developer": "system",
    "function_call": "call", "tool_call": "call",
    "observation": "tool", "tool": "tool", "tool_response": "tool", "function": "tool",
}  # fmt: skip
PAIRS = (("human", "assistant"), ("user", "assistant"), ("input", "output"))
FIELDS = frozenset(
    {"role", "from", "content", "value", "tool_calls", "tool_call_id", "function_call", *LOSS, *REASONING}
).union({"system"}, *PAIRS)


def messages_of(turns: Sequence[Any]) -> list[Message]:
    """Messages of a list of turns; calls that follow a turn of the assistant belong to it."""
    made: list[Message] = []
    waiting: list[str] = []  # ids of the calls whose results have not come
    calls = 0
    for turn in _one_by_one(turns):
        speaker, content = _spoken(turn)
        given = _calls(turn, speaker, content, calls)
        calls += len(given)
        waiting += [call.id for call in given]
        message = _message(turn, speaker, content, given)
        if speaker == "tool":
            call_id = turn.get("tool_call_id")
            message = replace(message, tool_call_id=call_id or (waiting[0] if waiting else None))
            waiting = [call for call in waiting if call != message.tool_call_id]
        if speaker == "call" and made and made[-1].role == "assistant" and made[-1].trained == message.trained:
            message = replace(made[-1], tool_calls=(*made.pop().tool_calls, *given))
        made.append(message)
    return made


def tools_of(record: Mapping[str, Any]) -> tuple[Tool, ...]:
    """The tools of a row: a list, or its JSON text, of OpenAI's objects or of bare functions."""
    listed = as_list(record.get("tools") or record.get("functions") or [], "tools")
    if not all(isinstance(tool, Mapping) for tool in listed):
        raise UsageError("the field tools must be a list of objects")
    return tuple(Tool.of(tool if "function" in tool else {"type": "function", "function": tool}) for tool in listed)


def as_list(value: Any, name: str) -> list[Any]:
    """A list, or one that a table holds as JSON text; raises UsageError naming the field."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _json(value, f"the field {name}")
    if not isinstance(value, list):
        raise UsageError(f"the field {name} must be a list, got {kind(value)}")
    return value


def kind(value: Any) -> str:
    """What a value is, in the words of people who write JSON."""
    kinds = {
        "list": "a list",
        "int": "a number",
        "float": "a number",
        "dict": "an object",
        "NoneType": "null",
        "bool": "true or false",
        "str": "text",
    }
    return kinds.get(type(value).__name__, type(value).__name__)


def _one_by_one(turns: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """The turns without null fields, which writers of tables fill in; question and answer in one object as two."""
    for turn in turns:
        if isinstance(turn, Fault):
            raise UsageError(turn.reason)
        if not isinstance(turn, Mapping):
            raise UsageError(f"a message must be an object with role and content, got {kind(turn)}")
        given = {key: value for key, value in turn.items() if value is not None}
        pair = next((pair for pair in PAIRS if all(name in given for name in pair)), None)
        if pair is None:
            yield given
            continue
        if given.get("system"):
            yield {"role": "system", "content": given["system"]}
        others = {name: value for name, value in given.items() if name not in pair}
        yield {"role": "user", "content": given[pair[0]]}
        yield {"role": "assistant", "content": given[pair[1]], **others}


def _spoken(turn: Mapping[str, Any]) -> tuple[Speaker, str]:
    """Who speaks, and the text; content in parts is joined."""
    name = turn.get("role", turn.get("from"))
    if not isinstance(name, str) or name not in SPEAKERS:
        raise UsageError(f"a turn must come from one of {', '.join(SPEAKERS)}, got {name!r}")
    refuse_other_parts(turn, name if name in ("user", "system") else "assistant")
    content = turn.get("content", turn.get("value", ""))
    if isinstance(content, list):
        content = "".join(map(_part, content))
    if not isinstance(content, str):
        if SPEAKERS[name] not in ("call", "tool"):
            raise UsageError(f"a message's content must be text, got {kind(content)}")
        content = json.dumps(content, ensure_ascii=False)
    return SPEAKERS[name], content


def _part(part: Any) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    what = part.get("type") if isinstance(part, Mapping) else kind(part)
    raise UsageError(f"a message's content must be text, got a part of the type {what}")


def _message(turn: Mapping[str, Any], speaker: Speaker, content: str, calls: tuple[ToolCall, ...]) -> Message:
    if speaker == "call":
        return Message("assistant", "", calls, None, is_trained(turn, "a turn"), reasoning_of(turn))
    if speaker == "assistant":
        return Message(speaker, content, calls, None, is_trained(turn, "a turn"), reasoning_of(turn))
    return Message(speaker, content, calls)


def _calls(turn: Mapping[str, Any], speaker: Speaker, content: str, number: int) -> tuple[ToolCall, ...]:
    """The calls that a turn makes; `number` counts those before it."""
    if speaker == "call":
        parsed = _json(content, "a call")
        listed = parsed if isinstance(parsed, list) else [parsed]
    elif legacy := turn.get("function_call"):
        listed = [legacy]
    else:
        listed = as_list(turn.get("tool_calls", []), "tool_calls")
    return tuple(_call(value, f"call_{number + index}") for index, value in enumerate(listed))


def _call(value: Any, fallback: str) -> ToolCall:
    function = value.get("function", value) if isinstance(value, Mapping) else value
    if not isinstance(function, Mapping):
        raise UsageError(f'a call must be an object {{"name": …, "arguments": …}}, got {kind(function)}')
    arguments = function.get("arguments", function.get("parameters", {}))
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    made = {"name": function.get("name"), "arguments": text}
    return ToolCall.of({"id": value.get("id") or fallback, "type": "function", "function": made})


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} is not JSON: {error}") from error
