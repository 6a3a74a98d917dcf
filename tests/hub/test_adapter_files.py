"""Whether an adapter's matrices fit a base model."""

from __future__ import annotations

import contextlib
import shutil

import pytest

from arriero.errors import ArrieroError, NotFoundError
from arriero.hub import check_fit


def save(path, **shapes):
    """An adapter_model.safetensors with matrices of these shapes: `save(path, q=((4, 32), (32, 4)))`."""
    import numpy as np
    from safetensors.numpy import save_file

    tensors = {
        f"base_model.model.model.layers.{layer}.lora_{kind}.weight": np.zeros(shape, np.float32)
        for layer, pair in shapes.items()
        for kind, shape in zip("AB", pair, strict=True)
    }
    save_file(tensors, path / "adapter_model.safetensors")


def test_an_adapter_for_another_model_is_refused(model_dir, tmp_path):
    """vLLM copies the smaller matrices into a corner of its own and answers."""
    path = tmp_path
    fits = {"0.self_attn.q_proj": ((4, 32), (32, 4)), "1.mlp.down_proj": ((4, 64), (32, 4))}
    save(path, **fits)
    check_fit(path, model_dir)
    save(path, **fits, **{"1.mlp.experts.base_layer": ((4, 8), (8, 4))})
    check_fit(path, model_dir)
    save(path, **fits, **{"1.self_attn.q_proj": ((4, 32), (16, 4))})
    with pytest.raises(
        ArrieroError, match=r"another model: at model\.layers\.1\.self_attn\.q_proj it wants \(16, 32\)"
    ):
        check_fit(path, model_dir)
    save(path, **fits, **{"7.mlp.down_proj": ((4, 64), (32, 4))})
    with pytest.raises(ArrieroError, match=r"layers\.7\.mlp\.down_proj .* tiny has no such layer"):
        check_fit(path, model_dir)
    (path / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(ArrieroError, match="cannot be loaded"):
        check_fit(path, model_dir)
    (path / "adapter_model.safetensors").unlink()
    with pytest.raises(NotFoundError, match=r"no adapter_model\.safetensors"):
        check_fit(path, model_dir)


def test_an_adapter_fits_a_base_that_bitsandbytes_has_stored(model_dir, tmp_path):
    """Two weights are one byte there, and an adapter for it was one for another model."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    path, packed = tmp_path / "adapter", tmp_path / "packed"
    path.mkdir()
    save(path, **{"0.self_attn.q_proj": ((4, 32), (32, 4))})
    shutil.copytree(model_dir, packed)
    weights = load_file(packed / "model.safetensors")
    for elements, complaint in ((32 * 32, None), (32 * 64, "another model")):
        weights["model.layers.0.self_attn.q_proj.weight"] = np.zeros((elements // 2, 1), np.uint8)
        save_file(weights, packed / "model.safetensors")
        with contextlib.nullcontext() if complaint is None else pytest.raises(ArrieroError, match=complaint):
            check_fit(path, packed)
