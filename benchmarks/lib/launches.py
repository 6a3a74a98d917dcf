"""What work launches: kernels on a GPU, and on any machine the operators that would be kernels there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode  # no public name; seen with torch 2.13


class Operators(TorchDispatchMode):
    """Counts operators, of the backward pass too, that compute or copy: each is one kernel or more, a view is none."""

    NONE = ("empty", "new_empty", "detach", "_unsafe_view", "lift_fresh")

    def __init__(self) -> None:
        super().__init__()
        self.count, self._counting = 0, True

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name().removeprefix("aten::")
        self.count += self._counting and not (function.is_view or name.startswith(self.NONE))
        return function(*args, **(kwargs or {}))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing counts within."""
        self._counting = False
        try:
            yield
        finally:
            self._counting = True


HOST = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")  # how such calls begin
LONGEST = 12  # kernels that are listed


def on_gpu(work: Callable[[], Any]) -> dict[str, Any]:
    """What `work` asks of a GPU, see `summed`."""
    # CUDA graphs that are replayed after a profiler has ended crash otherwise; seen in torch/profiler/profiler.py, 2.11
    os.environ |= {"DISABLE_CUPTI_LAZY_REINIT": "1", "TEARDOWN_CUPTI": "0"}
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        work()
        torch.cuda.synchronize()
    return summed(seen.key_averages())


def summed(events: Iterable[Any]) -> dict[str, Any]:
    """Of a profiler's `key_averages`: launches and copies by the host, and the kernels and copies that these came to.

    A graph is one launch of many kernels. `busy` are seconds of all kernels, `longest` those that take most of it.
    """
    events = [event for event in events if not event.is_user_annotation]
    calls = [event for event in events if event.device_type == DeviceType.CPU and event.key.startswith(HOST)]
    kernels = [event for event in events if event.device_type == DeviceType.CUDA]
    kernels.sort(key=lambda event: event.self_device_time_total, reverse=True)
    return {
        "launches": sum(event.count for event in calls),
        "kernels": sum(event.count for event in kernels),
        "busy": sum(event.self_device_time_total for event in kernels) / 1e6,
        "longest": {event.key[:120]: event.self_device_time_total / 1e6 for event in kernels[:LONGEST]},
    }
