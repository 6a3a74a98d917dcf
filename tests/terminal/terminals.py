"""A pseudo-terminal with a program in it, driven as a person would: look, type, look again."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONTROL = re.compile(r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[=>78()][0-9A-B]?|\r")
CPR = "\x1b[6n"  # "where is the cursor?", which prompt_toolkit asks and a terminal answers


class Terminal:
    """`seen` is all that the program wrote since the last `wait`, as it came; `wait` compares without control codes.

    It is wide, so that the path of a temporary directory does not break lines.
    """

    def __init__(self, *module: str, home: Path, columns: int = 200, rows: int = 24) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environment = {**os.environ, "ARRIERO_HOME": str(home), "TERM": "xterm-256color", "NO_COLOR": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", *module], stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=ROOT,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def wait(self, pattern: str, seconds: float = 20.0) -> str:
        """What came up to and with `pattern`, without control codes; what follows stays for the next wait."""
        limit = time.monotonic() + seconds
        while (found := re.search(pattern, shown := CONTROL.sub("", self.seen))) is None:
            left = limit - time.monotonic()
            if left <= 0 or not self._read(left):
                raise AssertionError(f"{pattern!r} did not come; the terminal shows:\n{shown}")
        self.seen = shown[found.end() :]
        return shown[: found.end()]

    def _read(self, seconds: float) -> bool:
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            text = os.read(self.master, 65536).decode(errors="replace")
        except OSError:  # the program is gone
            return False
        if CPR in text:
            self.type("\x1b[1;1R")
        self.seen += text
        return bool(text)

    def echoes(self) -> bool:
        """Whether the terminal itself shows what is typed."""
        return bool(termios.tcgetattr(self.master)[3] & termios.ECHO)

    def end(self) -> int:
        """Wait for the program's end; its exit code."""
        while self._read(20.0):
            pass
        return self.process.wait(20)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
