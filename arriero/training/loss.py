"""The training loss: summed cross-entropy, its gradient computed along with it, slice by slice.

HeadLoss    of the language-model head's product: the logits never exist as a whole
LogitsLoss  of logits, for heads that do more than one matrix product
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SLICE = 256  # rows of logits at a time
CACHED = 16  # of them in float32 on a CPU


class HeadLoss(torch.autograd.Function):
    """Summed cross-entropy, in nats, of hidden (tokens, size) @ weight^T (vocabulary, size) against targets (tokens,).

    Computes the gradient of hidden along with the loss, slice by slice, so that logits, their float32 copy and their
    gradient exist for SLICE tokens only. weight is frozen. kept (tokens,), float32, is 0 for tokens that only fill up,
    else 1.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, kept: Tensor | None = None) -> Tensor:
        """A float32 scalar."""
        to_hidden = torch.empty_like(hidden)
        total = hidden.new_zeros((), dtype=torch.float32)
        for at in range(0, len(hidden), SLICE):
            rows = slice(at, at + SLICE)
            logits = hidden[rows] @ weight.t()
            # the logits are overwritten by their own gradient: one buffer of (SLICE, vocabulary)
            total += loss_into_gradient(logits, targets[rows], logits, None if kept is None else kept[rows])
            torch.mm(logits, weight, out=to_hidden[rows])
        ctx.save_for_backward(to_hidden if kept is None else to_hidden.mul_(kept[:, None]))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """Gradient of hidden."""
        return ctx.saved_tensors[0] * grads[0], None, None, None


class LogitsLoss(torch.autograd.Function):
    """The same from logits (tokens, vocabulary), for heads that do more than one matrix product."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, kept: Tensor | None = None) -> Tensor:
        """A float32 scalar; the gradient has the type of the logits."""
        to_logits = torch.empty_like(logits)
        total = logits.new_zeros((), dtype=torch.float32)
        for at in range(0, len(logits), SLICE):
            rows = slice(at, at + SLICE)
            kept_rows = None if kept is None else kept[rows]
            total += loss_into_gradient(logits[rows], targets[rows], to_logits[rows], kept_rows)
        ctx.save_for_backward(to_logits if kept is None else to_logits.mul_(kept[:, None]))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of the logits."""
        return ctx.saved_tensors[0] * grads[0], None, None


def loss_into_gradient(logits: Tensor, targets: Tensor, gradient: Tensor, kept: Tensor | None = None) -> Tensor:
    """Summed cross-entropy in nats, float32, of logits (tokens, vocabulary); writes its gradient into `gradient`.

    That may be the logits themselves. On a CPU a few tokens at a time, whose float32 copies stay in its cache. Tokens
    whose `kept` (tokens,) is 0 are not in the sum; their gradient is written all the same.
    """
    total = logits.new_zeros((), dtype=torch.float32)
    size = CACHED if logits.device.type == "cpu" else len(logits)
    for at in range(0, len(logits), size):
        rows = slice(at, at + size)
        wide = logits[rows].float()
        target = targets[rows, None]
        picked, largest = wide.gather(1, target), wide.amax(1, keepdim=True)
        probabilities = torch.softmax(wide, 1)
        # of the largest logit, since its probability cannot be rounded to 0
        log_norm = largest - probabilities.amax(1, keepdim=True).log()
        nats = log_norm - picked
        total += (nats if kept is None else nats * kept[rows, None]).sum()
        # d nats / d logits = probabilities - one-hot(target)
        gradient[rows] = probabilities.scatter_add_(1, target, torch.full_like(picked, -1))
    return total
