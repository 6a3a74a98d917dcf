"""The plan of a run, made by a process of its own, and the run's start once it was seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import streamlit as st

from arriero import runs
from arriero.errors import ArrieroError
from arriero.formatting import duration, size
from arriero.runs import Planning, Record
from arriero.web.faults import draw_fault, plain
from arriero.web.language import redrawn
from arriero.web.words import say

KEY = "train_plan"


def draw_plan(record: Record | None) -> None:
    """Offer to plan `record`, show its plan, and offer to start it. A plan of other settings is forgotten."""
    kept: tuple[Record, Planning] | None = st.session_state.get(KEY)
    if kept is not None and (record is None or replace(record, started=kept[0].started) != kept[0]):
        kept[1].cancel()
        kept = None
        st.session_state[KEY] = None
    if kept is not None:
        redrawn(_follow, 0.5)()
    elif st.button(say("train.plan"), type="primary", disabled=record is None, icon=":material/calculate:"):
        if record is not None:
            st.session_state[KEY] = record, Planning(record)
        st.rerun()


def _follow() -> None:
    kept: tuple[Record, Planning] | None = st.session_state.get(KEY)
    if kept is None:
        return
    record, planning = kept
    try:
        plan = planning.result()
    except ArrieroError as error:
        draw_fault(error)
        return
    if plan is None:
        st.caption(f":material/hourglass_top: {say('train.planning')}")
        return
    _draw(plan)
    if st.button(say("train.start"), type="primary", icon=":material/play_arrow:"):
        try:
            runs.start(record)
        except ArrieroError as error:
            draw_fault(error)
            return
        st.session_state[KEY] = None
        st.query_params["run"] = record.folder.name
        st.rerun()


def _draw(plan: dict[str, Any]) -> None:
    figures = [
        (say("train.steps"), f"{plan['steps']:,}"),
        (say("train.time"), duration(plan["seconds"])),
        (say("train.memory"), size(plan["memory_bytes"])),
        (say("train.tokens"), f"{plan['computed_tokens']:,}"),
    ]
    with st.container(border=True):
        for column, (label, value) in zip(st.columns(4), figures, strict=True):
            column.metric(label, value)
        numbers = ("rows", "samples", "held_out", "dropped", "cut", "tokens", "longest")
        st.caption(say("train.plan_data", **{name: f"{plan[name]:,}" for name in numbers}))
        own, _, run = plan["speed_source"].partition("the run ")
        source = say("train.speed_run", run=plain(run)) if not own else say("train.speed_measured")
        st.caption(f"{source} {say('train.system_is', system=plain(plan['system'] or say('train.system_none')))}")
