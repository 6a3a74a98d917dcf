"""For engines whose work is awaited: an event loop in a thread of its own, and generations that its tasks fill."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from arriero.engines.generation import Generation

T = TypeVar("T")
Work = Coroutine[Any, Any, T]


class TaskGeneration(Generation):
    """A generation whose cancelling reaches the engine's loop at once, also during prefill."""

    def __init__(self, prompt_tokens: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(prompt_tokens)
        self._task: asyncio.Task[None] | None = None
        self._loop = loop

    @property
    def ids(self) -> list[int]:
        """Those so far."""
        return self._ids

    def fill(self, task: asyncio.Task[None]) -> None:
        """Name the task that fills it, on its loop; where that is cancelled, this ends so."""
        self._task = task
        task.add_done_callback(self._over)

    def cancel(self) -> None:
        """See `Generation.cancel`."""
        super().cancel()
        if self.finish_reason is None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and this had failed before
                self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _over(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # perhaps before it began
            self.finish("cancelled")


class EventLoopThread:
    """Runs coroutines for other threads, and knows those that have not ended."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def call(self, work: Work[T]) -> T:
        """What the work returns or raises; waits for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def spawn(self, make: Callable[[], Work[None]], generation: TaskGeneration | None = None) -> None:
        """Begin what `make` makes, which fills the `generation`; returns at once.

        Locks nothing, for finalizers; raises RuntimeError where the loop is closed.
        """
        self.loop.call_soon_threadsafe(self._spawn, make, generation)

    def close(self, last: Callable[[], None] = lambda: None) -> None:
        """Cancel all tasks, do what is `last` on the loop, end the thread and wait for that."""
        self.call(self._end(last))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def _spawn(self, make: Callable[[], Work[None]], generation: TaskGeneration | None) -> None:
        task = self.loop.create_task(make())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if generation is not None:
            generation.fill(task)

    async def _end(self, last: Callable[[], None]) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        last()
