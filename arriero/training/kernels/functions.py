"""The pieces of a decoder layer with forward and backward written as one: fewer passes over memory, same mathematics.

LoraLinears  x W^T + scale (x A^T) B^T  computed in the type of x; A and B stay float32, for the optimizer
RMSNorm     SwiGLU     Rotary           saves its inputs only, where autograd would save every step
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from arriero.hub.four_bits import whole


class LoraLinears(torch.autograd.Function):
    """Linear layers of one input x (…, in), each with a LoRA update (Hu et al. 2021): one output (…, out) for each.

    Each has weight (out, in), in 4 bits perhaps, bias (out,) or None, a (rank, in) and b (out, rank); their thin
    products with x are one.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dropped: Tensor | None, scales: tuple[float, ...], *parts: Any
    ) -> tuple[Tensor, ...]:
        """`dropped` is x after dropout, None for x itself; `scales` those of the updates; `parts` 4 to a layer."""
        flat = x.reshape(-1, x.shape[-1])
        source = flat if dropped is None else dropped.reshape(flat.shape)
        weights, biases, all_a, all_b = parts[0::4], parts[1::4], parts[2::4], parts[3::4]
        # A of all layers one above the other, (sum of ranks, in): x is read once for all of them
        stacked = _flat(all_a, x.dtype).view(-1, x.shape[-1])
        # low (tokens, sum of ranks); cast holds all B, (elements,)
        low, cast = source @ stacked.t(), _flat(all_b, x.dtype)
        outs = []
        lowers = low.split([len(a) for a in all_a], 1)
        for weight, bias, b, s, lower in zip(weights, biases, _shaped(cast, all_b), scales, lowers, strict=True):
            full = whole(weight, x.dtype)
            out = flat @ full.t() if bias is None else torch.addmm(bias, flat, full.t())
            outs.append(out.addmm_(lower, b.t(), alpha=s).view(*x.shape[:-1], -1))
        ctx.save_for_backward(source, low, stacked, cast, *parts)
        ctx.scales, ctx.separate = scales, dropped is not None
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, dropped, and every a and b, cast at once; weights and biases are frozen."""
        source, low, stacked, cast, *parts = ctx.saved_tensors
        weights, all_a, all_b = parts[0::4], parts[2::4], parts[3::4]
        ranks = [len(a) for a in all_a]
        flat = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        to_low, to_cast, to_x = torch.empty_like(low), torch.empty_like(cast), None
        lowers = zip(low.split(ranks, 1), to_low.split(ranks, 1), strict=True)
        thin = zip(_shaped(cast, all_b), _shaped(to_cast, all_b), ctx.scales, lowers, strict=True)
        for weight, grad, (b, to_b, s, (lower, to_lower)) in zip(weights, flat, thin, strict=True):
            # d low = s * grad B and d B = s * grad^T low; beta=0: the outputs are uninitialised
            torch.addmm(to_lower, grad, b, beta=0, alpha=s, out=to_lower)
            torch.addmm(to_b, grad.t(), lower, beta=0, alpha=s, out=to_b)
            if ctx.needs_input_grad[0]:
                full = whole(weight, grad.dtype)
                to_x = grad @ full if to_x is None else to_x.addmm_(grad, full)
        to_parts: list[Tensor | None] = [None] * len(parts)
        # d A of all layers in one product, (sum of ranks, in)
        to_parts[2::4] = (to_low.t() @ source).to(all_a[0].dtype).split(ranks)
        to_parts[3::4] = _shaped(to_cast.to(all_b[0].dtype), all_b)
        shape, to_dropped = (*grads[0].shape[:-1], source.shape[-1]), None
        if ctx.separate and ctx.needs_input_grad[1]:
            to_dropped = (to_low @ stacked).view(shape)
        # without dropout the update read x itself, so its gradient belongs to x
        elif to_x is not None and not ctx.separate:
            to_x.addmm_(to_low, stacked)
        return None if to_x is None else to_x.view(shape), to_dropped, None, *to_parts


def _flat(matrices: Sequence[Any], kind: torch.dtype) -> Tensor:
    """All elements of matrices one after the other, (elements,), cast at once."""
    one = matrices[0].flatten() if len(matrices) == 1 else torch.cat([matrix.flatten() for matrix in matrices])
    return one.to(kind)


def _shaped(flat: Tensor, like: Sequence[Any]) -> list[Tensor]:
    """The matrices that `_flat` put together."""
    return [matrix.view(one.shape) for matrix, one in zip(flat.split([one.numel() for one in like]), like, strict=True)]


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
        # d rate / d x = -rate^3 x / size: the part of grad along x, (…, 1)
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
