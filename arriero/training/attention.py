"""Attention over a packed row: every segment attends to itself and to the path from the root to it, only.

    row        [ root | segment 1 | segment 2 | … ]          one computation of what examples share for all of them
    segment i  queries: its own tokens        keys, values: path + its own tokens, causal

`attention` is registered with transformers' attention interface, so unmodified models call it in place of their own;
what a row looks like reaches it as the keyword `row_layout` of the model's forward. On a CPU, segments of similar
length are computed together as batched matrix products and a softmax, which is several times faster there than a
fused kernel or a dense mask over the whole row; on CUDA it is torch's variable-length flash attention.

Sharing is exact: hidden states of a prefix depend on nothing behind it, so the copies of it in a padded batch are
equal, and the gradients that the copies would have received are summed into the one. That holds at every branch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from arriero.training import compat
from arriero.training.kernels.varlen import flash, shared_varlen, takes
from arriero.training.layout import Block, BlockIndex, RowLayout, indexed

NAME = "arriero_shared_prefix"
KEPT = 8  # probabilities are kept for the backward pass up to this many times the queries' size, else computed again
REFUSED = ("sliding_window", "softcap", "s_aux", "position_bias", "dropout")


class UnsupportedAttentionError(Exception):
    """The model asks for a kind of attention that is not computed here: a window, sinks, soft capping."""


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """Transformers' attention interface: query (1, heads, tokens, dim), key and value (1, key heads, tokens, dim).

    Returns (1, tokens, heads, dim). Raises UnsupportedAttentionError for options whose meaning would be lost.
    """
    del module, attention_mask  # a row's layout says all that they would
    layout = options.get("row_layout")
    if not isinstance(layout, RowLayout):
        raise UnsupportedAttentionError("this model does not hand options on to its attention")
    for name in REFUSED:
        if not _harmless(name, options.get(name), layout):
            raise UnsupportedAttentionError(f"its attention uses {name}")
    # 0 is no scale that a model asks for, so `or` may decide
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    query, key, value = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))  # (tokens, heads, dim)
    kernel = layout.kernel or (flash() if takes(query, value) else None)
    if kernel is not None:
        return shared_varlen(kernel, query, key, value, layout, scale).unsqueeze(0), None
    # autocast would cast the products in forward only, and backward be that of others
    with torch.autocast(query.device.type, enabled=False):
        out: Tensor = GroupedAttention.apply(query.contiguous(), key.contiguous(), value.contiguous(), layout, scale)
    return out.unsqueeze(0), None


def _harmless(name: str, value: Any, layout: RowLayout) -> bool:
    """Whether an option changes nothing: it is off, or a window that every example fits into."""
    if name == "sliding_window" and value is not None:
        return bool(value >= layout.longest)
    return value is None or (isinstance(value, float) and value == 0)


class GroupedAttention(torch.autograd.Function):
    """Attention block by block, in batched matrix products; scores never exist for a whole row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: RowLayout, scale: float) -> Tensor:
        """Query (tokens, heads, dim), key and value (tokens, key heads, dim), contiguous.

        Values may have a dim of their own, as in latent attention; it is that of the result, (tokens, heads, dim).
        """
        heads, dim = query.shape[1], value.shape[2]
        plan = indexed(layout, heads, key.shape[1], query)
        out = query.new_empty(len(query), heads, dim)
        kept: list[Tensor | None] = []
        for block, index in plan:
            # scores (count * key heads, group * queries, keys): of one block at a time, within LARGEST elements
            queries, keys, values = _gather(query, key, value, block, index)
            weights = _attention_weights(queries, keys, index.bias, scale)
            outputs = torch.bmm(weights, values).view(-1, dim)
            out[block.queries] = outputs.index_select(0, index.back).view(-1, heads, dim)
            kept.append(weights if block.keys <= KEPT * dim else None)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.plan, ctx.scale = plan, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """A path's keys and values get the sum over all segments below it, in float32."""
        query, key, value, *kept = ctx.saved_tensors
        heads, dim = query.shape[1:]
        grad = grads[0].contiguous().view(-1, value.shape[2])
        # every query is in one block, and written once; a path's keys are in many, and added up in float32
        to_query = torch.empty_like(query)
        to_key, to_value = (
            torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32)) for tensor in (key, value)
        )
        for (block, index), weights in zip(ctx.plan, kept, strict=True):
            queries, keys, values = _gather(query, key, value, block, index)
            if weights is None:
                weights = _attention_weights(queries, keys, index.bias, ctx.scale)
            # padding repeats a segment's last query, whose gradient must count once
            to_out = grad.index_select(0, index.queries).index_fill_(0, index.padding, 0)
            to_out = to_out.view(*queries.shape[:2], -1)
            _add(to_value, torch.bmm(weights.transpose(1, 2), to_out), block, index)
            # weights * (grad - sum(grad * weights)), (count * key heads, group * queries, keys)
            to_scores = compat.softmax_backward(torch.bmm(to_out, values.transpose(1, 2)), weights)
            back = torch.bmm(to_scores, keys).view(-1, dim).index_select(0, index.back)
            to_query[block.queries] = back.view(-1, heads, dim)
            _add(to_key, torch.bmm(to_scores.transpose(1, 2), queries), block, index)
        kinds = (tensor.dtype for tensor in (query, key, value))
        totals = (to_query.mul_(ctx.scale), to_key.mul_(ctx.scale), to_value)
        return *(total.to(kind) for total, kind in zip(totals, kinds, strict=True)), None, None


def _gather(
    query: Tensor, key: Tensor, value: Tensor, block: Block, index: BlockIndex
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (count * key heads, group * queries, dim), keys and values (count * key heads, keys, dim)."""
    batch, dim = block.count * key.shape[1], key.shape[2]
    return (
        query.view(-1, dim).index_select(0, index.queries).view(batch, -1, dim),
        key.view(-1, dim).index_select(0, index.keys).view(batch, -1, dim),
        value.view(-1, value.shape[2]).index_select(0, index.keys).view(batch, -1, value.shape[2]),
    )


def _attention_weights(queries: Tensor, keys: Tensor, bias: Tensor, scale: float) -> Tensor:
    """How much each query takes of each key: (batch, queries, keys), rows sum to 1."""
    # the mask goes in as the sum's first term: no pass over the scores of its own
    start = bias.expand(queries.shape[0], -1, -1)
    return torch.softmax(torch.baddbmm(start, queries, keys.transpose(1, 2), alpha=scale), -1)


def _add(total: Tensor, grads: Tensor, block: Block, index: BlockIndex) -> None:
    """Add a block's gradients of its keys to those of the row."""
    key_heads, dim = total.shape[1:]
    own = grads.view(-1, dim).index_select(0, index.keys_back).view(-1, key_heads, dim)
    total[block.start : block.start + len(own)] += own
    if block.prefix:
        # (count, key heads, path + own, dim): all segments attended to the same path, so their gradients are summed
        shared = grads.view(block.count, key_heads, -1, dim)[:, :, : block.prefix]
        total.index_add_(0, index.path, shared.sum(0, dtype=total.dtype).transpose(0, 1))
