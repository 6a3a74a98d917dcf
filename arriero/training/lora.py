"""The model that is trained: a frozen base with LoRA matrices, through PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig

from arriero import hub
from arriero.errors import UsageError
from arriero.hardware import gpus
from arriero.training import sharding, workers
from arriero.training.continued import config_of
from arriero.training.options import TrainOptions
from arriero.training.planning.estimate import count_parameters

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"


def with_lora(model_dir: Path, options: TrainOptions, dtype: torch.dtype) -> PeftModel:
    """The base in `dtype`, or in 4 bits, with LoRA matrices in float32, where it is going to be trained.

    Several workers may share the base out. Raises UsageError where the model lacks a target layer, or this machine
    cannot hold weights in 4 bits or share them out.
    """
    extra: dict[str, Any] = {}
    if options.load_in_4bit:
        extra["quantization_config"] = _four_bits()
    shared_out = sharding.chosen(options.shard, lambda: _bytes(model_dir, dtype), four_bits=options.load_in_4bit)
    place = {"": workers.local_rank()} if gpus() and not shared_out else None
    base = hub.load_weights(model_dir, dtype=dtype, device_map=place, **extra)
    base.config.use_cache = False
    if options.from_adapter is not None:
        model = hub.load_adapter(base, Path(options.from_adapter), is_trainable=True, config=config_of(options))
    else:
        model = _fresh(base, model_dir, options)
    if shared_out:
        sharding.shard(model)
    return model


def _fresh(base: PreTrainedModel, model_dir: Path, options: TrainOptions) -> PeftModel:
    """The base with new LoRA matrices."""
    from peft import LoraConfig, TaskType, get_peft_model

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


def _bytes(model_dir: Path, dtype: torch.dtype) -> int:
    """Memory of the base's weights."""
    config = AutoConfig.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    return count_parameters(config) * int(dtype.itemsize)


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
