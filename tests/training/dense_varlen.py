"""Attention of varlen_attn's signature that reads no number on the host, so that it can be captured on a CPU."""

from __future__ import annotations

import torch


class Unwritten(torch.autograd.Function):
    """As a kernel leaves the gradients of keys that no sequence has: whatever was in that memory."""

    @staticmethod
    def forward(ctx, x, of_none):
        ctx.save_for_backward(of_none)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad.masked_fill(ctx.saved_tensors[0][:, None, None], float("nan")), None


def dense_varlen(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
):
    """Nothing but tensors decides what is seen; not-a-number where a sequence is longer than its bound says."""
    assert window_size == (-1, 0), "causal to the lower right"
    ends = [torch.cat((bounds, bounds[-1:] + (1 << 20))) for bounds in (cu_seq_q, cu_seq_k)]
    positions = [torch.arange(len(tensor)) for tensor in (query, key)]
    owners = [torch.searchsorted(*pair, right=True) for pair in zip((cu_seq_q, cu_seq_k), positions, strict=True)]
    left = [end[owner] - position for end, owner, position in zip(ends, owners, positions, strict=True)]
    seen = (owners[0][:, None] == owners[1]) & (left[0][:, None] <= left[1])
    of_none = owners[1] == len(cu_seq_k)
    key, value = (Unwritten.apply(part, of_none) for part in (key, value))
    group = query.shape[1] // key.shape[1]
    key, value = (part.masked_fill(of_none[:, None, None], 0).repeat_interleave(group, 1) for part in (key, value))
    scores = torch.einsum("thd,shd->hts", query, key) * scale
    out = torch.einsum("hts,shd->thd", scores.masked_fill(~seen, float("-inf")).softmax(-1), value)
    too_long = (cu_seq_q.diff() > max_q).any() | (cu_seq_k.diff() > max_k).any()
    return out + torch.where(too_long, float("nan"), 0.0).to(out.dtype)
