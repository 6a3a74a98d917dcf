"""Shared-prefix attention by torch's variable-length flash attention, on CUDA."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arriero.cuda_graphs import to_device
from arriero.training.layout import RowLayout, columns_of


@functools.cache
def flash() -> Callable[..., Tensor] | None:
    """Torch's variable-length flash attention, None where this torch has none that is causal to the lower right."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    takes = inspect.signature(varlen_attn).parameters
    return varlen_attn if {"scale", "window_size"} <= set(takes) else None


def takes(query: Tensor, value: Tensor) -> bool:
    """Whether flash attention computes these, (tokens, heads, dim) each: it raises for what it has no kernel for."""
    dim = query.shape[2]
    known = query.dtype in (torch.bfloat16, torch.float16) and dim == value.shape[2] and dim <= 256 and dim % 8 == 0
    return query.is_cuda and known and torch.cuda.get_device_capability(query.device)[0] >= 8


def newest_flash(major: int) -> str:
    """Have torch's flash attention be version 3 where that is installed; returns which one it is now, and why.

    `major` is the GPU's compute capability; version 3 is for 9 (Hopper) only.
    """
    if major != 9:
        return "flash attention 2: version 3 is for GPUs of compute capability 9"
    try:
        from torch.nn.attention import activate_flash_attention_impl, current_flash_attention_impl

        if current_flash_attention_impl() != "FA3":
            activate_flash_attention_impl("FA3")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        return f"flash attention 2: version 3 cannot be used ({error})"
    return "flash attention 3: it is installed"


@dataclass(frozen=True, slots=True)
class Sequences:
    """A row's segments as sequences of queries, each ending where its keys end.

    `index` (keys,) are the row's tokens that the keys are those of, the path's before each segment's own; `home`
    (keys,) are the tokens that the keys' gradients belong to. `queries` and `keys` (sequences + 1,), int32, are the
    sequences' bounds. Filled up, there are empty sequences, and keys of none, whose home is behind the last token.
    """

    index: Tensor
    home: Tensor
    queries: Tensor
    keys: Tensor
    most_queries: int
    most_keys: int

    @classmethod
    def of(cls, layout: RowLayout) -> Sequences:
        """Those of a row, on the CPU."""
        # keys of a sequence: its path, then its own; causal to the lower right lets query i see path + own[: i + 1]
        sequences, queries = layout.sequences(), layout.lengths
        keys = [sum(map(len, sequence)) for sequence in sequences]
        ends = [torch.tensor([0, *sizes]).cumsum(0, dtype=torch.int32) for sizes in (queries, keys)]
        index = columns_of(itertools.chain.from_iterable(sequences))
        return cls(index, index, ends[0], ends[1], max(queries), max(keys))

    def to(self, device: torch.device) -> Sequences:
        """The same on `device`."""
        index, home, queries, keys = (
            to_device(tensor, device) for tensor in (self.index, self.home, self.queries, self.keys)
        )
        return Sequences(index, home, queries, keys, self.most_queries, self.most_keys)


class Gathered(torch.autograd.Function):
    """Rows `index` of x (tokens, heads, dim); their gradients are added up in rows `home`, one behind the last is lost.

    A kernel leaves the gradients of keys that belong to no sequence unwritten.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, home: Tensor) -> Tensor:
        """X at `index`, (keys, heads, dim)."""
        ctx.save_for_backward(home)
        ctx.tokens = len(x)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of x."""
        # a row more, for keys of no sequence: what a kernel left there is added where nothing reads it
        total = grads[0].new_zeros(ctx.tokens + 1, *grads[0].shape[1:])
        return total.index_add_(0, ctx.saved_tensors[0], grads[0])[: ctx.tokens], None, None


def shared_varlen(
    kernel: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, layout: RowLayout, scale: float
) -> Tensor:
    """Query (tokens, heads, dim), key and value (tokens, key heads, dim); the result is like query.

    `kernel` is `flash()`. Keys and values of the path are repeated before each segment's own; causal to the lower
    right. Fewer key heads than query heads have to be asked for since torch 2.13, and just work before.
    """
    # made at the first layer; all layers of a row attend alike
    if "varlen" not in layout.cache:
        layout.cache["varlen"] = Sequences.of(layout).to(query.device)
    sequences: Sequences = layout.cache["varlen"]
    grouped = {"enable_gqa": True} if "enable_gqa" in inspect.signature(kernel).parameters else {}
    return kernel(
        query,
        Gathered.apply(key, sequences.index, sequences.home),
        Gathered.apply(value, sequences.index, sequences.home),
        sequences.queries,
        sequences.keys,
        sequences.most_queries,
        sequences.most_keys,
        scale=scale,
        # no limit to the left, nothing to the right: causal
        window_size=(-1, 0),
        **grouped,
    )
