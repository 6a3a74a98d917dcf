"""What the model is given of a packed row, on its device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from arriero.cuda_graphs import to_device
from arriero.training.layout import RowLayout
from arriero.training.pack import PackedRow


@dataclass(frozen=True, slots=True)
class RowInputs:
    """`ids` and `positions` (1, tokens); `loss_positions` and `targets` (n,) as in PackedRow; `layout` for attention.

    `kept` (n,), float32, is 0 for loss positions that only fill up, else 1; None where none do.
    """

    ids: Tensor
    positions: Tensor
    loss_positions: Tensor
    targets: Tensor
    layout: RowLayout
    kept: Tensor | None = None

    @classmethod
    def of(cls, row: PackedRow, device: torch.device) -> RowInputs:
        """Those of a row as it is."""
        ids, positions, loss_positions, targets = (
            to_device(tensor, device) for tensor in (row.ids, row.positions, row.loss_positions, row.targets)
        )
        return cls(ids, positions, loss_positions, targets, row.layout)
