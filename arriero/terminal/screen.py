"""Where answers go: Markdown where a person reads them, plain text elsewhere.

What a model says is not trusted: without its control characters it cannot move the cursor, change the terminal's
settings or its title, or write to the clipboard (ECMA-48; CVE-2003-0063 and its kind).
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

from arriero.messages import Piece

CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)])  # C0 with ESC, DEL, and C1 with CSI
del CONTROLS[ord("\t")], CONTROLS[ord("\n")]


def clean(text: str) -> str:
    """Text without control characters but tab and line feed. Safe to apply piece by piece."""
    return text.translate(CONTROLS)


def note(text: str) -> None:
    """A line for the person, on standard error."""
    print(clean(text), file=sys.stderr, flush=True)


@contextlib.contextmanager
def answering(*, plain: bool = False) -> Iterator[Callable[[str], None]]:
    """A function that shows an answer's text as it comes; the answer's last line ends with the context.

    Markdown is drawn on a terminal, unless it is a dumb one or `plain` is true.
    """
    if not plain and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        from arriero.terminal.markdown import streamed

        with streamed() as draw:
            yield lambda text: draw(clean(text))
        return
    begun = False

    def show(text: str) -> None:
        nonlocal begun
        begun = begun or bool(text)
        print(clean(text), end="", flush=True)

    try:
        yield show
    finally:
        if begun:
            print(flush=True)


class Thinking:
    """What is shown of reasoning as it comes: that the model thinks, and how long it did; `more` says where it is."""

    def __init__(self, more: str = "") -> None:
        self._more = more
        self._began: float | None = None
        self._told = False

    def __call__(self, piece: Piece) -> None:
        """Take in the next piece of an answer."""
        if piece.reasoning and self._began is None:
            self._began = time.monotonic()
            note("[thinking …]")
        answers = bool(piece.text or piece.call_deltas or piece.finish_reason)
        if self._began is not None and answers and not self._told:
            self._told = True
            note(f"[thought for {time.monotonic() - self._began:.1f} s{self._more}]")


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Keys that are pressed while an answer comes are not echoed into it; the editor gets them afterwards.

    Ctrl-C still interrupts. Does nothing without a terminal, or on a platform that has none of POSIX's.
    """
    if os.name != "posix" or not sys.stdin.isatty():
        yield
        return
    import termios

    before, quiet = termios.tcgetattr(sys.stdin), termios.tcgetattr(sys.stdin)
    quiet[0] &= ~termios.ICRNL  # Enter is to reach the editor as Enter
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)
