"""What a new run is asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from arriero import settings
from arriero.data.records import ENDINGS
from arriero.errors import ArrieroError
from arriero.runs.registry import Record, absolute
from arriero.web.datasets import source
from arriero.web.faults import draw_fault
from arriero.web.training import sources
from arriero.web.training.fields import draw_options
from arriero.web.words import say

DATA = "train_data"  # of the session: another page may set it before it comes here


def draw_form(records: Sequence[Record]) -> Record | None:
    """The fields of a new run; None while something is missing or wrong, which is said in its place."""
    st.subheader(say("train.new"), anchor=False)
    data = _data(records)
    model = st.selectbox(
        say("train.model"), sources.models(), accept_new_options=True, key="train_model", help=say("train.model_help")
    )
    system = st.text_area(say("train.system"), height=80, key="train_system", placeholder=say("train.system_default"))
    options = draw_options()
    directory = _directory(data)
    if data is None or options is None or directory is None:
        return None
    return Record(
        directory=directory,
        data=absolute(data),
        model=absolute(model or settings.default_model()),
        system=system or None,
        options=options.changed,
    )


def _data(records: Sequence[Record]) -> str | None:
    chosen: str | None = st.session_state.get(DATA)
    offered = list(dict.fromkeys([*([chosen] if chosen else []), *sources.data_files(records)]))
    path: str | None = st.selectbox(
        say("train.data"),
        offered,
        index=0 if chosen else None,
        placeholder=say("train.data_placeholder"),
        accept_new_options=True,
        format_func=lambda path: "/".join(Path(path).parts[-2:]),  # the rest does not fit a telephone
        help=say("train.data_help"),
    )
    with st.expander(say("train.upload"), icon=":material/upload:"):
        _upload()
    if path != chosen:
        st.session_state[DATA] = path
        st.session_state.pop("train_name", None)
    return path


def _upload() -> None:
    file = st.file_uploader(say("train.upload_label"), list(ENDINGS), key="train_upload")
    if file is None or st.session_state.get("train_uploaded") == file.file_id:
        return
    st.session_state["train_uploaded"] = file.file_id
    try:
        st.session_state[DATA] = str(source.keep(file.name, file.getvalue()))
    except ArrieroError as error:
        draw_fault(error)
        return
    st.session_state.pop("train_name", None)
    st.rerun()


def _directory(data: str | None) -> Path | None:
    """Where the adapter goes; None where there is no good name for it yet."""
    if data is not None and not st.session_state.get("train_name"):
        st.session_state["train_name"] = sources.free_name(data)
    name = st.text_input(say("train.name"), key="train_name", help=say("train.name_help"))
    if not sources.NAME.fullmatch(name):
        if data is not None:
            st.error(say("train.bad_name"), icon=":material/error:")
        return None
    output = sources.directory(name)
    if output.exists():
        st.error(say("train.taken", name=name), icon=":material/error:")
        return None
    st.caption(say("train.kept_in", path=f"`{output}`"))
    return output
