"""batch: a file of requests in OpenAI's format."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from arriero.cli import output as say
from arriero.cli.options import Json, ReplicaOptions, ServedOptions, examples, named, plain
from arriero.cli.progress import Bar
from arriero.errors import NotFoundError, PartlyDoneError

if TYPE_CHECKING:
    from arriero.server.offline import BatchReport

MODEL = ServedOptions()
DRAIN_SECONDS = 30.0  # for the rows of a replica that is to end
CHUNK_SECONDS = 0.25  # nobody reads along; a row that is ended here, by a stop string, keeps its slot that long
app = App(
    name="batch",
    help_epilogue=examples(
        "batch questions.jsonl --output answers.jsonl",
        "batch questions.jsonl --output answers.jsonl --model llama-3.1-8b-instruct --adapter mine=runs/mine",
        "batch texts.jsonl --output vectors.jsonl --embedding all-minilm-l6-v2",
        "batch questions.jsonl --output answers.jsonl --json",
    ),
)


@app.default
def batch(
    file: Path,
    /,
    *,
    output: Path,
    model: ServedOptions = MODEL,
    at_once: int = 32,
    as_json: Json = False,
) -> None:
    """Answer a file of requests in OpenAI's batch format; run again, it goes on where it stopped.

    Parameters
    ----------
    file
        The requests, in OpenAI's batch format: on each line an object with custom_id, method, url and body.
    output
        Where the answers go, on one line each, in the same order.
    at_once
        Requests that are answered at the same time.

    """
    if not file.expanduser().exists():  # before what follows, which takes seconds to import
        raise NotFoundError(f"no file {file}", hint="arriero batch --help shows what a line of it is")
    from arriero.server.offline import batch as answer

    chosen: dict[str, Any] = plain(model)
    for name in plain(ReplicaOptions()):
        del chosen[name]
    if (deployment := model.deployment("", DRAIN_SECONDS)) is not None:
        from arriero.cluster.serving.deploy import load_replicas

        chosen["load"] = partial(load_replicas, replace(deployment, chunk_seconds=CHUNK_SECONDS))
    chosen["adapter"] = named(chosen["adapter"])
    with Bar("answering") as bar, _no_access_log():
        report = answer(file, output, at_once=at_once, progress=partial(_show, bar), **chosen)
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


def _show(bar: Bar, done: int, rows: int, failed: int) -> None:
    failures = f", {failed} failed" if failed else ""
    speed = bar.speed
    beside = f"{speed:.1f} rows/s{failures}" if speed is not None else failures
    bar.update(done, rows, beside, line=f"row {done} of {rows}{failures}")


def _document(report: BatchReport) -> dict[str, Any]:
    figures = {name: getattr(report, name) for name in ("output", "rows", "answered", "failed")}
    return figures | {"seconds": round(report.seconds, 3), "rows_per_second": round(report.rows_per_second, 3)}


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
