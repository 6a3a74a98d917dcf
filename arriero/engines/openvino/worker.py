"""The process in which OpenVINO computes.

A step of the library's holds Python's lock from beginning to end. One thread steps all pipelines that have work in
turn, for two that compute at once slow each other; another one builds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from arriero.engines.openvino.adapter import Weights
from arriero.engines.openvino.loop import DecodeLoop
from arriero.engines.openvino.pipeline import Library, Model, Pipeline, Request, typed
from arriero.engines.process import worker as process
from arriero.engines.process.crossing import described
from arriero.engines.process.worker import Event, Inbox

KINDS: dict[str, type[Pipeline]] = {"library": Library, "loop": DecodeLoop}
Key = tuple[int, str]  # that of the base model or an adapter, and a kind


class Worker(process.Worker):
    """All pipelines of one model, two for each key."""

    def __init__(self, inbox: Inbox, send: Callable[[list[Event]], None]) -> None:
        super().__init__(inbox, send)
        self._pipelines: dict[Key, Pipeline] = {}
        self._opening: set[Key] = set()  # built before any request, and somebody waits for it
        self._builds: SimpleQueue[tuple[Key, Pipeline]] = SimpleQueue()
        self._model: Model

    @property
    def busy(self) -> bool:
        """See `process.Worker.busy`."""
        return any(pipeline.busy for pipeline in self._pipelines.values())

    def step(self) -> None:
        """See `process.Worker.step`."""
        # in turn, a step each: no pipeline is starved, whatever runs in the others
        for key, pipeline in list(self._pipelines.items()):
            if pipeline.busy:
                pipeline.step()
            if pipeline.needs_building:
                self._order(key)
            if pipeline.done:
                del self._pipelines[key]

    def load(self, **model: Any) -> None:
        """Say which model it is, see `Model`; comes first."""
        self._model = Model(**model)
        threading.Thread(target=self._build, daemon=True).start()

    def open(self, key: int, adapter: Sequence[Any] | None, now: bool) -> None:
        """Add pipelines for the base model or an adapter; `now` builds the library's and says when that is done."""
        weights = None if adapter is None else Weights(adapter[0], adapter[1], tuple(adapter[2]))
        for kind, made in KINDS.items():
            self._pipelines[key, kind] = made(weights, self._events.append, self._model.together)
        if now:
            self._opening.add((key, "library"))
            self._order((key, "library"))

    def retire(self, key: int) -> None:
        """Free pipelines once they have finished what they began; those that could not be built are gone already."""
        for kind in KINDS:
            if (key, kind) in self._pipelines:
                self._pipelines[key, kind].retired = True

    def put(self, key: int, kind: str, **request: Any) -> None:
        """Begin a request, see `Request`."""
        self._pipelines[key, kind].put(Request(**request))

    def cancel(self, number: int) -> None:
        """End a request."""
        for pipeline in self._pipelines.values():
            pipeline.cancel(number)

    def built(self, key: Key, pipeline: Any, error: Exception | None) -> None:
        """Take what the building thread made."""
        self._pipelines[key].built(pipeline, error)
        if key in self._opening:
            self._opening.discard(key)
            if error is None:
                self._events.append(("open", key[0]))
            else:
                self._events.append(("lost", key[0], *described(typed(error))))
                for kind in KINDS:
                    del self._pipelines[key[0], kind]

    def _order(self, key: Key) -> None:
        self._pipelines[key].building = True
        self._builds.put((key, self._pipelines[key]))

    def _build(self) -> None:
        """Build pipelines one after the other; the library leaves Python's lock to others meanwhile."""
        while True:
            key, pipeline = self._builds.get()
            made, failure = None, None
            try:
                made = pipeline.build(self._model)
            except Exception as error:
                failure = error
            # as a command, so that pipelines are touched by the stepping thread only
            self._inbox.put({"do": "built", "key": key, "pipeline": made, "error": failure})
