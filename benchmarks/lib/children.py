"""Processes that answer, one for each way to answer, each waiting until it is its turn."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from arriero.prompt import Renderer
from benchmarks.lib.channel import Document
from benchmarks.lib.processes import family, others, processor

ROOT = Path(__file__).parents[2]
OPENVINO = "benchmarks.lib.ways.openvino"  # the child that is the engine alone; its job says whose `scheduling`
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}


class ChildError(Exception):
    """A process could not do what it was asked; its last lines are in the message."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to answer: the child's module, the job it gets, and whose Python runs it."""

    module: str
    job: Document
    python: str = field(default_factory=lambda: sys.executable)


def environment() -> dict[str, str]:
    """Of a child: it finds these modules, says little and asks no hub."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | QUIET | {"PYTHONPATH": path}


class Child:
    """A running process that has loaded what `way` names."""

    def __init__(self, way: Way, log: Path) -> None:
        self._log = log
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                [way.python, "-m", way.module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=environment(),
            )
        try:
            self.about: Document = self._exchange(way.job)
        except BaseException:
            self.close()
            raise

    def ask(self, **command: Any) -> Any:
        """What it answers to a command; raises ChildError where it cannot."""
        return self._exchange(command)

    def timed(self, **command: Any) -> Document:
        """The same with `others`: the share of the cores' time that neither it nor this process took meanwhile."""
        before = processor(self.family())
        result: Document = self._exchange(command)
        after = processor(self.family())
        total, busy, own = (now - then for now, then in zip(after, before, strict=True))
        return result | {"others": others(total, busy, own)}

    def resident(self) -> int:
        """Bytes resident in it and its own children."""
        return sum(process.memory_info().rss for process in self.family())

    def close(self) -> None:
        """End it, and what it has started."""
        family = self.family()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=30)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def family(self) -> list[psutil.Process]:
        """It and its own children; nothing once it has ended."""
        return family(self._process.pid)

    def _exchange(self, message: Document) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        result = json.loads(line) if line else {"error": f"it ended with {self._process.wait()}"}
        if isinstance(result, dict) and "error" in result:
            raise ChildError(f"{result['error']}\n{self._log.read_text(errors='replace')[-3000:]}")
        return result


@dataclass(frozen=True, slots=True)
class Bench:
    """What every part works with: the options, the base model's renderer, and a folder for what is made on the way."""

    options: argparse.Namespace
    renderer: Renderer
    folder: Path

    def way(self, module: str, **changes: Any) -> Way:
        """A child's module, run here, without adapter, with each engine's own settings unless changed."""
        job = {
            "model": str(self.options.model),
            "adapter": None,
            "precision": "auto",
            "cuda_graphs": "auto",
            "stops": list(self.renderer.stop_token_ids),
        }
        return Way(module, job | changes)

    @contextlib.contextmanager
    def child(self, way: Way) -> Iterator[Child]:
        """A child for as long as it is needed."""
        child = Child(way, self.folder / "child.log")
        try:
            yield child
        finally:
            child.close()


def reason(name: str, error: ChildError) -> str:
    """The failure in one line; all of it goes to standard error."""
    print(f"{name}: {error}", file=sys.stderr)
    return str(error).splitlines()[0]
