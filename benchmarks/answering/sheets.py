"""Figures of every part as a table."""

from __future__ import annotations

from typing import Any

from benchmarks.answering.speed import OURS, VARIANTS
from benchmarks.lib.channel import Document
from benchmarks.lib.sheets import Sheet, missing, seconds, spread


def speed(part: Document) -> Sheet:
    """Tokens per second and first-token times of every variant."""
    counts = list(next(iter(part["variants"].values()), {"requests": {}})["requests"])
    heads = ["", *(f"{head}, {count}" for head in ("tokens/s", "ratio", "first token") for count in counts)]
    heads += [f"p95, {count}" for count in counts[-1:]] + ["tokens an answer", "taken by others"]

    def row(name: str, figures: Document) -> list[str]:
        by_count = [figures["requests"][count] for count in counts]
        return [
            name,
            *(spread(each["tokens_per_second"]) for each in by_count),
            *("" if each["ratio"] is None else f"{each['ratio']:.3f}" for each in by_count),
            *(seconds(each["first_token_s"]) for each in by_count),
            *(seconds(each["first_token_p95_s"]) for each in by_count[-1:]),
            "/".join(f"{each['tokens_per_answer']:.0f}" for each in by_count),
            f"{max(each['others'] for each in by_count):.0%}",
        ]

    variants = part["variants"]
    return Sheet(
        f"Answers of up to {part['tokens']} tokens, {' / '.join(counts)} requests at once, {part['rounds']} rounds",
        heads,
        [row(name, figures) for name, figures in variants.items()],
        [
            "tokens/s: of all answers together, until the last one ends; median of the rounds, and lowest to highest. "
            f"ratio: over {OURS}, or the first one, in the same round, median. first token: median of all requests, "
            "for us and llama.cpp that of the first text. Greedy; every variant gets the same ids, no question twice.",
            *(f"{name}: {VARIANTS[name]} ({figures['description']})" for name, figures in variants.items()),
            *missing(part),
        ],
    )


def agreement(part: Document) -> Sheet:
    """Equal answers and divergence of every candidate."""

    def row(name: str, figures: Document) -> list[str]:
        cells = [
            name,
            f"{figures['equal']:.1%}",
            f"{figures['common_tokens']:.1f} of {figures['reference_tokens']:.1f}",
        ]
        if "mean_kl" in figures:
            cells += [f"{figures['mean_kl']:.2e}", f"{figures['p99_kl']:.2e}", f"{figures['same_top']:.2%}"]
        return cells

    return Sheet(
        f"Agreement with transformers in float32, {part['prompts']} held-out prompts",
        ["", "equal answers", "equal tokens at the beginning", "mean KL", "99 % of KL below", "same top token"],
        [row(name, figures) for name, figures in part["candidates"].items()],
        [
            f"equal answers: all of the first {part['tokens']} greedy tokens, through the engine as it is.",
            "KL(reference || engine) in nats, and same top token: of next-token distributions at all positions of the "
            "reference's answers, computed at once. For openvino that is the exported model run by itself with "
            "the engine's properties, so the precision of the KV cache is not in these three columns.",
            *missing(part),
        ],
    )


def ids(part: Document) -> Sheet:
    """Conversations whose ids arrived differently, of every surface."""
    rows = [[each["surface"], str(each["conversations"]), str(each["different"])] for each in part["surfaces"]]
    return Sheet(
        "Prompt ids that reach the engine, against Chat.render", ["surface", "conversations", "different"], rows
    )


def cancel(part: Document) -> Sheet:
    """How soon a cancelled request ends, on every engine."""

    def row(name: str, figures: Document) -> list[str]:
        times: list[Any] = [figures["first_token"]]
        for moment in ("prefill", "decode"):
            times += [figures[moment]["ended"], figures[moment]["short"]]
        tries = f"{figures['prefill']['tries']}, {figures['decode']['tries']}"
        return [name, *map(seconds, [*times, figures["behind"], figures["alone"]]), tries]

    heads = [
        "", "its first token otherwise", "prefill: it ends", "prefill: a short one begins", "decode: it ends",
        "decode: a short one begins", "behind it, not cancelled", "alone", "tries",
    ]  # fmt: skip
    return Sheet(
        f"Cancelling a request with a prompt of {part['prompt_tokens']:,} tokens",
        heads,
        [row(name, figures) for name, figures in part["engines"].items()],
        [
            "Times from cancel() on, medians of the tries that were cancelled in time. The short request is sent just "
            "before; prefill: when a third of the prompt has been prefilled, decode: after 4 tokens.",
            *missing(part),
        ],
    )


def memory(part: Document) -> Sheet:
    """Resident memory as requests are answered."""
    engines = part["engines"]
    counts = [number for number, _ in next(iter(engines.values()), {"resident": []})["resident"]]

    def row(name: str, figures: Document) -> list[str]:
        points = [f"{size / 1e6:,.0f}" for _, size in figures["resident"]]
        return [name, *points, *(f"{figures['per_1000'][share] / 1e6:+,.1f}" for share in ("all", "last_half"))]

    return Sheet(
        "Resident memory in MB after this many requests",
        ["", *map(str, counts), "per 1,000 requests", "the same, last half"],
        [row(name, figures) for name, figures in engines.items()],
        [
            f"{part['at_once']} requests at once, questions of 1 to {part['words']} words, answers of up to "
            f"{part['tokens']} tokens; slopes of a line by least squares.",
            *missing(part),
        ],
    )


def cold(part: Document) -> Sheet:
    """Times of `arriero ask`."""

    def row(name: str, figures: Document) -> list[str]:
        first = figures["first_byte_s"]
        times = ", ".join(f"{seconds:.2f}" for seconds, _ in first["all"])
        return [name, seconds(first["median"]), times, seconds(figures["whole_s"])]

    return Sheet(
        'From the start of `arriero ask "Hi"` to its answer',
        ["", "first byte", "every start", "whole"],
        [row(name, figures) for name, figures in part["engines"].items()],
        ["Medians; files are in the system's cache and the model is exported.", *missing(part)],
    )


def decode(part: Document) -> Sheet:
    """Launches and copies of a step, by number of requests."""
    rows = [
        [count, *(f"{figures[name][what]:,}" for what in ("launches", "copies") for name in ("eager", "graphs"))]
        for count, figures in part["requests"].items()
    ]
    heads = ["requests", "launches", "with graphs", "copies to the host", "with graphs"]
    return Sheet("A decode step of the transformers engine", heads, rows)


def loop(part: Document) -> Sheet:
    """How late ticks came, by engine and number of streams."""
    rows = [
        [
            engine,
            count,
            *(seconds(each["late_s"][name]) for name in ("p50", "p99", "longest")),
            f"{each['chunks_per_second']:.0f}",
        ]
        for engine, figures in part["engines"].items()
        for count, each in figures["streams"].items()
    ]
    return Sheet(
        f"How late a ticker of 5 ms is in an event loop with LangChain streams, over {part['seconds']:g} s each",
        ["", "streams", "p50", "p99", "longest", "chunks/s"],
        rows,
        missing(part),
    )
