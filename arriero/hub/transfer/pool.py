"""All files of a download at once, stopped by the first failure or by Ctrl-C."""

from __future__ import annotations

import queue
import shutil
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from arriero.errors import DiskSpaceError
from arriero.formatting import size
from arriero.hub.listing import Listed
from arriero.hub.store import FileRecord
from arriero.hub.transfer.clients import Files
from arriero.hub.transfer.file import Worker
from arriero.hub.transfer.part import Part
from arriero.hub.transfer.progress import Event, Progress, Watch
from arriero.hub.transfer.retry import BACKOFF, Backoff

WORKERS = 4
INTERVAL = 0.1  # seconds between two words on the progress


def fetch(
    files: Files,
    listed: Mapping[str, Listed],
    destination: Path,
    *,
    watch: Watch = lambda _: None,
    backoff: Backoff = BACKOFF,
) -> dict[str, FileRecord]:
    """Fetch the listed files into `destination`, four at once, the largest first; returns what each of them is.

    `watch` is called in this thread only. Raises DiskSpaceError before anything is fetched where it would not fit, else
    the first failure of a file; whatever has arrived by then is kept for the next call. Once this has returned, or
    raised, nothing more is written.
    """
    fetching = _Fetching(files, listed, destination, backoff)
    fetching.plan(watch)
    return fetching.run(watch)


class _Fetching:
    def __init__(self, files: Files, listed: Mapping[str, Listed], destination: Path, backoff: Backoff) -> None:
        self._files, self._destination = files, destination
        parts = [Part(destination / name, expected) for name, expected in listed.items()]
        # the largest first, so that none of them is left to one worker at the end
        self._parts = sorted(parts, key=lambda part: part.expected.size or 0, reverse=True)
        self._cached = {part: _cached(files, part) for part in parts}
        self._waiting = deque(self._parts)
        self._stop = threading.Event()
        self._worker = Worker(files, self._stop, backoff)
        self._results: queue.SimpleQueue[tuple[Part, FileRecord | BaseException]] = queue.SimpleQueue()
        self._records: dict[str, FileRecord] = {}

    def plan(self, watch: Watch) -> None:
        """Say what is to be fetched; refuse where it does not fit."""
        free = shutil.disk_usage(self._destination).free
        device = self._destination.stat().st_dev
        needed = sum(_needed(part, self._cached[part], device) for part in self._parts)
        for part in self._parts:
            if self._cached[part]:  # nothing of it is fetched if it is what it seems, so progress counts it as here
                part.size = part.expected.size or 0
        watch(self._progress("plan", free=free))
        if needed > free:
            raise DiskSpaceError(
                f"{size(needed)} more are needed, the disk of {self._destination} has {size(free)} free; "
                "nothing was fetched",
                hint="make space, or choose another disk with --dest or ARRIERO_HOME",
            )

    def run(self, watch: Watch) -> dict[str, FileRecord]:
        """Fetch everything; the threads are daemons, since one that waits for a silent hub cannot be woken."""
        try:
            for _ in range(min(WORKERS, len(self._parts))):
                threading.Thread(target=self._work, daemon=True).start()
            while len(self._records) < len(self._parts):
                watch(self._next())
        finally:
            self._stop.set()  # wakes those that wait out a backoff
            for part in self._parts:
                part.stop()
        return self._records

    def _work(self) -> None:
        with suppress(IndexError):  # nothing waits any more
            while True:
                self._get(self._waiting.popleft())

    def _get(self, part: Part) -> None:
        try:
            self._results.put((part, self._worker.get(part, self._cached[part])))
        except BaseException as error:  # every part puts one result, or `run` would wait for ever
            self._results.put((part, error))

    def _next(self) -> Progress:
        try:
            part, result = self._results.get(timeout=INTERVAL)
        except queue.Empty:
            return self._progress("progress")
        if isinstance(result, BaseException):
            raise result
        self._records[part.expected.name] = result
        return self._progress("file", file=part.expected.name)

    def _progress(self, event: Event, *, free: int = 0, file: str | None = None) -> Progress:
        return Progress(
            event=event,
            source=self._files.where,
            files=len(self._parts),
            files_done=len(self._records),
            bytes=sum(part.expected.size or 0 for part in self._parts),
            bytes_done=sum(part.size for part in self._parts),
            bytes_fetched=sum(part.fetched for part in self._parts),
            free=free,
            file=file,
        )


def _cached(files: Files, part: Part) -> list[Path]:
    """Files in the client's cache that may be this one: of its size, and with a hash to tell by."""
    expected = part.expected
    hashes = (expected.sha256, expected.git_sha1)
    if part.whole or not any(hashes):
        return []
    return [file for file in files.cached(expected.name, hashes) if file.stat().st_size == expected.size]


def _needed(part: Part, cached: list[Path], device: int) -> int:
    """Bytes of space that a part still takes on its disk; a hard link takes none."""
    return 0 if any(file.stat().st_dev == device for file in cached) else (part.expected.size or 0) - part.size
