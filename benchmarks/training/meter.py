"""What is measured of optimizer steps: time and who else took it, peak memory, waits for the GPU."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib.launches import Operators, on_gpu
from benchmarks.lib.machine import Clock, Device
from benchmarks.lib.processes import core_seconds, others

SYNC = "called a synchronizing CUDA operation"


def peak_memory(device: Device) -> int:
    """Peak bytes: allocated on the GPU, else resident in this process.

    VmHWM is ru_maxrss without its inheritance: after a fork and an exec, ru_maxrss still counts the parent's memory.
    """
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status has no VmHWM")


def host_waits(device: Device, work: Callable[[], Any]) -> list[str] | None:
    """Where `work` made the host wait for the GPU, one entry a time; None without a GPU, which has no such waits.

    What torch's debug mode sees: copies to the host, conversions to Python numbers, and indexing by masks.
    """
    if device != "cuda":
        work()
        return None
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [f"{Path(each.filename).name}:{each.lineno}" for each in caught if SYNC in str(each.message)]


def launched(device: Device, work: Callable[[], Any]) -> dict[str, Any]:
    """What `work` launches on a GPU; on a CPU, how many operators would be one kernel or more each."""
    if device == "cuda":  # a dispatch mode does not see the backward pass there, which has a thread of its own
        return on_gpu(work)
    with Operators() as counted:
        work()
    return {"launches": int(counted.count)}


def allocator(device: Device) -> dict[str, int]:
    """Counters of the GPU's allocator: bytes at their peak, calls of cudaMalloc, retries after freeing its cache."""
    if device != "cuda":
        return {}
    stats = torch.cuda.memory_stats()
    return {
        "allocated_peak": int(stats["allocated_bytes.all.peak"]),
        "reserved_peak": int(stats["reserved_bytes.all.peak"]),
        "device_allocations": int(stats["segment.all.allocated"]),
        "retries": int(stats["num_alloc_retries"]),
    }


@dataclass(frozen=True, slots=True)
class Moment:
    """What is known at the end of a step; processor seconds are those of all cores since the machine's start."""

    peak_memory: int
    allocator: dict[str, int]
    total: float
    busy: float
    own: float

    @classmethod
    def now(cls, device: Device) -> Moment:
        """As of now."""
        return cls(peak_memory(device), allocator(device), *core_seconds(), time.process_time())


class Meter:
    """Told of the end of every optimizer step; the first ones are a warm-up."""

    def __init__(self, device: Device, warm_ups: int) -> None:
        self.device, self.clock, self.warm_ups = device, Clock(device), warm_ups
        self._moments: list[Moment] = []

    def step(self) -> None:
        """A step has ended."""
        self.clock.mark()
        self._moments.append(Moment.now(self.device))
        if len(self._moments) == self.warm_ups and self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()  # peaks are those of the counted steps

    def outcome(self) -> dict[str, Any]:
        """Seconds of each step after the warm-up, peak memory, and what the allocator did.

        On CUDA all of it is of the steps after the warm-up; on a CPU memory is that of the whole process. `others`
        is the share of the cores' time that other processes took: above a few hundredths, times are worth little.
        """
        first, last = self._moments[self.warm_ups - 1], self._moments[-1]
        stats = {
            name: value - (0 if name.endswith("peak") else first.allocator[name])
            for name, value in last.allocator.items()
        }
        return {
            "seconds": self.clock.seconds()[self.warm_ups - 1 :],
            "peak_memory": last.peak_memory,
            "allocator": stats,
            "others": others(last.total - first.total, last.busy - first.busy, last.own - first.own),
        }
