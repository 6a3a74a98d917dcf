"""Draws the report of an inspected file: figures, then pictures. It computes nothing."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import streamlit as st

from arriero.templates import count, percent
from arriero.web.datasets import plots
from arriero.web.words import say

STYLE = """<style>
dl.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(7.5rem,1fr));gap:.9rem 1rem;
margin:.2rem 0 .6rem;padding:0}
.figures dt{font-size:.8rem;opacity:.65;font-weight:400} .figures dd{font-size:1.35rem;margin:0;padding:0}
</style>"""


def draw_report(report: Mapping[str, Any]) -> None:
    """The whole report; `report` is the result that `prepare.py` leaves."""
    _prompt(report)
    _figures(report)
    left, right = st.columns(2)
    with left:
        _picture("data.plot_lengths", plots.lengths(report["lengths"]))
    with right:
        _picture("data.plot_dots", plots.dots(report["dots"]))
    if report["faults"]:
        _picture("data.plot_faults", plots.counts(report["faults"]))
    if report["repeats"]:
        _picture("data.plot_repeats", plots.counts(report["repeats"]))


def _prompt(report: Mapping[str, Any]) -> None:
    st.caption(say("data.summary", format=report["format"], files=", ".join(report["files"][:3])))
    if report["system"] is None:
        st.caption(say("data.system_of_template"))
    else:
        st.caption(say("data.system_used"))
        st.text(report["system"])


def _figures(report: Mapping[str, Any]) -> None:
    """As many to a line as there is room for; what each means shows under the pointer."""
    saved = 1 - report["computed_tokens"] / report["tokens"]
    shown = {
        "rows": count(report["rows"]),
        "kept": count(report["kept"]),
        "dropped": count(report["dropped"]),
        "cut": count(report["cut"]),
        "duplicates": count(report["duplicates"]),
        "contradictions": count(report["contradictions"]),
        "held_out": count(report["held_out"]),
        "tokens": count(report["tokens"]),
        "loss_tokens": count(report["loss_tokens"]),
        "longest": count(report["longest"]),
        "median": count(report["median"]),
        "saved": percent(saved),
    }
    pairs = "".join(
        f'<div title="{html.escape(say(f"data.{key}_help"))}">'
        f"<dt>{html.escape(say(f'data.{key}'))}</dt><dd>{value}</dd></div>"
        for key, value in shown.items()
    )
    st.html(f'{STYLE}<dl class="figures">{pairs}</dl>')


def _picture(key: str, chart: Any) -> None:
    st.markdown(f"**{say(key)}**")
    st.altair_chart(chart, width="stretch")
