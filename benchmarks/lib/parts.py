"""Commands as parts of one table: each in a process of its own, with a limit of time, and a line for what failed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.lib.children import environment

Line = tuple[str, str]  # what was measured, and how much of it
Row = tuple[str, str, str]  # the part, and a line of it


class FailedError(Exception):
    """A part has no figures, for this reason."""


class SkippedError(Exception):
    """A part does not apply here, for this reason."""


@dataclass(slots=True)
class Run:
    """Where results (`out`) and models (`work`) go, and when all, and the part in progress, have to be over."""

    out: Path
    work: Path
    end: float
    model: str = ""
    tiny: bool = False
    part: str = ""
    part_end: float = 0.0

    def call(self, *command: object) -> Any:
        """The JSON document that a Python module writes; `<part>.log` and `<part>.json` in `out` have all it wrote.

        A command that fails after it has written its document fails by what the document says.
        """
        with (self.out / f"{self.part}.log").open("a+b") as log:
            start = log.seek(0, os.SEEK_END)
            code, text = captured([sys.executable, *map(str, command)], log, self.left())
            with (self.out / f"{self.part}.json").open("a") as file:
                file.write(text)
            try:
                return json.loads(text)
            except ValueError as error:
                log.seek(start)
                wrote = reason(log.read().decode(errors="replace")) if code else f"what it wrote is no JSON: {error}"
                raise FailedError(wrote) from error

    def arriero(self, *command: object) -> Any:
        """The same of the command line."""
        return self.call("-m", "arriero.cli", *command, "--json")

    def left(self) -> float:
        """Seconds until the part in progress has to be over."""
        return min(self.end, self.part_end) - time.monotonic()


Part = tuple[float, Callable[[Run], Iterator[Line]]]  # seconds at most, and what yields its lines


def captured(command: Sequence[str], log: Any, seconds: float) -> tuple[int, str]:
    """Exit code and standard output of a command; ends all its processes when the time is over."""
    if seconds <= 0:
        raise SkippedError("no time was left")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, start_new_session=True, env=environment()
    ) as process:
        try:
            text = process.communicate(timeout=seconds)[0].decode()
        except subprocess.TimeoutExpired as error:
            raise FailedError(f"not done after {seconds:.0f} s") from error
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, text


def reason(text: str) -> str:
    """The last line of what a failed command wrote, after the error where that line is only what to try."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it wrote nothing"]
    return " ".join(lines[-2:] if lines[-1].startswith("try:") else lines[-1:])


def rows(run: Run, name: str, parts: Mapping[str, Part]) -> list[Row]:
    """A part's rows of the table, one of which says why there are no more where it failed, and its seconds."""
    print(f"{name} …", file=sys.stderr, flush=True)
    limit, part = parts[name]
    started = time.monotonic()
    run.part, run.part_end = name, started + limit
    result: list[Row] = []
    try:
        result.extend((name, *line) for line in part(run))
    except SkippedError as why:
        result.append((name, "", f"skipped: {why}"))
    except Exception as error:  # no fault of one part may take the table from the others
        told = str(error) if isinstance(error, FailedError) else f"{type(error).__name__}: {error}"
        result.append((name, "", f"failed: {told}"))
    return [*result, (name, "seconds", f"{time.monotonic() - started:.0f}")]


def table(head: str, rows: Sequence[Row]) -> str:
    """In Markdown."""
    return "\n".join([head, "", "| part | measured | figure |", "|---|---|---|", *map(_cells, rows), ""])


def failed(rows: Sequence[Row]) -> bool:
    """Whether any part did."""
    return any(figure.startswith("failed") for _, _, figure in rows)


def _cells(row: Row) -> str:
    return f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in row)} |"
