"""What a model computes, looked at with a few tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def probing(model: nn.Module) -> Iterator[None]:
    """Without dropout and gradients, for a few tokens that show how the model computes."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
