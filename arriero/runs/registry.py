"""A record of every run, in a directory each: several processes write without a lock, and none sees half a record."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from arriero import settings
from arriero.errors import InterruptedRun

log = logging.getLogger(__name__)
RECORD = "run.json"
ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a run was asked to do: enough to go on with it.

    `data` and `model` are what `arriero train` takes, paths made absolute; `model` None is the default one, `system`
    None what the model brings. `options` are what `arriero train` takes besides, by name. `workers` counts its
    processes, `started` is in seconds since 1970.
    """

    directory: Path
    data: str
    model: str | None = None
    system: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    workers: int = 1
    started: float = field(default_factory=time.time)

    @property
    def folder(self) -> Path:
        """Where this run is recorded."""
        return settings.home() / "runs" / hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:16]

    @property
    def name(self) -> str:
        """What people call it: the last part of its directory."""
        return self.directory.name

    def save(self) -> None:
        """Write it down, over an earlier one of the same directory; OSError where that is impossible."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.folder / f"{RECORD}.{os.getpid()}"
        document = {**asdict(self), "directory": str(self.directory)}
        fresh.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        fresh.replace(self.folder / RECORD)


def listed() -> list[Record]:
    """All runs, the one started last first; a record that cannot be read is logged."""
    records = []
    for file in (settings.home() / "runs").glob(f"*/{RECORD}"):
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            records.append(Record(**{**document, "directory": Path(document["directory"])}))
        except FileNotFoundError:  # forgotten meanwhile
            continue
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("%s is no record of a run: %s", file, error)
    return sorted(records, key=lambda record: record.started, reverse=True)


def forget(record: Record) -> None:
    """Take a run off the list; its directory stays as it is."""
    shutil.rmtree(record.folder, ignore_errors=True)


@contextlib.contextmanager
def registered(record: Record) -> Iterator[None]:
    """Keep a record of the run that the block is, and of the error that ends it.

    A run is not worth less where it cannot be recorded: that is logged.
    """
    try:
        record.save()
        (record.folder / ERROR).unlink(missing_ok=True)
    except OSError as error:
        log.warning("this run will not be listed: %s", error)
        yield
        return
    try:
        yield
    except (InterruptedRun, KeyboardInterrupt):
        raise
    except BaseException as error:
        with contextlib.suppress(OSError):
            (record.folder / ERROR).write_text(str(error) or type(error).__name__, encoding="utf-8")
        raise


def absolute(name: str | Path) -> str:
    """A path that exists here, made absolute; the name of something elsewhere as it is."""
    there = Path(name).expanduser()
    return str(there.resolve()) if there.exists() else str(name)


def again(record: Record) -> Record:
    """The same, started now."""
    return replace(record, started=time.time())
