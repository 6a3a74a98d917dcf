"""Every training option, declared once: the command line, configuration files and Python all read this class."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from arriero.data.options import DataOptions
from arriero.errors import UsageError

SEVEN_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(DataOptions):
    """How to read the data (see DataOptions) and how to train.

    Parameters
    ----------
    epochs
        Passes over the training part.
    batch_size
        Samples per optimizer step.
    learning_rate
        Peak of the schedule, which falls linearly to 0.
    rank
        Rank r of the LoRA matrices.
    alpha
        LoRA alpha; the update is scaled by alpha / rank.
    dropout
        Dropout on the input of the LoRA matrices.
    target_modules
        Names of the linear layers that get LoRA matrices.
    precision
        What the model computes in. auto: bfloat16 where the machine is fast at it, else float32.
    save_steps
        Optimizer steps between checkpoints.

    """

    epochs: float = 3
    batch_size: int = 16
    learning_rate: float = 1e-4
    rank: int = 8
    alpha: float = 32
    dropout: float = 0.0
    target_modules: tuple[str, ...] = SEVEN_PROJECTIONS
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    save_steps: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "learning_rate", "alpha"):
            self._need(name, 0 < getattr(self, name) < math.inf, "greater than 0 and finite")
        for name in ("batch_size", "rank", "save_steps"):
            self._need(name, getattr(self, name) >= 1, "at least 1")
        self._need("learning_rate", self.learning_rate < 1, "less than 1")
        self._need("dropout", 0 <= self.dropout < 1, "at least 0 and less than 1")
        self._one_of("precision", "auto", "bfloat16", "float32")
        self._need("target_modules", bool(self.target_modules), "at least one layer name")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> TrainOptions:
        """Build from keyword arguments; an unknown name is refused, naming the nearest known one."""
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise UsageError(
                    f"train has no option {name!r}; it has {', '.join(known)}",
                    hint=f"did you mean {near[0]}?" if near else "",
                )
        return cls(**values)

    @property
    def micro_batch_size(self) -> int:
        """Samples per forward pass: the largest divisor of batch_size up to 4, so that steps come out exact."""
        return next(size for size in (4, 3, 2, 1) if self.batch_size % size == 0)
