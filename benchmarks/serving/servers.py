"""Servers, each in processes of its own, on a free port of the loopback interface."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import psutil
import uvloop

from benchmarks.lib.channel import Document
from benchmarks.lib.children import Bench, ChildError, environment
from benchmarks.lib.processes import family, others, processor
from benchmarks.serving.client import fetch

ADDRESS = re.compile(r"(?:serving .* at|Uvicorn running on) (http://\S+)")  # what ours and transformers' say when ready


@dataclass(frozen=True, slots=True)
class Target:
    """A server that is ready: its port, what it calls its model, and its main process."""

    port: int
    model: str
    pid: int

    @classmethod
    def at(cls, url: str, pid: int, model: str | None = None) -> Target:
        """The server at a URL; it is asked for its model where that is not known."""
        port = urlsplit(url).port
        assert port is not None
        return cls(port, model or json.loads(uvloop.run(fetch(port, "/v1/models")))["data"][0]["id"], pid)

    def usage(self) -> Usage:
        """Processor time so far."""
        members = family(self.pid)
        total, busy, known = processor(members)
        each = [sum(process.cpu_times()[:2]) for process in members]
        return Usage(total, busy, known - sum(each), each[0], sum(each[1:]))

    def resident(self) -> tuple[int, int]:
        """Bytes resident in its main process and in that one's children."""
        each = [process.memory_info().rss for process in family(self.pid)]
        return each[0], sum(each[1:])


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor seconds: of all cores, of those not idle, of the client, of the server, of the server's children."""

    total: float
    busy: float
    client: float
    server: float
    children: float

    def since(self, before: Usage, tokens: int) -> Document:
        """Shares and milliseconds a token between two moments.

        `others` is the share of the cores' time that nobody known here took.
        """
        client, server, children = (
            getattr(self, name) - getattr(before, name) for name in ("client", "server", "children")
        )
        each = {"client": client, "server": server, "children": children}
        return {
            "others": others(self.total - before.total, self.busy - before.busy, sum(each.values())),
            "ms_per_token": {name: 1000 * seconds / max(tokens, 1) for name, seconds in each.items()},
        }


class Server:
    """A command that serves. It is ready once it says so; what it says goes to a file."""

    def __init__(self, command: Sequence[str], log: Path, model: str | None = None) -> None:
        self._log = log
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment(),
        )
        assert self.process.stdout is not None
        try:
            self.target = Target.at(self._ready(self.process.stdout), self.process.pid, model)
        except BaseException:
            self.close()
            raise

    def _ready(self, lines: IO[str]) -> str:
        """Its address, once it is ready; a thread goes on reading what it says."""
        file = self._log.open("w")
        for line in lines:
            file.write(line)
            if address := ADDRESS.search(line):
                threading.Thread(target=_copy, args=(lines, file), daemon=True).start()
                return address[1]
        file.close()
        said = self._log.read_text(errors="replace")
        raise ChildError(f"{_last(said)}; it ended with {self.process.wait()}\n{said[-3000:]}")

    def close(self) -> None:
        """End it, and what it has started."""
        members = family(self.process.pid)
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=10)
        for process in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


def _copy(lines: IO[str], file: IO[str]) -> None:
    with file:
        for line in lines:
            file.write(line)
            file.flush()


def _last(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"


def ours(bench: Bench, *arguments: object) -> list[str]:
    """The command line of `arriero serve` with these options."""
    command = [sys.executable, "-m", "arriero.cli", "serve", "--model", bench.options.model, "--port", 0]
    return [*map(str, [*command, "--engine", bench.options.engine, *arguments])]


@contextlib.contextmanager
def serving(bench: Bench, *arguments: object) -> Iterator[Server]:
    """`arriero serve` for as long as it is needed."""
    server = Server(ours(bench, *arguments), bench.folder / "arriero.log")
    try:
        yield server
    finally:
        server.close()


def transformers_serve(bench: Bench, *arguments: str) -> list[str]:
    """The command line of `transformers serve`."""
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(bench.options.model)]
    return [*command, "--host", "127.0.0.1", "--port", "0", "--device", "cpu", "--dtype", "bfloat16", *arguments]
