"""Records -> conversations, in the four formats people have.

    alpaca              {"instruction", "input", "output", "system"?, "history"?: [[question, answer], …]}
    messages            {"messages": [{"role", "content"}, …]}                                   OpenAI's
    sharegpt            {"conversations": [{"from": "human" | "gpt" | "system", "value"}, …], "system"?}
    prompt-completion   {"prompt", "completion", "system"?}

alpaca is Stanford's, with LLaMA-Factory's `system` and `history`. A record that cannot be used raises UsageError with
the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from arriero.data.options import DataOptions, FormatName
from arriero.data.records import Fault
from arriero.errors import UsageError
from arriero.messages import Conversation, Message, Role

KEYS: dict[FormatName, tuple[str, ...]] = {
    "alpaca": ("instruction", "output"),
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt-completion": ("prompt", "completion"),
}
FIELDS: dict[FormatName, tuple[str, ...]] = {
    "alpaca": ("instruction", "input", "output", "system", "history"),
    "messages": ("messages",),
    "sharegpt": ("conversations", "system"),
    "prompt-completion": ("prompt", "completion", "system"),
}
SPEAKERS: dict[str, Role] = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
}  # fmt: skip


def detect(records: Sequence[Any]) -> FormatName | None:
    """The format most of the records are in; None when they are in none."""
    found = Counter(name for record in records for name in KEYS if _has(record, name))
    return found.most_common(1)[0][0] if found else None


def parse(record: Any, name: FormatName, options: DataOptions) -> Conversation:
    """A record as a conversation that ends with an answer."""
    if isinstance(record, Fault):
        raise UsageError(record.reason)
    if not isinstance(record, Mapping):
        raise UsageError(f"a row must be an object, got {_kind(record)}")
    if not _has(record, name):
        other = next((other for other in KEYS if _has(record, other)), None)
        if other is not None:
            raise UsageError(f"is in the {other} format, the data in {name}")
    messages = tuple(_PARSERS[name](record, options))
    if messages and messages[-1].role != "assistant":
        raise UsageError("ends with a question that has no answer")
    return Conversation(messages)


def _alpaca(record: Mapping[str, Any], options: DataOptions) -> list[Message]:
    instruction, answer = _text(record, "instruction"), _text(record, "output")
    more = _text(record, "input", optional=True)
    if not instruction.strip():
        raise UsageError("the instruction is empty")
    if not answer.strip():
        raise UsageError("the output is empty")
    messages = _system(record)
    for turn in _list(record, "history", optional=True):
        if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(part, str) for part in turn)):
            raise UsageError("history must be a list of [question, answer] pairs")
        messages += [Message("user", turn[0]), Message("assistant", turn[1])]
    between = "\n" if options.join_input == "newline" else ""
    question = f"{instruction}{between}{more}" if more else instruction
    return [*messages, Message("user", question), Message("assistant", answer)]


def _openai(record: Mapping[str, Any], _: DataOptions) -> list[Message]:
    messages = []
    for turn in _list(record, "messages"):
        # writers of tables fill the fields that a turn lacks with null
        given = {key: value for key, value in turn.items() if value is not None} if isinstance(turn, Mapping) else turn
        messages.append(_fault_free(given))
    return messages


def _fault_free(turn: Any) -> Message:
    if isinstance(turn, Fault):
        raise UsageError(turn.reason)
    message = Message.of(turn)
    if message.tool_calls or message.role == "tool":
        raise UsageError("holds tool calls, which cannot be trained on")
    return message


def _sharegpt(record: Mapping[str, Any], _: DataOptions) -> list[Message]:
    messages = _system(record)
    for turn in _list(record, "conversations"):
        if isinstance(turn, Fault):
            raise UsageError(turn.reason)
        if not isinstance(turn, Mapping) or not isinstance(turn.get("value"), str):
            raise UsageError('a turn must be an object {"from": …, "value": text}')
        speaker = turn.get("from")
        if not isinstance(speaker, str) or speaker not in SPEAKERS:
            raise UsageError(f"a turn must come from one of {', '.join(SPEAKERS)}, got {speaker!r}")
        messages.append(Message(SPEAKERS[speaker], turn["value"]))
    return messages


def _prompt_completion(record: Mapping[str, Any], _: DataOptions) -> list[Message]:
    completion = _text(record, "completion")
    if not completion.strip():
        raise UsageError("the completion is empty")
    return [*_system(record), Message("user", _text(record, "prompt")), Message("assistant", completion)]


_PARSERS: dict[FormatName, Callable[[Mapping[str, Any], DataOptions], list[Message]]] = {
    "alpaca": _alpaca,
    "messages": _openai,
    "sharegpt": _sharegpt,
    "prompt-completion": _prompt_completion,
}


def _has(record: Any, name: FormatName) -> bool:
    return isinstance(record, Mapping) and all(key in record for key in KEYS[name])


def _system(record: Mapping[str, Any]) -> list[Message]:
    text = _text(record, "system", optional=True)
    return [Message("system", text)] if text else []


def _text(record: Mapping[str, Any], name: str, *, optional: bool = False) -> str:
    """A text field; an optional one that is missing or null counts as empty."""
    value = record.get(name)
    if value is None and optional:
        return ""
    if value is None:
        raise UsageError(f"the field {name} is missing")
    if not isinstance(value, str):
        raise UsageError(f"the field {name} must be text, got {_kind(value)}")
    return value


def _list(record: Mapping[str, Any], name: str, *, optional: bool = False) -> list[Any]:
    value = record.get(name)
    if value is None and optional:
        return []
    if not isinstance(value, list):
        raise UsageError(f"the field {name} must be a list, got {_kind(value)}")
    return value


def _kind(value: Any) -> str:
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
