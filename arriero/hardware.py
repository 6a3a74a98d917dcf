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
DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")  # some containers have the second only, WSL the third
SHORT = "out of memory", "can't allocate memory", "ALLOC_FAILED"  # CUDA and Triton, a CPU's allocator, cuBLAS


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
    "vllm-bnb-plugin": Speedup(
        "vllm_bnb_plugin", "lets vLLM hold base weights in 4 bits", 'pip install "arriero[vllm]"'
    ),
    "flashinfer-jit-cache": Speedup(
        "flashinfer_jit_cache",
        "lets vLLM start without compiling kernels, on Hopper and newer",
        "vllm download-kernels",
    ),
    "flash-attn-3": Speedup(
        "flash_attn_interface",
        "flash attention 3 in torch, on Hopper",
        f'pip install --no-build-isolation "git+{FLASH_3}"',
    ),
}


@functools.cache
def gpus() -> tuple[str, ...]:
    """Names of the CUDA devices torch can use. Does not import torch where no NVIDIA driver is loaded."""
    if not _driver():
        return ()
    import torch

    # device_count asks the driver, and counts GPUs that this torch cannot use, for which the driver is too old
    if not torch.cuda.is_available() or _older() is not None:
        return ()
    return tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def gpu_fault() -> str | None:
    """Why torch cannot use a GPU although an NVIDIA driver is loaded; None where it can, or there is no driver."""
    if platform.system() != "Linux" or gpus() or not _driver():
        return None
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # the latter where torch is built without CUDA
        return str(error).partition("\n")[0]
    return _older()


def _older() -> str | None:
    """Why this torch has no kernels for the first GPU, which is older than all that it is built for."""
    import torch

    architectures = [name.partition("_")[2].rstrip("af") for name in torch.cuda.get_arch_list()]
    least = min((int(number) for number in architectures if number.isdigit()), default=0)
    major, minor = torch.cuda.get_device_capability(0)
    if 10 * major + minor >= least:
        return None
    name = torch.cuda.get_device_name(0)
    return f"{name} is of compute capability {major}.{minor}, torch {torch.__version__} needs {least / 10}"


def _driver() -> bool:
    return platform.system() != "Linux" or any(Path(path).exists() for path in DRIVERS)


@functools.cache
def fast_bfloat16() -> bool:
    """Whether the GPU, or the CPU where there is none, multiplies bfloat16 matrices in hardware."""
    if gpus():
        import torch

        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and "avx512_bf16" in flags.read_text().split()


def free_memory() -> int:
    """Bytes that can still be allocated where models compute: on the GPU, else in this process's control group."""
    if gpus():
        import torch

        # what tensors gave back is torch's for other tensors, and no longer free for the driver
        return int(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
    import psutil

    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    limit = group / "memory.max"
    if limit.is_file() and (most := limit.read_text().strip()).isdigit():
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(counts.get("inactive_file", 0))  # a cache may go
        free = min(free, max(0, int(most) - used))
    return free


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory did not suffice, of whichever part of torch it comes from."""
    import torch

    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or any(words in str(error) for words in SHORT)


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
