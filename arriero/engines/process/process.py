"""The worker process as its engine sees it: commands go in, events come out and fill generations.

    open          answered by "open", or by "lost" where that cannot be done
    put, cancel   answered by any number of "ids" and "prompt", and then by "end" or "fail"
    all others    not answered

Besides, what the worker logs and warns of comes as "log" and "warning".

Nothing here waits for the worker but `close` and whoever asks for an answer: a thread writes, and another one reads.
Where the worker dies, all that it had to do fails at once.

Finalizers run on any thread, these two included, and in the middle of anything: what they call (`send`, `kill`,
`EngineGeneration.cancel`) takes no lock and waits for nobody.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import functools
import json
import logging
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import IO, Any, TypeAlias, cast

from arriero.engines.generation import EngineGeneration
from arriero.engines.process.crossing import Top, joined, rebuilt
from arriero.errors import EngineError, EngineLostError
from arriero.messages import FinishReason

log = logging.getLogger(__name__)
ROOT = logging.getLogger("arriero")
About: TypeAlias = dict[str, Any]
# Modules are found as here, and what a library prints goes to standard error: standard output is for events alone.
# It is no module of its own, as multiprocessing's processes are, which run the user's script once more.
START = """
import os, sys
channel = os.dup(1)
os.dup2(2, 1)
sys.path[:] = {path!r}
from arriero.engines.process.worker import serve
serve(channel, {module!r}, {level})
"""


class Process:
    """A worker that has been started: the class `Worker` of `module`. `called` is what people know it as.

    `send` is for commands that need no answer; see worker.py.
    """

    def __init__(self, module: str, called: str) -> None:
        self._called = called
        self._process = subprocess.Popen(
            [sys.executable, "-c", START.format(path=sys.path, module=module, level=ROOT.getEffectiveLevel())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the parent to deal with
        )
        self.pid = self._process.pid
        self._outbox: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._lock = threading.Lock()  # over the next three, between who adds and who clears
        self._generations: dict[int, EngineGeneration] = {}
        self._opening: dict[int, Future[About]] = {}
        self._code: int | None = None  # what it ended with
        self._numbers = 0
        self._closed = False
        self._writer = threading.Thread(target=self._write, name="engine-writer", daemon=True)
        self._reader = threading.Thread(target=self._read, name="engine-reader", daemon=True)
        self._writer.start()
        self._reader.start()
        atexit.register(self.close)  # or Popen complains of a process that nobody has waited for

    @property
    def dead(self) -> bool:
        """Whether it has ended, and all that it had to do with it."""
        return self._code is not None

    def send(self, do: str, **arguments: Any) -> None:
        """Give a command; returns at once."""
        self._outbox.put({"do": do, **arguments})

    def open(self, key: int, adapter: Sequence[Any] | None) -> Future[About]:
        """Make ready for requests of a key; what there is to know of it comes when that is done, or else an error."""
        opened: Future[About] = Future()
        with self._lock:  # either `_bury` finds it in the table, or this sees that the worker is dead
            if self.dead:
                opened.set_exception(self._death())
            else:
                self._opening[key] = opened
                self.send("open", key=key, adapter=adapter, now=True)
        return opened

    def put(self, generation: EngineGeneration, **request: Any) -> None:
        """Begin a request; `generation` is filled, or fails if the worker is dead."""
        with self._lock:
            if self.dead:
                generation.fail(self._death())
                return
            self._numbers += 1
            generation.on_cancel = functools.partial(self.send, "cancel", number=self._numbers)
            self._generations[self._numbers] = generation
            self.send("put", number=self._numbers, **request)

    def kill(self) -> None:
        """End the process, which has nothing to save; what it was doing will be cancelled. Does not wait for that."""
        self._closed = True
        self._process.kill()

    def close(self) -> None:
        """`kill`, and wait until what it was doing is cancelled. For whoever holds no lock, not for finalizers."""
        self.kill()
        self._reader.join()

    def _write(self) -> None:
        with contextlib.suppress(OSError), cast(IO[bytes], self._process.stdin) as pipe:  # the reader sees it die
            while (command := self._outbox.get()) is not None:
                pipe.write(json.dumps(command).encode() + b"\n")
                pipe.flush()

    def _read(self) -> None:
        try:
            with cast(IO[bytes], self._process.stdout) as pipe:
                for line in pipe:
                    if line.endswith(b"\n"):  # else it died over it
                        for kind, number, *rest in json.loads(line):
                            getattr(self, f"_on_{kind}")(number, *rest)
        finally:
            self._bury()

    def _on_ids(
        self, number: int, ids: Sequence[int], logprobs: Sequence[float] = (), tops: Sequence[Top] = ()
    ) -> None:
        self._generations[number].push(ids, joined(ids, logprobs, tops))

    def _on_prompt(self, number: int, ids: Sequence[int], logprobs: Sequence[float], tops: Sequence[Top]) -> None:
        self._generations[number].prompt_logprobs += joined(ids, logprobs, tops)

    def _on_end(self, number: int, reason: FinishReason) -> None:
        self._generations.pop(number).finish(reason)

    def _on_fail(self, number: int, kind: str, fields: About) -> None:
        self._generations.pop(number).fail(rebuilt(kind, fields))

    def _on_open(self, key: int, about: About | None = None) -> None:
        self._opening.pop(key).set_result(about or {})

    def _on_lost(self, key: int, kind: str, fields: About) -> None:
        self._opening.pop(key).set_exception(rebuilt(kind, fields))

    def _on_log(self, level: int, name: str, message: str) -> None:
        logging.getLogger(name).log(level, "%s", message)

    def _on_warning(self, line: int, file: str, category: str, message: str) -> None:
        try:
            warnings.warn_explicit(message, getattr(builtins, category, UserWarning), file, line)
        except Warning:  # by a filter that makes errors of warnings
            log.warning("%s:%d: %s: %s", file, line, category, message)

    def _bury(self) -> None:
        """Fail whatever was expected of the process, which has ended or makes no sense."""
        self._process.kill()
        code = self._process.wait()
        atexit.unregister(self.close)
        self._outbox.put(None)
        self._writer.join()  # the pipe has no reader any more, so a write that hangs fails
        with self._lock:
            self._code = code
            generations, opening = list(self._generations.values()), list(self._opening.values())
            self._generations.clear()
            self._opening.clear()
        if not self._closed:
            log.warning("%s, and with it %d answers; the next request starts it again", self._death(), len(generations))
        for opened in opening:
            opened.set_exception(self._death())
        for generation in generations:
            if self._closed:
                generation.finish("cancelled")
            else:
                generation.fail(self._death())

    def _death(self) -> EngineError:
        code = self._code or 0
        if self._closed:
            return EngineError("the engine is closed")
        how = f"was ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with exit code {code}"
        hint = "standard error may say why; signal 9 often means that the machine ran out of memory"
        return EngineLostError(f"{self._called} {how}", hint=hint)
