"""What this machine computes with: asked by the engines, by training and by `arriero doctor`, decided once."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import platform
from dataclasses import dataclass
from pathlib import Path

SPINS = 1000  # turns of a waiting thread before it sleeps; docs/benchmarks.md has others


@dataclass(frozen=True, slots=True)
class Speedup:
    """A module that a GPU wants beside what Arriero needs, for what, and the command that installs it."""

    module: str
    merit: str
    install: str

    @property
    def installed(self) -> bool:
        """Whether it can be imported."""
        return importlib.util.find_spec(self.module) is not None


FLASH_3 = "https://github.com/Dao-AILab/flash-attention#subdirectory=hopper"  # no index that pip asks has it
SPEEDUPS = {
    "vllm": Speedup("vllm", "answers many requests at once", 'pip install "arriero[vllm]"'),
    "liger-kernel": Speedup(
        "liger_kernel", "trains with fused norm, SwiGLU and rotary embedding", 'pip install "arriero[cuda]"'
    ),
    "bitsandbytes": Speedup("bitsandbytes", "holds base weights in 4 bits", 'pip install "arriero[4bit]"'),
    "flash-attn-3": Speedup(
        "flash_attn_interface",
        "flash attention 3 in torch, on Hopper",
        f'pip install --no-build-isolation "git+{FLASH_3}"',
    ),
}


@functools.cache
def gpus() -> tuple[str, ...]:
    """Names of the CUDA devices torch sees. Does not import torch where no NVIDIA driver is loaded."""
    if platform.system() == "Linux" and not Path("/proc/driver/nvidia").exists():
        return ()
    import torch

    return tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


@functools.cache
def fast_bfloat16() -> bool:
    """Whether the GPU, or the CPU where there is none, multiplies bfloat16 matrices in hardware."""
    if gpus():
        import torch

        return bool(torch.cuda.is_bf16_supported())
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and "avx512_bf16" in flags.read_text().split()


def free_memory() -> int:
    """Bytes that can still be allocated where models compute: on the GPU, else in this process's control group."""
    if gpus():
        import torch

        return int(torch.cuda.mem_get_info()[0])
    import psutil

    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    limit = group / "memory.max"
    if limit.is_file() and (most := limit.read_text().strip()).isdigit():
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(counts.get("inactive_file", 0))  # a cache may go
        free = min(free, max(0, int(most) - used))
    return free


def cores() -> int:
    """Processor cores that this process may use: by affinity, and by the quota of its control group."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file() and (parts := quota.read_text().split())[0].isdigit():
        count = min(count, max(1, round(int(parts[0]) / int(parts[1]))))
    return count


def machine() -> str:
    """What computes here, in words."""
    return ", ".join(gpus()) or f"{cores()} CPU cores, {platform.machine()}"


def spin_briefly() -> None:
    """Have OpenMP's threads, torch's, wait for each other with little spinning; to be called before torch is imported.

    A thread that spins at a barrier keeps the core from the one it waits for, if other programs are busy too: by
    OpenMP's own default training beside two busy loops on two cores takes many times as long as its share of them
    explains. Without any spinning it is slower on a quiet machine. What the user has set stays.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)


def reuse_freed_memory() -> None:
    """Have glibc keep large freed blocks for the next step instead of returning them to the system.

    Otherwise every large tensor is mapped, zeroed and unmapped again, which costs a training step on a CPU a tenth
    of its time. Does nothing with another C library.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for name, value in ((-3, 1 << 30), (-1, (1 << 31) - 1), (-2, 64 << 20)):  # M_MMAP_, M_TRIM_THRESHOLD, M_TOP_PAD
            library.mallopt(name, value)
