"""Figures of every part as a table."""

from __future__ import annotations

from benchmarks.lib.channel import Document
from benchmarks.lib.sheets import Sheet, missing, seconds, spread
from benchmarks.serving.speed import BARE, VARIANTS


def speed(part: Document) -> Sheet:
    """Tokens per second, first tokens and gaps of every variant."""
    heads = [
        "", "streams", "tokens/s", "ratio", "first token p50", "p95", "p99", "gap p50", "p99",
        "ms/token: server", "its children", "client", "by others", "tokens an answer", "not finished",
    ]  # fmt: skip

    def row(name: str, count: str, figures: Document) -> list[str]:
        first, gap = figures["first_s"] or {}, figures["gap_s"] or {}
        return [
            name,
            count,
            spread(figures["tokens_per_second"]),
            "" if figures["ratio"] is None else f"{figures['ratio']:.3f}",
            *(seconds(first.get(share)) for share in ("p50", "p95", "p99")),
            *(seconds(gap.get(share)) for share in ("p50", "p99")),
            *(f"{figures['ms_per_token'][who]:.3f}" for who in ("server", "children", "client")),
            f"{figures['others']:.0%}",
            f"{figures['tokens_per_answer']:.0f}",
            str(figures["unfinished"] or ""),
        ]

    variants = part["variants"]
    return Sheet(
        f"Streams of up to {part['tokens']} tokens over HTTP, {part['rounds']} rounds",
        heads,
        [
            row(name, count, figures)
            for name, variant in variants.items()
            for count, figures in variant["requests"].items()
        ],
        [
            "tokens/s: of all streams together, from the first request to the last token; median of the rounds, and "
            f"lowest to highest. ratio: over {BARE} in the same round, median. first token: of all requests. gap: "
            "between two pieces of text of one stream. ms/token: processor time of the server's process, of those it "
            "started and of this client. Greedy; the same questions for all, none comes twice. What is not finished "
            f"after {part['seconds']:g} s is broken off.",
            *(f"{name}: {VARIANTS[name]} ({variant['description']})" for name, variant in variants.items()),
            *missing(part),
        ],
    )


def abort(part: Document) -> Sheet:
    """What was cut off, and what came after it."""
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
            "prompt without a first token; waiting: for a slot. A quarter each; in time: still in that state. "
            "ordinary: until a short answer is whole, asked at once after the wave, and again where there was no room "
            "yet; longest. emptied: from then until nothing ran or waited, longest."
        ],
    )


def memory(part: Document) -> Sheet:
    """Resident memory as requests are answered."""
    slopes = part["per_1000"]
    return Sheet(
        "Resident memory in MB after this many short requests",
        ["", *(str(point[0]) for point in part["resident"]), "per 1,000", "the same, last half"],
        [
            [
                name,
                *(f"{point[column] / 1e6:,.0f}" for point in part["resident"]),
                *(f"{slopes[name][share] / 1e6:+,.2f}" for share in ("all", "last_half")),
            ]
            for column, name in enumerate(("server", "children"), start=1)
        ],
        ["Slopes of a line by least squares."],
    )


def stall(part: Document) -> Sheet:
    """Gaps in short streams, before and beside a long prompt."""
    rows = [
        [name, *(seconds(gaps[share]) for share in ("p50", "p99", "longest"))]
        for name, gaps in part["gap_s"].items()
        if gaps is not None
    ]
    return Sheet(
        f"Gaps in {part['streams']} short streams while a prompt of {part['prompt_tokens']:,} tokens is prefilled",
        ["", "p50", "p99", "longest"],
        rows,
        [
            f"The long one's first token: {seconds(part['first_s']['alone'])} alone, "
            f"{seconds(part['first_s']['beside'])} beside the streams, of which {part['still_running']} still ran then."
        ],
    )


def overflow(part: Document) -> Sheet:
    """What became of the requests."""
    left = part["left"]
    return Sheet(
        f"{part['clients']} requests at once for {part['max_running']} slots and {part['max_waiting']} to wait",
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


def drain(part: Document) -> Sheet:
    """What became of streams and of new requests."""
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
        ["broken off: ended by an error event and [DONE]; cut: without a word."],
    )


def batch(part: Document) -> Sheet:
    """Rows a second of a batch and of the engine alone, and what somebody beside it waits."""

    def rates(values: list[float]) -> str:
        return " / ".join(f"{value:.2f}" for value in values)

    return Sheet(
        f"A batch of {part['rows']} rows of {part['tokens']} tokens, {part['at_once']} at once, over {part['engine']}",
        ["", "rows/s, by round", *part["first_token_s"]],
        [
            ["batch", rates(part["batch_rows_per_second"]), *map(seconds, part["first_token_s"].values())],
            ["the engine asked directly", rates(part["direct_rows_per_second"]), *[""] * len(part["first_token_s"])],
        ],
        [f"ratio {part['ratio']:.3f}, the median of the rounds; times are those to somebody else's first token."],
    )
