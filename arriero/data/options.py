"""How instruction data is read, declared once for `inspect` and `train`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal, get_args

from arriero.errors import UsageError
from arriero.formatting import nearest

FormatName = Literal["auto", "alpaca", "messages", "sharegpt", "prompt-completion", "text"]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How to read instruction data.

    Parameters
    ----------
    format
        Of the rows. auto: detected row by row, and announced. text: raw text, all of which is learnt.
    columns
        What the rows' fields are called, as OURS=THEIRS: instruction=question,output=answer. Well-known names, such as
        question and answer, are understood without it.
    encoding
        Of text files. auto: UTF-8, UTF-16 with its mark, GB18030 and other wide ones as recognised from the bytes.
    join_input
        What stands between instruction and a non-empty input: a newline, or nothing as in the self-llm tutorial.
    answers
        Which answers of a longer conversation are trained. each: every one, as an example of its own behind the prompt
        that asks for it; all: every one, in one example; last: the last one only. auto: all, or each where the chat
        template rewrites earlier turns, as those of reasoning models do.
    max_length
        Longest example in tokens. Default: the model's window.
    too_long
        What happens to longer examples: dropped and listed, or their last answer cut, keeping the end token. Raw text
        is taken in pieces.
    eval_fraction
        Part of the prompts held out for evaluation.
    seed
        Seed of initialisation, order and split.

    """

    # written out: what reads the signature of a subclass elsewhere does not know this file's names
    format: Literal["auto", "alpaca", "messages", "sharegpt", "prompt-completion", "text"] = "auto"
    columns: str = ""
    encoding: str = "auto"
    join_input: Literal["newline", "nothing"] = "newline"
    answers: Literal["auto", "each", "all", "last"] = "auto"
    max_length: int | None = None
    too_long: Literal["drop", "cut"] = "drop"
    eval_fraction: float = 0.05
    seed: int = 42

    def __post_init__(self) -> None:
        self._one_of("format", *get_args(FormatName))
        self.renamed  # noqa: B018  raises where they are no pairs
        self._one_of("join_input", "newline", "nothing")
        self._one_of("answers", "auto", "each", "all", "last")
        self._one_of("too_long", "drop", "cut")
        self._need("eval_fraction", 0 <= self.eval_fraction < 1, "at least 0 and less than 1")
        self._need("max_length", self.max_length is None or self.max_length >= 2, "at least 2 tokens")
        self._need("seed", 0 <= self.seed < 2**32, "at least 0 and less than 2**32")

    @property
    def renamed(self) -> dict[str, str]:
        """The pairs of `columns`: our name of a field -> the rows'."""
        pairs = [pair.partition("=") for pair in self.columns.split(",") if pair.strip()]
        names = {ours.strip(): theirs.strip() for ours, _, theirs in pairs}
        self._need("columns", all(names) and all(names.values()), "pairs such as instruction=question,output=answer")
        self._need("columns", len(names) == len(pairs), "pairs that name each field once")
        return names

    @classmethod
    def refuse_unknown(cls, verb: str, names: Iterable[str]) -> None:
        """Raise UsageError for a name that is no option of `verb`, naming the nearest that is."""
        options = [field.name for field in fields(cls)]
        for name in names:
            if name not in options:
                near = nearest(name, options)
                raise UsageError(
                    f"{verb} has no option {name!r}; it has {', '.join(options)}",
                    hint=f"did you mean {near}?" if near else "",
                )

    def _one_of(self, name: str, *choices: str) -> None:
        self._need(name, getattr(self, name) in choices, f"one of {', '.join(choices)}")

    def _need(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise UsageError(f"{name} must be {expected}, got {getattr(self, name)}")
