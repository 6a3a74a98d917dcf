"""How often a hub that fails for now is asked again, and how long it is left alone before."""

from __future__ import annotations

import email.utils
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class Unavailable(Exception):
    """The hub, or the way to it, fails for now; the cause is the client's error.

    `wait` is how many seconds it asks to be left alone, None where it does not say.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Pace:
    """At most so many `tries` in a row that bring nothing; waits in seconds: the first, then doubled up to the longest.

    A hub that says itself how long (Retry-After) is obeyed for as long as `patience`.
    """

    tries: int = 6
    first: float = 1.0
    longest: float = 30.0
    patience: float = 300.0

    def wait(self, failures: int, asked: float | None) -> float | None:
        """Seconds to wait after that many failures in a row, None: give up."""
        if failures >= self.tries or (asked is not None and asked > self.patience):
            return None
        return min(self.longest, self.first * 2 ** (failures - 1)) if asked is None else asked


PACE = Pace()


def patiently(ask: Callable[[], Answer], what: str) -> Answer:
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
            if (wait := PACE.wait(failures, seconds(response.headers.get("Retry-After")))) is None:
                raise
            log.warning("%s: HTTP %d; trying again in %.0f s", what, response.status_code, wait)
        time.sleep(wait)


def is_busy(status: int) -> bool:
    """Whether an HTTP status may be another one a moment later."""
    return status in (408, 429) or status >= 500


def seconds(retry_after: str | None) -> float | None:
    """Retry-After (RFC 9110, 10.2.3): seconds, or a date; None where it is neither."""
    if not retry_after:
        return None
    with suppress(ValueError):
        return float(retry_after)
    with suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    return None
