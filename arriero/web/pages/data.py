"""The page of instruction files: open or upload one, see what training would see, mend rows."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from arriero import hub, settings
from arriero.data import DataOptions
from arriero.errors import ArrieroError
from arriero.web import jobs
from arriero.web.datasets import source
from arriero.web.datasets.editor import draw_saving
from arriero.web.datasets.prepared import Prepared
from arriero.web.datasets.report import draw_report
from arriero.web.datasets.rows import draw_rows
from arriero.web.faults import administrators_only, draw_fault
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
    job = jobs.find(folder) or jobs.start(folder, PREPARING, about)
    if job.running:
        st.fragment(wait, run_every=0.5)(folder)
    elif job.failure is not None:
        draw_fault(job.failure)
        if st.button(say("data.again"), key="data_again"):
            jobs.start(folder, PREPARING, about)
            st.rerun()
    elif job.result is not None:
        draw(Prepared(folder, job.result), options)


def choose() -> str | None:
    """The file that is open: chosen, typed or uploaded."""
    chosen: str | None = st.session_state.get("data_path")
    offered = source.offered()
    known = list(dict.fromkeys([*([chosen] if chosen else []), *offered]))
    path = st.selectbox(
        say("data.file"),
        known,
        index=known.index(chosen) if chosen else None,
        placeholder=say("data.file_placeholder"),
        accept_new_options=True,
        format_func=short,
        help=say("data.file_help"),
    )
    with st.expander(say("data.upload"), icon=":material/upload:"):
        upload()
    if path != chosen:
        st.session_state["data_path"] = path
        st.session_state["data_page"] = 1
    if told := st.session_state.pop("data_told", None):
        st.success(told, icon=":material/check:")
    return path


def short(path: str) -> str:
    """A path as its last two parts: the rest says little and does not fit a telephone."""
    return "/".join(Path(path).parts[-2:])


def upload() -> None:
    """Where a file is dropped; it is opened, or what is wrong with it is said here."""
    largest = source.LARGEST // 10**6
    file = st.file_uploader(
        say("data.upload_label", size=largest),
        [ending.lstrip(".") for ending in source.ENDINGS],
        key="data_upload",
        max_upload_size=largest,
    )
    if file is None or st.session_state.get("data_uploaded") == file.file_id:
        return
    st.session_state["data_uploaded"] = file.file_id
    try:
        st.session_state["data_path"] = str(source.keep(file.name, file.getvalue()))
    except ArrieroError as error:
        draw_fault(error)
    else:
        st.rerun()


def reading() -> tuple[str, str | None, DataOptions]:
    """For which model, under which system prompt and how the file is read."""
    default = settings.default_model()
    models = list(dict.fromkeys([default, *(hub.name_of(model.path) for model in hub.models())]))
    with st.expander(say("data.reading"), icon=":material/tune:"):
        model = st.selectbox(say("data.model"), models, accept_new_options=True, help=say("data.model_help"))
        system = st.text_area(say("data.system"), placeholder=say("data.system_of_template"), height=80)
        with st.container(horizontal=True):
            joins = {"newline": say("data.join_newline"), "nothing": say("data.join_nothing")}
            join = st.selectbox(say("data.join"), list(joins), format_func=joins.__getitem__)
            trained = {"all": say("data.answers_all"), "last": say("data.answers_last")}
            answers = st.selectbox(say("data.answers"), list(trained), format_func=trained.__getitem__)
            limit = st.number_input(say("data.max_length"), 2, None, None, placeholder=say("data.window"))
            handling = {"drop": say("data.long_drop"), "cut": say("data.long_cut")}
            long = st.selectbox(say("data.too_long"), list(handling), format_func=handling.__getitem__)
    options = DataOptions(join_input=join, answers=answers, max_length=limit, too_long=long)
    return model or default, system or None, options


def wait(folder: Path) -> None:
    """How far the inspection is; the whole page is drawn anew when it has ended."""
    job = jobs.find(folder)
    if job is None or not job.running:
        st.rerun()
    stage = job.progress.get("stage", "starting")
    rows = job.progress.get("rows")
    st.caption(f":material/hourglass_top: {say(f'data.stage_{stage}', rows=f'{rows:,}' if rows is not None else '')}")
    if st.button(say("data.stop"), key="data_stop"):
        jobs.cancel(folder)
        st.rerun()


def draw(prepared: Prepared, options: DataOptions) -> None:
    """The report and the rows of a file that has been inspected."""
    if saved := draw_saving(prepared):
        st.session_state["data_path"] = saved
        st.rerun()
    report, rows = st.tabs([say("data.tab_report"), say("data.tab_rows")])
    with report:
        draw_report(prepared.report)
    with rows:
        draw_rows(prepared, options)


if __name__ == "__main__":
    main()
