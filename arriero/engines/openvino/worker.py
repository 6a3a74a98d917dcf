"""The process in which OpenVINO computes: commands come in, what becomes of requests goes out, as JSON lines.

A step of the library's holds Python's lock from beginning to end, and a fault in native code ends the process; here
neither stops anybody else. One thread steps all pipelines that have work in turn, for two that compute at once slow
each other; another one builds.

    in   {"do": name, …}    the methods of `Worker` by name: load, open, retire, put, cancel
    out  [[event, …], …]    what pipelines say, and ["open", key] or ["open", key, error's class, message, hint];
                            one line for a round of steps

Standard input ends when the parent does; this process then ends, too.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from arriero.engines.openvino.adapter import Weights
from arriero.engines.openvino.loop import Loop
from arriero.engines.openvino.pipeline import Event, Library, Model, Pipeline, Request, described

KINDS: dict[str, type[Pipeline]] = {"library": Library, "loop": Loop}
Key = tuple[int, str]  # that of the base model or an adapter, and a kind


class Inbox:
    """Commands from a pipe, and those that threads of this process put.

    They are looked for between steps and not read by a thread, which would have to get Python's lock first: a
    cancellation would come steps later.
    """

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._rest = b""  # of a line that has not ended
        self._put: SimpleQueue[dict[str, Any]] = SimpleQueue()
        bell, self._bell = os.pipe()
        self._poll = select.poll()
        self._poll.register(pipe, select.POLLIN)
        self._poll.register(bell, select.POLLIN)

    def put(self, command: dict[str, Any]) -> None:
        """Add a command."""
        self._put.put(command)
        os.write(self._bell, b"!")

    def take(self, *, wait: bool) -> list[dict[str, Any]]:
        """All commands that are there, waiting for one if need be; raises EOFError where the pipe's writer is gone."""
        commands: list[dict[str, Any]] = []
        timeout = None if wait else 0
        while found := self._poll.poll(timeout):
            timeout = 0
            for file, _ in found:
                data = os.read(file, 1 << 16)
                if file == self._pipe:
                    if not data:
                        raise EOFError
                    *lines, self._rest = (self._rest + data).split(b"\n")
                    commands += map(json.loads, lines)
        while not self._put.empty():
            commands.append(self._put.get())
        return commands


class Worker:
    """All pipelines of one model, two for each key. Commands come through `inbox`; `send` takes a round's events."""

    def __init__(self, inbox: Inbox, send: Callable[[list[Event]], None]) -> None:
        self._inbox = inbox
        self._send = send
        self._events: list[Event] = []
        self._pipelines: dict[Key, Pipeline] = {}
        self._opening: set[Key] = set()  # built before any request, and somebody waits for it
        self._builds: SimpleQueue[tuple[Key, Pipeline]] = SimpleQueue()
        self._model: Model

    def run(self) -> None:
        """Work until the process ends."""
        while True:
            self.round()

    def round(self) -> None:
        """Take all commands, waiting for one if there is nothing to do; step; say what happened."""
        idle = not any(pipeline.busy for pipeline in self._pipelines.values())
        for command in self._inbox.take(wait=idle):
            getattr(self, command.pop("do"))(**command)
        self._say()  # a cancelled request's reader need not wait for a step
        for key, pipeline in list(self._pipelines.items()):
            if pipeline.busy:
                pipeline.step()
            if pipeline.wanted:
                self._order(key)
            if pipeline.done:
                del self._pipelines[key]
        self._say()

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
            self._events.append(("open", key[0], *(described(error) if error is not None else ())))
            if error is not None:
                for kind in KINDS:
                    del self._pipelines[key[0], kind]

    def _say(self) -> None:
        if self._events:
            self._send(self._events)
            self._events.clear()

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
            self._inbox.put({"do": "built", "key": key, "pipeline": made, "error": failure})


def main(channel: int) -> None:
    """Serve the parent: commands from standard input, events to the file descriptor `channel`."""
    out = os.fdopen(channel, "wb")

    def send(events: list[Event]) -> None:
        out.write(json.dumps(events).encode() + b"\n")
        out.flush()

    code = 0
    try:
        Worker(Inbox(sys.stdin.fileno()), send).run()
    except (EOFError, BrokenPipeError):  # the parent is gone
        pass
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code)  # whatever other threads do: there is nothing to save
