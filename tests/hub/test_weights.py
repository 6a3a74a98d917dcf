"""Where weights go on a machine with GPUs, as `arriero.hardware` would tell of them."""

from __future__ import annotations

import pytest
import torch

from arriero import hub
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
