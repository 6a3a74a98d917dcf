"""Draws the report of an inspected file: figures, then pictures. It computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from arriero.templates import count, percent
from arriero.web.datasets import plots
from arriero.web.words import say


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
    """Four to a line on a wide screen; Streamlit stacks them on a narrow one, so they flow in one row instead."""
    saved = 1 - report["computed_tokens"] / report["tokens"]
    shown = {
        "data.rows": count(report["rows"]),
        "data.kept": count(report["kept"]),
        "data.dropped": count(report["dropped"]),
        "data.cut": count(report["cut"]),
        "data.duplicates": count(report["duplicates"]),
        "data.contradictions": count(report["contradictions"]),
        "data.held_out": count(report["held_out"]),
        "data.tokens": count(report["tokens"]),
        "data.loss_tokens": count(report["loss_tokens"]),
        "data.longest": count(report["longest"]),
        "data.median": count(report["median"]),
        "data.saved": percent(saved),
    }
    with st.container(horizontal=True, gap="medium"):
        for key, value in shown.items():
            st.metric(say(key), value, help=say(f"{key}_help"), width=120)


def _picture(key: str, chart: Any) -> None:
    st.markdown(f"**{say(key)}**")
    st.altair_chart(chart, width="stretch")
