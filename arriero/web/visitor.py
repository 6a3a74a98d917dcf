"""Who looks at the page: whose conversations are shown, what may be done, which language is spoken."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from arriero.web.words import LANGUAGES, Language, preferred, say, speak


@dataclass(frozen=True, slots=True)
class Visitor:
    """One person. `owner` is whose conversations these are: None is who sits at this machine, as in the terminal.

    `admin` may train, change data and models.
    """

    owner: str | None = None
    admin: bool = True


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
