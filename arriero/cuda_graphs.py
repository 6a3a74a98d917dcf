"""Capturing on CUDA, for training and for answering: CUDAGraph on a stream of its own, all graphs in one memory pool.

https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs: what is captured may not wait for the device and sees
the same memory in every replay. Autograd's AccumulateGrad nodes belong to the stream that they were made on, and one
made on the default stream breaks the capture of a backward pass: so rows that are not captured run on this stream, too.
"""

from __future__ import annotations

import gc
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

MOST = 16  # graphs at a time; the least recently used goes
REMEMBERED = 64  # sizes without a graph that were met before
WARM_UPS = 3  # passes in which kernels are compiled and libraries set themselves up
SLACK = 1.25  # the kernels of a row that waits for its launches take no longer than these by that factor
Key = TypeVar("Key")
Value = TypeVar("Value")
Captured = tuple[Callable[[], Any], Tensor]  # replays the work, and the tensor that its result is then in


class Timing(AbstractContextManager[None], Protocol):
    """Around the computation of a row; says afterwards, without waiting, if that was bound by launching its kernels."""

    def launch_bound(self) -> bool:
        """False also where that is not known yet."""
        ...


class Capture(Protocol):
    """A device whose work can be captured."""

    def stream(self) -> AbstractContextManager[None]:
        """Within the block, work goes to the stream that captures."""
        ...

    def timed(self) -> Timing:
        """A clock for one row."""
        ...

    def __call__(self, work: Callable[[], Tensor]) -> Captured:
        """Do `work` a few times, then capture it; raises where it cannot be."""
        ...


class CudaCapture:
    """Capture on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def stream(self) -> Iterator[None]:
        """The side stream, which waits for the current one, and that for it afterwards."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            current.wait_stream(self._stream)

    def timed(self) -> Timing:
        """By events in the stream."""
        return _CudaTiming()

    def __call__(self, work: Callable[[], Tensor]) -> Captured:
        """Call within `stream()`."""
        gc.collect()  # autograd graphs in reference cycles would keep nodes of other streams alive
        for number in range(WARM_UPS):
            with _no_waits() if number + 1 == WARM_UPS else nullcontext():
                work()
        graph = torch.cuda.CUDAGraph()
        with _nodes_of_this_stream(), torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            result = work()
        return graph.replay, result


class _CudaTiming:
    def __init__(self) -> None:
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._host = 0.0

    def __enter__(self) -> None:
        self._start.record()
        self._host = -time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._host += time.perf_counter()
        self._end.record()

    def launch_bound(self) -> bool:
        """Whether the kernels were done about when the last of them had been launched."""
        return bool(self._end.query() and self._start.elapsed_time(self._end) / 1000 <= SLACK * self._host)


@contextmanager
def _no_waits() -> Iterator[None]:
    """Work that makes the host wait for the device, which cannot be captured, raises a RuntimeError that says so."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextmanager
def _nodes_of_this_stream() -> Iterator[None]:
    """Nodes that are left of another stream run on this one; since torch 2.13, before that they must not be left."""
    override: Callable[[bool], None] | None = getattr(torch.autograd.graph, "set_override_stale_capture_stream", None)
    if override is None:
        yield
        return
    override(True)
    try:
        yield
    finally:
        override(False)


def refill(static: Tensor, given: Tensor) -> None:
    """Copy `given`, on the CPU, to a graph's input, without waiting for the device."""
    static.copy_(given.pin_memory() if static.device.type == "cuda" else given, non_blocking=True)


def put(kept: OrderedDict[Key, Value], key: Key, value: Value, most: int) -> None:
    """Add the newest entry; the oldest goes where there are more than `most`."""
    kept[key] = value
    while len(kept) > most:
        kept.popitem(last=False)
