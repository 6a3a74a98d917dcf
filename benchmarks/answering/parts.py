"""The parts of answering.py that ask one engine after the other: agreement, cancelling, memory, cold start."""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from arriero import hub
from benchmarks.lib.channel import Document
from benchmarks.lib.children import Bench, Child, ChildError, reason
from benchmarks.lib.questions import held_out, long_prompts, of_any_length, prompt

CANDIDATES = ("openvino int8", "openvino int4", "openvino bfloat16", "transformers bfloat16")
FIRST = 32  # greedy tokens that are compared
LONG, ANSWER = 1_800, 256  # tokens of a prompt that is cancelled and of its answer, in models with room for them
AT_ONCE, SHORT = 8, 8  # requests, and tokens of their answers, where memory is watched


def agreement(bench: Bench) -> Document:
    """Against transformers in float32: greedy answers through each engine, and next-token distributions."""
    prompts = [prompt(bench.renderer, question) for question in held_out(bench.options.prompts)]
    with bench.child(bench.way("reference")) as child:
        expected = child.ask(do="greedy", prompts=prompts, tokens=FIRST)
    result: Document = {"prompts": len(prompts), "tokens": FIRST, "candidates": {}, "not_measured": {}}
    for name in bench.options.candidates:
        engine, precision = name.split()
        try:
            with bench.child(bench.way("chat", engine=engine, precision=precision)) as child:
                answers = child.ask(do="greedy", prompts=prompts, tokens=FIRST)
        except ChildError as error:
            result["not_measured"][name] = reason(name, error)
            continue
        result["candidates"][name] = compared(expected, answers) | child.about
    with bench.child(bench.way("reference")) as child:
        measured = list(result["candidates"])
        found = child.ask(do="divergence", candidates=measured, prompts=prompts, answers=expected)
    for name in measured:
        result["candidates"][name] |= found[name]
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


def ids(bench: Bench) -> Document:
    """Whether all surfaces send the engine the ids of `Chat.render`."""
    with bench.child(bench.way("surfaces")) as child:
        return {"surfaces": child.ask()}


def cancel(bench: Bench) -> Document:
    """How soon cancelling works, in seconds."""
    window = hub.window(bench.options.model)
    answer = min(ANSWER, window // 4)
    longest = min(LONG, window - answer - 40)
    short = prompt(bench.renderer, "Hi")

    def measured(child: Child) -> Document:
        wanted = 2 * (bench.options.repeats + 4)
        longs = [ids[:longest] for ids in itertools.islice(long_prompts(bench.renderer, longest), wanted)]
        found: Document = child.ask(do="cancel", short=short, long=longs, tokens=answer, repeats=bench.options.repeats)
        return {
            **{name: statistics.median(found[name]) for name in ("reading", "alone", "behind")},
            **{moment: _cancelled(found[moment]) for moment in ("prefill", "decode")},
        }

    return {"prompt_tokens": longest, **bench.engines("cancel", measured)}


def _cancelled(times: dict[str, list[float]]) -> Document:
    return {
        "tries": len(times["ended"]),
        **{name: statistics.median(values) if values else None for name, values in times.items()},
    }


def memory(bench: Bench) -> Document:
    """Bytes resident after every tenth of many requests of all lengths, and the slope of a line through them."""
    words = min(180, hub.window(bench.options.model) // 8)

    def measured(child: Child) -> Document:
        questions, answered, points = of_any_length(words), 0, []
        for part in range(1, 11):
            while answered < bench.options.answers * part // 10:
                chosen = list(itertools.islice(questions, AT_ONCE))
                child.ask(do="answer", questions=chosen, tokens=SHORT)
                answered += AT_ONCE
            points.append((answered, child.resident()))
        return {
            "resident": points,
            "per_1000": {
                "all": 1000 * statistics.linear_regression(*zip(*points, strict=True)).slope,
                "last_half": 1000 * statistics.linear_regression(*zip(*points[4:], strict=True)).slope,
            },
        }

    return {"at_once": AT_ONCE, "words": words, "tokens": SHORT, **bench.engines("memory", measured)}


def cold(bench: Bench) -> Document:
    """Seconds from the start of `arriero ask` to its answer's first byte and to its end, the engines in turn."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in bench.options.engines}
    reasons: dict[str, str] = {}
    for start in range(bench.options.starts + 1):
        for name in [name for name in bench.options.engines if name not in reasons]:
            print(f"cold: start {start}, {name}", file=sys.stderr)
            try:
                times = _asked(bench.options.model, name, bench.folder / f"{name}.log")
            except ChildError as error:
                reasons[name] = reason(name, error)
                continue
            if start:  # the first one fills caches, and may export the model
                found[name].append(times)
    return {
        "engines": {
            name: {
                "first_byte_s": {"median": statistics.median(first for first, _ in times), "all": times},
                "whole_s": statistics.median(whole for _, whole in times),
            }
            for name, times in found.items()
            if name not in reasons
        },
        "not_measured": reasons,
    }


def _asked(model: Path, engine: str, log: Path) -> tuple[float, float]:
    command = [sys.executable, "-m", "arriero.cli", "ask", "Hi", "--engine", engine, "--model", str(model)]
    start = time.perf_counter()
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr) as process,
    ):
        assert process.stdout is not None
        os.read(process.stdout.fileno(), 1)
        first = time.perf_counter() - start
        process.stdout.read()
        process.wait()
        whole = time.perf_counter() - start
    if process.returncode:
        raise ChildError(f"arriero ask ended with {process.returncode}\n{log.read_text(errors='replace')[-3000:]}")
    return first, whole
