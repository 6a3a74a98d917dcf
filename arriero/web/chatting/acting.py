"""Clicks: what they do to the desk, and what becomes of an error."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

import streamlit as st

from arriero.errors import ArrieroError
from arriero.web.chatting.desk import Desk
from arriero.web.faults import sentences
from arriero.web.words import say

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
        st.error(as_text(sentences(error)), icon=":material/error:")


def export(kind: Literal["markdown", "json"], make: Callable[[], str], file: str, *, key: str) -> None:
    """A button that saves what `make` gives as a file; it breaks off nothing that is being drawn."""
    st.download_button(
        say(f"chat.{kind}"),
        make,
        file,
        {"markdown": "text/markdown", "json": "application/json"}[kind],
        key=key,
        type="tertiary",
        icon=":material/download:",
        on_click="ignore",
    )


def as_text(text: str) -> str:
    """Markdown that shows `text` as it is, on one line, for labels."""
    return MARKS.sub(r"\\\1", " ".join(text.split()))
