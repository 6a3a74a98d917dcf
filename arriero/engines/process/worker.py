"""The worker process: commands come in, what becomes of requests goes out, as JSON lines.

    in   {"do": name, …}    the methods of a `Worker` by name
    out  [[event, …], …]    what `process.Process` makes of each is in its `_on_…`; one line for a round of steps

Standard input ends when the parent does; this process then ends, too.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeAlias

Event: TypeAlias = tuple[Any, ...]


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


class Worker(ABC):
    """Takes commands through `inbox` and works on; `send` takes a round's events."""

    def __init__(self, inbox: Inbox, send: Callable[[list[Event]], None]) -> None:
        self._inbox = inbox
        self._send = send
        self._events: list[Event] = []

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether there is something to do without a command."""

    @abstractmethod
    def step(self) -> None:
        """Go on with everything by a little; no request's failure leaves this method."""

    def run(self) -> None:
        """Work until the process ends."""
        while True:
            self.round()

    def round(self) -> None:
        """Take all commands, waiting for one if there is nothing to do; step; say what happened."""
        for command in self._inbox.take(wait=not self.busy):
            getattr(self, command.pop("do"))(**command)
        self._say()  # a cancelled request's reader need not wait for a step
        self.step()
        self._say()

    def _say(self) -> None:
        if self._events:
            self._send(self._events)
            self._events.clear()


def serve(channel: int, module: str) -> None:
    """Serve the parent with a module's `Worker`: commands from standard input, events to the descriptor `channel`."""
    out = os.fdopen(channel, "wb")

    def send(events: list[Event]) -> None:
        out.write(json.dumps(events).encode() + b"\n")
        out.flush()

    code = 0
    try:
        importlib.import_module(module).Worker(Inbox(sys.stdin.fileno()), send).run()
    except (EOFError, BrokenPipeError):  # the parent is gone
        pass
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code)  # whatever other threads do: there is nothing to save
