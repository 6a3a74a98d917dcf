"""The process in which OpenVINO computes: commands come in, what becomes of requests goes out, as JSON lines.

A step of the library's holds Python's lock from beginning to end, and a fault in native code ends the process; here
neither stops anybody else. One thread steps all pipelines that have work in turn, for two that compute at once slow
each other; another one builds.

    in   {"do": name, …}    the methods of `Worker` by name: load, open, retire, put, cancel
    out  [[event, …], …]    what pipeline.py says, and ["open", key] or ["open", key, error's class, message, hint];
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
from arriero.engines.openvino.pipeline import Event, Model, Pipeline, Request, described


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
    """All pipelines of one model, by key. Commands come through `inbox`; `send` takes each round's events."""

    def __init__(self, inbox: Inbox, send: Callable[[list[Event]], None]) -> None:
        self._inbox = inbox
        self._send = send
        self._events: list[Event] = []
        self._pipelines: dict[int, Pipeline] = {}
        self._opening: set[int] = set()  # built before any request, and somebody waits for it
        self._builds: SimpleQueue[tuple[int, Pipeline]] = SimpleQueue()
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
        """Add a pipeline for the base model or an adapter; `now` builds it and says when that is done."""
        weights = None if adapter is None else Weights(adapter[0], adapter[1], tuple(adapter[2]))
        self._pipelines[key] = Pipeline(weights, self._events.append, self._model.together)
        if now:
            self._opening.add(key)
            self._order(key)

    def retire(self, key: int) -> None:
        """Free a pipeline once it has finished what it began; one that could not be built is gone already."""
        if key in self._pipelines:
            self._pipelines[key].retired = True

    def put(self, key: int, **request: Any) -> None:
        """Begin a request, see `Request`."""
        self._pipelines[key].put(Request(**request))

    def cancel(self, number: int) -> None:
        """End a request."""
        for pipeline in self._pipelines.values():
            pipeline.cancel(number)

    def built(self, key: int, pipeline: Any, error: Exception | None) -> None:
        """Take what the building thread made."""
        self._pipelines[key].built(pipeline, error)
        if key in self._opening:
            self._opening.discard(key)
            self._events.append(("open", key, *(described(error) if error is not None else ())))
            if error is not None:
                del self._pipelines[key]

    def _say(self) -> None:
        if self._events:
            self._send(self._events)
            self._events.clear()

    def _order(self, key: int) -> None:
        self._pipelines[key].building = True
        self._builds.put((key, self._pipelines[key]))

    def _build(self) -> None:
        """Build pipelines one after the other; the library leaves Python's lock to others meanwhile."""
        while True:
            key, pipeline = self._builds.get()
            made, failure = None, None
            try:
                made = self._model.build(pipeline.adapter)
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
