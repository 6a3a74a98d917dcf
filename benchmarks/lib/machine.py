"""The machine in words, its matrix rate, and a clock that works on a GPU too."""

from __future__ import annotations

import platform
import re
import time
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

Device = Literal["cpu", "cuda"]
SIZES = {"cpu": 2048, "cuda": 8192}  # of the square matrices: large enough to reach the machine's rate
TRIES = {"cpu": 12, "cuda": 100}  # an idle GPU first has to raise its clock
CPUINFO = Path("/proc/cpuinfo")


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


def described(device: Device) -> str:
    """The machine in a few words."""
    from arriero.hardware import cores

    if device == "cuda":
        return str(torch.cuda.get_device_name())
    return f"{cores()} cores of {_processor()}, {psutil.virtual_memory().total / 1e9:.0f} GB"


def _processor() -> str:
    """Its name, where Linux tells it."""
    names = re.findall(r"^model name\s*: (.+)$", CPUINFO.read_text(), re.MULTILINE) if CPUINFO.is_file() else []
    return names[0] if names else platform.machine()
