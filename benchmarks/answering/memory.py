"""The part that watches resident memory over many requests of all lengths."""

from __future__ import annotations

import itertools

from arriero import hub
from benchmarks.answering.engines import each_engine
from benchmarks.lib.channel import Document
from benchmarks.lib.children import Bench, Child
from benchmarks.lib.figures import slopes
from benchmarks.lib.questions import of_any_length

AT_ONCE, SHORT = 8, 8  # requests, and tokens of their answers


def measure(bench: Bench) -> Document:
    """Bytes resident after every tenth of many requests of all lengths, and the slope of a line through them."""
    words = min(180, hub.window(bench.options.model) // 8)

    def measured(child: Child) -> Document:
        questions, answered, points = of_any_length(words), 0, []
        for tenth in range(1, 11):
            while answered < bench.options.answers * tenth // 10:
                chosen = list(itertools.islice(questions, AT_ONCE))
                child.ask(do="answer", questions=chosen, tokens=SHORT)
                answered += AT_ONCE
            points.append((answered, child.resident()))
        return {
            "resident": points,
            "per_1000": slopes(*zip(*points, strict=True)),
        }

    return {"at_once": AT_ONCE, "words": words, "tokens": SHORT, **each_engine(bench, "memory", measured)}
