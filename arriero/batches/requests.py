"""A file of requests: a JSON object on each line, {"custom_id", "method": "POST", "url", "body"}.

It is checked whole before anything is answered. Only the offsets of the lines are kept, not what they hold, so a file
may be larger than memory.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from arriero.errors import DataError, NotFoundError

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
ENDPOINTS: tuple[Endpoint, ...] = get_args(Endpoint)
FIELDS = ("custom_id", "method", "url", "body")
SHOWN = 10  # faults that a message names


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a line, counted from 1, or with the whole file; `param` is the field at fault."""

    line: int | None
    message: str
    param: str | None = None
    code: str = "invalid_request"


class BatchFileError(DataError):
    """A file of requests that cannot be answered; `faults` are all of its lines that are wrong, at most `MOST`."""

    MOST = 1000

    def __init__(self, file: Path, faults: Sequence[Fault]) -> None:
        shown = [f"line {fault.line}: {fault.message}" if fault.line else fault.message for fault in faults[:SHOWN]]
        more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        example = '{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": […]}}'
        super().__init__(file, "\n  ".join(["these are no requests:", *shown, *more]), hint=f"a line is {example}")
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Row:
    """Where a request is in its file, in bytes, and its names: the user's, and one made of what it asks."""

    offset: int
    size: int
    custom_id: str
    id: str


class Requests:
    """The requests of a file, checked. `rows` are in its order.

    Raises NotFoundError where there is no file, BatchFileError with every line that is wrong. With an `endpoint` all
    must be for that one; `most` bounds their number. `salt` is what else the answers depend on: two rows have the same
    id where salt and line are the same.
    """

    def __init__(self, file: Path, *, salt: str = "", endpoint: str | None = None, most: int | None = None) -> None:
        self.file = file
        self._salt = salt
        self._endpoints = ENDPOINTS if endpoint is None else (endpoint,)
        self.rows: list[Row] = []
        lines: dict[str, int] = {}  # by custom_id
        faults: list[Fault] = []
        for number, offset, line in _lines(file):
            if most is not None and len(self.rows) == most:
                faults.append(Fault(None, f"more than {most} requests are not taken at once", code="too_many_requests"))
                break
            fault = self._add(number, offset, line, lines)
            if fault is not None and len(faults) < BatchFileError.MOST:
                faults.append(fault)
        if not self.rows and not faults:
            faults.append(Fault(None, "the file is empty", code="empty_file"))
        if faults:
            raise BatchFileError(file, faults)

    @property
    def longest(self) -> int:
        """Bytes of the longest line."""
        return max(row.size for row in self.rows)

    def read(self, opened: BinaryIO, row: Row) -> dict[str, Any]:
        """A request, out of the opened file."""
        opened.seek(row.offset)
        request: dict[str, Any] = json.loads(opened.read(row.size))
        return request

    def _add(self, number: int, offset: int, line: bytes, lines: dict[str, int]) -> Fault | None:
        try:
            request = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            return Fault(number, f"this is not JSON in UTF-8: {error}", code="invalid_json_line")
        fault = self._fault(number, request)
        if fault is not None:
            return fault
        custom_id = request["custom_id"]
        if custom_id in lines:
            message = f"custom_id {custom_id!r} is that of line {lines[custom_id]} already"
            return Fault(number, message, "custom_id", "duplicate_custom_id")
        lines[custom_id] = number
        digest = hashlib.sha256(self._salt.encode() + b"\0" + line).hexdigest()
        self.rows.append(Row(offset, len(line), custom_id, f"batch_req_{digest[:24]}"))
        return None

    def _fault(self, number: int, request: object) -> Fault | None:
        if not isinstance(request, dict):
            return Fault(number, f"expected an object with {', '.join(FIELDS)}, got {type(request).__name__}")
        for name in (*FIELDS, *request):
            if name not in FIELDS or name not in request:
                what = "missing" if name in FIELDS else "unknown"
                return Fault(number, f"the field {name!r} is {what}; there are {', '.join(FIELDS)}", name)
        custom_id, method, url, body = (request[name] for name in FIELDS)
        if not isinstance(custom_id, str) or not custom_id or not _encodable(custom_id):
            return Fault(number, f"custom_id must be a text that is not empty, got {custom_id!r}", "custom_id")
        if method != "POST":
            return Fault(number, f"method must be POST, got {method!r}", "method", "invalid_method")
        if url not in self._endpoints:
            return Fault(number, f"url must be {' or '.join(self._endpoints)}, got {url!r}", "url", "invalid_url")
        if not isinstance(body, dict):
            return Fault(number, f"body must be an object, got {type(body).__name__}", "body")
        if body.get("stream"):
            return Fault(number, "stream must be left out: an answer is one line", "body.stream")
        return None


def _lines(file: Path) -> Iterator[tuple[int, int, bytes]]:
    """(number, offset, content) of the lines that are not blank, without a byte order mark and ends of lines."""
    try:
        with file.open("rb") as opened:
            offset = 0
            for number, line in enumerate(opened, 1):
                mark = len(codecs.BOM_UTF8) if number == 1 and line.startswith(codecs.BOM_UTF8) else 0
                if line[mark:].strip():
                    yield number, offset + mark, line[mark:].rstrip(b"\r\n")
                offset += len(line)
    except FileNotFoundError as error:
        raise NotFoundError(f"no file {file}") from error
    except OSError as error:
        raise DataError(file, f"it cannot be read: {error.strerror}") from error


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True
