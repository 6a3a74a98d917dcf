"""In which language the page speaks to its visitor."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import streamlit as st

from arriero.web.words import LANGUAGES, Language, preferred, say, speak

P = ParamSpec("P")


def language() -> Language:
    """The language that was chosen here, at first the browser's own; it is spoken from here on."""
    chosen: Language = st.session_state.setdefault("language", preferred(st.context.locale))
    speak(chosen)
    return chosen


def redrawn(draw: Callable[P, None], seconds: float | None) -> Callable[P, None]:
    """`draw` as a fragment that is drawn anew so often, None only at its own clicks: in this language, too."""

    @wraps(draw)
    def spoken(*args: P.args, **kwargs: P.kwargs) -> None:
        language()  # a redraw is a run of its own
        draw(*args, **kwargs)

    fragment: Callable[P, None] = st.fragment(spoken, run_every=seconds)
    return fragment


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
