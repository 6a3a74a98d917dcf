"""Figures of answering.py as tables, for a terminal or in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.answering.speed import OURS, VARIANTS
from benchmarks.lib.channel import Document


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table: title, column heads, rows of cells, and notes below it."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def rich(self) -> Table:
        """For a terminal."""
        table = Table(title=self.title, title_justify="left")
        for number, head in enumerate(self.heads):
            table.add_column(head, justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """As GitHub shows tables."""
        lines = [self.heads, ["---", *["---:"] * (len(self.heads) - 1)], *self.rows]
        table = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
        return "\n\n".join([f"### {self.title}", table, *(f"- {note}" for note in self.notes)])


def show(document: Document, sheets: Sequence[Sheet], console: Console, *, markdown: bool) -> None:
    """The document for people, its parts as tables."""
    before, after = document["matrix_tflops"]["before"], document["matrix_tflops"]["after"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    head = (
        f"{document['date']}: {document['machine']}; bfloat16 matrix products: {before:.3g} TFLOP/s before, "
        f"{after:.3g} after; {document['model']}; {versions}"
    )
    if markdown:
        print("\n\n".join([head, *(sheet.markdown() for sheet in sheets)]))
        return
    console.print(head)
    for sheet in sheets:
        console.print(sheet.rich())
        for note in sheet.notes:
            console.print(f"- {note}", highlight=False, markup=False)


def sheets(document: Document) -> Iterator[Sheet]:
    """One or two for each part that was measured."""
    makers: dict[str, Callable[[Document], Sheet]] = {
        "speed": _speed,
        "agreement": _agreement,
        "ids": _ids,
        "cancel": _cancel,
        "memory": _memory,
        "cold": _cold,
    }
    for name, part in document["parts"].items():
        yield makers[name](part)


def missing(part: Document) -> list[str]:
    """Notes on what was not measured."""
    return [f"not measured: {name}: {reason}" for name, reason in part["not_measured"].items()]


def seconds(value: float | None) -> str:
    """A time, for people."""
    return "" if value is None else f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"


def _speed(part: Document) -> Sheet:
    counts = list(next(iter(part["variants"].values()), {"requests": {}})["requests"])
    heads = ["", *(f"{head}, {count}" for head in ("tokens/s", "ratio", "first token") for count in counts)]
    heads += [f"p95, {count}" for count in counts[-1:]] + ["tokens an answer", "taken by others"]

    def row(name: str, found: Document) -> list[str]:
        figures = [found["requests"][count] for count in counts]
        return [
            name,
            *(spread(each["tokens_per_second"]) for each in figures),
            *("" if each["ratio"] is None else f"{each['ratio']:.3f}" for each in figures),
            *(seconds(each["first_token_s"]) for each in figures),
            *(seconds(each["first_token_p95_s"]) for each in figures[-1:]),
            "/".join(f"{each['tokens_per_answer']:.0f}" for each in figures),
            f"{max(each['others'] for each in figures):.0%}",
        ]

    variants = part["variants"]
    return Sheet(
        f"Answers of up to {part['tokens']} tokens, {' / '.join(counts)} requests at once, {part['rounds']} rounds",
        heads,
        [row(name, found) for name, found in variants.items()],
        [
            "tokens/s: of all answers together, until the last one ends; median of the rounds, and lowest to highest. "
            f"ratio: over {OURS}, or the first one, in the same round, median. first token: median of all requests, "
            "for us and llama.cpp that of the first text. Greedy; every variant reads the same ids, no question twice.",
            *(f"{name}: {VARIANTS[name]} ({found['description']})" for name, found in variants.items()),
            *missing(part),
        ],
    )


def spread(rates: dict[str, float]) -> str:
    """Median, lowest and highest."""
    return f"{rates['median']:,.0f} ({rates['low']:,.0f}-{rates['high']:,.0f})"


def _agreement(part: Document) -> Sheet:
    def row(name: str, found: Document) -> list[str]:
        cells = [name, f"{found['equal']:.1%}", f"{found['common_tokens']:.1f} of {found['reference_tokens']:.1f}"]
        if "mean_kl" in found:
            cells += [f"{found['mean_kl']:.2e}", f"{found['p99_kl']:.2e}", f"{found['same_top']:.2%}"]
        return cells

    return Sheet(
        f"Agreement with transformers in float32, {part['prompts']} held-out prompts",
        ["", "equal answers", "equal tokens at the beginning", "mean KL", "99 % of KL below", "same top token"],
        [row(name, found) for name, found in part["candidates"].items()],
        [
            f"equal answers: all of the first {part['tokens']} greedy tokens, through the engine as it is.",
            "KL(reference || engine) in nats, and same top token: of next-token distributions at all places of the "
            "reference's answers, which are read at once. For openvino that is the exported model run by itself with "
            "the engine's properties, so the precision of the cache of keys and values is not in these three columns.",
            *missing(part),
        ],
    )


def _ids(part: Document) -> Sheet:
    rows = [[each["surface"], str(each["conversations"]), str(each["different"])] for each in part["surfaces"]]
    return Sheet(
        "Prompt ids that reach the engine, against Chat.render", ["surface", "conversations", "different"], rows
    )


def _cancel(part: Document) -> Sheet:
    def row(name: str, found: Document) -> list[str]:
        times: list[Any] = [found["reading"]]
        for moment in ("prefill", "decode"):
            times += [found[moment]["ended"], found[moment]["short"]]
        tries = f"{found['prefill']['tries']}, {found['decode']['tries']}"
        return [name, *map(seconds, [*times, found["behind"], found["alone"]]), tries]

    heads = [
        "", "its first token otherwise", "prefill: it ends", "prefill: a short one begins", "decode: it ends",
        "decode: a short one begins", "behind it, not cancelled", "alone", "tries",
    ]  # fmt: skip
    return Sheet(
        f"Cancelling a request with a prompt of {part['prompt_tokens']:,} tokens",
        heads,
        [row(name, found) for name, found in part["engines"].items()],
        [
            "Times from cancel() on, medians of the tries that were cancelled in time. The short request is sent just "
            "before; prefill: when a third of the prompt has been read, decode: after 4 tokens.",
            *missing(part),
        ],
    )


def _memory(part: Document) -> Sheet:
    engines = part["engines"]
    counts = [number for number, _ in next(iter(engines.values()), {"resident": []})["resident"]]

    def row(name: str, found: Document) -> list[str]:
        points = [f"{size / 1e6:,.0f}" for _, size in found["resident"]]
        return [name, *points, *(f"{found['per_1000'][part] / 1e6:+,.1f}" for part in ("all", "last_half"))]

    return Sheet(
        "Resident memory in MB after so many requests",
        ["", *map(str, counts), "per 1,000 requests", "the same, last half"],
        [row(name, found) for name, found in engines.items()],
        [
            f"{part['at_once']} requests at once, questions of 1 to {part['words']} words, answers of up to "
            f"{part['tokens']} tokens; slopes of a line by least squares.",
            *missing(part),
        ],
    )


def _cold(part: Document) -> Sheet:
    def row(name: str, found: Document) -> list[str]:
        first = found["first_byte_s"]
        times = ", ".join(f"{seconds:.2f}" for seconds, _ in first["all"])
        return [name, seconds(first["median"]), times, seconds(found["whole_s"])]

    return Sheet(
        'From the start of `arriero ask "Hi"` to its answer',
        ["", "first byte", "every start", "whole"],
        [row(name, found) for name, found in part["engines"].items()],
        ["Medians; files are in the system's cache and the model is exported.", *missing(part)],
    )
