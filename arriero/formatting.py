"""Texts for people that several rooms write: a size in bytes, and the known name nearest to one that is not."""

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


def nearest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Of `names` the one most like `name`, None where none has that share of letters in common (difflib's ratio)."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)), None)
