"""One file on its way: what has arrived lies in NAME.part, and NAME.etag.part says of which version it is.

Each chunk is written as it comes, so that a killed process leaves all that it received. The SHA-256 goes along; what an
earlier process left is read once, to be hashed.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from arriero.errors import DISK_FULL, DiskSpaceError
from arriero.hub.listing import Listed
from arriero.hub.store import FileRecord, blocks

SUFFIXES = (".part", ".etag.part")


class Stopped(Exception):
    """Another file failed, or the user stopped the download."""


def names(listed: Iterable[str]) -> set[str]:
    """The names that files on their way have, and have when they are complete."""
    return {f"{name}{suffix}" for name in listed for suffix in ("", *SUFFIXES)}


class Part:
    """What is there of the file that is to become `target`; `size` in bytes, `fetched` those that this run received.

    One thread writes. Any other may `stop` it: from then on nothing is written. Invariant from `begin` to `close`: the
    file has `size` bytes, `_digest` is theirs, and NAME.etag.part says of which version they are.
    """

    def __init__(self, target: Path, expected: Listed) -> None:
        self.target, self.expected = target, expected
        self.file, self._about = (target.with_name(f"{target.name}{suffix}") for suffix in SUFFIXES)
        self.fetched = 0
        self._identity = {"sha256": expected.sha256, "git_sha1": expected.git_sha1}
        self._is_listed = any(self._identity.values())
        self._lock, self._stopped = threading.Lock(), False  # the lock is held while files change, see `stop`
        self._stream: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self.etag: str | None = None
        self.whole = self._is_listed and target.is_file() and target.stat().st_size == expected.size
        self.size = target.stat().st_size if self.whole else self.usable()

    def usable(self) -> int:
        """Bytes of the part that are of the listed version, by its hash, or by the ETag kept with them."""
        try:
            size = self.file.stat().st_size
            about = json.loads(self._about.read_text(encoding="utf-8"))
            self.etag = about.pop("etag")
        except (OSError, ValueError, KeyError, AttributeError):
            return 0
        # without a hash in the listing, only an ETag can tell whether the rest will be of the same version
        proven = self._is_listed or self.etag is not None
        fits = self.expected.size is None or size <= self.expected.size
        return size if proven and fits and about == self._identity else 0

    def begin(self) -> None:
        """Open the part, and hash what of it is usable; may be called again after `close`."""
        if not self.size:
            self.etag = None
        with self._writing():
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self.file.open("ab", buffering=0)  # unbuffered: what `size` counts is in the file
            self._stream.truncate(self.size)
        self._digest = hashlib.sha256()
        for block in blocks(self.file):
            self.check()
            self._digest.update(block)

    def condition(self) -> dict[str, str]:
        """Headers that ask for the rest, and for everything where the file has changed (RFC 9110, 13.1.5)."""
        if not self.size:
            return {"Accept-Encoding": "identity"}  # compressed, sizes and ranges would be of other bytes
        headers = {"Accept-Encoding": "identity", "Range": f"bytes={self.size}-"}
        return headers if self.etag is None else {**headers, "If-Range": self.etag}

    def restart(self, etag: str | None = None) -> None:
        """Forget what has arrived; what comes now is of this strong ETag."""
        self.etag, self.size, self._digest = etag, 0, hashlib.sha256()
        with self._writing():
            self._open.seek(0)
            self._open.truncate(0)  # before the new ETag is written: old bytes under a new ETag would be resumed
            self._about.write_text(json.dumps({**self._identity, "etag": etag}), encoding="utf-8")

    def write(self, chunk: bytes) -> None:
        """Append a chunk; raises DiskSpaceError, with what is there kept, and Stopped."""
        with self._writing():
            unwritten = memoryview(chunk)
            while unwritten:  # a nearly full disk takes less than it is given
                count = self._open.write(unwritten)
                self._digest.update(unwritten[:count])
                self.size += count
                self.fetched += count
                unwritten = unwritten[count:]

    def finish(self) -> FileRecord:
        """Give the file its name; returns what it is."""
        self.close()
        with self._writing():
            self.file.replace(self.target)
            self._about.unlink(missing_ok=True)
        return FileRecord(self.size, self._digest.hexdigest())

    def discard(self) -> None:
        """Delete all there is."""
        self.close()
        with self._writing():
            for file in (self.file, self._about, self.target):
                file.unlink(missing_ok=True)
        self.size = 0

    def adopt(self, file: Path) -> None:
        """Take a file of a client's cache for the target: a hard link to it, or a copy where it is on another disk."""
        try:
            with self._writing():
                self.target.parent.mkdir(parents=True, exist_ok=True)
                self.target.hardlink_to(file.resolve())
        except OSError:  # another disk, or a file system without hard links
            self.size = 0
            self.begin()
            for block in blocks(file):
                self.write(block)
            self.finish()
            self.fetched = 0

    def check(self) -> None:
        """Raise Stopped where this part was stopped."""
        if self._stopped:
            raise Stopped

    def stop(self) -> None:
        """Keep the writing thread from writing any more, and return once it does not."""
        with self._lock:
            self._stopped = True

    def close(self) -> None:
        """Close the part's file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    @property
    def _open(self) -> BinaryIO:
        assert self._stream is not None  # noqa: S101 - begin() comes first
        return self._stream

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The writer's turn; raises Stopped instead where there is none any more."""
        with self._lock:
            self.check()
            try:
                yield
            except OSError as error:
                if error.errno not in DISK_FULL:
                    raise
                raise DiskSpaceError(
                    f"the disk of {self.target.parent} is full at {self.target.name}; what has arrived is kept",
                    hint="make space, then run the same command: it continues from there",
                ) from error
