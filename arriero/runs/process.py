"""A run as a process of its own: `arriero train` in a session of its own, which outlives whoever started it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any

from arriero.errors import ArrieroError, UsageError
from arriero.locks import handed_over, holder_pid, is_held
from arriero.runs.registry import ERROR, Record, again
from arriero.runs.state import ALIVE, EXIT, LOCK, LOG

COMMAND = [sys.executable, "-m", "arriero.cli", "train"]
CONFIG = "train.yaml"
# Nobody waits for a run that outlives its server, so a shell writes down how it ended, after kill -9 too. Signals go to
# both, and the shell catches them once the run is there to get them: before that they end it, and the run with it.
WAIT = """"$@" & trap : INT TERM
while kill -0 $! 2>/dev/null; do wait $!; code=$?; done
echo $code >"$0.partial" && mv "$0.partial" "$0" """


def start(record: Record, *, resume: bool = False) -> Record:
    """Start the run, or with `resume` continue it; returns its record as it is now listed.

    Raises UsageError where a process works on that directory already, ArrieroError where none can be started.
    """
    record = again(record)
    folder = record.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with handed_over(folder / ALIVE) as lock:
            if is_held(record.directory / LOCK):
                raise BlockingIOError
            record.save()
            os.truncate(folder / ALIVE, 0)  # not removed: the lock is on this very file
            for old in (EXIT, ERROR):
                (folder / old).unlink(missing_ok=True)
            process = _spawn(record, lock, resume=resume)
            (folder / ALIVE).write_text(str(process.pid), encoding="ascii")
    except BlockingIOError:
        raise UsageError(
            f"{record.directory} is being trained already", hint="stop it, or choose another name"
        ) from None
    except OSError as error:
        raise ArrieroError(f"the run cannot be started: {error}", hint="check the space on the disk") from error
    threading.Thread(target=process.wait, daemon=True).start()  # where this process outlives the run
    return record


def _spawn(record: Record, lock: int, *, resume: bool) -> subprocess.Popen[bytes]:
    folder = record.folder
    command = [*_arguments(record, folder), *(["--resume"] if resume else [])]
    with (folder / LOG).open("ab" if resume else "wb") as log:
        return subprocess.Popen(
            ["/bin/sh", "-c", WAIT, str(folder / EXIT), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,),
        )


def stop(record: Record) -> None:
    """Ask the run to save a checkpoint and end, as Ctrl-C does. Raises UsageError where no process of it is known.

    A process is signalled only while the lock that it alone can hold is held.
    """
    claimed = is_held(record.directory / LOCK)
    if claimed and record.workers > 1:
        raise UsageError(f"the run has {record.workers} workers", hint="Ctrl-C where it was started stops them all")
    with contextlib.suppress(ProcessLookupError):
        if (group := _group(record)) is not None:
            os.killpg(
                group, signal.SIGTERM
            )  # a shell's background does not listen to SIGINT until training asks for it
        elif (pid := holder_pid(record.directory / LOCK)) is not None:
            os.kill(pid, signal.SIGINT)
        elif claimed:
            raise UsageError(f"{record.name} is being trained on another machine", hint="stop it there")
        else:
            raise UsageError(f"{record.name} is not running", hint="refresh the page")


def _group(record: Record) -> int | None:
    """The group of the process that was started for this run, while that lives."""
    if not is_held(record.folder / ALIVE):
        return None
    text = (record.folder / ALIVE).read_text(encoding="ascii")
    return int(text) if text.isdigit() else None


def _arguments(record: Record, folder: Path) -> list[str]:
    """The command line of the run; what it was asked for goes into a configuration file in `folder`."""
    chosen = {"model": record.model, "system": record.system, **record.options}
    text = json.dumps(
        {name: value for name, value in chosen.items() if value is not None}, ensure_ascii=False, indent=2
    )
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")  # JSON is YAML
    return [*COMMAND, record.data, "--output", str(record.directory), "--config", str(folder / CONFIG)]


class Planning:
    """`arriero train --plan` as a process: what a run would do and cost. `result` is asked until it is there."""

    def __init__(self, record: Record) -> None:
        folder = Path(tempfile.mkdtemp(prefix="arriero-plan-"))
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._output, self._errors = folder / "output", folder / "errors"
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [*_arguments(record, folder), "--plan", "--json"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
            )

    def result(self) -> dict[str, Any] | None:
        """The plan, None while it is being made. Raises ArrieroError with what the process said where it failed."""
        code = self._process.poll()
        if code is None:
            return None
        if code:
            errors = self._errors.read_text(encoding="utf-8", errors="replace")
            last = errors.rpartition("error: ")[2].strip()  # as the command line ends
            message, _, hint = last.partition("\n  try: ")
            raise ArrieroError(message[-2000:] or f"the plan ended with exit code {code}", hint=hint)
        plan: dict[str, Any] = json.loads(self._output.read_text(encoding="utf-8"))
        return plan

    def cancel(self) -> None:
        """End it; nothing is lost."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._remove()
