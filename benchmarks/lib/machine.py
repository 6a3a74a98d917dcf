"""What a benchmark asks of the machine: time and who else took it, matrix rate, memory, waits for the GPU."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

Device = Literal["cpu", "cuda"]
SIZES = {"cpu": 2048, "cuda": 8192}  # of the square matrices: large enough to reach the machine's rate
TRIES = {"cpu": 12, "cuda": 100}  # an idle GPU first has to raise its clock
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


def matrix_rate(device: Device) -> float:
    """FLOP/s of a square bfloat16 matrix product: the best of several."""
    factor = torch.randn(SIZES[device], SIZES[device], device=device, dtype=torch.bfloat16)
    clock = Clock(device)
    clock.mark()
    for _ in range(TRIES[device]):
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


class Operators(TorchDispatchMode):
    """Counts operators, of the backward pass too, that compute or copy."""

    NONE = ("empty", "new_empty", "detach", "_unsafe_view", "lift_fresh")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name().removeprefix("aten::")
        self.count += not (function.is_view or name.startswith(self.NONE))
        return function(*args, **(kwargs or {}))


def launches(device: Device, work: Callable[[], Any]) -> int:
    """Kernels that `work` takes on a GPU; on a CPU, operators that would be one or more kernels each."""
    if device == "cuda":  # a dispatch mode does not see the backward pass there, which has a thread of its own
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            work()
            torch.cuda.synchronize()
        return sum(event.count for event in seen.key_averages() if event.self_device_time_total > 0)
    with Operators() as counted:
        work()
    return int(counted.count)


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
    idle: float
    own: float

    @classmethod
    def now(cls, device: Device) -> Moment:
        """As of now."""
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted as user time, too
        return cls(peak_memory(device), allocator(device), sum(times) - guests, idle, time.process_time())


class Meter:
    """Told of the end of every optimizer step; the first one is a warm-up."""

    def __init__(self, device: Device) -> None:
        self.device, self.clock = device, Clock(device)
        self._moments: list[Moment] = []

    def step(self) -> None:
        """A step has ended."""
        self.clock.mark()
        if not self._moments and self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()  # peaks are those of the counted steps
        self._moments.append(Moment.now(self.device))

    def outcome(self) -> dict[str, Any]:
        """Seconds of each step after the warm-up, peak memory, and what the allocator did.

        On CUDA all of it is of the steps after the warm-up; on a CPU memory is that of the whole process. `others`
        is the share of the cores' time that other processes took: above a few hundredths, times are worth little.
        """
        first, last = self._moments[0], self._moments[-1]
        busy = (last.total - last.idle) - (first.total - first.idle)
        stats = {
            name: value - (0 if name.endswith("peak") else first.allocator[name])
            for name, value in last.allocator.items()
        }
        return {
            "seconds": self.clock.seconds(),
            "peak_memory": last.peak_memory,
            "allocator": stats,
            "others": max(0.0, busy - (last.own - first.own)) / max(last.total - first.total, 1e-9),
        }


def described(device: Device) -> str:
    """The machine in a few words."""
    from arriero.hardware import cores

    return torch.cuda.get_device_name() if device == "cuda" else f"{cores()} CPU cores"
