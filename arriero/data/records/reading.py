"""read(): what the content of a file is, and its records. The ending is asked only where the content leaves it open."""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from arriero.data.records import json_text, tables
from arriero.data.records.json_text import Records, decoded
from arriero.data.records.opening import Errors, Part, encoding_of, failing, parts_of
from arriero.errors import DataError, UsageError

HEAD = 1 << 20  # characters from which the kind of a text is recognised
LOOKS_LIKE_JSON = re.compile(r"""\s*(\{\s*["'}/#]|\[\s*([\[{"\]/#]|$))""")
_SIMPLE = r'"[^"\\]*"\s*:\s*(?:"[^"\\]*"|[-+.\dEe]+|true|false|null)\s*,\s*'
# An object whose list of rows may come after a few simple fields.
WRAPPED = re.compile(rf'\s*(\{{\s*(?:{_SIMPLE})*"(?:data|rows|train|examples|instances|samples|items)"\s*:\s*\[)')
ROWS = 'expected [{"instruction": …, "input": "", "output": …}, …]'
JSON, TABLES = (".json", ".jsonl", ".ndjson"), (".csv", ".tsv")


def read(file: Path, *, encoding: str = "auto", columns: Collection[str] = ()) -> Records:
    """(row, record) of a file, row being its 0-based index. `columns` are the names that mean something.

    Raises DataError where the file, or what it is packed in, cannot be read on.
    """
    parts = (_records(part, encoding, columns) for part in parts_of(file))
    return enumerate(itertools.chain.from_iterable(parts))


def _records(part: Part, encoding: str, columns: Collection[str]) -> Iterator[Any]:
    magic = part.head(4)
    with failing(part.file):
        if magic == b"PAR1" or part.ending == ".parquet":
            with part.open() as stream:
                yield from tables.parquet(part.file, stream)
        elif magic == b"PK\x03\x04" and part.ending != ".zip":
            with part.open() as stream:
                yield from tables.workbook(part.file, stream)
        elif magic in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0"):
            reason = "is an archive within an archive, or an old Excel file"
            raise DataError(part.file, f"{reason}: {part.name}", hint="unpack it, or save the sheet as CSV")
        else:
            yield from _text_records(part, _known_encoding(encoding_of(part, encoding)), columns)


def _known_encoding(name: str) -> str:
    """A name that Python's codecs know; of UTF-8 the one that reads over a byte order mark."""
    try:
        codec = codecs.lookup(name).name
    except LookupError as error:
        raise UsageError(f"there is no encoding {name!r}", hint="try utf-8, utf-16, gb18030, big5, cp1252") from error
    return "utf-8-sig" if codec == "utf-8" else codec


def _text_records(part: Part, encoding: str, columns: Collection[str]) -> Iterator[Any]:
    with part.text(encoding, errors=_lenient(encoding)) as stream:
        head = decoded(part.file, lambda: stream.read(HEAD))
    if not head.strip():
        raise DataError(part.file, "is empty", hint=ROWS)
    if part.ending in JSON or LOOKS_LIKE_JSON.match(head):
        yield from _json(part, encoding, head)
        return
    header = head.lstrip().partition("\n")[0].rstrip("\r")
    if part.ending not in TABLES and not tables.has_header(header, columns):
        raise DataError(part.file, "is neither JSON nor a table whose columns are known", hint=ROWS)
    with part.text(encoding, newline="") as stream:
        yield from tables.delimited(part.file, stream, tables.separator_of(header, columns))


def _lenient(encoding: str) -> Errors:
    """How bytes that are no text are read where a line can be left out; UTF-16 has no lines of bytes."""
    return "strict" if encoding.startswith("utf-16") else "surrogateescape"


def _json(part: Part, encoding: str, head: str) -> Iterator[Any]:
    """An array of records, one within an object, or records one after the other."""
    first = head.lstrip()[0]
    if first not in "{[" and part.ending not in (".jsonl", ".ndjson"):
        comments = "JSON has no comments: remove them; " if first in "/#" else ""
        reason = f"must be a JSON array of rows, got {first!r} at its beginning"
        raise DataError(part.file, reason, hint=comments + ROWS)
    wrapped = WRAPPED.match(head)
    if wrapped or first == "[":
        with part.text(encoding) as stream:
            yield from json_text.array(part.file, stream, wrapped[1] if wrapped else "[")
    elif first != "{" or _one_a_line(head):
        with part.text(encoding, errors=_lenient(encoding)) as stream:
            yield from json_text.lines(part.file, stream)
    else:
        with part.text(encoding) as stream:
            yield from json_text.values(part.file, stream)


def _one_a_line(head: str) -> bool:
    """Whether text that begins with an object holds one a line: a line is one, and the first is no part of one."""
    lines = [line for line in head.splitlines() if line.strip()]
    if len(lines) == 1 or _is_object(lines[0]):
        return True
    try:
        json.JSONDecoder().raw_decode(head.lstrip())
    except (ValueError, RecursionError):
        return any(map(_is_object, lines[1:20]))
    return False


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line.rstrip().removesuffix(",")), dict)
    except (ValueError, RecursionError):
        return False
