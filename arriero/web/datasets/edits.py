"""A record's texts, and saving a file in which some rows differ and all others are what they were."""

from __future__ import annotations

import copy
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arriero.data import DataOptions
from arriero.data.formats import FIELDS, KNOWN, parse, shape_of
from arriero.data.options import FormatName
from arriero.data.records import Fault, read
from arriero.errors import ArrieroError, DataError, UsageError

Inside = tuple[str | int, ...]  # of a text inside a record
NEEDED: Mapping[str, Sequence[str]] = {  # of a record without any of the names that are known
    "alpaca": ("instruction", "output"),
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt-completion": ("prompt", "completion"),
}
EMPTY: Mapping[str, Any] = {
    "messages": {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]},
    "sharegpt": {"conversations": [{"from": "human", "value": ""}, {"from": "gpt", "value": ""}]},
}


@dataclass(frozen=True, slots=True)
class Text:
    """A text that can be edited: where it stands in the record, and in words ("output", "messages 2, assistant")."""

    path: Inside
    label: str
    value: str


@dataclass(frozen=True, slots=True)
class Edit:
    """A row's `record` instead of the `original` one, None to leave the row out; `original` is as Row has it."""

    original: Any
    record: Any


Edits = Mapping[tuple[int, int], Edit]  # by file and row


@dataclass(frozen=True, slots=True)
class SavedRows:
    """The new file; `unreadable` rows of the old one could not be copied, being no JSON."""

    path: Path
    rows: int
    unreadable: int


def begun(record: Any, name: FormatName) -> Mapping[str, Any]:
    """What the editing of a record begins with: itself, or an empty one where it is none of the format."""
    empty: Mapping[str, Any] = EMPTY.get(name, {})
    if isinstance(record, Mapping) and all(isinstance(record.get(field), list) for field in empty):
        return record
    return empty


def texts(record: Mapping[str, Any], name: FormatName) -> list[Text]:
    """The texts of a record in a format; those that it must have and lacks are there, empty."""
    editable = []
    shape = shape_of(record, name)
    theirs = dict(shape.names) if shape is not None else {field: field for field in NEEDED[name]}
    for ours in FIELDS[name]:
        field = theirs.get(ours, ours)
        value = record.get(field)
        if isinstance(value, list):
            editable += [text for index, turn in enumerate(value) for text in _turn(field, index, turn)]
        elif isinstance(value, str) or ours in theirs:
            editable.append(Text((field,), field, value if isinstance(value, str) else ""))
    return editable


def _turn(field: str, index: int, turn: Any) -> Iterator[Text]:
    key = next((name for name in ("content", "value") if isinstance(turn, Mapping) and name in turn), "content")
    if isinstance(turn, Mapping) and isinstance(turn.get(key), str):
        who = turn.get("role", turn.get("from"))
        yield Text((field, index, key), f"{field} {index + 1}, {who}", turn[key])
    for position, text in enumerate(turn if isinstance(turn, list) else ()):
        if isinstance(text, str):
            yield Text((field, index, position), f"{field} {index + 1}.{position + 1}", text)


def changed(record: Mapping[str, Any], values: Mapping[Inside, str]) -> dict[str, Any]:
    """A record in which texts have other values; the one given stays as it is."""
    edited = copy.deepcopy(dict(record))
    for path, value in values.items():
        holder: Any = edited
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = value
    return edited


def check(record: Any, name: FormatName, options: DataOptions) -> None:
    """Raise UsageError where training would leave such a row out."""
    parse(record, name, options)


def save(files: Sequence[Path], edits: Edits, target: Path, *, replace: bool = False) -> SavedRows:
    """Write the rows of `files` to `target`, .json or .jsonl, with edits in place; whole or not at all.

    Raises UsageError for another ending, for a file that exists unless `replace`, where no row is left, and where one
    that was edited is another by now; DataError for a value that JSON does not have; ArrieroError where the file cannot
    be written.
    """
    ending = target.suffix.lower()
    if ending not in (".json", ".jsonl"):
        raise UsageError(f"the name must end in .json or .jsonl, got {target.name!r}")
    if target.exists() and not replace:
        raise UsageError(f"{target} exists", hint="choose another name, or say that it may be replaced")
    rows = _Rows(files, edits)
    opening, between, closing = ("[\n", ",\n", "\n]\n") if ending == ".json" else ("", "\n", "\n")
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("x", encoding="utf-8") as stream:
            for line in rows:
                stream.write((between if rows.written else opening) + line)
                rows.written += 1
            if not rows.written:
                raise UsageError("no row is left to be saved")
            stream.write(closing)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ArrieroError(f"cannot write {target}: {reason}", hint="choose another directory") from error
    finally:
        partial.unlink(missing_ok=True)
    return SavedRows(target, rows.written, rows.unreadable)


class _Rows:
    """Iterates over the rows to be written, each as JSON; counts those that cannot be."""

    def __init__(self, files: Sequence[Path], edits: Edits) -> None:
        self._files, self._edits = files, edits
        self.written = self.unreadable = 0

    def __iter__(self) -> Iterator[str]:
        unseen = dict(self._edits)
        for index, file in enumerate(self._files):
            for row, original in read(file, columns=KNOWN):
                edit = unseen.pop((index, row), None)
                if edit is not None and not same(edit.original, original):
                    raise _changed(file, row)
                if edit is not None and edit.record is None:
                    continue
                text = _json(original if edit is None else edit.record, file, row)
                if text is None:
                    self.unreadable += 1
                else:
                    yield text
        for index, row in unseen:
            raise _changed(self._files[index], row)


def _changed(file: Path, row: int) -> UsageError:
    return UsageError(
        f"{file} has changed since its row {row} was edited", hint="discard the edits, and make them anew"
    )


def _json(record: Any, file: Path, row: int) -> str | None:
    text, _ = as_text(record)
    if text is not None and not _is_json(record):
        raise DataError(file, "holds a value that JSON does not have", row=row, hint="save it as JSON elsewhere")
    return text


def _is_json(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and _is_json(item) for name, item in value.items())
    return all(map(_is_json, value)) if isinstance(value, list) else isinstance(value, str | int | float | None)


def as_text(record: Any) -> tuple[str | None, str]:
    """A record as JSON, None where it could not be read; and the texts in it, for searching."""
    if _holds_fault(record):
        return None, ""
    document = json.dumps(record, ensure_ascii=False, default=str)
    try:
        document.encode()
    except UnicodeEncodeError:  # a lone surrogate
        document = json.dumps(record, default=str)
    return document, "\n".join(_texts(record)).encode("utf-8", "replace").decode()


def same(one: Any, other: Any) -> bool:
    """Whether two records are the same JSON; one that cannot be read is null, as Row has it."""
    first, second = (as_text(record)[0] or "null" for record in (one, other))
    return first == second


def _holds_fault(value: Any) -> bool:
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return isinstance(value, Fault) or any(_holds_fault(item) for item in inside)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _texts(item)
