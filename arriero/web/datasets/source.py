"""Which instruction files the page offers (uploads, what was opened before, examples), and where uploads go."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import arriero
from arriero import settings
from arriero.data import DataOptions
from arriero.data.records import ENDINGS, files_of
from arriero.errors import DataError, UsageError
from arriero.web import jobs

LARGEST = 200 * 10**6  # bytes of an upload, which the server holds in memory while it arrives
EARLIER = 10
KEPT = 20  # inspections on disk, each about as large as its file


def uploads() -> Path:
    """Where uploaded files are kept."""
    return settings.home() / "datasets" / "uploads"


def keep(name: str, content: bytes) -> Path:
    """Keep an upload under its name; one of the same name and other content stays, and this one gets a number.

    Raises UsageError for an ending that is not read or a file that is too large, DataError for an empty one.
    """
    plain = re.sub(r"[^\w.\-]+", "_", re.split(r"[/\\]", name)[-1]).lstrip(".")[-100:]
    if Path(plain).suffix.lower() not in ENDINGS:
        raise UsageError(f"{name} has an ending that is not read", hint=f"expected one of {', '.join(ENDINGS)}")
    if len(content) > LARGEST:
        reason = f"{name} has {len(content) // 10**6} MB, at most {LARGEST // 10**6} MB can be uploaded"
        raise UsageError(reason, hint="copy it to the server and open it by its path")
    if not content.strip():
        raise DataError(name, "is empty", hint='expected [{"instruction": …, "input": "", "output": …}, …]')
    target = uploads() / plain
    if target.exists() and target.read_bytes() != content:
        target = target.with_stem(f"{target.stem}-{hashlib.sha256(content).hexdigest()[:8]}")
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_bytes(content)
        partial.replace(target)
    return target


def uploaded() -> list[str]:
    """Paths of what was uploaded, the latest first."""
    kept = sorted(uploads().glob("[!.]*"), key=lambda file: file.stat().st_mtime, reverse=True)
    return list(map(str, kept))


def offered() -> list[str]:
    """Paths to choose from, each once: uploads and what was opened, the latest first, then a checkout's examples."""
    opened = [job.about["source"] for folder in _latest() if (job := jobs.find(folder)) is not None]
    examples = sorted((Path(arriero.__file__).parents[1] / "examples" / "data").glob("*.json"))
    every = dict.fromkeys([*opened[:EARLIER], *uploaded(), *map(str, examples)])
    return [path for path in every if Path(path).exists()]


def job_of(source: str, model: str, system: str | None, options: DataOptions) -> tuple[Path, Mapping[str, Any]]:
    """The folder of the inspection of a file as it is now under these settings, and what its process is asked.

    Raises NotFoundError where there is no such file.
    """
    path = Path(source).expanduser().resolve()
    states = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files_of(path)]
    about = {"source": str(path), "model": model, "system": system, "options": asdict(options)}
    key = hashlib.sha256(repr((states, sorted(about.items()))).encode("utf-8", "surrogatepass")).hexdigest()
    return _jobs_dir() / key[:24], about


def tidy() -> None:
    """Remove all inspections but the latest."""
    for folder in _latest()[KEPT:]:
        jobs.forget(folder)


def _latest() -> list[Path]:
    """The folders of inspections, the latest first."""
    begun = _jobs_dir().glob("*/about.json")
    return [file.parent for file in sorted(begun, key=lambda file: file.stat().st_mtime, reverse=True)]


def _jobs_dir() -> Path:
    return settings.cache_dir() / "page" / "inspected"
