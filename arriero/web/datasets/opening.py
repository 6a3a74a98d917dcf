"""Draws how a file is opened: chosen, typed or uploaded, for which model, and how it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from arriero import hub, settings
from arriero.data import DataOptions
from arriero.data.records import ENDINGS
from arriero.errors import ArrieroError
from arriero.web.datasets import source
from arriero.web.faults import draw_fault
from arriero.web.words import say


def choose() -> str | None:
    """The file that is open: chosen, typed or uploaded."""
    chosen: str | None = st.session_state.get("data_path")
    offered = list(dict.fromkeys([*([chosen] if chosen else []), *source.offered()]))
    path: str | None = st.selectbox(
        say("data.file"),
        offered,
        index=offered.index(chosen) if chosen else None,
        placeholder=say("data.file_placeholder"),
        accept_new_options=True,
        format_func=short,
        help=say("data.file_help"),
    )
    with st.expander(say("data.upload"), icon=":material/upload:"):
        upload()
    if path != chosen:
        st.session_state["data_path"] = path
        st.session_state.pop("data_editing", None)
    if message := st.session_state.pop("data_message", None):
        st.success(message, icon=":material/check:")
    return path


def short(path: str) -> str:
    """A path as its last two parts: the rest says little and does not fit a telephone."""
    return "/".join(Path(path).parts[-2:])


def upload() -> None:
    """Where a file is dropped; it is opened, or what is wrong with it is said here."""
    largest = source.LARGEST // 10**6
    file = st.file_uploader(
        say("data.upload_label", size=largest),
        list(ENDINGS),
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
        model = st.selectbox(
            say("data.model"),
            models,
            accept_new_options=True,
            help=say("data.model_help"),
            key="data_model",
            persist_state="session",
        )
        system = st.text_area(
            say("data.system"),
            placeholder=say("data.system_of_template"),
            height=80,
            key="data_system",
            persist_state="session",
        )
        with st.container(horizontal=True):
            options = DataOptions(
                join_input=_one_of("join", "newline", "nothing"),
                answers=_one_of("answers", "auto", "each", "all", "last"),
                max_length=st.number_input(
                    say("data.max_length"),
                    2,
                    None,
                    None,
                    placeholder=say("data.window"),
                    key="data_max_length",
                    persist_state="session",
                ),
                too_long=_one_of("too_long", "drop", "cut"),
            )
    return model or default, system or None, options


def _one_of(name: str, *values: str) -> Any:
    """A choice between the values of an option; they are called by the option's name and their own."""
    return st.selectbox(
        say(f"data.{name}"),
        values,
        format_func=lambda value: say(f"data.{name}_{value}"),
        key=f"data_{name}",
        persist_state="session",
    )
