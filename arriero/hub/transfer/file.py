"""One file: taken from disk where it is there already, else fetched, and held against the listing."""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import dataclass
from pathlib import Path

from arriero.errors import DownloadError
from arriero.hub.listing import fault
from arriero.hub.store import FileRecord, record
from arriero.hub.transfer.clients import Body, ByClient, Files, RangeRefused
from arriero.hub.transfer.part import Part, Stopped
from arriero.hub.transfer.retry import Backoff, Unavailable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Worker:
    """What all files of a download have in common."""

    files: Files
    stop: threading.Event
    backoff: Backoff

    def get(self, part: Part, cached: list[Path]) -> FileRecord:
        """Make a part its target, as listed; returns what it is.

        Files in `cached` are taken where they are the one listed. Raises DownloadError, DiskSpaceError, Stopped, or
        the client's error.
        """
        if part.whole and (on_disk := _as_listed(part, part.target)) is not None:
            return on_disk
        for file in cached:
            if (on_disk := _as_listed(part, file)) is not None:
                part.adopt(file)
                return on_disk
        part.size = part.usable()  # again: the plan counted a cached file as here
        return self._fetched(part)

    def _fetched(self, part: Part) -> FileRecord:
        """A resumed part that turns out wrong is fetched anew; a fresh one is an error."""
        is_resumed = part.size > 0
        part.begin()
        try:
            received = self._complete(part)
        finally:
            part.close()
        reason = fault(part.target, received, part.expected)
        if reason is None:
            return received
        part.discard()
        if not is_resumed:
            raise DownloadError(f"{self.files.where}: {reason}", hint="run it again")
        log.warning("%s; it is fetched anew", reason)
        return self._fetched(part)

    def _complete(self, part: Part) -> FileRecord:
        failures, reached = 0, part.size
        while part.size != part.expected.size or not part.size:  # an empty file is asked for once, too
            try:
                self._receive(part)
                break
            except ByClient:
                return self._by_client(part)
            except Unavailable as error:
                # only failures in a row without a new byte count: a file of hours may be broken off many times
                failures = 1 if part.size > reached else failures + 1
                reached = max(reached, part.size)
                self._pause(part, failures, error)
            except RangeRefused:  # from the beginning; a hub that refuses that as well ends the tries
                failures += 1
                self._pause(part, failures, Unavailable("HTTP 416", 0))
                part.restart()
        return part.finish()

    def _receive(self, part: Part) -> None:
        """One request, for all that is missing."""
        part.check()
        with self.files.open(part.expected.name, part.expected.size, part.condition()) as body:
            if body.status == 206 and _start(body) != part.size:  # other bytes than those asked for
                raise RangeRefused
            if body.status != 206:  # all of it: no ranges there, or the file is another by now (If-Range)
                part.restart(_strong_etag(body))
            self._agree(part, body)
            for chunk in body.chunks:
                part.write(chunk)
                if part.expected.size is not None and part.size > part.expected.size:
                    raise self._wrong_size(part, part.size)
        if part.expected.size is not None and part.size < part.expected.size:
            raise Unavailable(f"the connection ended after {part.size} of {part.expected.size} bytes")

    def _agree(self, part: Part, body: Body) -> None:
        """Refuse an answer that announces another size than the listing, before its bytes are fetched."""
        length = body.headers.get("Content-Length")
        if length is None or not length.isdigit() or body.headers.get("Content-Encoding", "identity") != "identity":
            return
        announced = part.size + int(length)  # Content-Length is that of this answer, not of the file
        if part.expected.size is not None and announced != part.expected.size:
            raise self._wrong_size(part, announced)

    def _wrong_size(self, part: Part, size: int) -> DownloadError:
        part.discard()
        return DownloadError(
            f"{part.expected.name} comes with {size} bytes, {self.files.where} lists {part.expected.size}",
            hint="try again later, or another --source or --revision",
        )

    def _pause(self, part: Part, failures: int, error: Unavailable) -> None:
        seconds = self.backoff.wait(failures, error.wait)
        if seconds is None:
            if error.__cause__ is None:  # no client's error: what was said is all there is to tell
                raise DownloadError(f"{self.files.where}, {part.expected.name}: {error}", hint="run the command again")
            raise error.__cause__
        log.warning("%s: %s; trying again in %.0f s", part.expected.name, error, seconds)
        if self.stop.wait(seconds):
            raise Stopped

    def _by_client(self, part: Part) -> FileRecord:
        """The client writes the file itself; it is read once to be hashed."""
        directory = part.target.parents[part.expected.name.count("/")]
        part.discard()
        self.files.by_client(part.expected.name, directory)
        part.size = part.fetched = part.target.stat().st_size
        return record(part.target, part.check)


def _as_listed(part: Part, file: Path) -> FileRecord | None:
    """What a file on disk is, None where it is not the one listed: then it is no use."""
    on_disk = record(file, part.check)
    if fault(file, on_disk, part.expected) is None:
        return on_disk
    if file == part.target:
        part.discard()
    return None


def _start(body: Body) -> int | None:
    """The first byte of a part, from its Content-Range (RFC 9110, 14.4)."""
    match = re.match(r"bytes (\d+)-", body.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _strong_etag(body: Body) -> str | None:
    """An ETag that If-Range may name; a weak one says nothing about bytes."""
    etag = body.headers.get("ETag")
    return etag if etag is not None and etag.startswith('"') else None
