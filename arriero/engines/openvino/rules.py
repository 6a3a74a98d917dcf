"""Rules of an EBNF grammar, so laid out that the xgrammar inside OpenVINO GenAI keeps to them.

Its optimizer (as of GenAI 2026.4; corrected upstream in mlc-ai/xgrammar pull requests 632 and 911) merges states of an
automaton that it must not merge wherever two paths of one rule begin alike, and then allows more than the grammar
does. It looks into no rule that refers to another one. So whatever can be taken in two ways stands in a rule of its
own, which ends with a reference to the empty rule `nil`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from arriero.errors import UsageError

MAX_TIMES = 1_000_000  # more characters or items than an answer has; the library's own counts have 32 bits


def times(least: int, most: float) -> str:
    """What makes a repetition of what stands before it: at least `least` times, at most `most`, which may be infinite.

    An upper limit beyond MAX_TIMES becomes that, which is narrower; for such a lower one UsageError is raised.
    """
    if least > MAX_TIMES:
        raise UsageError(f"a schema may demand at most {MAX_TIMES} repetitions, got {least}")
    return f"{{{least},{'' if most == math.inf else min(int(most), MAX_TIMES)}}}"


class Rules:
    """Named rules, in order; names are `r0`, `r1` … and never equal those that are written by hand.

    Invariant: an alternative is the name of a rule and nothing else, and every rule but those of alternatives ends with
    `nil`: so the optimizer has nothing to merge.
    """

    def __init__(self) -> None:
        self._bodies: list[str] = []

    def add(self, body: str) -> str:
        """A rule that is this sequence; returns its name."""
        self._bodies.append(f"{body} nil")
        return f"r{len(self._bodies) - 1}"

    def any(self, alternatives: Iterable[str]) -> str:
        """A rule that is any one of these sequences; returns its name."""
        # each in a rule of its own, even a single name: two that begin alike in one rule are what goes wrong
        self._bodies.append(" | ".join([self.add(alternative) for alternative in alternatives]))
        return f"r{len(self._bodies) - 1}"

    def reserve(self) -> str:
        """The name of a rule that `define` gives its body later."""
        return self.add("")  # numbered now, so that a rule may refer to one that is not written yet

    def define(self, name: str, body: str) -> None:
        """Give a reserved rule its body."""
        self._bodies[int(name[1:])] = f"{body} nil"

    def __str__(self) -> str:
        return "".join(f"r{index} ::= {body}\n" for index, body in enumerate(self._bodies)) + 'nil ::= ""\n'
