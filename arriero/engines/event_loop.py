"""A generation that a coroutine fills, for engines whose work is awaited on an event loop of their own."""

from __future__ import annotations

import asyncio
import contextlib

from arriero.engines.generation import Generation


class TaskGeneration(Generation):
    """A generation whose cancelling reaches the engine's loop at once, also during prefill."""

    def __init__(self, prompt_tokens: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(prompt_tokens)
        self._task: asyncio.Task[None] | None = None
        self._loop = loop

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
