"""What stands in for the process that computes: each text's vector is made of its ids, when a test lets it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from arriero.errors import EngineError

DIMENSION = 16


def vector(ids: Sequence[int]) -> list[float]:
    """Its number of ids, its ids' sum, and zeros."""
    return [float(len(ids)), float(sum(ids)), *[0.0] * (DIMENSION - 2)]


class ScriptedComputer:
    """Computes while `go` is set; `computing` is set once a batch has come, `batches` are all that came."""

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []
        self.computing, self.go, self.killed = threading.Event(), threading.Event(), threading.Event()

    def compute(self, batch: Sequence[Sequence[int]]) -> np.ndarray:
        self.batches.append([list(ids) for ids in batch])
        self.computing.set()
        assert self.go.wait(30)
        if self.killed.is_set():
            raise EngineError("killed")
        return np.array([vector(ids) for ids in batch], np.float32)

    def kill(self) -> None:
        self.killed.set()
        self.go.set()

    def close(self) -> None:
        self.kill()
