"""Answers in the order in which they come, each on disk before the next is asked for, so that none is asked for twice.

A line is OpenAI's: {"id", "custom_id", "response": {"status_code", "request_id", "body"} or null, "error": null or
{"code", "message"}}. Its id is made of the request, so lines of other requests are known as such. A process that is
killed leaves at most one line without its end, which is cut off.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arriero.batches.requests import Requests, Row
from arriero.errors import ArrieroError, UsageError

ENDING = ".partial"


class Journal:
    """The answers of `requests` that `file` has; the file is made with the first one.

    Raises UsageError where it holds anything else, ArrieroError where it cannot be written. Close it.
    """

    def __init__(self, file: Path, requests: Requests) -> None:
        self.file = file
        self._offsets: dict[str, tuple[int, int]] = {}  # offset and size in bytes by custom_id
        self.failed: set[str] = set()  # their custom_ids
        self._rows = {row.custom_id: row for row in requests.rows}
        self.rows = requests.rows
        try:
            self._opened = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            self._end = self._read()
        except OSError as error:
            raise _unwritable(file, error, 0) from error

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def missing(self) -> list[Row]:
        """The requests that have no answer, in their order."""
        return [row for row in self.rows if row.custom_id not in self._offsets]

    def append(self, line: dict[str, Any]) -> None:
        """Keep an answer."""
        content = _content(line)
        try:
            written = 0
            while written < len(content):
                written += os.write(self._opened, content[written:])
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._opened, self._end)  # what follows, should there be space again, is a line of its own
            raise _unwritable(self.file, error, len(self)) from error
        self._note(line, self._end, len(content))
        self._end += len(content)

    def write(self, target: Path, chosen: Callable[[str], bool] = lambda _: True) -> int:
        """Write the answers whose custom_id is `chosen` to `target`, in the order of the requests: whole or not at all.

        Returns how many there are.
        """
        beside = target.with_name(f"{target.name}.writing")
        ids = [row.custom_id for row in self.rows if row.custom_id in self._offsets and chosen(row.custom_id)]
        try:
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as opened:
                for custom_id in ids:
                    opened.write(self._line(custom_id))
                opened.flush()
                os.fsync(opened.fileno())
            beside.replace(target)  # complete on disk by then, so a crash leaves the old file or the new one
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise _unwritable(target, error, len(self)) from error
        return len(ids)

    def finish(self, output: Path) -> None:
        """Make `output` of it, with which the journal ends."""
        if self.file != output:
            self.write(output)
            self.file.unlink()

    def close(self) -> None:
        """Close the file, which stays if anything is in it."""
        os.close(self._opened)
        if not self._offsets:
            self.file.unlink(missing_ok=True)

    def _read(self) -> int:
        """Note what is there; returns where it ends."""
        end = 0
        with self.file.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):  # cut by the end of its process; only the last line can be
                    os.ftruncate(self._opened, end)
                    break
                self._note(_of_this_run(line, self._rows, self.file), end, len(line))
                end += len(line)
        return end

    def _note(self, line: dict[str, Any], offset: int, size: int) -> None:
        self._offsets[line["custom_id"]] = offset, size
        if line["response"] is None or line["response"]["status_code"] >= 400:
            self.failed.add(line["custom_id"])

    def _line(self, custom_id: str) -> bytes:
        offset, size = self._offsets[custom_id]
        return os.pread(self._opened, size, offset)


def resumed(output: Path, requests: Requests) -> Journal:
    """The journal of a run that ends as `output`, with what an earlier run of the same requests has left there.

    An output that has some of the answers, as when requests were added to its file, is continued. Raises UsageError
    where it is of another run.
    """
    partial = output.with_name(output.name + ENDING)
    try:
        there = _answered(output, requests) if output.exists() else 0
        if there == len(requests.rows):
            partial.unlink(missing_ok=True)  # the earlier run ended in its very last moment
            return Journal(output, requests)
        if there and not partial.exists():
            output.replace(partial)
    except OSError as error:
        raise _unwritable(output, error, 0) from error
    return Journal(partial, requests)


def _answered(output: Path, requests: Requests) -> int:
    rows = {row.custom_id: row for row in requests.rows}
    with output.open("rb") as lines:
        return len({_of_this_run(line, rows, output)["custom_id"] for line in lines})


def _of_this_run(line: bytes, rows: dict[str, Row], file: Path) -> dict[str, Any]:
    """An answer to one of the rows; UsageError for everything else."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        document: dict[str, Any] = json.loads(line)
        whole = document["response"] is None or isinstance(document["response"]["status_code"], int)
        if whole and rows[document["custom_id"]].id == document["id"]:
            return document
    raise UsageError(
        f"{file} is of another run: it answers other requests, or with another model",
        hint="another --output, or the model of before; or remove the file",
    )


def _content(line: dict[str, Any]) -> bytes:
    """A line in UTF-8; of what that cannot express, lone surrogates, JSON's own escapes."""
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _unwritable(file: Path, error: OSError, kept: int) -> ArrieroError:
    note = f"; {kept} answers are kept, and the same run continues from them" if kept else ""
    return ArrieroError(
        f"{file} cannot be written: {error.strerror}{note}", hint="check the path, its permissions and the free space"
    )
