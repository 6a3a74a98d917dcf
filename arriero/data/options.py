"""How instruction data is read, declared once for `inspect` and `train`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal, get_args

from arriero.errors import UsageError

FormatName = Literal["auto", "alpaca", "messages", "sharegpt", "prompt-completion"]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How to read instruction data.

    Parameters
    ----------
    format
        Of the rows. auto: detected from the first ones, and announced.
    join_input
        What stands between instruction and a non-empty input: a newline, or nothing as in the tutorial.
    answers
        Which answers of a longer conversation are trained: all, or the last.
    max_length
        Longest example in tokens. Default: the model's window.
    too_long
        What happens to longer examples: dropped and listed, or their last answer cut, keeping the end token.
    eval_fraction
        Part of the prompts held out for evaluation.
    seed
        Seed of initialisation, order and split.

    """

    # written out: what reads the signature of a subclass elsewhere does not know this file's names
    format: Literal["auto", "alpaca", "messages", "sharegpt", "prompt-completion"] = "auto"
    join_input: Literal["newline", "nothing"] = "newline"
    answers: Literal["all", "last"] = "all"
    max_length: int | None = None
    too_long: Literal["drop", "cut"] = "drop"
    eval_fraction: float = 0.05
    seed: int = 42

    def __post_init__(self) -> None:
        self._one_of("format", *get_args(FormatName))
        self._one_of("join_input", "newline", "nothing")
        self._one_of("answers", "all", "last")
        self._one_of("too_long", "drop", "cut")
        self._need("eval_fraction", 0 <= self.eval_fraction < 1, "at least 0 and less than 1")
        self._need("max_length", self.max_length is None or self.max_length >= 2, "at least 2 tokens")
        self._need("seed", 0 <= self.seed < 2**32, "at least 0 and less than 2**32")

    @classmethod
    def refuse_unknown(cls, verb: str, names: Iterable[str]) -> None:
        """Raise UsageError for a name that is no option of `verb`, naming the nearest that is."""
        known = [field.name for field in fields(cls)]
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise UsageError(
                    f"{verb} has no option {name!r}; it has {', '.join(known)}",
                    hint=f"did you mean {near[0]}?" if near else "",
                )

    def _one_of(self, name: str, *known: str) -> None:
        self._need(name, getattr(self, name) in known, f"one of {', '.join(known)}")

    def _need(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise UsageError(f"{name} must be {expected}, got {getattr(self, name)}")
