"""Private names of torch (2.11 to 2.14) and transformers (5.17 to 5.23) where there is no public one.

What `StepTrainer` overrides of transformers' Trainer is listed in TRAINER, and what it sets in TRAINER_ATTRIBUTES: a
subclass has no other way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

TRAINER = (
    "_wrap_model",
    "_run_epoch",
    "_determine_best_metric",
    "_maybe_log_save_evaluate",
    "_save_checkpoint",
    "_load_from_checkpoint",
    "_load_optimizer_and_scheduler",
    "_load_rng_state",
)
TRAINER_ATTRIBUTES = ("_globalstep_last_logged", "_total_loss_scalar")


def softmax_backward(grad: Tensor, output: Tensor) -> Tensor:
    """The gradient of a softmax's input over its last dimension, from that of its `output`."""
    to_input: Tensor = torch.ops.aten._softmax_backward_data(grad, output, -1, output.dtype)
    return to_input


def zero(tensors: Sequence[Tensor]) -> None:
    """Set them all to 0, on a GPU in a few kernels."""
    torch._foreach_zero_(list(tensors))


def leave_out_of_ddp(model: torch.nn.Module, names: Sequence[str]) -> None:
    """Have DistributedDataParallel leave these parameters of `model` alone."""
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, list(names))


def attention_of(model: Any) -> str | None:
    """The name of the attention that a transformers model computes with."""
    name: str | None = model.config._attn_implementation
    return name


def takes_other_attention(model: Any) -> bool:
    """Whether a transformers model's attention can be exchanged."""
    return bool(getattr(model, "_supports_attention_backend", False))


def forget_weight_conversions(model: Any) -> None:
    """Have a transformers model that was dequantised saved as it is; else saving would quantise it again."""
    model._weight_conversions = None


def is_stateful(model: Any) -> bool:
    """Whether a transformers model carries a state from token to token, as Mamba or RWKV."""
    return bool(getattr(model, "_is_stateful", False))
