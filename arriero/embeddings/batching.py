"""Texts of concurrent requests -> batches.

A batch is padded to its longest text, so it costs longest x texts; that is kept within a budget. Requests take turns
text by text, so that one with thousands of texts holds up another's single one by a batch at most:

    waiting   A a1 a2 a3 a4    B b1    C c1 c2
    batches   a1 b1 c1 a2      c2 a3 a4             with room for four texts of their length

Within a request shorter texts come first, so that those of one length meet.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from queue import Empty, SimpleQueue
from typing import Protocol

import numpy as np

from arriero.embeddings.worker import Vectors
from arriero.errors import EngineError

BUDGET = 8192  # tokens of a batch, padding included; a longer text is a batch of its own


class Computer(Protocol):
    """What computes a batch: worker.Worker."""

    def compute(self, batch: Sequence[Sequence[int]]) -> Vectors:
        """(texts, dimension)"""

    def kill(self) -> None:
        """End at once, from any thread; `compute` raises then."""

    def close(self) -> None:
        """`kill`, and wait."""


class Job:
    """A request's texts as ids, which of them wait, and the vectors of the others; `future` may be cancelled."""

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        self.texts = texts
        self.future: Future[Vectors] = Future()
        self.waiting = sorted(range(len(texts)), key=lambda index: len(texts[index]), reverse=True)
        self._vectors: dict[int, Vectors] = {}

    def fill(self, index: int, vector: Vectors) -> None:
        """Put in a text's vector; the last one ends the job."""
        self._vectors[index] = vector
        if len(self._vectors) == len(self.texts):
            with contextlib.suppress(InvalidStateError):  # cancelled just now
                self.future.set_result(np.stack([self._vectors[index] for index in range(len(self.texts))]))

    def fail(self, error: Exception) -> None:
        """End it with an error, unless it has ended."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)


def next_batch(jobs: deque[Job], budget: int = BUDGET) -> list[tuple[Job, int]]:
    """Take texts, as (job, index), for the next batch; jobs that have ended, or none of whose texts wait, go."""
    batch: list[tuple[Job, int]] = []
    longest = 0
    while jobs:
        job = jobs[0]
        if job.future.done() or not job.waiting:
            jobs.popleft()
            continue
        longest = max(longest, len(job.texts[job.waiting[-1]]))  # `waiting` ends with the job's shortest text
        if batch and longest * (len(batch) + 1) > budget:
            break
        batch.append((job, job.waiting.pop()))
        jobs.rotate(-1)  # the next text is the next job's
    return batch


class Batcher:
    """A thread that computes what is submitted, by a process that `start` makes; should that die, by another one."""

    def __init__(self, start: Callable[[], Computer]) -> None:
        self.started: Future[None] = Future()  # whether the first start succeeded
        self._start = start
        self._computer: Computer | None = None
        self._closed = False
        self._inbox: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="embeddings", daemon=True)
        self._thread.start()

    def submit(self, texts: Sequence[Sequence[int]]) -> Future[Vectors]:
        """The vectors of texts given as ids, (texts, dimension), once they are there. At least one text."""
        job = Job(texts)
        self._inbox.put(job)
        if self._closed:  # asked after the job is in: either the thread's last look finds it, or this does
            self._refuse()
        return job.future

    def kill(self) -> None:
        """End; what is not computed fails. Takes no lock and waits for nobody, for finalizers."""
        self._closed = True
        computer = self._computer
        if computer is not None:
            computer.kill()
        self._inbox.put(None)

    def close(self) -> None:
        """`kill`, and wait for the end."""
        self.kill()
        self._thread.join()

    def _run(self) -> None:
        jobs: deque[Job] = deque()
        try:
            self._computer = self._start()
            self.started.set_result(None)
        except Exception as error:
            self.started.set_exception(error)
        while not self._closed:
            self._take(jobs)
            self._compute(next_batch(jobs))
        if self._computer is not None:
            self._computer.close()
        for job in jobs:
            job.fail(_closed())
        self._refuse()

    def _take(self, jobs: deque[Job]) -> None:
        """Add what was submitted, waiting for it if there is nothing else to do."""
        with contextlib.suppress(Empty):
            while True:
                job = self._inbox.get(block=not jobs)
                if job is None:
                    return
                jobs.append(job)

    def _compute(self, batch: list[tuple[Job, int]]) -> None:
        if not batch:
            return
        try:
            self._computer = self._computer or self._start()
            vectors = self._computer.compute([job.texts[index] for job, index in batch])
        except Exception as error:
            if self._computer is not None:
                self._computer.close()
            self._computer = None
            for job, _ in batch:
                job.fail(_closed() if self._closed else error)
        else:
            for (job, index), vector in zip(batch, vectors, strict=True):
                job.fill(index, vector)

    def _refuse(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                job = self._inbox.get_nowait()
                if job is not None:
                    job.fail(_closed())


def _closed() -> EngineError:
    return EngineError("the embedder is closed")
