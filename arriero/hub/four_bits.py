"""Base weights in 4 bits, by bitsandbytes (seen with 0.50.2): NF4 with double quantisation (Dettmers 2023: QLoRA).

Training, evaluation and answering load a base in 4 bits through this file, so that all of them compute with the same
weights.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from arriero.errors import UsageError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

INSTALL = 'pip install "arriero[4bit]"'
MODULE = "bitsandbytes"
# on a CPU it warns, wherever peft imports it, of a kernel that nothing here uses
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def method(config: dict[str, Any]) -> str | None:
    """By which method a model's config.json says that its weights are quantised on disk; None: they are not."""
    quantised = config.get("quantization_config")
    return str(quantised.get("quant_method", "by an unnamed method")) if isinstance(quantised, dict) else None


def stored(config: dict[str, Any]) -> str | None:
    """That method, and to how many bits."""
    if (by := method(config)) is None:
        return None
    quantised = config["quantization_config"]
    if quantised.get("load_in_4bit"):
        return f"{by}, 4 bits"
    return f"{by}, 8 bits" if quantised.get("load_in_8bit") else by


def options(model_dir: Path, config: dict[str, Any], dtype: torch.dtype | str, *, wanted: bool) -> dict[str, Any]:
    """What `from_pretrained` needs so that the base is in 4 bits where that is `wanted`, and computes in `dtype`.

    A base that is stored so is loaded as it is. Raises UsageError where bitsandbytes is needed and cannot be used, and
    for a base that is stored quantised in another way.
    """
    how = stored(config)
    if how is not None and how.startswith(MODULE):
        check(f"{model_dir.name} is stored quantised ({how})")
    if not wanted or how == f"{MODULE}, 4 bits":
        return {}
    if how is not None:
        raise UsageError(
            f"{model_dir.name} is stored quantised already ({how}), and cannot be loaded in 4 bits",
            hint="take the weights it was made from, or leave 4 bits out",
        )
    check("weights in 4 bits are asked for")
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    }


def installed() -> bool:
    """Whether bitsandbytes is, whatever becomes of importing it."""
    return importlib.util.find_spec(MODULE) is not None


def check(reason: str) -> None:
    """Raise UsageError, beginning with the `reason`, unless bitsandbytes can be imported here."""
    if not installed():
        raise UsageError(f"{reason}, and the package {MODULE} is not installed", hint=INSTALL)
    try:
        importlib.import_module(MODULE)
    except Exception as error:  # a library of its own that does not fit this machine, for one
        raise UsageError(f"{reason}, and {MODULE} does not work here: {error}", hint=INSTALL) from error


def is_quantised(layer: Any) -> bool:
    """Whether a linear layer's weight is in 4 bits, by bitsandbytes."""
    return getattr(getattr(layer, "weight", None), "quant_state", None) is not None


def whole(weight: Any, dtype: torch.dtype) -> torch.Tensor:
    """A linear layer's weight (out, in) in floating point, itself where it is not in 4 bits."""
    if getattr(weight, "quant_state", None) is None:
        return cast("torch.Tensor", weight)
    from bitsandbytes.functional import dequantize_4bit

    return cast("torch.Tensor", dequantize_4bit(weight.data, weight.quant_state).to(dtype))


def keep_weights(model: PreTrainedModel) -> None:
    """Have layers in 4 bits compute with the weights they were loaded with, whatever is computed first; see `quicken`.

    On a CPU with bfloat16 instructions the first call without gradients would pack the weights for a kernel of its own,
    with coarser scales and no backward pass: training would go on without a word, with gradients that are wrong
    (autograd warns once). The kernel also takes no layer whose outputs are no multiple of 32.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def quicken(model: PreTrainedModel) -> None:
    """Have a model that only answers pack its layers in 4 bits for bitsandbytes' own kernel, where a CPU has one.

    Its scales are rounded to bfloat16, as what it computes is. For one token it takes a sixth of the time of weights in
    bfloat16 (4,096 x 4,096), where unpacking them for every product takes ten times as long as those.
    """
    import torch

    layers = [layer for layer in model.modules() if is_quantised(layer) and layer.weight.device.type == "cpu"]
    if not layers or not _has_kernel():
        return
    for layer in layers:
        fits = layer.out_features % 32 == 0 and layer.in_features % layer.weight.quant_state.blocksize == 0
        layer.support_avx512bf16_for_cpu = fits and layer.compute_dtype == torch.bfloat16


def _has_kernel() -> bool:
    from bitsandbytes.functional import has_avx512bf16

    return bool(has_avx512bf16())


def is_packed(model: PreTrainedModel) -> bool:
    """Whether a layer has been packed by its first call: nothing but that kernel can read it."""
    layers = filter(is_quantised, model.modules())
    return any(getattr(layer.weight.quant_state, "packing_format_for_cpu", False) for layer in layers)
