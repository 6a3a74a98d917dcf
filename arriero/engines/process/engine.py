"""What engines that compute in a process of their own have in common.

Should that process die, the answers in flight fail, and the next request starts another one, with all adapters that
are still held.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from arriero.engines.base import Adapter
from arriero.engines.generation import EngineGeneration
from arriero.engines.process.process import About, Process
from arriero.errors import EngineError

BASE = 0  # the key of the base model


class LoadedAdapter(Adapter):
    """An adapter under the key that the worker knows it by; `weights` say what was loaded, to load it once more."""

    def __init__(self, directory: Path, key: int, weights: Sequence[Any]) -> None:
        super().__init__(directory)
        self.key = key
        self.weights = weights


class _Link:
    """The worker as it is now. What frees an adapter finds it here, without a lock and without the engine."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def retire(self, key: int) -> None:
        """Have an adapter freed once what began with it has ended."""
        self.process.send("retire", key=key)


class ProcessEngine:
    """The part of `engines.base.Engine` that has to do with the process.

    `worker` is the module whose `Worker` computes, `called` what people know its process as. An engine sets `_model`,
    the arguments of the worker's `load`, and then calls `_load`.
    """

    worker: ClassVar[str]
    called: ClassVar[str]
    _model: Mapping[str, Any]

    def __init__(self) -> None:
        self._lock = threading.Lock()  # over what follows
        self._closed = False
        self._keys = itertools.count(BASE + 1)
        self._adapters: weakref.WeakSet[LoadedAdapter] = weakref.WeakSet()
        self._link = _Link(self._start())

    @property
    def alive(self) -> bool:
        """Whether it can answer: a process that died is started anew."""
        return not self._closed

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            self._closed = True
            process = self._link.process
            self._end.detach()
        process.close()

    def _load(self, *, now: bool) -> About:
        """Have the model loaded, and where it is needed `now` wait until it is; what the worker says of it then."""
        process = self._link.process
        process.send("load", **self._model)
        if now:
            return process.open(BASE, None).result()
        process.send("open", key=BASE, adapter=None, now=False)
        return {}

    def _put(self, adapter: Adapter | None, **request: Any) -> EngineGeneration:
        """Begin a request; `ids` are its prompt's, and the rest is as the worker's `put` wants it."""
        generation = EngineGeneration(len(request["ids"]), self)
        key = adapter.key if isinstance(adapter, LoadedAdapter) else BASE
        with self._lock:
            self._alive().put(generation, key=key, **request)
        return generation

    def _open(self, directory: Path, weights: Sequence[Any]) -> tuple[Adapter, About]:
        """Load an adapter; returns once that is done, with what the worker says of it."""
        adapter = LoadedAdapter(directory, next(self._keys), weights)
        # the link and not the engine, which a finalizer would keep alive
        weakref.finalize(adapter, self._link.retire, adapter.key).atexit = False
        with self._lock:  # no new worker between these two, which would not know of it
            opened = self._alive().open(adapter.key, weights)
            self._adapters.add(adapter)  # from here on a worker that is started anew gets it
        return adapter, opened.result()

    def _start(self) -> Process:
        """A worker that ends with this engine, at the latest."""
        process = Process(self.worker, self.called)
        self._end = weakref.finalize(self, process.kill)
        return process

    def _alive(self) -> Process:
        """The worker; where it has died a new one, in which all is loaded when it is asked for."""
        if self._closed:
            raise EngineError("the engine is closed")
        if self._link.process.dead:
            self._end.detach()  # that of the dead one
            held = list(self._adapters)  # none of these is retired before it is opened
            process = self._link.process = self._start()
            self._load(now=False)
            for adapter in held:
                process.send("open", key=adapter.key, adapter=adapter.weights, now=False)
        return self._link.process
