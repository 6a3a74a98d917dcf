"""What a packed row looks like to its attention: a tree of segments, cut into blocks, with their indices.

row     [ root | segment 1 | segment 2 | … ]    a segment continues its parent, and attends to the path down to it
blocks  segments of one parent and of similar length together, padded; long ones in slices of their queries
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

LARGEST = 1 << 22  # elements of one block of scores, over all heads


@dataclass(frozen=True, slots=True)
class Block:
    """Queries [first, last) of `count` consecutive segments of one parent, each padded to the longest's tokens."""

    start: int  # where its first segment begins in the row
    lengths: tuple[int, ...]
    path: tuple[range, ...]  # the tokens of the row that all its segments continue; none for a root
    first: int
    last: int

    @property
    def count(self) -> int:
        """Segments in the block."""
        return len(self.lengths)

    @property
    def prefix(self) -> int:
        """Tokens of the path."""
        return sum(map(len, self.path))

    @property
    def queries(self) -> slice:
        """The tokens of the row whose queries these are; several segments are never cut into slices."""
        if self.count > 1:
            return slice(self.start, self.start + sum(self.lengths))
        return slice(self.start + self.first, self.start + self.last)

    @property
    def keys(self) -> int:
        """Keys of each segment: the path and its own tokens up to the last query."""
        return self.prefix + self.last


@dataclass(slots=True)
class RowLayout:
    """Where things are in a packed row: `lengths` of its segments in tokens, and the number of each one's parent.

    A parent is before its children and -1 stands for none. Index tensors that depend on the model's heads are made at
    the first layer and kept for the others. `kernel` is a variable-length attention kernel to be used, None for what
    suits the device.
    """

    lengths: tuple[int, ...]
    parents: tuple[int, ...]
    cache: dict[Any, Any] = field(default_factory=dict)
    kernel: Callable[..., Tensor] | None = None

    @property
    def tokens(self) -> int:
        """Tokens of the row."""
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        """Most tokens that one may attend to."""
        return max(sum(map(len, sequence)) for sequence in self.sequences())

    def sequences(self) -> list[tuple[range, ...]]:
        """For each segment the columns of the row that it attends to: the path down to it, and last its own."""
        starts = (0, *itertools.accumulate(self.lengths))
        sequences: list[tuple[range, ...]] = []
        for number, parent in enumerate(self.parents):
            path = sequences[parent] if parent >= 0 else ()
            sequences.append((*path, range(starts[number], starts[number + 1])))
        return sequences

    def blocks(self, heads: int) -> list[Block]:
        """The row cut into pieces of bounded size: like segments of one parent together, long ones in slices."""
        blocks, start, group = list[Block](), 0, list[int]()
        above: tuple[range, ...] = ()
        for length, (*above_it, _) in zip(self.lengths, self.sequences(), strict=True):
            path = tuple(above_it)
            longest = max([length, *group])
            # padding to the longest may add at most 30 % to the work
            wasted = longest * (len(group) + 1) > 1.3 * (sum(group) + length)
            size = heads * (len(group) + 1) * longest * (sum(map(len, path)) + longest)
            if group and (wasted or path != above or size > LARGEST):
                blocks += _slices(start, tuple(group), above, heads)
                start, group = start + sum(group), []
            above = path
            group.append(length)
        return blocks + (_slices(start, tuple(group), above, heads) if group else [])


def columns_of(ranges: Iterable[range]) -> Tensor:
    """The columns of some ranges, one after the other, (tokens,)."""
    return torch.tensor(list(itertools.chain.from_iterable(ranges)), dtype=torch.long)


def _slices(start: int, lengths: tuple[int, ...], path: tuple[range, ...], heads: int) -> list[Block]:
    longest = max(lengths)
    step = max(1, min(longest, LARGEST // (heads * len(lengths) * (sum(map(len, path)) + longest))))
    return [Block(start, lengths, path, at, min(at + step, longest)) for at in range(0, longest, step)]


@dataclass(frozen=True, slots=True)
class BlockIndex:
    """Rows of a block's queries and keys in (tokens * heads, dim), and the way back.

    Batch entries are (segment, key head); the query heads of one key head follow each other. Padding repeats the
    segment's last token: `padding` lists those queries, `back` the others in the row's order, `keys_back` the keys
    of the segments' own tokens in the row's order. `path` are the tokens before each of them.
    """

    queries: Tensor
    keys: Tensor
    padding: Tensor
    back: Tensor
    keys_back: Tensor
    path: Tensor
    bias: Tensor  # (group * queries, keys): 0 where a query may look, else -inf


def _index(block: Block, heads: int, key_heads: int, like: Tensor) -> BlockIndex:
    lengths = torch.tensor(block.lengths)
    starts = block.start + lengths.cumsum(0) - lengths
    at, own = torch.arange(block.first, block.last), torch.arange(block.last)
    # rows shorter than the block repeat their last token: padding, masked on the way back
    tokens = starts[:, None] + torch.minimum(at, lengths[:, None] - 1)  # (count, queries)
    head = torch.arange(heads).view(key_heads, -1)
    queries = tokens[:, None, None, :] * heads + head[None, :, :, None]  # (count, key heads, group, queries)
    slots = torch.arange(queries.numel()).view(queries.shape)
    valid = at < lengths[:, None]
    attended = starts[:, None] + torch.minimum(own, lengths[:, None] - 1)
    path = columns_of(block.path)
    attended = torch.cat((path.expand(block.count, -1), attended), 1)  # (count, keys)
    keys = attended[:, None, :] * key_heads + torch.arange(key_heads)[None, :, None]
    key_slots = torch.arange(keys.numel()).view(keys.shape)[:, :, block.prefix :].transpose(1, 2)
    hidden = torch.arange(block.keys) > block.prefix + at[:, None]
    bias = torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))
    put = like.device
    return BlockIndex(
        queries=queries.flatten().to(put),
        keys=keys.flatten().to(put),
        padding=slots[~valid[:, None, None, :].expand(slots.shape)].to(put),
        back=slots.permute(0, 3, 1, 2)[valid].flatten().to(put),
        keys_back=key_slots[own < lengths[:, None]].flatten().to(put),
        path=path.to(put),
        bias=bias.repeat(heads // key_heads, 1).to(like),
    )


def indexed(layout: RowLayout, heads: int, key_heads: int, like: Tensor) -> list[tuple[Block, BlockIndex]]:
    """The row's blocks with their indices on the device of `like`, made at the first layer and kept for the others."""
    kept: list[tuple[Block, BlockIndex]] | None = layout.cache.get((heads, key_heads))
    if kept is None:
        kept = [(block, _index(block, heads, key_heads, like)) for block in layout.blocks(heads)]
        layout.cache[heads, key_heads] = kept
    return kept
