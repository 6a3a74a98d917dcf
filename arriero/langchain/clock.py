"""How long an answer took."""

from __future__ import annotations

import time

from arriero.messages import Piece


class Clock:
    """When an answer was asked for, and when it began."""

    def __init__(self) -> None:
        self._asked = time.monotonic()
        self._first: float | None = None

    def seen(self, piece: Piece) -> Piece:
        """Look at a piece that has come."""
        if self._first is None:
            self._first = time.monotonic()
        return piece

    def timings(self, tokens: int) -> dict[str, float]:
        """Seconds from asking, of a whole answer of `tokens` tokens; as in `arriero ask --json`."""
        total = time.monotonic() - self._asked
        first = total if self._first is None else self._first - self._asked
        return {"first_token_s": first, "total_s": total, "tokens_per_second": tokens / total}
