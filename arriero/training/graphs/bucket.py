"""The sizes that rows are filled up to, so that one graph serves many of them.

row        ids, positions (tokens)   loss positions (n)          sequences (m)           keys (k)
filled up  by one more segment       whose loss is left out      empty, at the end       of no sequence
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from arriero.training.inputs import RowInputs
from arriero.training.kernels.varlen import Sequences
from arriero.training.layout import RowLayout
from arriero.training.pack import PackedRow

Kernel = Callable[..., Tensor]  # of the signature of torch's varlen_attn
TOKENS = 128  # rows are filled up to a multiple of this many tokens, all of which are computed
SEQUENCES, KEYS, POSITIONS, LONGEST = 8, 1024, 256, 256  # multiples of the others, which cost next to nothing


@dataclass(frozen=True, slots=True)
class Bucket:
    """Sizes of a graph's inputs. `longest` bounds every sequence's queries and keys."""

    tokens: int
    sequences: int
    keys: int
    positions: int
    longest: int

    @classmethod
    def of(cls, row: PackedRow) -> Bucket:
        """The bucket of a row that is filled up to a multiple of TOKENS."""
        return cls(
            tokens=row.computed,
            sequences=up(len(row.lengths) + 1, SEQUENCES),
            keys=up(sum(map(len, itertools.chain.from_iterable(row.layout.sequences()))), KEYS),
            positions=up(len(row.targets), POSITIONS),
            longest=up(row.layout.longest, LONGEST),
        )


def up(number: int, multiple: int) -> int:
    """The next multiple."""
    return number + -number % multiple


def filled(row: PackedRow, bucket: Bucket, weight: float) -> dict[str, Tensor]:
    """The inputs of a graph for `row`, whose loss is multiplied by `weight`, on the CPU, in the bucket's sizes."""
    sequences = Sequences.of(row.layout)
    positions = (0, bucket.positions - len(row.targets))
    keys = (0, bucket.keys - len(sequences.index))
    return {
        "ids": row.ids,
        "positions": row.positions,
        "loss_positions": pad(row.loss_positions, positions),
        "targets": pad(row.targets, positions),
        "kept": pad(torch.ones(len(row.targets)), positions),
        "index": pad(sequences.index, keys),
        # a fill-up key reads token 0 and gives its gradient to the row behind the last
        "home": pad(sequences.home, keys, value=bucket.tokens),
        "queries": _bounds(sequences.queries, bucket),
        "keys": _bounds(sequences.keys, bucket),
        "weight": torch.tensor(weight),
    }


def _bounds(ends: Tensor, bucket: Bucket) -> Tensor:
    # bounds that repeat the last one are sequences of no tokens
    return pad(ends, (0, bucket.sequences + 1 - len(ends)), value=int(ends[-1]))


def static_inputs(given: dict[str, Tensor], row: PackedRow, bucket: Bucket, kernel: Kernel) -> RowInputs:
    """Inputs made of tensors whose contents change from row to row; `row` is the first of them."""
    sequences = Sequences(
        given["index"],
        given["home"],
        given["queries"],
        given["keys"],
        most_queries=bucket.longest,
        most_keys=bucket.longest,
    )
    # lengths and parents are the first row's, but the attention reads the cached tensors only
    layout = RowLayout(row.lengths, row.parents, {"varlen": sequences}, kernel)
    return RowInputs(given["ids"], given["positions"], given["loss_positions"], given["targets"], layout, given["kept"])
