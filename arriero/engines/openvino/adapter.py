"""An adapter directory -> what OpenVINO GenAI puts into a model; what it would skip or get wrong is refused."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from arriero import hub
from arriero.engines.adapters import WEIGHTS
from arriero.engines.registry import find
from arriero.errors import EngineError

LAYER = re.compile(r'name="__module\.model\.([\w.]+)/(?:aten|ov_ext)::linear/MatMul"')  # ov_ext in 16-bit models


class Weights(NamedTuple):
    """An adapter's matrices: their file, the factor they are applied with, and by what the file is known again."""

    file: str
    scale: float
    stamp: tuple[int, ...]


def stamp(file: Path) -> tuple[int, ...]:
    """What changes when a file is replaced or written: inode, bytes, modification time in nanoseconds."""
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


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
        known = set(LAYER.findall((exported_dir / "openvino_model.xml").read_text(encoding="utf-8")))
    except (OSError, SafetensorError) as error:
        raise EngineError(f"the adapter {adapter_dir} cannot be loaded: {error}", hint="train it again") from error
    fits = re.compile(r"base_model\.model\.(.+)\.lora_[AB]\.weight")
    unknown = [name for name in names if not (found := fits.fullmatch(name)) or found[1] not in known]
    if unknown or not names:
        what = f"its {len(unknown)} matrices of other layers, such as {unknown[0]}" if unknown else "no matrices"
        raise EngineError(f"the openvino engine cannot use {adapter_dir}: {what}", hint="use --engine transformers")
    return Weights(str(file), scale, mark)


def adapter_scale(adapter_dir: Path) -> float:
    """The factor a LoRA adapter is applied with: lora_alpha / r, or lora_alpha / sqrt(r) for rsLoRA.

    OpenVINO does not read adapter_config.json, so what it would not do is refused here by name.
    """
    if (lacking := find("openvino").adapter_lacks(adapter_dir)) is not None:
        raise EngineError(f"the openvino engine does not do {lacking}", hint="use --engine transformers")
    config = hub.read_json(adapter_dir / "adapter_config.json")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not (isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float)):
        raise EngineError(f"{adapter_dir}/adapter_config.json has no usable r and lora_alpha", hint="train it again")
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
