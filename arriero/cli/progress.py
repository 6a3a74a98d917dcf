"""How far the work is, on standard error: a bar on a terminal, lines elsewhere; of a download JSON, too."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, Self

from arriero.cli import output

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from arriero.hub.transfer import Progress, Watch

Shown = Literal["auto", "files", "json", "off"]
REFERENCE = 100e6 / 8  # bytes/s: 100 Mbit/s, for a first idea of the time


class Bar:
    """A live bar on a terminal, begun with the first update; elsewhere a line for every tenth of the way."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bars: Bars | None = None
        self._tenth = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def update(self, done: int, total: int, text: str = "", *, line: str = "") -> None:
        """`text` stands beside the bar; `line`, if there is one, is what is said where there is no terminal."""
        if sys.stderr.isatty():
            self._draw(done, total, text)
        elif (tenth := 10 * done // total) > self._tenth:
            self._tenth = tenth
            if line and done:
                output.note(line)

    def say(self, line: str) -> None:
        """A line that stays, above the bar."""
        (output.note if self._bars is None else self._bars.console.print)(line)

    @property
    def speed(self) -> float | None:
        """Steps per second, once it is known."""
        return None if self._bars is None else self._bars.tasks[0].speed

    def _draw(self, done: int, total: int, text: str) -> None:
        if self._bars is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            columns = TextColumn(self._label), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
            console = Console(stderr=True)
            self._bars = Bars(*columns, TimeRemainingColumn(), console=console, speed_estimate_period=60)
            self._bars.start()
            self._bars.add_task(text, total=total, completed=done)
        self._bars.update(self._bars.tasks[0].id, completed=done, description=text)


@contextmanager
def shown(mode: Shown) -> Iterator[Watch]:
    """What a download is to be given as its `watch`, while it runs."""
    if mode == "json":
        yield _Events()
    elif mode == "files":
        yield _line
    elif mode == "auto" and sys.stderr.isatty():
        with _bar() as watch:
            yield watch
    else:
        yield _plan if mode == "auto" else lambda _: None


class _Events:
    """A JSON object on a line of its own for each event."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        seconds = time.monotonic() - self._start
        speed = progress.bytes_fetched / seconds if seconds else 0.0
        left = (progress.bytes - progress.bytes_done) / speed if speed else None
        output.note(json.dumps({**dataclasses.asdict(progress), "bytes_per_second": speed, "seconds_left": left}))


def _plan(progress: Progress) -> None:
    """What is to be fetched, in one line."""
    if progress.event != "plan":
        return
    left = progress.bytes - progress.bytes_done
    here = f", {output.size(progress.bytes_done)} of them here already" if progress.bytes_done else ""
    output.note(
        f"{progress.source}: {progress.files} files, {output.size(progress.bytes)}{here}; "
        f"{output.size(progress.free)} free; {output.duration(left / REFERENCE)} at 100 Mbit/s"
    )


def _line(progress: Progress) -> None:
    _plan(progress)
    if progress.event == "file":
        output.note(f"{progress.file} ({progress.files_done} of {progress.files})")


@contextmanager
def _bar() -> Iterator[Watch]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = [TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()]
    with Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", visible=False, total=None)

        def watch(progress: Progress) -> None:
            _plan(progress)
            files = f"{progress.files_done} of {progress.files} files"
            if progress.event == "plan":  # what is here already says nothing about the speed
                bars.reset(task, total=progress.bytes, completed=progress.bytes_done, visible=True, description=files)
            else:
                bars.update(task, completed=progress.bytes_done, description=files)

        yield watch
