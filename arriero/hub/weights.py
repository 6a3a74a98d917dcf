"""Read a model directory: its JSON files, its context window, its weights. What is damaged is a typed error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arriero.errors import ArrieroError, MemoryLimitError
from arriero.hub.adapter_files import check_weights

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


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


def window(model_dir: Path) -> int:
    """The model's context in tokens, prompt and completion together."""
    config = read_json(model_dir / "config.json")
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        if isinstance(config.get(name), int):
            return int(config[name])
    raise ArrieroError(f"{model_dir / 'config.json'} does not say how many tokens the model can read")


def load_weights(model_dir: Path, *, headless: bool = False, **options: Any) -> PreTrainedModel:
    """The model, from safetensors on disk only and without running code that came with it.

    `headless` gives hidden states instead of logits. `options` go to `from_pretrained`. Raises ArrieroError where the
    weights are damaged, incomplete or of an unknown kind, MemoryLimitError where they do not fit.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    kind = AutoModel if headless else AutoModelForCausalLM
    try:
        model, loading = kind.from_pretrained(
            model_dir,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise MemoryLimitError(f"{model_dir.name} does not fit into memory: {error}") from error
    except ModuleNotFoundError:
        raise  # the command line knows what to install
    except (ImportError, OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
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
    loaded: PreTrainedModel = model
    return loaded


def load_adapter(
    model: PreTrainedModel | PeftModel, adapter_dir: Path, name: str = "default", **options: Any
) -> PeftModel:
    """The model with an adapter on it, unmerged and, without `options`, not trainable; from safetensors on disk only.

    A model that has adapters already gets one more, under a `name` of its own and not in force. PEFT by itself would
    also read a pickle, or ask a hub for what is missing. Raises NotFoundError where the directory has no weights,
    ArrieroError where they are damaged or not made for this model.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    check_weights(adapter_dir)
    try:
        if isinstance(model, PeftModel):
            model.load_adapter(str(adapter_dir), name, local_files_only=True)
            return model
        loaded: PeftModel = PeftModel.from_pretrained(model, str(adapter_dir), name, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise ArrieroError(f"the adapter {adapter_dir} cannot be loaded: {error}", hint="train it again") from error
    return loaded
