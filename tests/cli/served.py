"""`arriero serve` as a process of its own, with its own signals and its own standard error, over a scripted chat.

The processes are forked from one that has imported everything already, so that each starts at once.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import uvicorn  # noqa: F401  imported for the forked ones

from arriero.chat import Chat
from arriero.cli import serve
from arriero.cli.main import main
from arriero.errors import NotFoundError
from arriero.messages import Sampling
from arriero.prompt import resolve
from arriero.server import app  # noqa: F401  imported for the forked ones
from arriero.server.models import Models
from tests.conftest import ScriptedEngine

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__, "transformers.models.llama"])


class Program:
    """A running `arriero serve ARGUMENTS --port 0`; the model "none" cannot be found.

    It loads its model once `load` is set. Its engine answers `answer`, held back before the token `gate` until
    `release` is set.
    """

    def __init__(
        self, directory: Path, model_dir: Path, *arguments: str, gate: int | None = None, answer: str = "hello",
        held: bool = False, page: bool = False,
    ) -> None:  # fmt: skip
        self.lines: list[str] = []
        self.load, self.release = CONTEXT.Event(), CONTEXT.Event()
        if not held:
            self.load.set()
        self._said = threading.Condition()
        self._over = False
        pipe = directory / f"stderr-{len(list(directory.iterdir()))}"
        os.mkfifo(pipe)
        events = (self.load, self.release)
        command = ["serve", "--port", "0", *arguments]
        given = (command, pipe, model_dir, gate, answer, events, page, dict(os.environ))
        self._process = CONTEXT.Process(target=_work, args=given)
        self._process.start()
        self._reader = threading.Thread(target=self._read, args=(pipe,))
        self._reader.start()

    def _read(self, pipe: Path) -> None:
        with pipe.open(encoding="utf-8") as lines:
            for line in lines:
                with self._said:
                    self.lines.append(line.rstrip("\n"))
                    self._said.notify_all()
        with self._said:
            self._over = True
            self._said.notify_all()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first match in a line of what it says on standard error."""

        def found() -> re.Match[str] | bool | None:
            return next(filter(None, (re.search(pattern, line) for line in self.lines)), None) or self._over

        with self._said:
            match = self._said.wait_for(found, timeout=60)
        assert isinstance(match, re.Match), "\n".join(self.lines)
        return match

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.wait_for(r"listening at (https?://[^ ,]+)")[1]

    def ready(self) -> str:
        """Where it serves, once it does."""
        return self.wait_for(r"serving .* at (https?://\S+)")[1]

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def end(self) -> tuple[int | None, str]:
        """Its exit code, negative for a signal, and all it said, once it has ended."""
        self._process.join(60)
        assert self._process.exitcode is not None, "\n".join(self.lines)
        self._reader.join()
        return self._process.exitcode, "\n".join(self.lines)

    def kill(self) -> None:
        """Be rid of it."""
        self._process.kill()
        self._process.join()
        self._reader.join()


def _work(
    arguments: list[str], pipe: Path, model_dir: Path, gate: int | None, answer: str, events: Any, page: bool,
    environment: dict[str, str],
) -> None:  # fmt: skip
    os.environ.update(environment)  # the forking process has that of the first test
    os.dup2(os.open(pipe, os.O_WRONLY), 2)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1)
    if not page:
        sys.modules["streamlit"] = None
    load, release = events

    def scripted(options: Any, _adapters: Any, _deployment: Any) -> Models:
        load.wait(60)
        if options.model == "none":
            raise NotFoundError("no model is called 'none'", hint="arriero models")
        engine = ScriptedEngine(answer, gate=gate)
        engine.release = release
        defaults = Sampling(temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0)
        return Models(
            Chat(engine, resolve(model_dir).renderer, model="tiny", adapter=None, window=256, defaults=defaults)
        )

    serve._load = scripted
    sys.exit(main(arguments))
