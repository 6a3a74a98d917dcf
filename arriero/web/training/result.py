"""What came of a run: its report, and the way to a conversation with it."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from arriero.errors import ArrieroError
from arriero.runs import Record
from arriero.runs.state import report_of
from arriero.training.output.page import page
from arriero.web.faults import draw_fault
from arriero.web.state import get_site
from arriero.web.training.listing import metrics_of
from arriero.web.words import say

PAGES = Path(__file__).parents[1] / "pages"
HEIGHT = 900  # pixels


def draw_result(record: Record) -> None:
    """The buttons that lead on, and the report.

    The report is made anew from its figures: what lies in the directory as a page would run with the page's rights.
    """
    metrics = metrics_of(record)
    metrics.update()
    report = report_of(record)
    text = page(report, metrics.lines) if report else ""
    with st.container(horizontal=True):
        if get_site().adopt is None:
            st.caption(say("train.elsewhere", path=f"`{record.directory}`"))
        else:
            if st.button(say("train.chat"), type="primary", icon=":material/forum:"):
                _go(record, "chat")
            if st.button(say("train.compare"), icon=":material/compare:"):
                _go(record, "compare")
        name = f"{record.name}.html"
        st.download_button(
            say("train.download"), text, name, "text/html", icon=":material/download:", disabled=not text
        )
    if text:
        st.iframe(text, height=HEIGHT)


def _go(record: Record, name: str) -> None:
    """Serve the adapter by the run's name, and go to the page with it chosen."""
    adopt = get_site().adopt
    try:
        if adopt is not None:
            adopt(record.name, record.directory)
    except ArrieroError as error:
        draw_fault(error)
        return
    st.session_state["model"] = record.name
    st.session_state["conversation"] = None
    st.session_state["compare_models"] = [str(report_of(record).get("model", "")), record.name]
    st.switch_page(PAGES / f"{name}.py")
