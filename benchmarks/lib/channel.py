"""What a child process of a benchmark speaks: JSON lines, a job first, then commands. Nothing of ours is imported.

Some children run in environments that have their engine and nothing of ours.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from benchmarks.lib.versions import versions

Document = dict[str, Any]
Answer = Callable[[Document], Any]


class Watch:
    """When answers to requests made now begin, and how many tokens each comes to."""

    def __init__(self, requests: int) -> None:
        self.tokens = [0] * requests
        self._first = [0.0] * requests
        self._start = time.perf_counter()

    def began(self, request: int) -> None:
        """A request's answer has something to show; only the first call counts."""
        self._first[request] = self._first[request] or time.perf_counter()

    def outcome(self) -> Document:
        """Seconds until now and until each answer began, tokens of each."""
        seconds = time.perf_counter() - self._start
        return {"seconds": seconds, "first": [at - self._start for at in self._first], "tokens": self.tokens}


def serve(load: Callable[[Document], tuple[Answer, Document]]) -> None:
    """Read a job, `load` what it names, and answer commands until standard input ends.

    `load` returns what answers a command, and facts about itself, to which its packages' versions are added. What
    libraries print goes to standard error. A failure is an answer, too: {"error": …}.
    """
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    answer: Answer | None = None
    for line in sys.stdin:
        try:
            if answer is None:
                answer, about = load(json.loads(line))
                result: Any = {"versions": versions(), **about}
            else:
                result = answer(json.loads(line))
        except Exception as error:
            traceback.print_exc()
            result = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), file=channel, flush=True)
        if answer is None:
            return
