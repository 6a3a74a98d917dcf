"""The report's pictures. Bars in the page's own colour, axes in words, nothing that moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from arriero.web.words import say

COLOUR = "#3d8b7a"
HEIGHT = 220


def lengths(bars: Sequence[Mapping[str, int]]) -> alt.Chart:
    """Rows by their length; `bars` as of `Report.lengths`."""
    values = [{"first": bar["first"], "end": bar["last"] + 1, "rows": bar["rows"]} for bar in bars]
    x = alt.X("first:Q", bin="binned", title=say("data.tokens"), axis=alt.Axis(tickMinStep=1))
    tips = [alt.Tooltip("first:Q", title=say("data.tokens")), alt.Tooltip("rows:Q", title=say("data.rows"))]
    chart = _chart(values).mark_bar(color=COLOUR).encode(x=x, x2="end:Q", y=_rows(), tooltip=tips)
    return _calm(chart)


def dots(pairs: Sequence[tuple[int, int]]) -> alt.Chart:
    """Loss tokens over prompt tokens, a dot for each row."""
    values = [{"prompt": prompt, "loss": loss} for prompt, loss in pairs]
    x = alt.X("prompt:Q", title=say("data.prompt_tokens"), axis=alt.Axis(tickMinStep=1))
    y = alt.Y("loss:Q", title=say("data.loss_tokens"), axis=alt.Axis(tickMinStep=1))
    chart = _chart(values).mark_circle(color=COLOUR, opacity=0.45, size=28)
    return _calm(chart.encode(x=x, y=y))


def counts(pairs: Sequence[tuple[str, int]]) -> alt.Chart:
    """How often each text holds, the most frequent first."""
    values = [{"text": text, "rows": rows} for text, rows in pairs]
    y = alt.Y("text:N", sort="-x", title=None, axis=alt.Axis(labelLimit=180, ticks=False, domain=False))
    x = alt.X("rows:Q", title=say("data.rows"), axis=alt.Axis(tickMinStep=1))
    tips = [alt.Tooltip("text:N", title=" "), alt.Tooltip("rows:Q", title=say("data.rows"))]
    chart = _chart(values).mark_bar(color=COLOUR, size=14).encode(x=x, y=y, tooltip=tips)
    return _calm(chart, height=60 + 26 * len(pairs))


def _chart(values: list[dict[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.Data(values=values))  # type: ignore[no-untyped-call]


def _rows() -> alt.Y:
    return alt.Y("rows:Q", title=say("data.rows"), axis=alt.Axis(tickMinStep=1))


def _calm(chart: alt.Chart, height: int = HEIGHT) -> alt.Chart:
    calm: alt.Chart = chart.properties(height=height).configure_view(strokeWidth=0)
    return calm
