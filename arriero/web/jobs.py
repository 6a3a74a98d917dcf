"""Work in a process of its own, whose state is a folder: it outlives the click, the page and the server.

    about.json      what was asked for                 process.json    who works on it
    progress.json   how far it is, in its own words    log.txt         what it printed
    result.json     what came out, or                  error.json      why nothing did

Everybody who knows the folder sees the same job. The serving process never imports what the work needs.

A module that does such work ends with `if __name__ == "__main__": work(function)`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from arriero.errors import ArrieroError
from arriero.locks import held

Tell = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job came to nothing; `kind` is the error's class, "cancelled", or "lost" where a process just ended."""

    kind: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is now. It is running, or has a `result`, or a `failure`."""

    folder: Path
    about: Mapping[str, Any]
    progress: Mapping[str, Any]
    result: Mapping[str, Any] | None = None
    failure: Failure | None = None

    @property
    def running(self) -> bool:
        """Whether there is something to wait for."""
        return self.result is None and self.failure is None


def start(folder: Path, module: str, about: Mapping[str, Any]) -> Job:
    """Begin the work of a module, or return what is already running there; what an earlier try left is replaced."""
    with held(folder.with_name(f".{folder.name}.lock"), lambda _: None):
        if (job := find(folder)) is not None and job.running:
            return job
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write(folder / "about.json", about)
        with (folder / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the server, and a cancel reaches what the work starts too
            )
        with suppress(psutil.NoSuchProcess):
            began = psutil.Process(process.pid).create_time()
            write(folder / "process.json", {"pid": process.pid, "began": began})
    threading.Thread(target=process.wait, daemon=True).start()  # so that none is left a zombie
    return Job(folder, about, {})


def find(folder: Path) -> Job | None:
    """The job of a folder, None where there is none."""
    about = _read(folder / "about.json")
    if about is None:
        return None
    alive = process_of(folder) is not None  # looked at first: a process that is gone writes nothing any more
    progress, result = _read(folder / "progress.json") or {}, _read(folder / "result.json")
    error = _read(folder / "error.json")
    if result is not None or (error is None and alive):
        return Job(folder, about, progress, result)
    lost = Failure("lost", "the process ended without a result", f"{folder / 'log.txt'} may say why")
    return Job(folder, about, progress, failure=lost if error is None else Failure(**error))


def cancel(folder: Path) -> None:
    """End a running job and what it started; what it has on disk stays for the next try."""
    process = process_of(folder)
    if process is None:
        return
    write(folder / "error.json", {"kind": "cancelled", "message": "cancelled", "hint": ""})
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        if not psutil.wait_procs([process], timeout=5)[1]:
            return


def forget(folder: Path) -> None:
    """Remove what a job that has ended left."""
    if process_of(folder) is None:
        shutil.rmtree(folder, ignore_errors=True)


def work(do: Callable[[Mapping[str, Any], Path, Tell], Mapping[str, Any]]) -> None:
    """What the process runs: `do(about, folder, tell)`, whose result or error is left in the folder."""
    folder = Path(sys.argv[1])
    about = _read(folder / "about.json") or {}
    try:
        result = do(about, folder, lambda progress: write(folder / "progress.json", progress))
    except ArrieroError as error:
        failure = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
        write(folder / "error.json", failure)
    except Exception as error:
        traceback.print_exc()  # into log.txt
        what = f"{type(error).__name__}: {error}"
        write(folder / "error.json", {"kind": "defect", "message": what, "hint": f"{folder / 'log.txt'} says where"})
    else:
        write(folder / "result.json", result)


def write(file: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON document that others read meanwhile: they see the old one or the new one."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_text(json.dumps(document, ensure_ascii=False, default=str), encoding="utf-8", errors="replace")
    partial.replace(file)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document


def process_of(folder: Path) -> psutil.Process | None:
    """The job's process if it is alive: the same one, not another that was given its number."""
    if (recorded := _read(folder / "process.json")) is None:
        return None
    try:
        process = psutil.Process(recorded["pid"])
        if process.create_time() != recorded["began"] or process.status() == psutil.STATUS_ZOMBIE:
            return None
    except psutil.NoSuchProcess:
        return None
    return process
