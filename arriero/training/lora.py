"""The model that is trained: a frozen base with LoRA matrices, through PEFT."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from arriero import hub
from arriero.errors import UsageError
from arriero.hardware import gpus
from arriero.training.continued import config_of
from arriero.training.options import TrainOptions

if TYPE_CHECKING:
    from peft import PeftModel

ALL_LINEAR = "all-linear"


def with_lora(model_dir: Path, options: TrainOptions, dtype: torch.dtype) -> PeftModel:
    """The base in `dtype`, or in 4 bits, with LoRA matrices in float32, where it is going to be trained.

    Raises UsageError where the model lacks a target layer, or this machine cannot hold weights in 4 bits.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    extra: dict[str, Any] = {}
    if options.load_in_4bit:
        extra["quantization_config"] = _four_bits()
    place = {"": int(os.environ.get("LOCAL_RANK", 0))} if gpus() else None
    base = hub.load_weights(model_dir, dtype=dtype, device_map=place, **extra)
    base.config.use_cache = False
    if options.from_adapter is not None:
        return hub.load_adapter(base, Path(options.from_adapter), is_trainable=True, config=config_of(options))
    targets: str | list[str] = list(options.target_modules)
    if targets == [ALL_LINEAR]:
        targets = ALL_LINEAR
    else:
        missing = set(targets) - {name.rsplit(".", 1)[-1] for name, _ in base.named_modules()}
        if missing:
            raise UsageError(
                f"{model_dir.name} has no layers named {', '.join(sorted(missing))}",
                hint="give the model's own layer names with --target-modules, or all-linear",
            )
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        target_modules=targets,
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
    )
    model: PeftModel = get_peft_model(base, config)
    return model


def _four_bits() -> Any:
    """NF4 with double quantisation (Dettmers et al. 2023: QLoRA)."""
    from importlib.util import find_spec

    from transformers import BitsAndBytesConfig

    if not gpus():
        raise UsageError("--load-in-4bit needs a CUDA GPU, and this machine has none", hint="leave the option out")
    if find_spec("bitsandbytes") is None:
        raise UsageError("--load-in-4bit needs the package bitsandbytes", hint='pip install "arriero[cuda]"')
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
