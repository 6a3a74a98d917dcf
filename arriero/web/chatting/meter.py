"""How much of the model's window the conversation takes."""

from __future__ import annotations

import streamlit as st

from arriero.errors import ArrieroError
from arriero.web.chatting.desk import Desk, spoken
from arriero.web.words import say


def context(desk: Desk) -> None:
    """Draw the context meter. Raises ArrieroError where the models cannot be listed."""
    used = taken(desk)
    if used is None or desk.choice is None:
        return
    window = desk.choice.window
    text = (
        say("chat.context_of", used=f"{used:,}")
        if window is None
        else say("chat.context", used=f"{used:,}", window=f"{window:,}")
    )
    st.caption(text, width="stretch")


def taken(desk: Desk) -> int | None:
    """The conversation's tokens: what the last answer took, or a count where that was another program's."""
    if not desk.path or desk.running:
        return None
    info = desk.path[-1].info
    if info is not None and info.prompt_tokens is not None and info.completion_tokens is not None:
        return info.prompt_tokens + info.completion_tokens
    if desk.choice is None:
        return None
    try:
        return desk.backend.count(desk.choice.name, spoken(desk.path, desk.system))
    except ArrieroError:
        return None
