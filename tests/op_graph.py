"""A CPU's stand-in for CUDA graphs: the operators of a piece of work, replayed on the same tensors in the same memory.

As in a CUDA graph, whatever was a Python value at the capture is baked in, results are written to where they were, and
reading a number on the host raises. As with a pool that graphs share, a replay leaves nothing of another's result.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "lift_fresh"}  # the last: a list's numbers
METHODS = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu}  # of a CPU's tensor these are no operators


class HostReads(TorchFunctionMode):
    """Raises for what reads a tensor on the host."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in METHODS:
            raise waits(function.__name__)
        return function(*args, **(kwargs or {}))


def waits(name):
    return RuntimeError(f"{name} waits for the device and cannot be captured")


class OpGraph(TorchDispatchMode):
    """Records every operator below autograd, those of the backward pass too."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        indices = args[1] if name == "index" else ()
        if name in READS or any(index is not None and index.dtype == torch.bool for index in indices):
            raise waits(name)
        output = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, output))
        return output

    def replay(self):
        with torch._C._AutoDispatchBelowAutograd():
            for function, args, kwargs, found in self.calls:
                for old, new in zip(tree_leaves(found), tree_leaves(function(*args, **kwargs)), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class Timed:
    """A row whose launches take longer than its kernels, or not; it takes a second, or what a replay takes."""

    def __init__(self, capture):
        self.launch_bound = lambda: capture.bound
        self.seconds = lambda: self._seconds
        self._capture = capture

    def __enter__(self):
        self._replays = self._capture.replays

    def __exit__(self, *_):
        self._seconds = self._capture.replay_seconds if self._capture.replays > self._replays else 1.0


class OpCapture:
    """Captures on the CPU; `graphs` are what was captured, `replays` how often any was replayed.

    A row takes the model a second, and a graph `replay_seconds`.
    """

    def __init__(self, *, launch_bound=True, replay_seconds=0.5):
        self.bound, self.replay_seconds, self.graphs, self.replays = launch_bound, replay_seconds, [], 0
        self._results = []

    def stream(self):
        return nullcontext()

    def timed(self):
        return Timed(self)

    def __call__(self, work):
        work()
        with HostReads(), OpGraph() as graph:
            result = work()
        self.graphs.append(graph)
        self._results.append(result)
        return lambda: self._replay(graph, result), result

    def _replay(self, graph, result):
        self.replays += 1
        for other in self._results:
            if other is not result:
                other.fill_(float("nan"))
        graph.replay()
