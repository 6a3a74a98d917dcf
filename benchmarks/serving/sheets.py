"""Figures of serving.py as tables, for a terminal or in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.answering.sheets import Sheet, missing, seconds, spread
from benchmarks.lib.channel import Document
from benchmarks.serving.speed import BARE, VARIANTS


def sheets(document: Document) -> Iterator[Sheet]:
    """One for each part that was measured."""
    makers: dict[str, Callable[[Document], Sheet]] = {
        "speed": _speed,
        "abort": _abort,
        "memory": _memory,
        "stall": _stall,
        "overflow": _overflow,
        "drain": _drain,
    }
    for name, part in document["parts"].items():
        yield makers[name](part)


def _speed(part: Document) -> Sheet:
    heads = [
        "", "streams", "tokens/s", "ratio", "first token p50", "p95", "p99", "gap p50", "p99",
        "ms/token: server", "its children", "client", "by others", "tokens an answer", "not finished",
    ]  # fmt: skip

    def row(name: str, count: str, found: Document) -> list[str]:
        first, gap = found["first_s"] or {}, found["gap_s"] or {}
        return [
            name,
            count,
            spread(found["tokens_per_second"]),
            "" if found["ratio"] is None else f"{found['ratio']:.3f}",
            *(seconds(first.get(share)) for share in ("p50", "p95", "p99")),
            *(seconds(gap.get(share)) for share in ("p50", "p99")),
            *(f"{found['ms_per_token'][who]:.3f}" for who in ("server", "children", "client")),
            f"{found['others']:.0%}",
            f"{found['tokens_per_answer']:.0f}",
            str(found["unfinished"] or ""),
        ]

    variants = part["variants"]
    return Sheet(
        f"Streams of up to {part['tokens']} tokens over HTTP, {part['rounds']} rounds",
        heads,
        [row(name, count, figures) for name, found in variants.items() for count, figures in found["requests"].items()],
        [
            "tokens/s: of all streams together, from the first request to the last token; median of the rounds, and "
            f"lowest to highest. ratio: over {BARE} in the same round, median. first token: of all requests. gap: "
            "between two pieces of text of one stream. ms/token: processor time of the server's process, of those it "
            "started and of this client. Greedy; the same questions for all, none comes twice. What is not finished "
            f"after {part['seconds']:g} s is broken off.",
            *(f"{name}: {VARIANTS[name]} ({found['description']})" for name, found in variants.items()),
            *missing(part),
        ],
    )


def _abort(part: Document) -> Sheet:
    left = part["left"]
    return Sheet(
        f"{part['aborted']} requests cut off by their clients in waves, and an ordinary one after each",
        [
            *(f"{kind}, in time" for kind in part["in_time"]),
            "ordinary before",
            "after",
            "emptied",
            "running left",
            "waiting left",
        ],
        [
            [
                *(str(count) for count in part["in_time"].values()),
                *(seconds(part["ordinary_s"][when]) for when in ("before", "after")),
                seconds(part["emptied_s"]),
                *(f"{left[name]:g}" for name in ("running", "waiting")),
            ]
        ],
        [
            "stream: some of its text was there; whole: one that does not stream, being answered; prefill: a long "
            "prompt without a first token; waiting: for a place. A quarter each; in time: still in that state. "
            "ordinary: until a short answer is whole, asked at once after the wave, and again where there was no place "
            "yet; longest. emptied: from then until nothing ran or waited, longest."
        ],
    )


def _memory(part: Document) -> Sheet:
    slopes = part["per_1000"]
    return Sheet(
        "Resident memory in MB after so many short requests",
        ["", *(str(point[0]) for point in part["resident"]), "per 1,000", "the same, last half"],
        [
            [
                name,
                *(f"{point[place] / 1e6:,.0f}" for point in part["resident"]),
                *(f"{slopes[share][name] / 1e6:+,.2f}" for share in ("all", "last_half")),
            ]
            for place, name in enumerate(("server", "children"), start=1)
        ],
        ["Slopes of a line by least squares."],
    )


def _stall(part: Document) -> Sheet:
    rows = [
        [name, *(seconds(gaps[share]) for share in ("p50", "p99", "longest"))]
        for name, gaps in part["gap_s"].items()
        if gaps is not None
    ]
    return Sheet(
        f"Gaps in {part['streams']} short streams while a prompt of {part['prompt_tokens']:,} tokens is read",
        ["", "p50", "p99", "longest"],
        rows,
        [
            f"The long one's first token: {seconds(part['first_s']['alone'])} alone, "
            f"{seconds(part['first_s']['beside'])} beside the streams, of which {part['still_running']} still ran then."
        ],
    )


def _overflow(part: Document) -> Sheet:
    left = part["left"]
    return Sheet(
        f"{part['clients']} requests at once to {part['max_running']} places and {part['max_waiting']} to wait",
        [*part["statuses"], "whole answers", "Retry-After", "slowest refusal", "running left", "waiting left"],
        [
            [
                *map(str, part["statuses"].values()),
                str(part["whole"]),
                str(part["retry_after"]),
                seconds(part["refused_s"]),
                *(f"{left[name]:g}" for name in ("running", "waiting")),
            ]
        ],
    )


def _drain(part: Document) -> Sheet:
    return Sheet(
        f"SIGTERM while {part['streams']} streams run",
        [
            "--drain-seconds",
            "completed",
            "broken off",
            "cut",
            "refuses new ones after",
            "new requests",
            "until the end",
            "exit code",
        ],
        [
            [
                f"{end['drain_seconds']:g}",
                *(str(end[name]) for name in ("completed", "broken_off", "cut")),
                seconds(end["refusing_s"]),
                ", ".join(f"{count} x {status}" for status, count in end["late"].items()),
                seconds(end["seconds"]),
                str(end["exit_code"]),
            ]
            for end in part["ends"]
        ],
        ["broken off: told so by an error event and [DONE]; cut: without a word."],
    )
