"""Where weights go on a machine with GPUs, as `arriero.hardware` would tell of them."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from arriero import hub
from arriero.errors import MemoryLimitError
from arriero.hub import weights


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    """Two GPUs, the first with 1,000 bytes free, and a model of that many bytes in two files."""
    monkeypatch.setattr(weights, "gpus", lambda: ("GPU 0", "GPU 1"))
    monkeypatch.setattr(weights, "free_memory", lambda: 1000)

    def model(size):
        for number, part in enumerate((size // 2, size - size // 2)):
            (tmp_path / f"{number}.safetensors").write_bytes(bytes(part))
        return tmp_path

    return model


@pytest.mark.parametrize(
    ("size", "dtype", "expected"),
    [
        (750, torch.bfloat16, {"": 0}),
        (751, torch.bfloat16, "auto"),
        (375, torch.float32, {"": 0}),
        (376, torch.float32, "auto"),
        (0, "auto", "auto"),
    ],
)
def test_a_model_that_fits_into_one_gpu_is_not_spread_over_all(gpus, size, dtype, expected):
    """transformers' "auto" balances, so that every GPU of the machine had a few layers, and none had CUDA graphs."""
    assert hub.placed(gpus(size), dtype) == expected


def test_without_gpus_it_is_the_cpu(tmp_path):
    assert hub.placed(tmp_path, torch.float32) is None


def test_weights_that_a_gpu_cannot_hold_are_no_damaged_ones(model_dir, monkeypatch):
    """What CUDA itself says of it, and not torch's allocator, ended in the advice to download the model again."""

    def full(*_, **__):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(MemoryLimitError, match="does not fit into memory: CUDA error: out of memory"):
        hub.load_weights(model_dir)


@pytest.mark.parametrize("found", [(), ("H100",)])
def test_on_a_gpu_attention_is_not_cudnns(found, model_dir, monkeypatch):
    """torch prefers it on Hopper and Blackwell, where every decoding step waited for a plan of its key length."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    monkeypatch.setattr(weights, "gpus", lambda: found)
    torch.backends.cuda.enable_cudnn_sdp(True)
    try:
        hub.load_weights(model_dir)
        assert torch.backends.cuda.cudnn_sdp_enabled() == (not found)
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
