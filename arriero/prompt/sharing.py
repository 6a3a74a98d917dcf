"""What examples begin with in common: a tree, whose tokens are computed once however many examples go through them.

    a  1 2 3 4 5 6 7 8 9            1 2 3 4 ─┬─ 5 6 7 8 ─┬─ 9
    b  1 2 3 4 5 6 7 8 0 0    ->             │           └─ 0 0
    c  1 2 3 4 6                             └─ 6

Sorted by their ids, neighbours have most in common: the tree has the tokens of all less what each shares with the one
before it. Branches lie at multiples of STRIDE tokens, but for the root, so that there are no tiny segments that cost
more than they save. A part of the examples has a tree with at least as much in common.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from arriero.prompt.rendered import Rendered

STRIDE = 4  # tokens


@dataclass(frozen=True, slots=True)
class Shared:
    """Examples by their ids: `order` are their indices, `common` how many ids each shares with the one before it.

    The first of `common` is 0; `root` ids are common to all, 0 for a single example.
    """

    order: tuple[int, ...]
    common: tuple[int, ...]
    root: int

    @classmethod
    def of(cls, examples: Sequence[Rendered]) -> Shared:
        """What the examples share; empty for none."""
        order = sorted(range(len(examples)), key=lambda index: examples[index].ids)
        arrays = [np.asarray(examples[index].ids) for index in order]
        common = [common_length(*pair) for pair in itertools.pairwise(arrays)]
        root = min(common, default=0)
        return cls(tuple(order), (0, *(max(root, number - number % STRIDE) for number in common))[: len(order)], root)


def tree_tokens(examples: Sequence[Rendered]) -> int:
    """Tokens of the examples' tree."""
    own = sum(len(example.ids) for example in examples)
    return own - sum(Shared.of(examples).common) if len(examples) > 1 else own


def common_length(first: npt.ArrayLike, second: npt.ArrayLike) -> int:
    """How many ids two examples begin with in common."""
    one, other = np.asarray(first), np.asarray(second)
    size = min(len(one), len(other))
    differing = np.flatnonzero(one[:size] != other[:size])
    return int(differing[0]) if len(differing) else size
