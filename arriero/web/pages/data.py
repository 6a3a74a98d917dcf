"""The page of instruction files: open or upload one, see what training would see, mend rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from arriero.data import DataOptions
from arriero.errors import ArrieroError
from arriero.web import jobs
from arriero.web.datasets import source
from arriero.web.datasets.editor import draw_saving
from arriero.web.datasets.opening import choose, reading
from arriero.web.datasets.prepared import Prepared
from arriero.web.datasets.report import draw_report
from arriero.web.datasets.rows import draw_rows
from arriero.web.faults import administrators_only, draw_fault
from arriero.web.language import redrawn
from arriero.web.words import say

PREPARING = "arriero.web.datasets.prepare"


def main() -> None:
    """Draw the page."""
    administrators_only()
    st.title(say("common.page_data"), anchor=False)
    path = choose()
    model, system, options = reading()
    if path is None:
        st.caption(say("data.nothing_open"))
        return
    try:
        folder, about = source.job_of(path, model, system, options)
    except (ArrieroError, OSError) as error:
        draw_fault(error if isinstance(error, ArrieroError) else ArrieroError(str(error)))
        return
    job = jobs.find(folder)
    if job is None:
        source.tidy()
        job = jobs.start(folder, PREPARING, about)
    if job.running:
        redrawn(wait, 0.5)(folder)
    elif job.failure is not None:
        if job.failure.kind == "cancelled":
            st.caption(say("data.stopped"))
        else:
            draw_fault(job.failure)
        if st.button(say("data.again"), key="data_again"):
            jobs.start(folder, PREPARING, about)
            st.rerun()
    elif job.result is not None:
        draw(opened(folder, (folder / "result.json").stat().st_mtime_ns, job.result), options)


def wait(folder: Path) -> None:
    """How far the inspection is; the whole page is drawn anew when it has ended."""
    job = jobs.find(folder)
    if job is None or not job.running:
        st.rerun()
        return
    stage = job.progress.get("stage", "starting")
    rows = job.progress.get("rows")
    st.caption(f":material/hourglass_top: {say(f'data.stage_{stage}', rows=f'{rows:,}' if rows is not None else '')}")
    if st.button(say("data.stop"), key="data_stop"):
        jobs.cancel(folder)
        st.rerun()


@st.cache_resource(max_entries=4, show_spinner=False)  # type: ignore[untyped-decorator]
def opened(folder: Path, written: int, _report: Mapping[str, Any]) -> Prepared:  # noqa: ARG001  a part of the key
    """A finished inspection, `written` then; rows stay mapped and the tokenizer loaded from one click to the next."""
    return Prepared(folder, _report)


def draw(prepared: Prepared, options: DataOptions) -> None:
    """The report and the rows of a file that has been inspected."""
    view = st.segmented_control(
        say("data.view"),
        ["report", "rows"],
        default="report",
        required=True,
        format_func=lambda view: say(f"data.view_{view}"),
        key="data_view",
        persist_state="session",
        label_visibility="collapsed",
    )
    if view == "report":
        draw_report(prepared.report)
        return
    if saved := draw_saving(prepared):
        st.session_state["data_path"] = saved
        st.rerun()
    draw_rows(prepared, options)


if __name__ == "__main__":
    main()
