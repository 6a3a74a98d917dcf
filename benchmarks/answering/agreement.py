"""The part that measures how far answers and distributions are from those of transformers in float32."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence

from benchmarks.answering.engines import CHAT
from benchmarks.lib.channel import Document
from benchmarks.lib.children import Bench, ChildError, reason
from benchmarks.lib.questions import held_out, prompt

REFERENCE = "benchmarks.answering.ways.reference"
CANDIDATES = ("openvino int8", "openvino int4", "openvino bfloat16", "transformers bfloat16")
FIRST = 32  # greedy tokens that are compared


def measure(bench: Bench) -> Document:
    """Against transformers in float32: greedy answers through each engine, and next-token distributions."""
    prompts = [prompt(bench.renderer, question) for question in held_out(bench.options.prompts)]
    with bench.child(bench.way(REFERENCE)) as child:
        expected = child.ask(do="greedy", prompts=prompts, tokens=FIRST)
    result: Document = {"prompts": len(prompts), "tokens": FIRST, "candidates": {}, "not_measured": {}}
    for name in bench.options.candidates:
        engine, precision = name.split()
        try:
            with bench.child(bench.way(CHAT, engine=engine, precision=precision)) as child:
                answers = child.ask(do="greedy", prompts=prompts, tokens=FIRST)
        except ChildError as error:
            result["not_measured"][name] = reason(name, error)
            continue
        result["candidates"][name] = compared(expected, answers) | child.about
    with bench.child(bench.way(REFERENCE)) as child:
        measured = list(result["candidates"])
        divergences = child.ask(do="divergence", candidates=measured, prompts=prompts, answers=expected)
    for name in measured:
        result["candidates"][name] |= divergences[name]
    return result


def compared(expected: Sequence[list[int]], answers: Sequence[list[int]]) -> Document:
    """Share of equal answers; lengths of what is equal at their beginnings, and of the reference's answers."""
    common = [
        sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
        for one, other in zip(expected, answers, strict=True)
    ]
    return {
        "equal": statistics.fmean(one == other for one, other in zip(expected, answers, strict=True)),
        "common_tokens": statistics.fmean(common),
        "reference_tokens": statistics.fmean(map(len, expected)),
    }
