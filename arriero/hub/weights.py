"""Read a model directory: its JSON files and its weights. What is damaged or unknown is a typed error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arriero.errors import ArrieroError, MemoryLimitError
from arriero.hardware import free_memory, gpus, out_of_memory
from arriero.hub import four_bits
from arriero.hub.adapter_files import CONFIG, check_weights

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

ROOM = 0.75  # of a GPU's free memory that weights may take; the rest is for the KV cache


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file, empty where there is no such file; raises ArrieroError where it is not one."""
    if not file.is_file():
        return {}
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArrieroError(f"{file} is not valid JSON: {error}", hint="fetch or write it again") from error
    if not isinstance(document, dict):
        raise ArrieroError(f"{file} must hold a JSON object, got {type(document).__name__}")
    return document


def index_faults(model_dir: Path) -> list[str]:
    """What a model's indexes of shards (`*.safetensors.index.json`) name and its directory lacks, a line for each."""
    faults = []
    for index in sorted(model_dir.glob("*.safetensors.index.json")):
        try:
            shards = sorted(set(read_json(index)["weight_map"].values()))
            faults += [f"{name}: missing, {index.name} names it" for name in shards if not (model_dir / name).is_file()]
        except ArrieroError as error:
            faults.append(error.message)
        except (KeyError, AttributeError, TypeError):
            faults.append(f"{index.name}: has no weight_map from tensors to files")
    return faults


def load_weights(
    model_dir: Path, *, headless: bool = False, in_4bit: bool = False, dtype: torch.dtype | str = "auto", **options: Any
) -> PreTrainedModel:
    """The model, from safetensors on disk only and without running code that came with it.

    One that also sees is loaded whole and answers to text. `headless` gives hidden states instead of logits, `in_4bit`
    weights in 4 bits that are computed with in `dtype`. `options` go to `from_pretrained`. Raises ArrieroError where
    the weights are damaged, incomplete or of an unknown kind, UsageError where bitsandbytes is needed and not there,
    MemoryLimitError where they do not fit.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    if gpus():
        # Torch's first choice on Hopper and Blackwell, from 2.11 with CUDA 13 on. It plans for each new shape, on the
        # host, so in every decoding step (modelscope/FunASR#3704); it was wrong (pytorch#193893) and NaN (#196678).
        torch.backends.cuda.enable_cudnn_sdp(False)
    config = read_json(model_dir / "config.json")
    options |= four_bits.options(model_dir, config, dtype, wanted=in_4bit)
    try:
        kind = AutoModel if headless else auto_class(model_dir)
        model, loading = kind.from_pretrained(
            model_dir,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            dtype=dtype,
            **options,
        )
    except ModuleNotFoundError:
        raise  # the command line knows what to install
    except (ImportError, OSError, ValueError, RuntimeError, KeyError, MemoryError, SafetensorError) as error:
        if out_of_memory(error):
            raise MemoryLimitError(f"{model_dir.name} does not fit into memory: {error}") from error
        raise ArrieroError(
            f"{model_dir.name} cannot be loaded: {error}",
            hint=f"arriero models verify {model_dir.name}; models that need code of their own are not run",
        ) from error
    # transformers makes up at random what is missing; BERT's pooler is no part of hidden states, and often left out
    missing = [name for name in loading["missing_keys"] if not name.startswith("pooler.")]
    if missing:
        raise ArrieroError(
            f"{model_dir.name} lacks {len(missing)} of its weights, {min(missing)} among them",
            hint=f"arriero models verify {model_dir.name}, or download it again",
        )
    four_bits.keep_weights(model)
    loaded: PreTrainedModel = model
    return loaded


def placed(model_dir: Path, dtype: Any, *, in_4bit: bool = False) -> dict[str, int] | str | None:
    """Where weights in `dtype` are to be loaded, as `load_weights` takes it for `device_map`; None: on the CPU.

    The first GPU where they take at most ROOM of its free memory. Otherwise all of them, which compute in turn, and
    the CPU: transformers' "auto" by itself would do that with the smallest model where there are several GPUs.
    """
    import torch

    if not gpus():
        return None
    stored = sum(file.stat().st_size for file in model_dir.glob("*.safetensors"))
    # most are stored in 16 bits; in 4 bits the embedding stays as it is
    size = stored // 3 if in_4bit else 2 * stored if dtype is torch.float32 else stored
    return {"": 0} if 0 < size <= ROOM * free_memory() else "auto"


def auto_class(model_dir: Path) -> Any:
    """The family of transformers' classes that a model with a vocabulary to write in belongs to.

    Raises ArrieroError for a model of another kind, ValueError or OSError where its configuration cannot be read.
    """
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    # a checkpoint that sees may have a text model of its own type too, into which its weights go under other names
    if config.get_text_config() is not config and type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    if type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    raise ArrieroError(
        f"{model_dir.name} is of the type {config.model_type!r}, of which transformers {transformers.__version__} "
        "knows no model that answers in text",
        hint="choose an instruct model; an embedding model is given with --embedding",
    )


def load_adapter(
    model: PreTrainedModel | PeftModel, adapter_dir: Path, name: str = "default", **options: Any
) -> PeftModel:
    """The model with an adapter on it, unmerged and, without `options`, not trainable; from safetensors on disk only.

    Where the adapter brings embeddings of tokens that the model has none for, the model's grow first.
    A model that has adapters already gets one more, under a `name` of its own and not in force. PEFT by itself would
    also read a pickle, or ask a hub for what is missing. Raises NotFoundError where the directory has no weights,
    ArrieroError where they are damaged or not made for this model.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    check_weights(adapter_dir)
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if (rows := adapter_rows(adapter_dir)) > base.get_input_embeddings().weight.shape[0]:
        grow(base, rows)
    try:
        if isinstance(model, PeftModel):
            model.load_adapter(str(adapter_dir), name, local_files_only=True)
            return model
        loaded: PeftModel = PeftModel.from_pretrained(model, str(adapter_dir), name, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise ArrieroError(f"the adapter {adapter_dir} cannot be loaded: {error}", hint="train it again") from error
    return loaded


def adapter_rows(adapter_dir: Path) -> int:
    """How many tokens the embeddings have with an adapter that brings rows of its own; 0 where it brings none."""
    brought = read_json(adapter_dir / CONFIG).get("trainable_token_indices") or []
    rows = [row for some in brought.values() for row in some] if isinstance(brought, dict) else brought
    return max((int(row) + 1 for row in rows), default=0)


def grow(model: PreTrainedModel, tokens: int) -> None:
    """Give a model's embeddings rows for `tokens` ids; new ones are the mean of the others (Hewitt 2021).

    Raises ArrieroError for a head with a bias, whose trained rows PEFT computes without it.
    """
    import torch

    head = model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise ArrieroError(f"{type(model).__name__} cannot be given more tokens: its output layer has a bias")
    before = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(tokens, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            if layer is not None:
                layer.weight[before:] = layer.weight[:before].float().mean(0)
