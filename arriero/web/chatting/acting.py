"""Clicks: what they do to the desk, and what becomes of an error."""

from __future__ import annotations

import re
from collections.abc import Callable

import streamlit as st

from arriero.errors import ArrieroError
from arriero.web.chatting.desk import Desk

MARKS = re.compile(r"([\\`*_{}\[\]()<>#+.!~$:|^=-])")


def act(what: Callable[[Desk], None]) -> None:
    """Do it, as a widget's callback; an error is shown by the run that follows."""
    try:
        what(Desk.here())
    except ArrieroError as error:
        st.session_state.error = error


def show_error(error: ArrieroError | None = None) -> None:
    """Show this error, or what went wrong with the last click."""
    error = error or st.session_state.pop("error", None)
    if error is not None:
        told = [f"{part[:1].upper()}{part[1:].rstrip('.')}." for part in (error.message, error.hint) if part]
        st.error(as_text(" ".join(told)), icon=":material/error:")


def as_text(text: str) -> str:
    """Markdown that shows `text` as it is, on one line, for labels."""
    return MARKS.sub(r"\\\1", " ".join(text.split()))
