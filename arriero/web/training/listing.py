"""All runs of this machine, whatever started them."""

from __future__ import annotations

from datetime import datetime

import streamlit as st

from arriero import runs
from arriero.runs import Metrics, Record, state_of
from arriero.runs.state import METRICS
from arriero.web.faults import plain
from arriero.web.language import redrawn
from arriero.web.words import say

COLOURS = {
    "starting": "blue",
    "running": "blue",
    "stopped": "orange",
    "failed": "red",
    "finished": "green",
    "gone": "gray",
}


def draw_list(records: list[Record]) -> None:
    """The runs, the newest first; drawn anew every two seconds while one of them runs."""
    if not records:
        st.caption(say("train.no_runs"))
        return
    active = any(state_of(record).active for record in records)
    redrawn(_draw, 2.0 if active else None)()


def _draw() -> None:
    for record in runs.listed():
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            when = datetime.fromtimestamp(record.started).strftime("%Y-%m-%d %H:%M")
            st.markdown(f"**{plain(record.name)}** {badge(state_of(record).name)}")
            st.caption(f"{when} · {_steps(record)} · {plain(record.model or '')}", width="stretch")
            if st.button(say("train.open"), key=f"train_open_{record.folder.name}"):
                st.query_params["run"] = record.folder.name
                st.rerun()


def _steps(record: Record) -> str:
    metrics: Metrics = st.session_state.setdefault(f"train_metrics_{record.folder.name}", metrics_of(record))
    metrics.update()
    return say("train.steps_of", done=f"{metrics.step:,}", total="?" if metrics.total is None else f"{metrics.total:,}")


def metrics_of(record: Record) -> Metrics:
    """The run's figures, none read yet."""
    return Metrics(record.directory / METRICS)


def badge(name: str) -> str:
    """How a run stands, as Markdown."""
    return f":{COLOURS[name]}-badge[{say(f'train.{name}')}]"
