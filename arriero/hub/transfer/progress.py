"""What a download says of itself while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Event = Literal["plan", "progress", "file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a download is; all sizes in bytes.

    plan comes first, then progress at most ten times a second and file for each one that is verified.
    Of `bytes`, `bytes_done` are on disk; `bytes_fetched` is what this run has received, a file begun anew twice.
    `free` is the space on the disk when the plan was made.
    """

    event: Event
    source: str
    files: int
    files_done: int = 0
    bytes: int
    bytes_done: int = 0
    bytes_fetched: int = 0
    free: int = 0
    file: str | None = None


Watch = Callable[[Progress], object]
