"""An optimizer step's examples -> packed rows: no padding, and what examples begin with in common only once.

row        [ root | rest of example 1 | what 2 and 3 share | rest of 2 | rest of 3 | … ]
parents      -1     root                root                 segment 2   segment 2
positions    every segment continues its parent's
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from arriero.prompt import Rendered, Shared, tree_tokens
from arriero.training.layout import RowLayout, columns_of


@dataclass(frozen=True, slots=True)
class PackedRow:
    """One row of the model's input, on the CPU.

    `ids` and `positions` are (1, tokens). `loss_positions` (n,) are those in the row whose logits predict `targets`
    (n,); a shared one may occur once for every example. `lengths` are the segments' tokens, `parents` as in RowLayout;
    `leaves` are the segments that the examples end with.
    """

    ids: Tensor
    positions: Tensor
    loss_positions: Tensor
    targets: Tensor
    lengths: tuple[int, ...]
    parents: tuple[int, ...]
    leaves: tuple[int, ...]

    @property
    def computed(self) -> int:
        """Tokens that the model computes."""
        return int(self.ids.numel())

    @property
    def layout(self) -> RowLayout:
        """For the attention."""
        return RowLayout(self.lengths, self.parents)

    def columns(self, example: int) -> Tensor:
        """Where the example's tokens are in the row, (tokens,)."""
        return columns_of(self.layout.sequences()[self.leaves[example]])


@dataclass(frozen=True, slots=True)
class _Segment:
    """Ids [first, last) of the example `of`, which continue the segment `parent`."""

    of: int
    first: int
    last: int
    parent: int


def loss_tokens(examples: Sequence[Rendered]) -> int:
    """Tokens of `examples` that a loss is taken on; the first token of an example has nothing to be predicted from."""
    return sum(end - max(start, 1) for example in examples for start, end in example.loss_spans)


def tokens_of(examples: Sequence[Rendered], *, share: bool) -> int:
    """Tokens that one row of the examples has."""
    return tree_tokens(examples) if share else sum(len(example.ids) for example in examples)


