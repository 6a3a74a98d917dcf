"""Every option of evaluation, declared once: the command line and Python both read this class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from arriero.data.options import DataOptions

Precision = Literal["auto", "bfloat16", "float32", "int4"]


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(DataOptions):
    """How to read the data (see DataOptions) and how to evaluate.

    Parameters
    ----------
    held_out
        Only the rows that `arriero train` held out, by --eval-fraction and --seed. Default: all rows.
    precision
        What the model computes in. auto: bfloat16 where the machine is fast at it, else float32, over a base in 4 bits
        where the adapter was trained so. int4: over a base in 4 bits (NF4).
    batch_size
        Examples per forward pass, at most.

    """

    held_out: bool = False
    precision: Literal["auto", "bfloat16", "float32", "int4"] = "auto"
    batch_size: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of("precision", "auto", "bfloat16", "float32", "int4")
        self._need("batch_size", self.batch_size >= 1, "at least 1")

    @classmethod
    def of(cls, given: Mapping[str, Any], trained: Mapping[str, Any]) -> EvaluateOptions:
        """What is given, else what the adapter was `trained` with, else the default.

        An unknown name among the given ones is refused, naming the nearest known one.
        """
        cls.refuse_unknown("evaluate", given)
        return cls(**{**trained, **given})

    def changed(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}
