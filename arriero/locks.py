"""Locks that a process holds while it works on a directory.

filelock's lock on Unix is flock(2) on an open file: the kernel releases it with its process, after kill -9 too, and
processes that the holder forks do not keep it (filelock closes it in them from version 4 on).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
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
    while not _acquired_at_once(lock, file):
        if is_held(file):  # and not only looked at, as here
            busy(_holder(file))
            _acquire(lock, file, -1)
            break
    try:
        # where a file system has no flock, filelock has turned it into a lock whose file is its own to write
        if isinstance(lock, UnixFileLock):
            file.write_bytes(_description(os.getpid(), sys.orig_argv))
        yield
    finally:
        if isinstance(lock, UnixFileLock):
            file.unlink(missing_ok=True)  # safe while it is held: filelock starts over on a file without a name
        lock.release()


@contextmanager
def handed_over(file: Path) -> Iterator[int]:
    """Lock `file` for a child: who inherits the descriptor that this yields (`pass_fds`) holds the lock from then on.

    The kernel lets go of it with the last process that has it. Raises BlockingIOError where a process holds it already.
    """
    with file.open("a+b") as opened:
        while True:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if is_held(file):
                    raise
        yield opened.fileno()


def is_held(file: Path) -> bool:
    """Whether a process holds the lock `file` now. Asking disturbs nobody: it takes a share, for a moment."""
    try:
        with file.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # held, or no flock here: filelock's file is the lock then
        return True
    return False


def holder_pid(file: Path) -> int | None:
    """The process of this machine that holds the lock `file`, safe to be signalled; None where there is none.

    What the file says counts only while the lock is held, and only for a process with the very command written there:
    a killed holder's number may have gone to another process, and a shared disk's holder may be on another machine.
    """
    import psutil

    with contextlib.suppress(FileNotFoundError, psutil.Error):
        text = file.read_bytes()
        if (written := re.match(rb"process (\d+) \(", text)) and is_held(file):
            pid = int(written[1])
            return pid if _description(pid, psutil.Process(pid).cmdline()) == text else None
    return None


def _description(pid: int, command: Sequence[str]) -> bytes:
    """How a holder writes itself down."""
    return f"process {pid} ({shlex.join(command)[:200]})".encode("utf-8", "backslashreplace")


def _acquired_at_once(lock: UnixFileLock, file: Path) -> bool:
    try:
        _acquire(lock, file, 0)
    except Timeout:
        return False
    return True


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
