"""Capturing on CUDA, for training and for answering: CUDAGraph on a stream of its own, all graphs in one memory pool.

https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs: what is captured may not wait for the device and sees
the same memory in every replay. Autograd's AccumulateGrad nodes belong to the stream that they were made on, and one
made on the default stream breaks the capture of a backward pass: so rows that are not captured run on this stream, too.
"""

from __future__ import annotations

import gc
import threading
import time
import warnings
import weakref
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
WAITS = "called a synchronizing CUDA operation"  # torch's words
SLACK = 1.25  # the kernels of a row that waits for its launches take no longer than these by that factor
_CAPTURING = threading.Lock()
Key = TypeVar("Key")
Value = TypeVar("Value")
Captured = tuple[Callable[[], Any], Tensor]  # replays the work, and the tensor that its result is then in


class Timing(AbstractContextManager[None], Protocol):
    """Around the computation of a row."""

    def launch_bound(self) -> bool:
        """Whether it was bound by launching its kernels; False also where that is not known yet."""
        ...

    def seconds(self) -> float:
        """How long it took on the device, gaps between kernels included; waits until that is known."""
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
        self._graphs: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()

    @contextmanager
    def stream(self) -> Iterator[None]:
        """The side stream, which waits for the current one, and that for it afterwards."""
        current = torch.cuda.current_stream(self._stream.device)
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
        """Call within `stream()`. Threads capture one after the other, as torch wants it."""
        with _CAPTURING:
            return self._captured(work)

    def _captured(self, work: Callable[[], Tensor]) -> Captured:
        gc.collect()  # autograd graphs in reference cycles would keep nodes of other streams alive
        for number in range(WARM_UPS):
            with _no_waits() if number + 1 == WARM_UPS else nullcontext():
                work()
        if not self._graphs:  # a pool ends with the last of its graphs, and its handle is not taken again
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # thread_local: what other threads do on the GPU meanwhile neither fails nor breaks the capture
        capture = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
        with _nodes_of_this_stream(), capture:
            result = work()
        self._graphs.add(graph)
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
        return bool(self._end.query() and self.seconds() <= SLACK * self._host)

    def seconds(self) -> float:
        """See `Timing.seconds`."""
        self._end.synchronize()
        milliseconds: float = self._start.elapsed_time(self._end)
        return milliseconds / 1000


@contextmanager
def _no_waits() -> Iterator[None]:
    """Raises RuntimeError after work that makes this thread wait for the device, since that cannot be captured.

    The mode in which torch tells of it is the process's. As "error" it would fail what other threads do, so it warns,
    and warnings of this thread are what counts, those of torch's backward pass among them; a backward pass written in
    Python warns in a thread of autograd's.
    """
    before, own, waits = torch.cuda.get_sync_debug_mode(), threading.get_ident(), list[str]()
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(
            message: Warning | str, category: type[Warning], filename: str, lineno: int, *more: Any, **named: Any
        ) -> None:
            if not str(message).startswith(WAITS):
                others(message, category, filename, lineno, *more, **named)
            elif threading.get_ident() == own or not _started_by_python():
                waits.append(f"{filename}:{lineno}")

        warnings.filterwarnings("always", WAITS)
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        warnings.showwarning = show
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
    if waits:
        raise RuntimeError(f"the host waits for the device, first in {waits[0]}")


def _started_by_python() -> bool:
    """Whether the current thread is; one that is not gets a _DummyThread where it logs, for example."""
    started = {thread.ident for thread in threading.enumerate() if not isinstance(thread, threading._DummyThread)}
    return threading.get_ident() in started


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


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`; on the way to a GPU without waiting for it, which takes pinned memory."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def refill(static: Tensor, given: Tensor) -> None:
    """Copy `given`, on the CPU, to a graph's input, without waiting for the device."""
    static.copy_(given.pin_memory() if static.device.type == "cuda" else given, non_blocking=True)


def put(kept: OrderedDict[Key, Value], key: Key, value: Value, most: int) -> None:
    """Add the newest entry; the oldest goes where there are more than `most`."""
    kept[key] = value
    while len(kept) > most:
        kept.popitem(last=False)
