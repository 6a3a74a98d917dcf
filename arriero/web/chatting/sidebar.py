"""The list of conversations."""

from __future__ import annotations

import json

import streamlit as st

from arriero.history import History, SavedConversation, as_markdown, document
from arriero.web.chatting.acting import act, as_text, export
from arriero.web.chatting.desk import Desk
from arriero.web.words import say

SHOWN = 20  # at first; each click on "more" shows as many again
ALL = 1_000_000
STYLE = (  # titles begin at the left and take one line; Streamlit's buttons have no such option
    "<style>.st-key-conversations button * {justify-content: flex-start; text-align: left; min-width: 0}"
    ".st-key-conversations button p {white-space: nowrap; overflow: hidden; text-overflow: ellipsis}</style>"
)


def sidebar(desk: Desk) -> None:
    """Draw it."""
    st.button(
        say("chat.new"),
        icon=":material/edit_square:",
        key="new",
        on_click=act,
        args=(lambda desk: desk.open(None),),
        width="stretch",
    )
    text = st.text_input(
        say("chat.search"),
        key="search",
        placeholder=say("chat.search"),
        icon=":material/search:",
        label_visibility="collapsed",
        persist_state="session",
    )
    limit = st.session_state.setdefault("shown", SHOWN)
    conversations = desk.history.find(text.strip(), limit=limit + 1)
    if not conversations and text:
        st.caption(say("chat.nothing_found"))
    st.html(STYLE)
    with st.container(gap=None, key="conversations"):
        for saved in conversations[:limit]:
            _entry(desk, saved)
    if len(conversations) > limit:
        st.button(say("chat.more"), key="more", type="tertiary", on_click=_show_more)
    if conversations:
        with st.popover(say("chat.all"), icon=":material/download:", type="tertiary"):
            _exports(desk.history)


def _entry(desk: Desk, saved: SavedConversation) -> None:
    identity = saved.id
    st.button(
        as_text(saved.title) or "…",
        key=f"open-{identity}",
        type="secondary" if identity == desk.identity else "tertiary",
        on_click=act,
        args=(lambda desk: desk.open(identity),),
        width="stretch",
    )


def _show_more() -> None:
    st.session_state.shown += SHOWN


def _exports(history: History) -> None:
    export(
        "markdown",
        lambda: "\n".join(as_markdown(saved, history.path(saved.id or 0)) for saved in history.find(limit=ALL)),
        "conversations.md",
        key="all_markdown",
    )
    export("json", lambda: all_as_json(history), "conversations.json", key="all_json")


def all_as_json(history: History) -> str:
    """All conversations as a JSON list."""
    documents = [
        document(saved, history.path(saved.id or 0), history.nodes(saved.id or 0)) for saved in history.find(limit=ALL)
    ]
    return json.dumps(documents, ensure_ascii=False, indent=2) + "\n"
