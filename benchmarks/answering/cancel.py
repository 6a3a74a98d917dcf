"""The part that measures how soon cancelling works."""

from __future__ import annotations

import itertools
import statistics

from arriero import hub
from benchmarks.answering.engines import each_engine
from benchmarks.lib.channel import Document
from benchmarks.lib.children import Bench, Child
from benchmarks.lib.questions import long_prompts, prompt

LONG, ANSWER = 1_800, 256  # tokens of a prompt that is cancelled and of its answer, in models with room for them


def measure(bench: Bench) -> Document:
    """How soon cancelling works, in seconds."""
    window = hub.window(bench.options.model)
    answer = min(ANSWER, window // 4)
    longest = min(LONG, window - answer - 40)
    short = prompt(bench.renderer, "Hi")

    def measured(child: Child) -> Document:
        count = 2 * (bench.options.repeats + 4)
        longs = [ids[:longest] for ids in itertools.islice(long_prompts(bench.renderer, longest), count)]
        times: Document = child.ask(do="cancel", short=short, long=longs, tokens=answer, repeats=bench.options.repeats)
        return {
            **{name: statistics.median(times[name]) for name in ("first_token", "alone", "behind")},
            **{moment: _cancelled(times[moment]) for moment in ("prefill", "decode")},
        }

    return {"prompt_tokens": longest, **each_engine(bench, "cancel", measured)}


def _cancelled(times: dict[str, list[float]]) -> Document:
    return {
        "tries": len(times["ended"]),
        **{name: statistics.median(values) if values else None for name, values in times.items()},
    }
