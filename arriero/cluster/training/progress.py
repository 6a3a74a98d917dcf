"""What workers and driver of a training run tell each other, in an actor on the driver's machine.

Reports cross pickled: the actor's process would import torch to unpickle what it only hands on.
"""

from __future__ import annotations

import logging
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arriero.errors import ArrieroError

if TYPE_CHECKING:
    from arriero.training import StepReport


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of the first worker's log."""

    level: int
    text: str


class ProgressActor:
    """Outlives the workers of one attempt, so that those of the next know what ended the run."""

    def __init__(self) -> None:
        self._reports: list[bytes] = []
        self._stop = False
        self._error: ArrieroError | None = None

    def report(self, pickled: bytes) -> bool:
        """Keep a StepReport or LogLine for the driver; returns whether the driver wants the run to end."""
        self._reports.append(pickled)
        return self._stop

    def drain(self) -> tuple[list[bytes], ArrieroError | None]:
        """What was reported since the last call, and the error that ended the run."""
        reports, self._reports = self._reports, []
        return reports, self._error

    def stop(self) -> None:
        """The driver wants the run to end after a checkpoint."""
        self._stop = True

    def fail(self, error: ArrieroError) -> None:
        """End the run for good, however often Ray restarts it; the first error counts."""
        self._error = self._error or error

    def error(self) -> ArrieroError | None:
        """The error that ended the run, None while there is none."""
        return self._error


class ActorLogHandler(logging.Handler):
    """Sends a worker's log to the driver. `progress` is the handle of a ProgressActor."""

    def __init__(self, progress: Any) -> None:
        super().__init__(logging.INFO)
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line."""
        self.progress.report.remote(pickle.dumps(LogLine(record.levelno, record.getMessage())))


def unpickled(reports: list[bytes]) -> list[StepReport | LogLine]:
    """The reports that `ProgressActor.drain` returned."""
    return [pickle.loads(report) for report in reports]  # noqa: S301  written by our own workers
