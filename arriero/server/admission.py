"""Who may be answered now, who waits and who is sent away.

A request enters with as many places as it wants answers. Those that find no room wait, each key in a queue of its own,
and the keys take turns, so that one with a thousand requests holds up another's single one by one answer only. What
batches ask waits behind all of them, and never has more than a part of the places. All of it happens on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from arriero.errors import UsageError
from arriero.server.errors import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the server takes on.

    Parameters
    ----------
    max_running
        Answers that are generated at the same time.
    max_waiting
        Requests that may wait for their turn; more are refused with 503.
    max_wait
        Seconds that a request waits at most before it is refused with 503.
    requests_per_minute
        For each API key, or each address where there are no keys; more are refused with 429. Default: no limit.
    max_body
        Bytes of a request's body at most; a longer one is refused with 413.
    max_batch_running
        Answers of batches among those that are generated at the same time. Default: an eighth of them.
    max_file
        Bytes of a file at most, as /v1/files takes them; a longer one is refused with 413.

    """

    max_running: int = 32
    max_waiting: int = 128
    max_wait: float = 60.0
    requests_per_minute: int | None = None
    max_body: int = 4 * 2**20
    max_batch_running: int | None = None
    max_file: int = 100 * 2**20

    def __post_init__(self) -> None:
        for name in ("max_running", "max_wait", "requests_per_minute", "max_body", "max_batch_running", "max_file"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UsageError(f"{name} must be above 0, got {value}")
        if self.max_waiting < 0:
            raise UsageError(f"max_waiting must be at least 0, got {self.max_waiting}")

    @property
    def batch_places(self) -> int:
        """Answers of batches at the same time."""
        return max(1, self.max_running // 8) if self.max_batch_running is None else self.max_batch_running


class Admission:
    """The places and the queues for them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.running = 0
        self.waiting = 0
        self._queues: _Queues = {}
        self._background: _Queues = {}  # where batches wait
        self._running_background = 0
        self.draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._rate = MovingWindowRateLimiter(MemoryStorage())

    def check_rate(self, key: str) -> None:
        """Count a request of `key`; RequestError 429 where it was one too many."""
        if self.limits.requests_per_minute is None:
            return
        item = RateLimitItemPerMinute(self.limits.requests_per_minute)
        if not self._rate.hit(item, key):
            seconds = self._rate.get_window_stats(item, key).reset_time - time.time()
            raise RequestError(
                f"more than {self.limits.requests_per_minute} requests in a minute",
                status=429,
                code="rate_limit_exceeded",
                retry_after=seconds,
            )

    async def enter(self, key: str, places: int = 1, *, tag: object = None) -> Ticket:
        """Wait for `places` free places; RequestError 503 where there is no room to wait, or the wait is too long.

        `tag` is what `ahead` knows the request by.
        """
        self._check(places)
        if not self._queues and self.running + places <= self.limits.max_running:
            return self._take(places)
        if self.waiting >= self.limits.max_waiting:
            raise _busy("queue_full", f"{self.running} answers are under way and {self.waiting} requests wait")
        entry = _Waiting(places, asyncio.get_running_loop().create_future(), tag)
        self._queues.setdefault(key, deque()).append(entry)
        self.waiting += 1
        try:
            async with asyncio.timeout(self.limits.max_wait):
                return await entry.turn
        except BaseException as error:
            self._give_up(self._queues, key, entry)
            if isinstance(error, TimeoutError):
                what = f"the request waited {self.limits.max_wait:g} seconds for its turn"
                raise _busy("wait_timeout", what) from None
            raise
        finally:
            self.waiting -= 1

    async def enter_background(self, key: str, places: int = 1) -> Ticket:
        """The same for a batch: it waits, however long, while anybody else does and while batches have their part.

        One request that wants more than that part has it for itself.
        """
        self._check(places)
        entry = _Waiting(places, asyncio.get_running_loop().create_future())
        self._background.setdefault(key, deque()).append(entry)
        self._give_turns()
        try:
            return await entry.turn
        except BaseException:
            self._give_up(self._background, key, entry)
            raise

    def _check(self, places: int) -> None:
        if places > self.limits.max_running:
            raise RequestError(f"{places} answers were asked for at once, this server gives {self.limits.max_running}")
        self.refuse_when_draining()

    def ahead(self, tag: object) -> int | None:
        """How many requests get their turn before the one with this tag, None where it does not wait. From any thread.

        As the keys take turns, of every other key's requests there are as many as of its own, and one more of those
        whose turn comes before this key's.
        """
        queues = [[entry.tag for entry in list(queue)] for queue in list(self._queues.values())]
        for number, queue in enumerate(queues):
            if tag in queue:
                place = queue.index(tag)
                before = sum(min(len(other), place + 1) for other in queues[:number])
                return place + before + sum(min(len(other), place) for other in queues[number + 1 :])
        return None

    def _give_up(self, queues: _Queues, key: str, entry: _Waiting) -> None:
        """Leave the queue; a turn that came too late to be taken is given on."""
        if entry.turn.done() and not entry.turn.cancelled() and entry.turn.exception() is None:
            entry.turn.result().leave()
        queue = queues.get(key, deque())
        if entry in queue:
            queue.remove(entry)
            if not queue:
                del queues[key]
        self._give_turns()

    def refuse_when_draining(self) -> None:
        """RequestError 503 once `drain` was called."""
        if self.draining:
            raise _busy("draining", "the server is shutting down")

    def drain(self) -> None:
        """Let nobody in any more; who is running or waiting goes on, except what batches wait for."""
        self.draining = True
        self._refuse(self._background)

    def refuse_waiting(self) -> None:
        """Send away with 503 who waits."""
        self._refuse(self._queues)

    def _refuse(self, queues: _Queues) -> None:
        for entry in [entry for queue in queues.values() for entry in queue if not entry.turn.done()]:
            entry.turn.set_exception(_busy("draining", "the server is shutting down"))
        queues.clear()

    async def idle(self) -> None:
        """Return once nobody is running or waiting."""
        await self._idle.wait()

    def _take(self, places: int, *, background: bool = False) -> Ticket:
        self.running += places
        self._running_background += places * background
        self._idle.clear()
        return Ticket(self, places, background=background)

    def _release(self, places: int, *, background: bool) -> None:
        self.running -= places
        self._running_background -= places * background
        self._give_turns()
        if not self.running and not self._queues:
            self._idle.set()

    def _give_turns(self) -> None:
        self._serve(self._queues, lambda _: True)
        if not self._queues:
            self._serve(self._background, self._has_part, background=True)

    def _has_part(self, places: int) -> bool:
        taken = self._running_background
        return not taken or taken + places <= self.limits.batch_places

    def _serve(self, queues: _Queues, may: Callable[[int], bool], *, background: bool = False) -> None:
        """Give turns in these queues while there is room."""
        while queues:
            key, queue = next(iter(queues.items()))
            if self.running + queue[0].places > self.limits.max_running or not may(queue[0].places):
                return
            entry = queue.popleft()
            del queues[key]
            if queue:
                queues[key] = queue  # at the end: the others' turn is next
            if not entry.turn.cancelled():
                entry.turn.set_result(self._take(entry.places, background=background))


class Ticket:
    """Places that are taken until `leave`."""

    def __init__(self, admission: Admission, places: int, *, background: bool = False) -> None:
        self._admission = admission
        self._places = places
        self._background = background

    def leave(self) -> None:
        """Give the places back; later calls change nothing."""
        places, self._places = self._places, 0
        if places:
            self._admission._release(places, background=self._background)


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    places: int
    turn: asyncio.Future[Ticket]
    tag: object = None


_Queues = dict[str, deque[_Waiting]]  # by key; the first one's turn is next


def _busy(code: str, what: str) -> RequestError:
    return RequestError(f"{what}; try again", status=503, code=code, retry_after=1)
