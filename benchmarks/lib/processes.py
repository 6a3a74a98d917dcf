"""Processor time: who took how much of it."""

from __future__ import annotations

from collections.abc import Sequence

import psutil


def family(head: int) -> list[psutil.Process]:
    """A process and its children; nothing once it has ended."""
    try:
        process = psutil.Process(head)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def core_seconds() -> tuple[float, float]:
    """Seconds of all cores since the machine's start: all of them, and those not idle."""
    times = psutil.cpu_times()
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)  # counted as user time, too
    return total, total - times.idle - getattr(times, "iowait", 0.0)


def processor(members: Sequence[psutil.Process]) -> tuple[float, float, float]:
    """Seconds of all cores so far: all of them, those not idle, those of the members and of this process."""
    own = [process.cpu_times() for process in [psutil.Process(), *members]]
    return *core_seconds(), sum(times.user + times.system for times in own)


def others(total: float, busy: float, own: float) -> float:
    """The share of the cores' time that others took: above a few hundredths, times are worth little."""
    return max(0.0, busy - own) / max(total, 1e-9)