def split(examples: Sequence[Rendered], row_tokens: int, *, share: bool, at_least: int = 1) -> list[list[Rendered]]:
    """Distribute examples over rows of at most `row_tokens`, balanced; those that share more than all stay together.

    An example that is longer gets a row of its own. `at_least` rows are made where there are as many examples.
    """
    shared = _shared(examples, share=share)
    # tokens that each example adds to the one before it in sorted order, the root once
    own = [len(examples[index].ids) - common for index, common in zip(shared.order, shared.common, strict=True)]
    rows_needed = min(len(examples), max(at_least, -(-sum(own) // row_tokens)))
    # no more than a balanced row holds, so that a run fits somewhere; the root is in every row again
    runs = _runs(shared, own, min(row_tokens, shared.root + -(-(sum(own) - shared.root) // rows_needed)), rows_needed)
    sized = [(sum(own[first:last]) + shared.common[first] - shared.root, first, last) for first, last in runs]
    rows: list[list[Rendered]] = [[] for _ in range(rows_needed)]
    sizes = [shared.root] * rows_needed
    # largest first into the emptiest row (Graham 1969)
    for size, first, last in sorted(sized, reverse=True):
        emptiest = min(range(len(rows)), key=lambda row: (sizes[row], len(rows[row])))
        if rows[emptiest] and sizes[emptiest] + size > row_tokens:
            emptiest = len(rows)
            rows.append([])
            sizes.append(shared.root)
        rows[emptiest] += [examples[index] for index in shared.order[first:last]]
        sizes[emptiest] += size
    return rows


def _runs(shared: Shared, own: Sequence[int], limit: int, at_least: int) -> list[tuple[int, int]]:
    """Runs [first, last) of the sorted examples that share more than the root, of at most `limit` tokens each.

    `own` are the tokens that each adds to the one before it. There are `at_least` runs, where need be shorter ones.
    """
    bounds = [0]
    size = own[0]
    for at in range(1, len(own)):
        size += own[at]
        # cut where nothing but the root is shared, which costs nothing, or where the run is full
        if shared.common[at] <= shared.root or size > limit:
            bounds.append(at)
            # a cut computes again what the two sides shared
            size = own[at] + shared.common[at]
    runs = list(zip(bounds, [*bounds[1:], len(own)], strict=True))
    while len(runs) < at_least:
        first, last = max(runs, key=lambda run: run[1] - run[0])
        runs.remove((first, last))
        runs += [(first, (first + last) // 2), ((first + last) // 2, last)]
    return runs


def _shared(examples: Sequence[Rendered], *, share: bool) -> Shared:
    """What examples share, nothing where that is not wanted."""
    count = len(examples)
    return Shared.of(examples) if share else Shared(tuple(range(count)), (0,) * count, 0)


def pack(examples: Sequence[Rendered], *, share: bool) -> PackedRow:
    """One row of `examples`."""
    segments, leaves = _tree(examples, _shared(examples, share=share))
    parents = tuple(segment.parent for segment in segments)
    lengths = tuple(segment.last - segment.first for segment in segments)
    columns = list(map(columns_of, RowLayout(lengths, parents).sequences()))
    loss_positions, targets = list[Tensor](), list[int]()
    for example, leaf in zip(examples, leaves, strict=True):
        for start, end in example.loss_spans:
            first = max(start, 1)
            # the logits that predict a token are those of the token before it
            loss_positions.append(columns[leaf][first - 1 : max(end, first) - 1])
            targets += example.ids[first:end]
    return PackedRow(
        torch.tensor([[token for one in segments for token in examples[one.of].ids[one.first : one.last]]]),
        torch.tensor([[at for one in segments for at in range(one.first, one.last)]]),
        torch.cat(loss_positions) if loss_positions else torch.zeros(0, dtype=torch.long),
        torch.tensor(targets, dtype=torch.long),
        lengths,
        parents,
        tuple(leaves),
    )


def _tree(examples: Sequence[Rendered], shared: Shared) -> tuple[list[_Segment], list[int]]:
    """The segments, a parent before its children and those side by side, the shortest first; and each example's last.

    A group of sorted examples shares what its neighbours at least share; where that ends, it falls into groups.
    """

    def end(first: int, last: int) -> int:
        """How many ids a group has in common; a single example all of its own."""
        return min(shared.common[first + 1 : last], default=len(examples[shared.order[first]].ids))

    segments: list[_Segment] = []
    leaves = [-1] * len(examples)
    # breadth first, so that children of one parent stand side by side and the attention takes them as one block
    waiting = deque([(0, len(examples), 0, -1)])  # (first, last) of a group, the ids it has already, and in which one
    while waiting:
        first, last, depth, parent = waiting.popleft()
        common = end(first, last)
        # else the group has nothing more in common than its parent: no segment of its own
        if common > depth:
            segments.append(_Segment(shared.order[first], depth, common, parent))
            parent = len(segments) - 1
        if last - first == 1:
            leaves[shared.order[first]] = parent
            continue
        bounds = [first, *(at for at in range(first + 1, last) if shared.common[at] == common), last]
        groups = sorted(itertools.pairwise(bounds), key=lambda group: end(*group))
        waiting.extend((*group, common, parent) for group in groups)
    return segments, leaves


def fill(row: PackedRow, tokens: int) -> PackedRow:
    """The row filled up to `tokens` by one more segment that nothing is learned from.

    For kernels that are compiled anew for lengths of another kind, and for graphs of rows of one length.
    """
    missing = tokens - row.computed
    if missing <= 0:
        return row
    return replace(
        row,
        ids=torch.cat((row.ids, row.ids[:, :1].expand(1, missing)), 1),
        positions=torch.cat((row.positions, torch.arange(missing)[None]), 1),
        lengths=(*row.lengths, missing),
        parents=(*row.parents, -1),
    )
