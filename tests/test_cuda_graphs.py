"""How a capture is asked for on CUDA, with torch's own functions replaced: what it computes takes a GPU to see."""

from __future__ import annotations

import _thread
import gc
import threading
import warnings
from contextlib import contextmanager, nullcontext

import pytest
import torch

from arriero.cuda_graphs import WAITS, CudaCapture


class Graph:
    def replay(self):
        pass


class Stream:
    device = torch.device("cuda", 1)

    def __init__(self, device=None):
        self.waits = []

    def wait_stream(self, other):
        self.waits.append(other)


@pytest.fixture
def captured(monkeypatch):
    """torch.cuda without a GPU; the list of (pool, stream, error mode) that captures began with."""
    begun, handles, mode = [], iter(range(9)), ["default"]

    @contextmanager
    def graph(graph, pool=None, stream=None, capture_error_mode="global"):
        begun.append((pool, stream, capture_error_mode))
        yield

    replaced = {
        "Stream": Stream,
        "CUDAGraph": Graph,
        "graph": graph,
        "stream": nullcontext,
        "current_stream": lambda device: device,
        "graph_pool_handle": lambda: next(handles),
        "get_sync_debug_mode": lambda: mode[0],
        "set_sync_debug_mode": lambda wished: mode.__setitem__(0, wished),
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    yield begun
    assert mode == ["default"]


def work():
    return torch.ones(1)


def wait():
    """What torch does in the mode "warn" where the host waits; in "error" it raises, in whatever thread."""
    if torch.cuda.get_sync_debug_mode() == "error":
        raise RuntimeError(WAITS)
    if torch.cuda.get_sync_debug_mode() == "warn":
        warnings.warn(f"{WAITS} (Triggered internally at CUDAFunctions.cpp:150.)", UserWarning, stacklevel=1)
    return work()


def test_graphs_share_a_pool_for_as_long_as_one_of_them_is_there(captured):
    """A pool that has lost all its graphs is not taken again: torch's allocator raises an internal assertion."""
    capture = CudaCapture(torch.device("cuda"))
    kept = [capture(work) for _ in range(2)]
    del kept[0]
    kept.append(capture(work))
    first = {pool for pool, *_ in captured}
    assert len(first) == 1
    kept.clear()
    gc.collect()
    capture(work)
    assert captured[-1][0] not in first


def test_what_other_threads_do_on_the_gpu_does_not_break_a_capture(captured):
    """An engine in its user's process captured in the mode "global"."""
    CudaCapture(torch.device("cuda"))(work)
    assert captured[0][2] == "thread_local"


def test_work_that_waits_for_the_device_is_not_captured(captured):
    capture = CudaCapture(torch.device("cuda"))
    with pytest.raises(RuntimeError, match=r"the host waits for the device, first in .*test_cuda_graphs\.py:\d+"):
        capture(wait)
    assert captured == []


def test_waits_of_other_threads_are_theirs(captured):
    """torch's mode is that of the process: they failed with "called a synchronizing CUDA operation"."""
    failed = []

    def elsewhere():
        try:
            wait()
        except RuntimeError as error:
            failed.append(error)

    def beside():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        return work()

    CudaCapture(torch.device("cuda"))(beside)
    assert failed == []
    assert len(captured) == 1


@pytest.mark.parametrize("known", [False, True])
def test_waits_in_a_thread_that_python_has_not_started_count(captured, known):
    """Backward passes written in Python run in autograd's thread: their waits went unseen and broke the capture."""

    def backward(done):
        if known:  # as by a line of log, from which on threading lists it
            threading.current_thread()
        wait()
        done.set()

    def work():
        done = threading.Event()
        _thread.start_new_thread(backward, (done,))
        assert done.wait(60)
        return torch.ones(1)

    with pytest.raises(RuntimeError, match="the host waits for the device"):
        CudaCapture(torch.device("cuda"))(work)
    assert captured == []


def test_streams_of_another_gpu_than_the_first_wait_for_each_other(captured, monkeypatch):
    capture = CudaCapture(torch.device("cuda", 1))
    current = Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: current if device == Stream.device else None)
    with capture.stream():
        pass
    assert current.waits == [capture._stream]
