"""metrics.jsonl of a run, read while it grows: each look takes in what is new."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECENT = 50  # steps that the time left is reckoned from


class Metrics:
    """The lines of one file so far, each a dictionary as arriero.training.progress.StepReport writes it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lines: list[dict[str, Any]] = []
        self._read = 0  # bytes
        self._last = b""  # the last line of these

    def update(self) -> bool:
        """Take in what was written since; returns whether anything changed.

        A resumed run drops the lines after its checkpoint, so a file that no longer holds what was read is read anew.
        """
        try:
            with self.file.open("rb") as opened:
                opened.seek(self._read - len(self._last))
                text = opened.read()
        except FileNotFoundError:
            text = b""
        if not text.startswith(self._last):
            self.lines, self._read, self._last = [], 0, b""
            self.update()
            return True
        new = text[len(self._last) :]
        complete = new[: new.rfind(b"\n") + 1].splitlines(keepends=True)
        if complete:
            self.lines += [json.loads(line) for line in complete]
            self._read += sum(map(len, complete))
            self._last = complete[-1]
        return bool(complete)

    @property
    def step(self) -> int:
        """Optimizer steps made."""
        return int(self.lines[-1]["step"]) if self.lines else 0

    @property
    def total(self) -> int | None:
        """Optimizer steps in all; None before the first one."""
        return int(self.lines[-1]["total_steps"]) if self.lines else None

    @property
    def seconds_left(self) -> float | None:
        """At the pace of the last steps; None before there are two."""
        if not self.lines:
            return None
        last = first = self.lines[-1]
        for line in reversed(self.lines[-RECENT:]):
            if line["seconds"] > first["seconds"]:  # the clock of the process before a resume
                break
            first = line
        made = last["step"] - first["step"]
        return (last["seconds"] - first["seconds"]) / made * (last["total_steps"] - last["step"]) if made else None

    def curve(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of the lines that have this value."""
        return [(line["step"], line[name]) for line in self.lines if name in line]
