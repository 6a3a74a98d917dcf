"""The thread of the engine that computes in this process.

It holds what it computes with and nothing that leads back to the engine, but for the requests in flight: so an engine
that nobody holds is collected, its finalizer ends the thread, and the model's memory is free.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from arriero.engines.transformers.adapters import Adapters
from arriero.engines.transformers.scheduler import Scheduler
from arriero.errors import EngineError

log = logging.getLogger(__name__)


class EngineThread(threading.Thread):
    """Takes commands (a request, an adapter to load or to free, the end) in order, and steps between them.

    What holds an engine's last reference may be dropped anywhere, also where a lock is held: `end` and `free`, which
    finalizers call, only queue.
    """

    def __init__(self, scheduler: Scheduler, adapters: Adapters) -> None:
        super().__init__(name="transformers-engine", daemon=True)
        self.scheduler, self.adapters = scheduler, adapters
        self.closed = False
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()  # so that nothing is queued behind the end
        self.start()

    def put(self, command: Callable[[], None]) -> None:
        """Queue a command. Raises EngineError once the engine is closed."""
        with self._lock:
            if self.closed:
                raise EngineError("the engine is closed")
            self._commands.put(command)

    def ask(self, action: Callable[[], Any]) -> Any:
        """Do something here; its result or its exception."""
        answer: Future[Any] = Future()

        def command() -> None:
            if self.closed:
                answer.set_exception(EngineError("the engine is closed"))
                return
            try:
                answer.set_result(action())
            except Exception as error:  # belongs to whoever asked
                answer.set_exception(error)

        self.put(command)
        return answer.result()

    def free(self, name: str) -> None:
        """Free an adapter that nobody holds any more."""
        self._commands.put(lambda: self._discard(name))

    def _discard(self, name: str) -> None:
        try:
            self.adapters.delete(name)
        except Exception:  # it stays in memory; nobody waits for it
            log.exception("an adapter could not be removed")

    def end(self) -> None:
        """Have the thread end after its step; for when nobody can `put` any more."""
        self.closed = True
        self._commands.put(lambda: None)

    def close(self) -> None:
        """End the thread and wait for that."""
        with self._lock:
            self.end()
        self.join()

    def run(self) -> None:
        """The thread's work."""
        try:
            while not self.closed:
                self._obey(wait=not self.scheduler.requests)
                self.scheduler.step()
        except Exception:  # the GPU is lost: whoever asks from now on is told, and does not wait for ever
            log.exception("the engine cannot go on, and is closed")
        with self._lock:
            self.closed = True
        self._obey(wait=False)
        self.scheduler.end()
        del self.scheduler, self.adapters  # the model's memory

    def _obey(self, *, wait: bool) -> None:
        """Do what has been asked so far, and wait for something to do where there is nothing."""
        try:
            while True:
                self._commands.get(block=wait)()
                wait = False
        except queue.Empty:
            return
