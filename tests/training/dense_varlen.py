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
    seen, of_none = _seen(len(query), len(key), cu_seq_q, cu_seq_k)
    key, value = (Unwritten.apply(part, of_none) for part in (key, value))
    group = query.shape[1] // key.shape[1]
    key, value = (part.masked_fill(of_none[:, None, None], 0).repeat_interleave(group, 1) for part in (key, value))
    scores = torch.einsum("thd,shd->hts", query, key) * scale
    out = torch.einsum("hts,shd->thd", scores.masked_fill(~seen, float("-inf")).softmax(-1), value)
    too_long = (cu_seq_q.diff() > max_q).any() | (cu_seq_k.diff() > max_k).any()
    return out + torch.where(too_long, float("nan"), 0.0).to(out.dtype)


def _seen(queries, keys, cu_seq_q, cu_seq_k):
    """Which queries see which keys, (queries, keys), and which keys are no sequence's, (keys,)."""
    ends = [torch.cat((bounds, bounds[-1:] + (1 << 20))) for bounds in (cu_seq_q, cu_seq_k)]
    positions = [torch.arange(count) for count in (queries, keys)]
    owners = [torch.searchsorted(*pair, right=True) for pair in zip((cu_seq_q, cu_seq_k), positions, strict=True)]
    left = [end[owner] - position for end, owner, position in zip(ends, owners, positions, strict=True)]
    return (owners[0][:, None] == owners[1]) & (left[0][:, None] <= left[1]), owners[1] == len(cu_seq_k)


def flash_forward(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, dropout_p, is_causal, return_debug_mask, **given
):
    """In place of aten._flash_attention_forward, for what Arriero asks of it."""
    _refuse((query, key, value), (cu_seq_q, cu_seq_k))
    assert is_causal
    window = given["window_size_left"], given["window_size_right"]
    out = dense_varlen(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=given["scale"], window_size=window)
    nothing = torch.zeros(2, dtype=torch.uint64), torch.zeros(0), torch.zeros(0)
    return out.contiguous(), torch.zeros(query.shape[1], len(query)), *nothing


def flash_backward(grad, query, key, value, out, lse, cu_seq_q, cu_seq_k, max_q, max_k, *_, scale, **__):
    """In place of aten._flash_attention_backward: gradients of query, key and value."""
    _refuse((grad.contiguous(), query, key, value), (cu_seq_q, cu_seq_k))
    seen, of_none = _seen(len(query), len(key), cu_seq_q, cu_seq_k)
    heads, (keys, key_heads, dim) = query.shape[1], key.shape
    grad, query_ = grad.float(), query.float()
    key_, value_ = (
        part.float().masked_fill(of_none[:, None, None], 0).repeat_interleave(heads // key_heads, 1)
        for part in (key, value)
    )
    scores = torch.einsum("thd,shd->hts", query_, key_) * scale
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    to_weights = torch.einsum("thd,shd->hts", grad, value_)
    to_scores = weights * (to_weights - (to_weights * weights).sum(-1, keepdim=True)) * scale
    to_query = torch.einsum("hts,shd->thd", to_scores, key_)
    to_key, to_value = (
        torch.einsum("hts,thd->shd", *pair)
        .view(keys, key_heads, -1, dim)
        .sum(2)
        .masked_fill(of_none[:, None, None], float("nan"))
        for pair in ((to_scores, query_), (weights, grad))
    )
    return to_query.to(query.dtype), to_key.to(key.dtype), to_value.to(value.dtype)


def _refuse(parts, bounds):
    """What the kernel's launcher checks."""
    if not all(part.dtype in (torch.float16, torch.bfloat16) for part in parts):
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
    if not all(part.stride(-1) == 1 for part in parts):
        raise RuntimeError("Input tensor must have contiguous last dimension")
    if not all(ends.dtype == torch.int32 and ends.is_contiguous() for ends in bounds):
        raise RuntimeError("cu_seqlens must be contiguous and have dtype int32")
