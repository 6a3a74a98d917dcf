"""parse(): a record -> a conversation that ends with an answer, or a document."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from arriero.data.formats.meaning import LOSS, refuse_other_tasks, refuse_uncalled
from arriero.data.formats.names import FIELDS, renamed, shape_of
from arriero.data.formats.turns import FIELDS as TURN_FIELDS
from arriero.data.formats.turns import as_list, kind, messages_of, tools_of
from arriero.data.options import DataOptions, FormatName
from arriero.data.records import Fault
from arriero.errors import UsageError
from arriero.messages import Conversation, Message


def parse(record: Any, name: FormatName, options: DataOptions) -> Conversation:
    """A record of the format `name`, under whatever names its fields have, as a conversation."""
    if isinstance(record, Fault):
        raise UsageError(record.reason)
    if not isinstance(record, Mapping):
        raise UsageError(f"a row must be an object, got {kind(record)}")
    refuse_other_tasks(record)
    shape = shape_of(record, name)
    if shape is None and (other := shape_of(record)) is not None:
        raise UsageError(f"is in the {other.format} format, the data in {name}")
    fields = renamed(record, dict(shape.names)) if shape is not None else record
    if name == "text":
        return Conversation((), text=_text(fields, "text"))
    messages = tuple(_PARSERS[name](fields, options))
    if messages and messages[-1].role != "assistant":
        raise UsageError("ends with a question that has no answer")
    if messages and not any(message.trained for message in messages if message.role == "assistant"):
        raise UsageError("none of its answers is to be learnt (weight, train or loss)")
    tools = tools_of(fields)
    refuse_uncalled(tools, messages, record.get("tool_choice"))
    return Conversation(messages, tools)


def unused(record: Mapping[str, Any], name: FormatName) -> set[str]:
    """The fields of a record and its turns that are read over."""
    shape = shape_of(record, name)
    theirs = {column for _, column in shape.names} if shape is not None else set()
    left = record.keys() - theirs - set(FIELDS[name]) - set(LOSS) - {"tool_choice"}
    left = {column for column in left if record[column] is not None}
    turns: list[Any] = next((record[column] for column in theirs if isinstance(record.get(column), list)), [])
    inner = {key for turn in turns if isinstance(turn, Mapping) for key in turn if turn[key] is not None}
    return left | {f"{key} of a turn" for key in inner - TURN_FIELDS}


def _alpaca(record: Mapping[str, Any], options: DataOptions) -> list[Message]:
    instruction, answer = _text(record, "instruction"), _text(record, "output")
    more = _text(record, "input", optional=True)
    if not instruction.strip():
        raise UsageError("the instruction is empty")
    if not answer.strip():
        raise UsageError("the output is empty")
    messages = _system(record)
    for turn in as_list(record.get("history") or [], "history"):
        if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)):
            raise UsageError("history must be a list of [question, answer] pairs")
        messages += [Message("user", turn[0]), Message("assistant", turn[1])]
    between = "\n" if options.join_input == "newline" else ""
    question = f"{instruction}{between}{more}" if more else instruction
    return [*messages, Message("user", question), Message("assistant", answer)]


def _turns(name: str) -> Callable[[Mapping[str, Any], DataOptions], list[Message]]:
    def parser(record: Mapping[str, Any], _: DataOptions) -> list[Message]:
        messages, system = messages_of(as_list(record.get(name), name)), _system(record)
        if not system or messages[:1] == system:
            return messages
        if messages and messages[0].role == "system":
            raise UsageError(f"has two system prompts that differ: beside {name}, and in them")
        return [*system, *messages]

    return parser


def _prompt_completion(record: Mapping[str, Any], _: DataOptions) -> list[Message]:
    prompt, completion = record.get("prompt"), record.get("completion")
    if isinstance(prompt, list):
        turns = completion if isinstance(completion, list) else []
        answer = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else []
        return [*_system(record), *messages_of([*prompt, *turns, *answer])]
    answer_text = _text(record, "completion")
    if not answer_text.strip():
        raise UsageError("the completion is empty")
    return [*_system(record), Message("user", _text(record, "prompt")), Message("assistant", answer_text)]


_PARSERS: dict[FormatName, Callable[[Mapping[str, Any], DataOptions], list[Message]]] = {
    "alpaca": _alpaca,
    "messages": _turns("messages"),
    "sharegpt": _turns("conversations"),
    "prompt-completion": _prompt_completion,
}


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
        raise UsageError(f"the field {name} must be text, got {kind(value)}")
    return value
