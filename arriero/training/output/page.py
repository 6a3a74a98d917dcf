"""What a training run did, as one HTML page: figures, curves, answers before and after. Needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from arriero.templates import render
from arriero.training.output.curves import charts

Document = Mapping[str, Any]
Bar = tuple[str, list[tuple[str, int, str]]]  # title; colour, number and name of each part


def page(report: Document, metrics: Sequence[Document]) -> str:
    """The whole page, from a parsed report.json and the parsed lines of metrics.jsonl.

    A section whose figures are missing is left out; text is escaped wherever it comes from.
    """
    return render("run.html", name=name_of(report), report=report, charts=charts(metrics, report), bars=_bars(report))


def name_of(report: Document) -> str:
    """What to call a run: the last part of its output path, which says nothing about the machine."""
    return PurePath(str((report.get("result") or {}).get("output") or "")).name or "a training run"


def _bars(report: Document) -> list[Bar]:
    """What became of the rows, and what the tokens of the kept ones are. Held out has its colour in the chart."""
    data = report.get("data") or {}
    kept, tokens, learned = (data.get(name) or 0 for name in ("kept", "tokens", "loss_tokens"))
    held_out = data.get("held_out") or report.get("held_out") or 0
    shared = (data.get("prefix_tokens") or 0) * kept
    left_out = data.get("dropped_count") or len(report.get("dropped") or ())
    bars: list[Bar] = [
        (
            "Rows",
            [("main", kept - held_out, "trained on"), ("warm", held_out, "held out"), ("soft", left_out, "left out")],
        ),
        (
            "Tokens",
            [
                ("main", learned, "learned"),
                ("soft", tokens - learned - shared, "of each row’s own prompt"),
                ("line", shared, "of what all rows begin with"),
            ],
        ),
    ]
    return [bar for bar in bars if all(number >= 0 for _, number, _ in bar[1]) and bar[1][0][1]]
