"""How a run stands, from what is on disk."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from arriero.locks import is_held
from arriero.runs.registry import ERROR, Record

ALIVE = ".alive"
EXIT = "exit"
LOG = "train.log"
# What arriero.training.output.directory writes; training is a floor above.
LOCK = ".lock"
METRICS = "metrics.jsonl"
CONTRACT = "arriero.json"
CHECKPOINTS = "checkpoints"
STOPPED = (130, 143)  # exit codes after SIGINT and SIGTERM
TAIL = 8192  # bytes of a log that are looked at

Name = Literal["starting", "running", "stopped", "failed", "finished", "gone"]


@dataclass(frozen=True, slots=True)
class State:
    """How a run stands.

    starting: its process reads model and data. stopped: it can go on. gone: nothing of it is on disk, because it
    was stopped before it began or its directory was removed. `error` says
    why it failed, in its own words where it had any; `exit_code` is None where nobody waited for it.
    """

    name: Name
    error: str = ""
    exit_code: int | None = None

    @property
    def active(self) -> bool:
        """Whether a process works on it."""
        return self.name in ("starting", "running")


def state_of(record: Record) -> State:
    """How `record`'s run stands now."""
    directory, folder = record.directory, record.folder
    if is_held(directory / LOCK):
        return State("running")
    if (directory / CONTRACT).is_file():
        return State("finished")
    if is_held(folder / ALIVE):
        return State("starting")
    code, error = _exit_code(folder), _text(folder / ERROR)
    if error or (code and code not in STOPPED):
        return State("failed", error, code)
    return State("stopped" if (directory / CHECKPOINTS).is_dir() else "gone", exit_code=code)


def report_of(record: Record) -> dict[str, Any]:
    """report.json of a finished run; empty where there is none."""
    with contextlib.suppress(OSError, ValueError):
        report: dict[str, Any] = json.loads((record.directory / "report.json").read_text(encoding="utf-8"))
        return report
    return {}


def log_tail(record: Record, lines: int = 20) -> list[str]:
    """The last lines that the run's process said; none for a run that was started in a terminal."""
    with contextlib.suppress(FileNotFoundError), (record.folder / LOG).open("rb") as opened:
        opened.seek(max(0, opened.seek(0, os.SEEK_END) - TAIL))
        return opened.read().decode("utf-8", "replace").splitlines()[-lines:]
    return []


def _exit_code(folder: Path) -> int | None:
    text = _text(folder / EXIT)
    return int(text) if text.isdigit() else None


def _text(file: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return file.read_text(encoding="utf-8").strip()
    return ""
