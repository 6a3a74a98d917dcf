"""What a machine with an NVIDIA driver is taken for, with torch's own answers about CUDA put in place of a GPU's."""

from __future__ import annotations

import pytest
import torch

from arriero import hardware


@pytest.fixture
def cuda(monkeypatch, tmp_path):
    """A machine whose driver is loaded, and what torch.cuda says there."""
    monkeypatch.setattr(hardware, "DRIVERS", (str(tmp_path),))
    for cached in (hardware.gpus, hardware.fast_bfloat16):
        cached.cache_clear()
        monkeypatch.setattr(hardware, cached.__name__, cached.__wrapped__)

    def says(**answers):
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, answer)

    return says


USABLE = {
    "is_available": lambda: True,
    "get_device_name": lambda at: f"GPU {at}",
    "get_device_capability": lambda _: (9, 0),
    "get_arch_list": lambda: ["sm_75", "sm_90a", "compute_120"],
}


def raising(error):
    def function(*_):
        raise error

    return function


def test_a_driver_that_is_too_old_is_no_gpu_and_says_so(cuda):
    """NVML counted the GPU, CUDA then raised, and every command ended with that, `arriero doctor` too."""
    old = RuntimeError("The NVIDIA driver on your system is too old (found version 12020).\nPlease update it.")
    cuda(device_count=lambda: 1, is_available=lambda: False, get_device_name=raising(old), init=raising(old))
    assert hardware.gpus() == ()
    assert hardware.gpu_fault() == "The NVIDIA driver on your system is too old (found version 12020)."


def test_a_torch_without_cuda_is_named(cuda):
    cuda(device_count=lambda: 0, init=raising(AssertionError("Torch not compiled with CUDA enabled")))
    assert hardware.gpus() == ()
    assert hardware.gpu_fault() == "Torch not compiled with CUDA enabled"


def test_gpus_that_can_be_used_have_no_fault(cuda):
    cuda(**USABLE, device_count=lambda: 2)
    assert hardware.gpus() == ("GPU 0", "GPU 1")
    assert hardware.gpu_fault() is None


def test_a_gpu_that_torch_has_no_kernels_for_is_none(cuda, monkeypatch):
    """A V100 with a torch for CUDA 13: the first kernel raised that there is no image of it for the device."""
    monkeypatch.setattr(torch, "__version__", "2.14.0")
    older = {"get_device_name": lambda _: "Tesla V100", "get_device_capability": lambda _: (7, 0)}
    cuda(**USABLE | older, device_count=lambda: 1, init=lambda: None)
    assert hardware.gpus() == ()
    assert hardware.gpu_fault() == "Tesla V100 is of compute capability 7.0, torch 2.14.0 needs 7.5"


def test_without_a_driver_torch_is_not_asked(cuda, monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "DRIVERS", (str(tmp_path / "none"),))
    cuda(is_available=raising(AssertionError("asked")), init=raising(AssertionError("asked")))
    assert hardware.gpus() == ()
    assert hardware.gpu_fault() is None


def test_a_mac_lacks_no_gpu_of_nvidia(cuda, monkeypatch):
    monkeypatch.setattr(hardware.platform, "system", lambda: "Darwin")
    cuda(is_available=lambda: False, init=raising(AssertionError("Torch not compiled with CUDA enabled")))
    assert hardware.gpus() == ()
    assert hardware.gpu_fault() is None


def test_bfloat16_that_is_emulated_is_not_fast(cuda):
    """A T4 or V100 was said to compute it in hardware, and trained in it."""
    cuda(
        **USABLE,
        device_count=lambda: 1,
        is_bf16_supported=lambda including_emulation=True: including_emulation,
    )
    assert not hardware.fast_bfloat16()


def test_what_torch_keeps_for_other_tensors_is_free_memory(cuda):
    """After the check of the first step it is a good part, and a plan without it computes layers again for nothing."""
    cuda(
        **USABLE,
        device_count=lambda: 1,
        mem_get_info=lambda: (10, 80),
        memory_reserved=lambda: 60,
        memory_allocated=lambda: 20,
    )
    assert hardware.free_memory() == 50


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(),
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    ],
)
def test_out_of_memory_has_many_forms(error):
    """What libraries beside torch's allocator said of it was taken for a fault of the fast computation."""
    assert hardware.out_of_memory(error)
    assert not hardware.out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
