"""Cut a stream of text at stop strings that may begin in one piece and end in another."""

from __future__ import annotations

from collections.abc import Sequence


class StopFilter:
    """Passes text on, holding back what could be the beginning of a stop string.

    Invariant: the pieces joined are the text up to the stop string that is complete first, or all of it, however the
    text is split; no part of a stop string is ever passed on.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.matched: str | None = None  # the stop string at which the text was cut

    @property
    def stopped(self) -> bool:
        """Whether a stop string has been found."""
        return self.matched is not None

    def push(self, text: str) -> str:
        """Add text; returns what is certain not to belong to a stop string."""
        if self.stopped:
            return ""
        self._held += text
        matches = [(at + len(stop), at) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if matches:
            end, start = min(matches)  # the first to be complete, and of those that end there the longest
            self.matched = self._held[start:end]
            out, self._held = self._held[:start], ""
            return out
        keep = self._overlap()
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        return out

    def flush(self) -> str:
        """What was held back, at the end of the stream."""
        out, self._held = self._held, ""
        return out

    def _overlap(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stop), default=1)
        for size in range(min(longest - 1, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stop):
                return size
        return 0
