"""Figures as tables, for a terminal or in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

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


def missing(part: Document) -> list[str]:
    """Notes on what was not measured."""
    return [f"not measured: {name}: {reason}" for name, reason in part["not_measured"].items()]


def seconds(value: float | None) -> str:
    """A time, for people."""
    return "" if value is None else f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"


def spread(rates: dict[str, float]) -> str:
    """Median, lowest and highest."""
    return f"{rates['median']:,.0f} ({rates['low']:,.0f}-{rates['high']:,.0f})"


def launches(figures: Document) -> str:
    """What a step launches, on a GPU or, in operators, elsewhere."""
    if "kernels" not in figures:
        return f"{figures['launches']:,} operators that would be one kernel or more each on a GPU"
    kernels = f"{figures['kernels']:,} kernels and copies that take {figures['busy'] * 1000:,.1f} ms"
    return f"{figures['launches']:,} launches by the host, {kernels}"


def check(verification: Document) -> str:
    """What the check of the first step of training said."""
    fell_back = "; it fell back" if verification["fell_back"] else ""
    return f"worst {verification['worst']:.2f} of what rounding explains, at most 3{fell_back}"
