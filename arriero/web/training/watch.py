"""One run while it lasts: how far it is, its curves, its log, and the button that stops it."""

from __future__ import annotations

from collections.abc import Callable

import altair as alt
import pandas as pd
import streamlit as st

from arriero import runs
from arriero.errors import ArrieroError
from arriero.formatting import duration
from arriero.runs import Metrics, Record, State, log_tail, state_of
from arriero.training.output.curves import decimated, series
from arriero.web.faults import draw_fault, plain
from arriero.web.language import redrawn
from arriero.web.training.listing import badge, metrics_of
from arriero.web.training.result import draw_result
from arriero.web.words import say

POINTS = 400  # of a curve, which is sent anew at each look
COLOURS = ["#9aa5a1", "#2f6f62"]


def draw_run(record: Record) -> None:
    """Everything about a run; while it runs the figures are drawn anew every second."""
    if st.button(say("train.all"), icon=":material/arrow_back:", type="tertiary"):
        st.query_params.pop("run", None)
        st.rerun()
    active = state_of(record).active
    redrawn(_follow, 1.0 if active else None)(record, active)
    if state_of(record).name == "finished":
        draw_result(record)


def _follow(record: Record, active: bool) -> None:
    state = state_of(record)
    if state.active != active:
        st.rerun()
    st.subheader(f"{plain(record.name)} {badge(state.name)}", anchor=False)
    st.caption(say("train.asked", data=plain(record.data), path=plain(str(record.directory))))
    metrics: Metrics = st.session_state.setdefault(f"train_metrics_{record.folder.name}", metrics_of(record))
    metrics.update()
    _progress(state, metrics)
    _explain(state)
    _buttons(record, state)
    _curves(metrics)
    if lines := log_tail(record):
        with st.expander(say("train.log"), expanded=state.name == "failed"):
            st.code("\n".join(lines), language=None, wrap_lines=True)


def _progress(state: State, metrics: Metrics) -> None:
    if state.name == "starting":
        st.progress(0.0, say("train.starting_text"))
    elif metrics.total:
        text = say("train.steps_of", done=f"{metrics.step:,}", total=f"{metrics.total:,}")
        if state.name == "running" and (left := metrics.seconds_left) is not None:
            text += " · " + say("train.left", time=duration(left))
        st.progress(min(1.0, metrics.step / metrics.total), text)
        last = metrics.lines[-1]
        shown = [
            ("train.loss", _newest(metrics, "loss"), ".3f"),
            ("train.held_out", _newest(metrics, "eval_loss"), ".3f"),
        ]
        shown += [("train.tokens_per_second", last["tokens_per_second"], ",.0f")]
        for column, (key, value, form) in zip(st.columns(len(shown)), shown, strict=True):
            column.metric(say(key), "–" if value is None else format(value, form))


def _newest(metrics: Metrics, name: str) -> float | None:
    return next((line[name] for line in reversed(metrics.lines) if name in line), None)


def _explain(state: State) -> None:
    if state.name == "failed":
        code = "" if state.exit_code is None else f" {say('train.exit_code', code=state.exit_code)}"
        killed = f" {say('train.killed')}" if state.exit_code == 137 else ""
        st.error(f"{plain(state.error) or say('train.failed_text')}{code}{killed}", icon=":material/error:")
    elif state.name in ("stopped", "gone"):
        st.info(say(f"train.{state.name}_text"), icon=":material/info:")


def _buttons(record: Record, state: State) -> None:
    with st.container(horizontal=True):
        if state.active:
            _button("stop", ":material/stop:", lambda: runs.stop(record))
        elif state.name != "finished":
            _button("resume", ":material/play_arrow:", lambda: runs.start(record, resume=True))
        if not state.active and st.button(say("train.forget"), help=say("train.forget_help")):
            runs.forget(record)
            st.query_params.pop("run", None)
            st.rerun()


def _button(name: str, icon: str, act: Callable[[], object]) -> None:
    if not st.button(say(f"train.{name}"), icon=icon, key=f"train_{name}"):
        return
    try:
        act()
    except ArrieroError as error:
        draw_fault(error)
        return
    st.rerun()


def _curves(metrics: Metrics) -> None:
    left, right = st.columns(2)
    lines = {say("train.loss"): "loss", say("train.held_out"): "eval_loss"}
    with left:
        _chart(metrics, lines, say("train.loss_axis"))
    with right:
        _chart(metrics, {say("train.tokens_per_second"): "tokens_per_second"}, say("train.tokens_per_second"))


def _chart(metrics: Metrics, lines: dict[str, str], title: str) -> None:
    parts = []
    for label, name in lines.items():
        points = decimated(series(metrics.lines, name), POINTS)
        parts.append(pd.DataFrame({"step": points[:, 0], "value": points[:, 1], "line": label}))
    frame = pd.concat(parts)
    if frame.empty:
        return
    colour = alt.Color("line:N", title=None, scale=alt.Scale(domain=list(lines), range=COLOURS[-len(lines) :]))
    chart = alt.Chart(frame).mark_line(point=len(frame) < 40)
    chart = chart.encode(
        x=alt.X("step:Q", title=say("train.step"), axis=alt.Axis(tickMinStep=1, format="d")),
        y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False)),
        color=colour.legend(orient="top") if len(lines) > 1 else colour.legend(None),
    )
    st.altair_chart(chart.properties(height=260))
