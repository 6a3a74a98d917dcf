"""What this machine computes with: asked by the engines, by training and by `arriero doctor`, decided once."""

from __future__ import annotations

import functools
import platform
from pathlib import Path


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
    import torch

    return bool(torch.cuda.is_bf16_supported() if gpus() else torch.cpu._is_avx512_bf16_supported())
