"""How far a download is, on standard error: a bar, a line for each file, or JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from arriero.cli import output

if TYPE_CHECKING:
    from arriero.hub.transfer import Progress, Watch

REFERENCE = 100e6 / 8  # bytes/s: 100 Mbit/s, for a first idea of the time


@contextmanager
def shown(mode: Literal["auto", "files", "json", "off"]) -> Iterator[Watch]:
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
