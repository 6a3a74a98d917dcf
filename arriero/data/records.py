"""Files -> raw records, one at a time, however large the file: JSON, JSON Lines, CSV, Parquet, or a directory of these.

A record is whatever the file holds at that place, or a Fault where that place cannot be read but the next one can. A
file that cannot be read on is a DataError that carries file and row.
"""

from __future__ import annotations

import csv
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from arriero.errors import DataError, NotFoundError

log = logging.getLogger(__name__)
CHUNK = 1 << 20  # characters read at a time
Records = Iterator[tuple[int, Any]]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a record cannot be read."""

    reason: str


def files_of(source: Path) -> list[Path]:
    """The data files that a path names: itself, or those in the directory, by name. Raises NotFoundError."""
    if source.is_dir():
        found = [file for file in sorted(source.rglob("*")) if _is_data(file, source)]
        train = [file for file in found if _part(file, source) == "train"]
        others = [file for file in found if _part(file, source) in ("test", "valid", "validation", "dev", "eval")]
        if train and others:
            log.info("using the training files only, not %s", ", ".join(file.name for file in others))
            found = train
        if not found:
            raise NotFoundError(f"{source} holds no {', '.join(READERS)} file")
        return found
    if not source.is_file():
        hint = "give a file, a directory of files, or a data set's name owner/name"
        raise NotFoundError(f"no file {source}", hint=hint)
    return [source]


def read(file: Path) -> Records:
    """(row, record) of a file, row being its 0-based index. The ending says the type; unknown ones are read as JSON."""
    return READERS.get(file.suffix.lower(), _json)(file)


def _is_data(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    described = file.name in ("dataset_info.json", "dataset_infos.json")
    return file.suffix.lower() in READERS and file.is_file() and not hidden and not described


def _part(file: Path, root: Path) -> str:
    """The part of a data set that a file's path names, as hubs do it: train-00000-of-00001.parquet, test/x.json."""
    first = file.relative_to(root).with_suffix("").as_posix()
    return re.split(r"[^a-z]", first.lower())[0]


def _json(file: Path) -> Records:
    """An array of records, or records one after the other (JSON Lines under another name)."""
    with _text(file) as stream:
        first = " "
        while first.isspace():
            first = _decoded(file, lambda: stream.read(1))
    if first == "{":
        return _json_lines(file)
    if first != "[":
        what = "is empty" if not first else f"must be a JSON array of rows, got {first!r} at its beginning"
        raise DataError(file, what, hint='expected [{"instruction": …, "input": "", "output": …}, …]')
    return enumerate(_array(file))


def _array(file: Path) -> Iterator[Any]:
    """The elements of a JSON array, parsed from a buffer that holds little more than one of them."""
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    row = 0
    with _text(file) as stream:
        buffer = _Buffer(file, stream)
        buffer.take("[", row)
        if not buffer.peek("]"):
            while True:
                yield buffer.decode(decoder, row)
                row += 1
                if not buffer.peek(","):
                    break
                buffer.take(",", row)
        buffer.take("]", row)
        if buffer.rest():
            raise DataError(file, "goes on after the end of its array", row=row)


class _Buffer:
    """Text that is read on when it does not suffice."""

    def __init__(self, file: Path, stream: IO[str]) -> None:
        self._file = file
        self._stream = stream
        self._text = ""
        self._at = 0
        self._ended = False

    def peek(self, wanted: str) -> bool:
        """Whether `wanted` comes next, after blanks."""
        self._skip()
        return self._text.startswith(wanted, self._at)

    def take(self, wanted: str, row: int) -> None:
        """Go past `wanted`; DataError if something else comes."""
        if not self.peek(wanted):
            got = self._text[self._at : self._at + 1] or "the end of the file"
            reason = f"is not valid JSON: expected {wanted!r}, got {got!r}"
            raise DataError(self._file, reason, row=row, hint="was the file cut off while copying?")
        self._at += 1

    def rest(self) -> bool:
        """Whether anything but blanks is left."""
        self._skip()
        return self._at < len(self._text)

    def decode(self, decoder: json.JSONDecoder, row: int) -> Any:
        """The next value."""
        self._skip()
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._at)
                if end < len(self._text) or not self._more():
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                cut_off = error.pos >= len(self._text) - 16 or error.msg.startswith("Unterminated string")
                if not cut_off or not self._more():
                    reason, hint = f"is not valid JSON: {error.msg}", "was the file cut off while copying?"
                    raise DataError(self._file, reason, row=row, hint=hint) from error
            except (RecursionError, ValueError) as error:
                raise DataError(self._file, f"cannot be parsed: {_why(error)}", row=row) from error

    def _skip(self) -> None:
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text) or not self._more():
                return

    def _more(self) -> bool:
        """Read on, as much again as there is, so that a huge record is not parsed over and over."""
        if self._ended:
            return False
        text = _decoded(self._file, lambda: self._stream.read(max(CHUNK, len(self._text) - self._at)))
        self._ended = not text
        self._text = self._text[self._at :] + text
        self._at = 0
        return bool(text)


def _json_lines(file: Path) -> Records:
    with file.open("rb") as stream:
        row = 0
        for line in stream:
            text = line.removeprefix(b"\xef\xbb\xbf") if row == 0 else line
            if text.strip():
                yield row, _line(text)
                row += 1


def _line(line: bytes) -> Any:
    try:
        return json.loads(line.decode(), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        return Fault(f"is not UTF-8 text (byte {error.start} of the line)")
    except json.JSONDecodeError as error:
        return Fault(f"is not valid JSON: {error.msg} (column {error.colno})")
    except (RecursionError, ValueError) as error:
        return Fault(f"cannot be parsed: {_why(error)}")


def _csv(file: Path) -> Records:
    csv.field_size_limit(sys.maxsize)
    with _text(file, newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        row = 0
        while True:
            try:
                record = _decoded(file, lambda: next(reader, None))
            except csv.Error as error:
                raise DataError(file, f"is not valid CSV: {error}", row=row) from error
            if record is None:
                return
            yield row, Fault("has more fields than the header") if None in record else record
            row += 1


def _parquet(file: Path) -> Records:
    import pyarrow
    import pyarrow.parquet

    row = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(1000):
            for record in batch.to_pylist():
                yield row, record
                row += 1
    except pyarrow.ArrowException as error:
        raise DataError(file, f"is not a readable Parquet file: {error}", row=row) from error


def _text(file: Path, newline: str | None = None) -> IO[str]:
    return file.open(encoding="utf-8-sig", newline=newline)


def _decoded(file: Path, read_on: Callable[[], Any]) -> Any:
    try:
        return read_on()
    except UnicodeDecodeError as error:
        raise DataError(file, f"is not UTF-8 text ({error.reason})", hint="save it as UTF-8") from error


def _why(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _object(pairs: list[tuple[str, Any]]) -> Any:
    """A JSON object; a Fault where a name stands twice, of which parsers silently keep the last."""
    record = dict(pairs)
    if len(record) == len(pairs):
        return record
    names = [name for name, _ in pairs]
    return Fault(f"the name {next(name for name in names if names.count(name) > 1)!r} stands twice in an object")


READERS: dict[str, Callable[[Path], Records]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _csv,
    ".parquet": _parquet,
}
