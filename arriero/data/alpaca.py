"""Alpaca-style instruction files: a JSON array of objects.

    instruction   what the user asks (text, required)
    input         what the instruction is about; joined to it by a newline when not empty
    output        the answer (text, required)
    system        a system prompt of this row's own
    history       earlier turns, [[question, answer], …]

A file that cannot be read at all is a DataError; a row that cannot be used is dropped and listed with its reason.
The format comes from the Stanford Alpaca project; `system` and `history` are LLaMA-Factory's additions.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arriero.errors import DataError, NotFoundError, UsageError
from arriero.messages import Conversation, Message

FIELDS = ("instruction", "input", "output", "system", "history")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Example:
    """A usable row: its 0-based index in the file and the conversation it holds, which ends with the answer."""

    row: int
    conversation: Conversation


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that was left out, and why."""

    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a file held."""

    examples: tuple[Example, ...]
    dropped: tuple[Dropped, ...]


def load(file: Path) -> Loaded:
    """Read a file; raises NotFoundError where it is missing and DataError where it has no usable row."""
    examples, dropped, ignored = [], [], set()
    for row, record in enumerate(_records(file)):
        try:
            examples.append(Example(row, _conversation(record)))
            ignored |= set(record) - set(FIELDS)
        except UsageError as error:
            dropped.append(Dropped(row, error.message))
    if not examples:
        reason = f"none of its {len(dropped)} rows can be used"
        if dropped:
            reason += f"; the first: row {dropped[0].row}: {dropped[0].reason}"
        raise DataError(file, reason, hint='expected rows like {"instruction": …, "input": "", "output": …}')
    if ignored:
        log.warning("%s: fields that are not used: %s", file.name, ", ".join(sorted(ignored)))
    return Loaded(tuple(examples), tuple(dropped))


def _records(file: Path) -> list[Any]:
    if not file.is_file():
        raise NotFoundError(f"no file {file}", hint="give the path of a JSON file of instruction/output rows")
    try:
        document = json.loads(file.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(file, f"is not UTF-8 text (byte {error.start})", hint="save it as UTF-8") from error
    except json.JSONDecodeError as error:
        reason = f"is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        raise DataError(file, reason, hint="was the file cut off while copying?") from error
    except RecursionError as error:
        raise DataError(file, "is nested too deeply to be a list of rows") from error
    if not isinstance(document, list):
        raise DataError(file, f"must be a JSON array of rows, got {type(document).__name__}")
    return document


def _conversation(record: Any) -> Conversation:
    """One row as a conversation; raises UsageError with the reason it cannot be used."""
    if not isinstance(record, Mapping):
        raise UsageError(f"a row must be an object, got {type(record).__name__}")
    text = {name: _text(record, name) for name in ("instruction", "input", "output", "system")}
    question = "\n".join(part for part in (text["instruction"], text["input"]) if part)
    messages = [Message("system", text["system"])] if text["system"] else []
    for turn in record.get("history") or ():
        if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(part, str) for part in turn)):
            raise UsageError("history must be a list of [question, answer] pairs")
        messages += [Message("user", turn[0]), Message("assistant", turn[1])]
    if not text["instruction"].strip():
        raise UsageError("the instruction is empty")
    if not text["output"].strip():
        raise UsageError("the output is empty")
    return Conversation((*messages, Message("user", question), Message("assistant", text["output"])))


def _text(record: Mapping[str, Any], name: str) -> str:
    """A text field; a missing or null optional one counts as empty."""
    value = record.get(name)
    if value is None and name in ("input", "system"):
        return ""
    if value is None:
        raise UsageError(f"the field {name} is missing")
    if not isinstance(value, str):
        raise UsageError(f"the field {name} must be text, got {type(value).__name__}")
    return value
