"""Texts for people that several rooms write: bytes, seconds, and the known name nearest to one that is not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def size(count: float) -> str:
    """Bytes in powers of 1000, as hubs show them: 999 B, 1.0 kB, 2.1 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def duration(seconds: float) -> str:
    """Seconds in units that every language writes alike: 7.4 s, 57 s, 12 min 30 s, 3 h 20 min."""
    if seconds < 59.5:
        return f"{seconds:.2g} s"
    minutes, left = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {left} s" if left else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def nearest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Of `names` the one most like `name`, None where none has that share of letters in common (difflib's ratio)."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)), None)
