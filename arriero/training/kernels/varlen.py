"""Shared-prefix attention by torch's variable-length flash attention, on CUDA."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import torch
from torch import Tensor

from arriero.training.layout import RowLayout


@functools.cache
def flash() -> Callable[..., Tensor] | None:
    """Torch's variable-length flash attention, None where this torch has none that is causal to the lower right."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    takes = inspect.signature(varlen_attn).parameters
    return varlen_attn if {"scale", "window_size"} <= set(takes) else None


def shared_varlen(
    kernel: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, layout: RowLayout, scale: float
) -> Tensor:
    """Query (tokens, heads, dim), key and value (tokens, key heads, dim); the result is like query.

    `kernel` is `flash()`. Keys and values of the prefix are repeated before each example's own; causal to the lower
    right. Fewer key heads than query heads have to be asked for since torch 2.13, and just work before.
    """
    if "varlen" not in layout.cache:
        layout.cache["varlen"] = _varlen_index(layout, query.device)
    index, queries, keys, most_queries, most_keys = layout.cache["varlen"]
    grouped = {"enable_gqa": True} if "enable_gqa" in inspect.signature(kernel).parameters else {}
    return kernel(
        query,
        key.index_select(0, index),
        value.index_select(0, index),
        queries,
        keys,
        most_queries,
        most_keys,
        scale=scale,
        window_size=(-1, 0),
        **grouped,
    )


def _varlen_index(layout: RowLayout, device: torch.device) -> tuple[Tensor, Tensor, Tensor, int, int]:
    """Rows of keys for every sequence, and the sequences' bounds; the prefix is a sequence of its own."""
    prefix = torch.arange(layout.prefix)
    parts, start = ([prefix] if layout.prefix else []), layout.prefix
    queries = [layout.prefix] if layout.prefix else []
    for length in layout.lengths:
        parts += [prefix, torch.arange(start, start + length)]
        queries.append(length)
        start += length
    own = len(queries) - len(layout.lengths)
    keys = queries[:own] + [layout.prefix + length for length in layout.lengths]
    bounds = [torch.tensor([0, *sizes]).cumsum(0, dtype=torch.int32) for sizes in (queries, keys)]
    index, *bounds = (to_device(part, device) for part in (torch.cat(parts), *bounds))
    return index, bounds[0], bounds[1], max(queries), max(keys)


def to_device(part: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`; on the way to a GPU without waiting for it, which takes pinned memory."""
    return part.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else part.to(device)
