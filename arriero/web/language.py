"""In which language the page speaks to its visitor."""

from __future__ import annotations

import streamlit as st

from arriero.web.words import LANGUAGES, Language, preferred, say, speak


def language() -> Language:
    """The language that was chosen here, at first the browser's own; it is spoken from here on."""
    chosen: Language = st.session_state.setdefault("language", preferred(st.context.locale))
    speak(chosen)
    return chosen


def language_switch() -> None:
    """The choice of a language, for the sidebar."""
    st.segmented_control(
        say("common.language"),
        list(LANGUAGES),
        format_func=lambda name: LANGUAGES[name],
        key="language",
        required=True,
        label_visibility="collapsed",
    )
