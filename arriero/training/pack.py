"""An optimizer step's examples -> packed rows: no padding, and what all examples of a row begin with only once.

[ prefix | rest of example 1 | rest of example 2 | … ]     positions of every rest continue from the prefix
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os.path import commonprefix

import torch
from torch import Tensor

from arriero.prompt import Rendered


@dataclass(frozen=True, slots=True)
class PackedRow:
    """One row of the model's input, on the CPU.

    `ids` and `positions` are (1, tokens). `loss_at` (n,) are the positions in the row whose logits predict `targets`
    (n,); the last one of the prefix may occur once for every example. `lengths` are the examples' tokens after the
    prefix.
    """

    ids: Tensor
    positions: Tensor
    loss_at: Tensor
    targets: Tensor
    prefix: int
    lengths: tuple[int, ...]

    @property
    def computed(self) -> int:
        """Tokens that the model computes."""
        return int(self.ids.numel())


def loss_tokens(examples: Sequence[Rendered]) -> int:
    """Tokens of `examples` that a loss is taken on; the first token of an example has nothing to be predicted from."""
    return sum(end - max(start, 1) for example in examples for start, end in example.spans)


def shared_prefix(examples: Sequence[Rendered]) -> int:
    """Length of the longest common token prefix that lies before every loss token; 0 for a single example."""
    if len(examples) < 2:
        return 0
    common = len(commonprefix([example.ids for example in examples]))  # noqa: RUF071  of any sequences, not only text
    return min(common, *(example.spans[0][0] for example in examples))


def split(examples: Sequence[Rendered], row_tokens: int, *, share: bool, at_least: int = 1) -> list[list[Rendered]]:
    """Distribute examples over rows of at most `row_tokens`, balanced, each row's shortest first.

    An example that is longer gets a row of its own. `at_least` rows are made where there are as many examples.
    """
    prefix = shared_prefix(examples) if share else 0
    total = prefix + sum(len(example.ids) - prefix for example in examples)
    wanted = min(len(examples), max(at_least, -(-total // row_tokens)))
    rows: list[list[Rendered]] = [[] for _ in range(wanted)]
    sizes = [prefix] * wanted
    for example in sorted(examples, key=lambda example: len(example.ids), reverse=True):
        rest = len(example.ids) - prefix
        emptiest = min(range(len(rows)), key=sizes.__getitem__)
        if rows[emptiest] and sizes[emptiest] + rest > row_tokens:
            emptiest = len(rows)
            rows.append([])
            sizes.append(prefix)
        rows[emptiest].append(example)
        sizes[emptiest] += rest
    return [row[::-1] for row in rows]


def pack(examples: Sequence[Rendered], *, share: bool) -> PackedRow:
    """One row of `examples`, in their order."""
    prefix = shared_prefix(examples) if share else 0
    ids, positions = list(examples[0].ids[:prefix]), list(range(prefix))
    loss_at: list[int] = []
    targets: list[int] = []
    for example in examples:
        offset = len(ids) - prefix
        for start, end in example.spans:
            first = max(start, 1)
            loss_at += [at + offset if at >= prefix else at for at in range(first - 1, end - 1)]
            targets += example.ids[first:end]
        ids += example.ids[prefix:]
        positions += range(prefix, len(example.ids))
    return PackedRow(
        torch.tensor([ids]),
        torch.tensor([positions]),
        torch.tensor(loss_at),
        torch.tensor(targets),
        prefix,
        tuple(len(example.ids) - prefix for example in examples),
    )


def fill(row: PackedRow, tokens: int) -> PackedRow:
    """The row filled up to `tokens` by one more example that nothing is learned from.

    For kernels that are compiled anew for lengths of another kind, and for graphs of rows of one length.
    """
    missing = tokens - row.computed
    if missing <= 0:
        return row
    more = torch.arange(row.prefix, row.prefix + missing)[None]
    return replace(
        row,
        ids=torch.cat((row.ids, row.ids[:, :1].expand(1, missing)), 1),
        positions=torch.cat((row.positions, more), 1),
        lengths=(*row.lengths, missing),
    )
