"""JSON text -> records: an array, an array within an object, values one after the other, or one a line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any

from arriero.data.records.causes import CUT_OFF, cause_of
from arriero.errors import DataError

CHUNK = 1 << 20  # characters read at a time
Records = Iterator[tuple[int, Any]]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a record cannot be read."""

    reason: str


class TwiceError(ValueError):
    """A name stands twice in an object, of which parsers silently keep the last."""


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises TwiceError where a name stands twice."""
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise TwiceError(f"the name {twice!r} stands twice in an object")
    return record


DECODER = json.JSONDecoder(object_pairs_hook=once)


def array(file: Path, stream: IO[str], opening: str = "[") -> Iterator[Any]:
    """The elements of a JSON array, parsed from a buffer that holds little more than one of them.

    `opening` is what stands before them; where that opens an object too, the object's other fields are read over.
    """
    buffer = _Buffer(file, stream)
    buffer.over(len(opening), opening)
    row = 0
    if not buffer.peek("]"):
        while True:
            yield buffer.decode(row)
            row += 1
            if not buffer.peek(","):
                break
            buffer.take(",", row)
    buffer.take("]", row)
    if opening != "[":
        while buffer.peek(","):
            buffer.take(",", row)
            buffer.decode(row)
            buffer.take(":", row)
            buffer.decode(row)
        buffer.take("}", row)
    if buffer.has_more():
        raise DataError(file, "goes on after the end of its array", row=row)


def values(file: Path, stream: IO[str]) -> Iterator[Any]:
    """Values one after the other, over as many lines as they like, with commas between them or without."""
    buffer, row = _Buffer(file, stream), 0
    while buffer.has_more():
        yield buffer.decode(row)
        row += 1
        if buffer.peek(","):
            buffer.take(",", row)


class _Buffer:
    """A window of the file's text, `_text[_at:]` being what is not parsed yet; read on when it does not suffice."""

    def __init__(self, file: Path, stream: IO[str]) -> None:
        self._file = file
        self._stream = stream
        self._text = ""
        self._at = 0
        self._ended = False

    def over(self, length: int, expected: str) -> None:
        """Go past the beginning of the text, which is `expected`."""
        self._skip()
        while len(self._text) - self._at < length and self._more():
            pass
        if not self._text.startswith(expected, self._at):
            raise DataError(self._file, f"must begin with {expected!r}")
        self._at += length

    def peek(self, token: str) -> bool:
        """Whether `token` comes next, after blanks."""
        self._skip()
        return self._text.startswith(token, self._at)

    def take(self, token: str, row: int) -> None:
        """Go past `token`; DataError if something else comes."""
        if not self.peek(token):
            got = self._text[self._at : self._at + 1]
            reason = f"is not valid JSON: expected {token!r}, got {got or 'the end of the file'!r}"
            error = json.JSONDecodeError("Expecting ',' delimiter", self._text, self._at)
            raise DataError(self._file, reason, row=row, hint=cause_of(error) if got else CUT_OFF)
        self._at += 1

    def has_more(self) -> bool:
        """Whether anything but blanks is left."""
        self._skip()
        return self._at < len(self._text)

    def decode(self, row: int) -> Any:
        """The next value, a Fault where a name stands twice in it."""
        self._skip()
        while True:
            try:
                value, end = self._raw()
                if end < len(self._text) or not self._more():  # a number at the window's end may have more digits
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                # near the window's end the value may only be cut: read on and parse it again
                cut_off = error.pos >= len(self._text) - 16 or error.msg.startswith("Unterminated string")
                if not cut_off or not self._more():
                    what = error.msg.removesuffix(" at").removesuffix(" starting")  # a place of the window would follow
                    reason = f"is not valid JSON: {what}"
                    raise DataError(self._file, reason, row=row, hint=cause_of(error)) from error
            except (RecursionError, ValueError) as error:
                raise DataError(self._file, f"cannot be parsed: {why(error)}", row=row) from error

    def _raw(self) -> tuple[Any, int]:
        try:
            return DECODER.raw_decode(self._text, self._at)
        except TwiceError as error:
            _, end = json.JSONDecoder().raw_decode(self._text, self._at)
            return Fault(str(error)), end

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
        text = decoded(self._file, lambda: self._stream.read(max(CHUNK, len(self._text) - self._at)))
        self._ended = not text
        self._text = self._text[self._at :] + text
        self._at = 0
        return bool(text)


def lines(file: Path, stream: TextIOWrapper) -> Iterator[Any]:
    """One value a line, with a comma after it or without; a line that is none is a Fault and hides no other.

    `stream` turns bytes that are no text into lone surrogates.
    """
    line = decoded(file, stream.readline)
    while line:
        following = decoded(file, stream.readline)
        if line.strip():
            yield _line(line, encoding=stream.encoding, last=not following)
        line = following


_NO_TEXT = re.compile("[\udc80-\udcff]")


def _line(line: str, *, encoding: str, last: bool) -> Any:
    if (match := _NO_TEXT.search(line)) is not None:
        name = encoding.removesuffix("-sig")
        return Fault(f"is not {name.upper()} text (byte {len(line[: match.start()].encode(name))} of the line)")
    try:
        return DECODER.decode(line.rstrip().removesuffix(","))
    except json.JSONDecodeError as error:
        return Fault(f"is not valid JSON: {error.msg} (column {error.colno}); {cause_of(error, line=not last)}")
    except TwiceError as error:
        return Fault(str(error))
    except (RecursionError, ValueError) as error:
        return Fault(f"cannot be parsed: {why(error)}")


def decoded(file: Path, read_on: Callable[[], Any]) -> Any:
    """What reads on in a text, with bytes that are no text as a DataError."""
    try:
        return read_on()
    except UnicodeError as error:
        name = getattr(error, "encoding", "text").upper()
        hint = "save it as UTF-8, or name its encoding: --encoding gb18030, big5, cp1252 …"
        raise DataError(file, f"is not {name} text ({getattr(error, 'reason', error)})", hint=hint) from error


def why(error: Exception) -> str:
    """What stopped a parser."""
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
