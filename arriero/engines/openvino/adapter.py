"""An adapter directory -> what OpenVINO GenAI puts into a model; what it would skip or get wrong is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize, safe_open

from arriero import hub
from arriero.engines.adapters import stamp
from arriero.engines.registry import find
from arriero.errors import EngineError
from arriero.hub.adapter_files import CONFIG, WEIGHTS

LINEAR = re.compile(r"__module\.model\.([\w.]+)/(?:aten|ov_ext)::linear/MatMul")  # ov_ext in 16-bit models
LAYER = re.compile(f'name="{LINEAR.pattern}"')
TYPES = {"F32": np.float32, "F16": np.float16, "F64": np.float64}


class Weights(NamedTuple):
    """An adapter's matrices: their file, the factor they are applied with, and by what the file is known again."""

    file: str
    scale: float
    stamp: tuple[int, ...]


def adapter_weights(adapter_dir: Path, exported_dir: Path) -> Weights:
    """An adapter's matrices. Raises EngineError where OpenVINO would get them wrong.

    GenAI skips matrices whose layer it does not find with no more than a line on standard output, and the base model
    answers; so the names are compared first.
    """
    scale = adapter_scale(adapter_dir)
    file = adapter_dir / WEIGHTS
    try:
        mark = stamp(file)
        with safe_open(file, framework="numpy") as weights:
            names = list(weights.keys())
        layers = set(LAYER.findall((exported_dir / "openvino_model.xml").read_text(encoding="utf-8")))
    except (OSError, SafetensorError) as error:
        raise EngineError(f"the adapter {adapter_dir} cannot be loaded: {error}", hint="train it again") from error
    fits = re.compile(r"base_model\.model\.(.+)\.lora_[AB]\.weight")
    unknown = [name for name in names if not (match := fits.fullmatch(name)) or match[1] not in layers]
    if unknown or not names:
        what = f"its {len(unknown)} matrices of other layers, such as {unknown[0]}" if unknown else "no matrices"
        raise EngineError(f"the openvino engine cannot use {adapter_dir}: {what}", hint="use --engine transformers")
    return Weights(str(file), scale, mark)


def matrices(file: Path) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """An adapter's matrices A (rank, in) and B (out, rank) by layer, in float32."""
    tensors = {name: _float32(**tensor) for name, tensor in deserialize(file.read_bytes())}  # type: ignore[no-untyped-call]
    layers = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
    return {
        layer.removeprefix("base_model.model."): (tensors[f"{layer}.lora_A.weight"], tensors[f"{layer}.lora_B.weight"])
        for layer in layers
    }


def _float32(data: bytes, dtype: str, shape: Sequence[int]) -> NDArray[np.float32]:
    if dtype == "BF16":  # the upper half of a float32, and unknown to numpy
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return np.frombuffer(data, TYPES[dtype]).astype(np.float32).reshape(shape)


def adapter_scale(adapter_dir: Path) -> float:
    """The factor a LoRA adapter is applied with: lora_alpha / r, or lora_alpha / sqrt(r) for rsLoRA.

    OpenVINO does not read adapter_config.json, so what it would not do is refused here by name.
    """
    find("openvino").check_adapter(adapter_dir)
    config = hub.read_json(adapter_dir / CONFIG)
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not (isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float)):
        raise EngineError(f"{adapter_dir / CONFIG} has no usable r and lora_alpha", hint="train it again")
    # one factor for all layers: `check_adapter` has refused rank_pattern and alpha_pattern
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
