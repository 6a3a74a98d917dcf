"""What workers and driver of a training run tell each other, in an actor on the driver's machine."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from arriero.errors import ArrieroError
from arriero.training import StepReport


@dataclass(frozen=True, slots=True)
class Said:
    """A line of the first worker's log."""

    level: int
    text: str


class Board:
    """Kept while workers come and go, so that those that follow know what ended the run."""

    def __init__(self) -> None:
        self._told: list[StepReport | Said] = []
        self._stop = False
        self._end: ArrieroError | None = None

    def tell(self, what: StepReport | Said) -> bool:
        """Something for the driver; returns whether it wants the run to end."""
        self._told.append(what)
        return self._stop

    def take(self) -> tuple[list[StepReport | Said], ArrieroError | None]:
        """What was told since the last time, and what ended the run."""
        told, self._told = self._told, []
        return told, self._end

    def stop(self) -> None:
        """The driver wants the run to end after a checkpoint."""
        self._stop = True

    def fail(self, error: ArrieroError) -> None:
        """What ends the run, however often it is begun; the first that was told counts."""
        self._end = self._end or error

    def end(self) -> ArrieroError | None:
        """That error, None while there is none."""
        return self._end


class BoardLog(logging.Handler):
    """Hands a worker's log to the driver. `board` is the actor's handle."""

    def __init__(self, board: object) -> None:
        super().__init__(logging.INFO)
        self.board = board

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        self.board.tell.remote(Said(record.levelno, record.getMessage()))  # type: ignore[attr-defined]
