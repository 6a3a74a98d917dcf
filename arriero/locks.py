"""Locks that a process holds while it works on a directory.

filelock's lock on Unix is flock(2) on an open file: the kernel releases it with its process, after kill -9 too, and
processes that the holder forks do not keep it (filelock closes it in them from version 4 on).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout, UnixFileLock


@contextmanager
def held(file: Path, busy: Callable[[str], object]) -> Iterator[None]:
    """Hold the lock `file`, whose directory is made, while the block runs; the file is removed afterwards.

    The block leaves `file` alone. Where another process, or thread, holds it, `busy` is called once with that process
    in words: it raises what the caller makes of that, or says so and returns, and then the lock is waited for.
    """
    lock = UnixFileLock(file)
    try:
        _acquire(lock, file, 0)
    except Timeout:
        busy(_holder(file))
        _acquire(lock, file, -1)
    try:
        # where a file system has no flock, filelock has turned it into a lock whose file is its own to write
        if isinstance(lock, UnixFileLock):
            command = shlex.join(sys.orig_argv)[:200]
            file.write_text(f"process {os.getpid()} ({command})", encoding="utf-8", errors="backslashreplace")
        yield
    finally:
        if isinstance(lock, UnixFileLock):
            file.unlink(missing_ok=True)  # safe while it is held: filelock starts over on a file without a name
        lock.release()


def _acquire(lock: UnixFileLock, file: Path, timeout: float, attempts: int = 100) -> None:
    """Acquire within `timeout` seconds (-1: without end), or raise Timeout; OSError where there can be no such file."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=timeout)
    except (FileNotFoundError, FileExistsError):  # as it is made, a holder before removes its empty directory
        if not attempts:
            raise
        _acquire(lock, file, timeout, attempts - 1)


def _holder(file: Path) -> str:
    """The process that holds a lock, by pid and command, as it wrote itself down."""
    with contextlib.suppress(FileNotFoundError):
        return file.read_text(encoding="utf-8", errors="replace") or "another process"
    return "another process"
