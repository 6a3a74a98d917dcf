"""A stream of token ids on its way from an engine to any number of readers.

The engine's thread fills it, and readers in threads or on event loops empty it, each at its own pace. The ids wait in a
plain list bounded by the requested length, so a slow reader holds nobody up.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from typing import ClassVar

from arriero.errors import ArrieroError, EngineError
from arriero.messages import FinishReason, TokenLogprob


class Generation:
    """A stream of token ids, the one that ends the turn included.

    Iterate it with `for` or `async for`. Once it is exhausted `finish_reason` is set; an engine's failure is raised
    from the iteration. `cancel()` may be called at any time from any thread and frees the engine's work.
    `logprobs` holds one entry for each id so far where they were asked for, else nothing. `prompt_logprobs` likewise
    holds one for each id of the prompt but the first, complete before the first id is generated.
    """

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.finish_reason: FinishReason | None = None
        self.cancelled = False
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: list[TokenLogprob] = []
        self._ids: list[int] = []
        self._error: ArrieroError | None = None
        self._changed = threading.Condition()
        self._wakers: list[Callable[[], None]] = []  # of readers on event loops
        self._when_done: list[Callable[[], None]] = []

    @property
    def completion_tokens(self) -> int:
        """Tokens generated so far."""
        return len(self._ids)

    @property
    def ahead(self) -> int | None:
        """How many others get their turn before this one; None where it does not wait for one."""
        return None

    def cancel(self) -> None:
        """Ask the engine to stop; the stream ends with finish reason "cancelled" unless it had ended already."""
        self.cancelled = True

    def when_done(self, call: Callable[[], None]) -> None:
        """Have `call` called once, from some thread, when the stream has ended in whatever way; it must be quick."""
        with self._changed:
            if not self._ended:
                self._when_done.append(call)
                return
        call()

    def __iter__(self) -> Iterator[int]:
        position = 0
        while True:
            with self._changed:
                while position == len(self._ids) and not self._ended:
                    self._changed.wait()
                ready = self._ids[position:]
            if not ready:
                break
            yield from ready
            position += len(ready)
        self._raise()

    async def __aiter__(self) -> AsyncIterator[int]:
        async with contextlib.aclosing(self.batches()) as batches:
            async for ready in batches:
                for token in ready:
                    yield token

    async def batches(self) -> AsyncGenerator[list[int]]:
        """The ids as they come, all that are there at once, for who hands them on."""
        event = asyncio.Event()
        wake = _Bell.here().rings(event)
        with self._changed:
            self._wakers.append(wake)
        position = 0
        try:
            while True:
                event.clear()  # before looking, so that what comes between looking and waiting sets it again
                ready = self._ids[position:]
                if ready:
                    yield ready
                    position += len(ready)
                elif self._ended:
                    break
                else:
                    await event.wait()
            self._raise()
        finally:
            with self._changed:
                self._wakers.remove(wake)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    # What follows is for engines only.

    def push(self, ids: Sequence[int], logprobs: Sequence[TokenLogprob] = ()) -> None:
        """Append generated ids, with their log-probabilities where they were asked for; nothing after the end."""
        with self._changed:
            if not self._ended:
                self.logprobs.extend(logprobs)
                self._ids.extend(ids)
                self._notify()

    def finish(self, reason: FinishReason) -> None:
        """End the stream; whatever is called after the first end changes nothing."""
        with self._changed:
            if not self._ended:
                self.finish_reason = reason
                self._end()

    def fail(self, error: Exception) -> None:
        """End the stream with an error that readers get; as `finish`, only the first end counts."""
        if not isinstance(error, ArrieroError):
            error = EngineError(f"the engine failed: {error}")
        with self._changed:
            if not self._ended:
                self._error = error
                self._end()

    @property
    def _ended(self) -> bool:
        return self.finish_reason is not None or self._error is not None

    def _end(self) -> None:
        self._notify()
        while self._when_done:
            self._when_done.pop()()

    def _notify(self) -> None:
        self._changed.notify_all()
        for wake in self._wakers:
            wake()


class EngineGeneration(Generation):
    """A generation in flight. It holds its engine, which would end when nobody else holds it, and lets go at the end.

    `on_cancel` tells whoever computes; destructors may call `cancel`, so it must lock nothing and wait for nobody.
    """

    def __init__(self, prompt_tokens: int, engine: object) -> None:
        super().__init__(prompt_tokens)
        self._engine: object = engine
        self.on_cancel: Callable[[], None] | None = None  # None where the engine looks at `cancelled` by itself

    def cancel(self) -> None:
        """See `Generation.cancel`; it may reach the engine also during prefill."""
        if not self.cancelled:
            super().cancel()
            if (on_cancel := self.on_cancel) is not None:  # it may end meanwhile
                on_cancel()

    def _end(self) -> None:
        super()._end()
        self._engine = self.on_cancel = None


class _Bell:
    """Sets events on one loop from other threads, all that come before the loop gets to it in one go.

    Waking a loop is a system call, and an engine's step brings ids for many readers. With 8 of them this was measured
    to save 10 of the 68 microseconds that an id takes from OpenVINO's pipe to the reader.
    """

    _all: ClassVar[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Bell]] = weakref.WeakKeyDictionary()

    def __init__(self) -> None:
        self._events: deque[asyncio.Event] = deque()
        self._rung = False

    @classmethod
    def here(cls) -> _Bell:
        """That of the running loop."""
        return cls._all.setdefault(asyncio.get_running_loop(), cls())

    def rings(self, event: asyncio.Event) -> Callable[[], None]:
        """What sets an event of the running loop, from any thread."""
        loop = asyncio.get_running_loop()

        def ring() -> None:
            self._events.append(event)
            if not self._rung:
                self._rung = True
                with contextlib.suppress(RuntimeError):  # the reader's loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(self._set)

        return ring

    def _set(self) -> None:
        self._rung = False  # first, so that what comes from now on is not lost
        while self._events:
            self._events.popleft().set()
