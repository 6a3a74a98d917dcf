"""Behind all tabs and script runs: an event loop in a thread of its own, and what becomes of its errors."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

from arriero.errors import ArrieroError, EngineError


class Background:
    """An event loop in a thread that begins with the first call. From any thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function on the loop, soon."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_turn, args=(self._loop,), name=self._name, daemon=True).start()
            self._loop.call_soon_threadsafe(function, *arguments)

    def close(self) -> None:
        """End the loop, after what was called before."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._loop = None


def failure(error: Exception) -> ArrieroError:
    """The text a visitor gets for an answer that ended so; what nobody expected is logged."""
    if isinstance(error, ArrieroError):
        return error
    logging.getLogger(__name__).error("an answer broke off", exc_info=error)
    return EngineError(f"the answer broke off: {error}", hint="the server's log says where")


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()
