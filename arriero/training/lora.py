"""The model that is trained: a frozen base with LoRA matrices, through PEFT."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from arriero import hub
from arriero.errors import UsageError
from arriero.hardware import gpus
from arriero.training import sharding, workers
from arriero.training.continued import config_of
from arriero.training.options import TrainOptions
from arriero.training.planning.estimate import count_parameters
from arriero.training.targets import AUTO, Targets

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


def with_lora(model_dir: Path, options: TrainOptions, dtype: torch.dtype, tokens: int = 0) -> PeftModel:
    """The base in `dtype`, or in 4 bits, with LoRA matrices in float32, where it is going to be trained.

    With `options.resize_embeddings` the embedding gets rows for all `tokens` of the tokenizer, which are trained too.
    Several workers may shard the base. Raises UsageError where the model lacks a target layer, or this machine
    cannot hold weights in 4 bits or shard them.
    """
    shared_out = sharding.chosen(options.shard, lambda: _bytes(model_dir, dtype), four_bits=options.load_in_4bit)
    device_map = {"": workers.local_rank()} if gpus() and not shared_out else None
    base = hub.load_weights(model_dir, in_4bit=options.load_in_4bit, dtype=dtype, device_map=device_map)
    base.config.use_cache = False
    if options.from_adapter is not None:
        model = hub.load_adapter(base, Path(options.from_adapter), is_trainable=True, config=config_of(options))
    else:
        model = _fresh(base, options, tokens)
    if shared_out:
        sharding.shard(model)
    return model


def _fresh(base: PreTrainedModel, options: TrainOptions, tokens: int) -> PeftModel:
    """The base with new LoRA matrices."""
    from peft import LoraConfig, TaskType, get_peft_model

    targets = Targets.of(base, options.target_modules)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        target_modules=targets.names,
        exclude_modules=targets.excluded,
        trainable_token_indices=_new_rows(base, tokens) if options.resize_embeddings else None,
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
    )
    try:
        model: PeftModel = get_peft_model(base, config)
    except (ValueError, NotImplementedError) as error:
        names = ", ".join(options.target_modules)
        raise UsageError(
            f"{Path(base.name_or_path).name} takes no LoRA matrices with --target-modules {names}: {error}",
            hint="give the names of other layers",
        ) from error
    if options.target_modules == (AUTO,):
        log.info("LoRA on %s", ", ".join(targets.names) if isinstance(targets.names, list) else "every linear layer")
    return model


def _bytes(model_dir: Path, dtype: torch.dtype) -> int:
    """Memory of the base's weights."""
    return count_parameters(model_dir) * int(dtype.itemsize)


def _new_rows(base: Any, tokens: int) -> dict[str, list[int]] | None:
    """Give a model's embeddings rows for `tokens`; which ones are new, by the name of the module. None: none are."""
    rows = base.get_input_embeddings().weight.shape[0]
    if tokens <= rows:
        log.info("--resize-embeddings: nothing to do, the tokenizer has %d tokens and the embedding %d", tokens, rows)
        return None
    hub.grow(base, tokens)
    log.info("--resize-embeddings: the embedding grows from %d to %d tokens; the new ones are trained", rows, tokens)
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    pair = [embedding] if head is None or head.weight is embedding.weight else [embedding, head]
    names = [name for name, module in base.named_modules() if any(module is one for one in pair)]
    return {name.rpartition(".")[2]: list(range(rows, tokens)) for name in names}
