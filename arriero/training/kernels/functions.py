"""The pieces of a decoder layer with forward and backward written as one: fewer passes over memory, same mathematics.

LoraLinear  x W^T + scale (x A^T) B^T   computed in the type of x; A and B stay float32, for the optimizer
RMSNorm     SwiGLU     Rotary           saves its inputs only, where autograd would save every step
HeadLoss    cross-entropy of the language-model head, in slices: the logits never exist as a whole
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

SLICE = 256  # rows of logits at a time
CACHED = 16  # of them in float32 on a CPU


class LoraLinear(torch.autograd.Function):
    """A linear layer with a LoRA update: x (…, in), weight (out, in), a (rank, in), b (out, rank) -> (…, out)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dropped: Tensor | None, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, s: float
    ) -> Tensor:
        """`dropped` is x after dropout, None for x itself; `s` the scale of the update."""
        flat = x.reshape(-1, x.shape[-1])
        source = flat if dropped is None else dropped.reshape(flat.shape)
        low = source @ a.to(x.dtype).t()
        base = flat @ weight.t() if bias is None else torch.addmm(bias, flat, weight.t())
        out = base.addmm_(low, b.to(x.dtype).t(), alpha=s)
        ctx.save_for_backward(source, low, weight, a, b)
        ctx.s, ctx.separate = s, dropped is not None
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, dropped, a and b; weight and bias are frozen."""
        source, low, weight, a, b = ctx.saved_tensors
        shape = (*grads[0].shape[:-1], source.shape[-1])
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        to_low = (grad @ b.to(grad.dtype)).mul_(ctx.s)
        to_b = (low.t() @ grad).t().to(b.dtype).mul_(ctx.s)
        to_a = (to_low.t() @ source).to(a.dtype)
        to_x = to_dropped = None
        if ctx.needs_input_grad[0]:
            to_x = grad @ weight
            if not ctx.separate:
                to_x.addmm_(to_low, a.to(grad.dtype))
            to_x = to_x.view(shape)
        if ctx.separate and ctx.needs_input_grad[1]:
            to_dropped = (to_low @ a.to(grad.dtype)).view(shape)
        return to_x, to_dropped, None, None, to_a, to_b, None


class RMSNorm(torch.autograd.Function):
    """Root mean square norm (Zhang, Sennrich 2019) of x (…, size) with a frozen weight (size,); inside, float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """X over its root mean square, rounded, times weight: the order of rounding is that of the Llama model."""
        wide = x.float()
        rate = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, rate)
        return (wide * rate).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of x."""
        x, weight, rate = ctx.saved_tensors
        wide, grad = x.float(), (grads[0] * weight).float()
        along = (grad * wide).sum(-1, keepdim=True).mul_(rate.pow(3)).div_(-x.shape[-1])
        return grad.mul_(rate).addcmul_(wide, along).to(x.dtype), None, None


class SwiGLU(torch.autograd.Function):
    """silu(gate) * up (Shazeer 2020), elementwise."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """Saves nothing but its inputs."""
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of gate and up."""
        gate, up = ctx.saved_tensors
        to_up = functional.silu(gate).mul_(grads[0])
        return torch.ops.aten.silu_backward(grads[0] * up, gate), to_up


class Rotary(torch.autograd.Function):
    """Rotary position embedding (Su et al. 2021): x (1, heads, tokens, dim), cos and sin (1, 1, tokens, dim)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Turn every pair (i, i + dim / 2) by its angle."""
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Turn back."""
        cos, sin = ctx.saved_tensors
        return _turned(grads[0], cos, sin, -1), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    half = x.shape[-1] // 2
    out = x * cos
    # the two halves of cos are equal, and those of sin
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-direction)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:], value=direction)
    return out


class HeadLoss(torch.autograd.Function):
    """Summed cross-entropy, in nats, of hidden (tokens, size) @ weight^T (vocabulary, size) against targets (tokens,).

    Computes the gradient of hidden along with the loss, slice by slice, so that logits, their float32 copy and their
    gradient exist for SLICE tokens only. weight is frozen.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """A float32 scalar."""
        to_hidden = torch.empty_like(hidden)
        total = hidden.new_zeros((), dtype=torch.float32)
        for at in range(0, len(hidden), SLICE):
            part = slice(at, at + SLICE)
            logits = hidden[part] @ weight.t()
            total += loss_into_gradient(logits, targets[part], logits)
            torch.mm(logits, weight, out=to_hidden[part])
        ctx.save_for_backward(to_hidden)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of hidden."""
        return ctx.saved_tensors[0] * grads[0], None, None


class LogitsLoss(torch.autograd.Function):
    """The same from logits (tokens, vocabulary), for heads that do more than one matrix product."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """A float32 scalar; the gradient has the type of the logits."""
        to_logits = torch.empty_like(logits)
        total = logits.new_zeros((), dtype=torch.float32)
        for at in range(0, len(logits), SLICE):
            part = slice(at, at + SLICE)
            total += loss_into_gradient(logits[part], targets[part], to_logits[part])
        ctx.save_for_backward(to_logits)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Gradient of the logits."""
        return ctx.saved_tensors[0] * grads[0], None


def loss_into_gradient(logits: Tensor, targets: Tensor, gradient: Tensor) -> Tensor:
    """Summed cross-entropy in nats, float32, of logits (tokens, vocabulary); writes its gradient into `gradient`.

    That may be the logits themselves. On a CPU a few tokens at a time, whose float32 copies stay in its cache.
    """
    total = logits.new_zeros((), dtype=torch.float32)
    size = CACHED if logits.device.type == "cpu" else len(logits)
    for at in range(0, len(logits), size):
        part = slice(at, at + size)
        wide = logits[part].to(torch.float32, copy=True)
        wide -= wide.amax(1, keepdim=True)
        place = targets[part, None]
        picked = wide.gather(1, place)
        norm = wide.exp_().sum(1, keepdim=True)
        total += (norm.log() - picked).sum()
        gradient[part] = wide.div_(norm).scatter_add_(1, place, torch.full_like(picked, -1))
    return total
