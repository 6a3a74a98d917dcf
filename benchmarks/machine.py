"""What a benchmark asks of the machine: time, matrix rate, peak memory, waits for the GPU, what its allocator did."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

Device = Literal["cpu", "cuda"]
SIZES = {"cpu": 2048, "cuda": 8192}  # of the square matrices: large enough to reach the machine's rate
SYNC = "called a synchronizing CUDA operation"


class Clock:
    """Marks in time. On a GPU they are events in its own queue, so that marking waits for nothing."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._marks: list[Any] = []

    def mark(self) -> None:
        """Note the time at which all work handed out so far is done."""
        if self.device == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """From each mark to the next."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        if self.device == "cuda":
            torch.cuda.synchronize()
            return [before.elapsed_time(after) / 1000 for before, after in pairs]
        return [after - before for before, after in pairs]


def matrix_rate(device: Device, *, tries: int = 12) -> float:
    """FLOP/s of a square bfloat16 matrix product: the best of several."""
    factor = torch.randn(SIZES[device], SIZES[device], device=device, dtype=torch.bfloat16)
    clock = Clock(device)
    clock.mark()
    for _ in range(tries):
        factor @ factor
        clock.mark()
    return float(2 * SIZES[device] ** 3 / min(clock.seconds()))


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
    found = [warning for warning in caught if SYNC in str(warning.message)]
    return [f"{Path(warning.filename).name}:{warning.lineno}" for warning in found]


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


def described(device: Device) -> str:
    """The machine in a few words."""
    from arriero.hardware import cores

    return torch.cuda.get_device_name() if device == "cuda" else f"{cores()} CPU cores"
