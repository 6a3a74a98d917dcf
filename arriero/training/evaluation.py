"""Evaluation mode for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def evaluating(model: torch.nn.Module, *, gradients: bool = False) -> Iterator[None]:
    """Without dropout and, unless `gradients` are wanted, without autograd; then every module has its flag back."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with contextlib.nullcontext() if gradients else torch.no_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training
