"""The worker process: commands come in, what becomes of requests goes out, as JSON lines.

    in   {"do": name, …}    the methods of a `Worker` by name
    out  [[event, …], …]    what `process.Process` makes of each is in its `_on_…`; one line for a round

Standard input ends when the parent does; this process then ends at once.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import select
import sys
import threading
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, TypeAlias

from arriero.hardware import spin_briefly

Event: TypeAlias = tuple[Any, ...]


class Inbox:
    """Commands from a pipe, and those that threads of this process put.

    They are looked for between steps and not read by a thread, which would have to get Python's lock first: a
    cancellation would come steps later. Threads ring a pipe of our own, so that one `poll` waits for both.
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
        while ready := self._poll.poll(timeout):
            timeout = 0  # what else is there now belongs to the same round
            for file, _ in ready:
                data = os.read(file, 1 << 16)
                if file == self._pipe:
                    if not data:
                        raise EOFError
                    *lines, self._rest = (self._rest + data).split(b"\n")
                    commands += map(json.loads, lines)
        # after the bells are read: whatever is put later rings again, so no command waits without one
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
        self._say()  # the reader of a cancelled request need not wait for a step
        self.step()
        self._say()

    def _say(self) -> None:
        if self._events:
            self._send(self._events)
            self._events.clear()


class Channel:
    """The way to the parent, for all threads: events, and what is logged and warned of, at once."""

    def __init__(self, file: int) -> None:
        self._out = os.fdopen(file, "wb")
        self._lock = threading.Lock()

    def send(self, events: Sequence[Event]) -> None:
        """Send events; raises BrokenPipeError where the parent is gone."""
        line = json.dumps(events).encode() + b"\n"
        with self._lock:
            self._out.write(line)
            self._out.flush()

    def forward(self, level: int) -> None:
        """From now on send what is logged, from `level` on in our own loggers, and warned of."""
        # only these: a library's handler on standard error would say it a second time
        logging.basicConfig(handlers=[_Forward(self.send)], format="%(message)s", force=True)
        logging.getLogger("arriero").setLevel(level)
        warnings.showwarning = self._warn  # type: ignore[assignment]

    def _warn(self, message: Warning, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
        self.send([("warning", lineno, filename, category.__name__, str(message))])


class _Forward(logging.Handler):
    def __init__(self, send: Callable[[Sequence[Event]], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """The text with its traceback, if it has one."""
        self._send([("log", record.levelno, record.name, self.format(record))])


def serve(channel: int, module: str, level: int) -> None:
    """Serve the parent with a module's `Worker`: commands from standard input, events to the descriptor `channel`.

    `level` is that from which on our own loggers' records are forwarded.
    """
    threading.Thread(target=_end_with_parent, args=(sys.stdin.fileno(),), daemon=True).start()
    spin_briefly()
    out = Channel(channel)
    out.forward(level)
    code = 0
    try:
        importlib.import_module(module).Worker(Inbox(sys.stdin.fileno()), out.send).run()
    except (EOFError, BrokenPipeError):  # the parent is gone
        pass
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code)  # whatever other threads do: there is nothing to save


def _end_with_parent(pipe: int) -> None:
    """End the process when the pipe's writer is gone, also while a model is loaded or a step takes long."""
    poll = select.poll()
    poll.register(pipe, 0)  # no events but that
    poll.poll()
    os._exit(0)
