"""Admission: who may be answered now, who waits and who is refused.

A request takes one slot for each answer it wants. Those that find too few free slots wait, each key in a queue of its
own, and the keys take turns (round robin), so that one with a thousand requests holds up another's single one by one
answer only. Requests of batches wait behind all others, and never hold more than a share of the slots. All of it runs
on the event loop, so nothing here needs a lock; `ahead` alone may be called from other threads.
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
        Requests that may wait for slots; more are refused with 503.
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
    def batch_slots(self) -> int:
        """How many slots batches may hold."""
        return max(1, self.max_running // 8) if self.max_batch_running is None else self.max_batch_running


class Admission:
    """The slots and the queues for them.

    Invariants: `running` is at most `max_running`; a queue is kept only while somebody waits in it.
    """

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

    async def enter(self, key: str, slots: int = 1, *, tag: object = None) -> Permit:
        """Wait for `slots` free slots; RequestError 503 where the queue is full, or the wait is too long.

        `tag` is what `ahead` knows the request by.
        """
        self._check(slots)
        # Nobody overtakes: with a queue, even a request that would fit now goes to its end.
        if not self._queues and self.running + slots <= self.limits.max_running:
            return self._take(slots)
        if self.waiting >= self.limits.max_waiting:
            raise _busy("queue_full", f"{self.running} answers are in flight and {self.waiting} requests wait")
        entry = _Waiting(slots, asyncio.get_running_loop().create_future(), tag)
        self._queues.setdefault(key, deque()).append(entry)
        self.waiting += 1
        try:
            async with asyncio.timeout(self.limits.max_wait):
                return await entry.turn
        except BaseException as error:
            self._leave_queue(self._queues, key, entry)
            if isinstance(error, TimeoutError):
                what = f"the request waited {self.limits.max_wait:g} seconds for its turn"
                raise _busy("wait_timeout", what) from None
            raise
        finally:
            self.waiting -= 1

    async def enter_background(self, key: str, slots: int = 1) -> Permit:
        """The same for a batch: it waits, however long, while anybody else does and while batches hold their share.

        One request that wants more than that share is let in when no other of a batch runs.
        """
        self._check(slots)
        entry = _Waiting(slots, asyncio.get_running_loop().create_future())
        self._background.setdefault(key, deque()).append(entry)
        self._admit_waiting()
        try:
            return await entry.turn
        except BaseException:
            self._leave_queue(self._background, key, entry)
            raise

    def _check(self, slots: int) -> None:
        if slots > self.limits.max_running:
            raise RequestError(f"{slots} answers were asked for at once, this server gives {self.limits.max_running}")
        self.refuse_when_draining()

    def ahead(self, tag: object) -> int | None:
        """How many requests get their turn before the one with this tag, None where it does not wait. From any thread.

        As the keys take turns, of every other key's requests there are as many as of its own, and one more of those
        whose turn comes before this key's.
        """
        # list() copies in one step under the GIL, while the event loop may be changing the original.
        queues = [[entry.tag for entry in list(queue)] for queue in list(self._queues.values())]
        for number, queue in enumerate(queues):
            if tag in queue:
                index = queue.index(tag)
                before = sum(min(len(other), index + 1) for other in queues[:number])
                return index + before + sum(min(len(other), index) for other in queues[number + 1 :])
        return None

    def _leave_queue(self, queues: _Queues, key: str, entry: _Waiting) -> None:
        """Leave the queue; a permit that came too late to be used goes to the next."""
        # Cancellation can arrive in the loop iteration after the permit was granted: it would be lost with its slots.
        if entry.turn.done() and not entry.turn.cancelled() and entry.turn.exception() is None:
            entry.turn.result().release()
        queue = queues.get(key, deque())
        if entry in queue:
            queue.remove(entry)
            if not queue:
                del queues[key]
        self._admit_waiting()

    def refuse_when_draining(self) -> None:
        """RequestError 503 once `drain` was called."""
        if self.draining:
            raise _busy("draining", "the server is shutting down")

    def drain(self) -> None:
        """Refuse new requests; those that run or wait continue, except the waiting ones of batches."""
        self.draining = True
        self._refuse(self._background)

    def refuse_waiting(self) -> None:
        """Refuse with 503 all that wait."""
        self._refuse(self._queues)

    def _refuse(self, queues: _Queues) -> None:
        for entry in [entry for queue in queues.values() for entry in queue if not entry.turn.done()]:
            entry.turn.set_exception(_busy("draining", "the server is shutting down"))
        queues.clear()

    async def idle(self) -> None:
        """Return once no request runs or waits."""
        await self._idle.wait()

    def _take(self, slots: int, *, background: bool = False) -> Permit:
        self.running += slots
        self._running_background += slots * background
        self._idle.clear()
        return Permit(self, slots, background=background)

    def _release(self, slots: int, *, background: bool) -> None:
        self.running -= slots
        self._running_background -= slots * background
        self._admit_waiting()
        if not self.running and not self._queues:
            self._idle.set()

    def _admit_waiting(self) -> None:
        self._admit_from(self._queues, lambda _: True)
        if not self._queues:
            self._admit_from(self._background, self._batch_has_room, background=True)

    def _batch_has_room(self, slots: int) -> bool:
        running = self._running_background
        return not running or running + slots <= self.limits.batch_slots

    def _admit_from(self, queues: _Queues, may: Callable[[int], bool], *, background: bool = False) -> None:
        """Admit from these queues, a key at a time, while slots are free and `may` agrees."""
        while queues:
            key, queue = next(iter(queues.items()))  # dicts keep their order: the first key's turn is next
            # The first of the line is waited for, though a smaller one behind it might fit: large n would starve.
            if self.running + queue[0].slots > self.limits.max_running or not may(queue[0].slots):
                return
            entry = queue.popleft()
            del queues[key]
            if queue:
                queues[key] = queue  # back in at the end
            if not entry.turn.cancelled():
                entry.turn.set_result(self._take(entry.slots, background=background))


class Permit:
    """Slots that are held until `release`."""

    def __init__(self, admission: Admission, slots: int, *, background: bool = False) -> None:
        self._admission = admission
        self._slots = slots
        self._background = background

    def release(self) -> None:
        """Give the slots back; later calls change nothing."""
        slots, self._slots = self._slots, 0
        if slots:
            self._admission._release(slots, background=self._background)


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A request in a queue; `turn` becomes its permit."""

    slots: int
    turn: asyncio.Future[Permit]
    tag: object = None


_Queues = dict[str, deque[_Waiting]]  # by key, in the order of their turns; no queue is empty


def _busy(code: str, what: str) -> RequestError:
    return RequestError(f"{what}; try again", status=503, code=code, retry_after=1)
