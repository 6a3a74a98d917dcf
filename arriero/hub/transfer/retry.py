"""How often a hub that fails for now is asked again, and after how long a backoff."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from arriero.errors import retry_after

log = logging.getLogger(__name__)
T = TypeVar("T")


class Unavailable(Exception):
    """The hub, or the way to it, fails for now; the cause is the client's error.

    `wait` is how many seconds it asks to be left alone, None where it does not say.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Backoff:
    """At most `tries` in a row that bring nothing; waits in seconds: the `first`, then doubled up to the `longest`.

    A hub that says itself how long (Retry-After) is obeyed up to `longest_asked`.
    """

    tries: int = 6
    first: float = 1.0
    longest: float = 30.0
    longest_asked: float = 300.0

    def wait(self, failures: int, asked: float | None) -> float | None:
        """Seconds to wait after that many failures in a row, None: give up."""
        if failures >= self.tries or (asked is not None and asked > self.longest_asked):
            return None
        return min(self.longest, self.first * 2 ** (failures - 1)) if asked is None else asked


BACKOFF = Backoff()


def retried(ask: Callable[[], T], what: str) -> T:
    """What a client answers, asked again where its error carries the answer of a busy hub."""
    failures = 0
    while True:
        try:
            return ask()
        except Exception as error:
            response = getattr(error, "response", None)
            failures += 1
            if response is None or not is_busy(response.status_code):
                raise
            if (wait := BACKOFF.wait(failures, retry_after(response.headers.get("Retry-After")))) is None:
                raise
            log.warning("%s: HTTP %d; trying again in %.0f s", what, response.status_code, wait)
        time.sleep(wait)


def is_busy(status: int) -> bool:
    """Whether an HTTP status may be another one a moment later."""
    return status in (408, 429) or status >= 500  # request timeout, too many requests, the server's own faults
