"""batch."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arriero.cli import output as say
from arriero.cli.options import Json, ReplicaOptions, ServedOptions, named, plain
from arriero.errors import PartlyDoneError

if TYPE_CHECKING:
    from arriero.server.offline import BatchReport

MODEL = ServedOptions()
DRAIN_SECONDS = 30.0  # a replica that is to end has so long for its rows


def batch(
    file: Path,
    /,
    *,
    output: Path,
    model: ServedOptions = MODEL,
    at_once: int = 32,
    as_json: Json = False,
) -> None:
    """Answer a file of requests.

    Parameters
    ----------
    file
        The requests, in OpenAI's batch format: on each line an object with custom_id, method, url and body.
    output
        Where the answers go, on one line each, in the same order. Run again, the command goes on where it stopped.
    at_once
        Requests that are answered at the same time.

    """
    from arriero.server.offline import batch as answer

    chosen: dict[str, Any] = plain(model)
    for name in plain(ReplicaOptions()):
        del chosen[name]
    if (deployment := model.deployment("", DRAIN_SECONDS)) is not None:
        from arriero.cluster.answering.start import load_replicas

        chosen["load"] = partial(load_replicas, deployment)
    chosen["adapter"] = named(chosen["adapter"])
    with _shown() as progress, _no_access_log():
        report = answer(file, output, at_once=at_once, progress=progress, **chosen)
    if as_json:
        say.document(_document(report))
    else:
        earlier = report.rows - report.answered
        before = f", {earlier} of them answered earlier" if earlier else ""
        speed = f"; {say.duration(report.seconds)}, {report.rows_per_second:.2f} rows/s" if report.answered else ""
        say.note(f"{report.rows} rows in {report.output}{before}{speed}")
    if report.failed:
        raise PartlyDoneError(
            f"{report.failed} of {report.rows} rows failed",
            hint=f"their lines in {report.output} have a status_code of 400 or above, and say why",
        )


def _document(report: BatchReport) -> dict[str, Any]:
    told = {name: getattr(report, name) for name in ("output", "rows", "answered", "failed")}
    return told | {"seconds": round(report.seconds, 3), "rows_per_second": round(report.rows_per_second, 3)}


@contextlib.contextmanager
def _no_access_log() -> Iterator[None]:
    """Or every row had a line there."""
    access = logging.getLogger("arriero.server.access")
    before = access.level
    access.setLevel(logging.WARNING)
    try:
        yield
    finally:
        access.setLevel(before)


@contextlib.contextmanager
def _shown() -> Iterator[Callable[[int, int, int], None]]:
    """A bar of the rows, how many there are in a second and how long the others will take; else a line a tenth."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("answering"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    terminal = sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=not terminal, speed_estimate_period=60) as bar:
        task = bar.add_task("", total=None, start=False)
        tenth = 0

        def progress(done: int, rows: int, failed: int) -> None:
            nonlocal tenth
            told = f", {failed} failed" if failed else ""
            if bar.tasks[0].total is None:  # now the model is there
                bar.start_task(task)
            if terminal:
                speed = bar.tasks[0].speed
                told = f"{speed:.1f} rows/s{told}" if speed is not None else told
            elif 10 * done // rows > tenth:
                say.note(f"row {done} of {rows}{told}")
            tenth = 10 * done // rows
            bar.update(task, completed=done, total=rows, description=told)

        yield progress
