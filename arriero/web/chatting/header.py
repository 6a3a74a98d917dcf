"""The top of the page: which model answers, its settings, and the conversation's menu."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import streamlit as st

from arriero.history import History, as_markdown, document
from arriero.web.backend import Choice
from arriero.web.chatting.acting import act, as_text, export
from arriero.web.chatting.controls import controls
from arriero.web.chatting.desk import Desk
from arriero.web.words import say


def header(desk: Desk) -> None:
    """Draw it. Raises ArrieroError where the models cannot be listed."""
    with st.container(horizontal=True, vertical_alignment="center", wrap=False):
        choice = _model(desk)
        if choice is not None:
            with st.popover("", icon=":material/tune:", help=say("chat.settings"), key="settings"):
                if choice.engine is not None:
                    st.caption(as_text(choice.engine))
                controls(desk, choice)
        if desk.saved is not None:
            with st.popover("", icon=":material/more_vert:", help=say("chat.menu"), key="menu"):
                _menu(desk)


def _model(desk: Desk) -> Choice | None:
    """The choice of a model; the default takes the place of one that is not served any more."""
    if desk.choice is None:
        st.caption(say("chat.no_model"))
        return None
    parents = {choice.name: choice.parent for choice in desk.choices}
    if st.session_state.get("model") != desk.choice.name:
        st.session_state.model = desk.choice.name
    st.selectbox(
        say("chat.model"),
        list(parents),
        format_func=lambda name: (
            say("chat.adapter_of", name=name, parent=parents[name]) if parents.get(name) is not None else name
        ),
        key="model",
        label_visibility="collapsed",
        persist_state="session",
    )
    return desk.choice


def _menu(desk: Desk) -> None:
    saved, history = desk.saved, desk.history
    if saved is None or saved.id is None:
        return
    identity, name = saved.id, re.sub(r"[^\w-]+", "-", saved.title).strip("-") or "conversation"
    if st.button(say("chat.rename"), icon=":material/edit:", key="rename", type="tertiary"):
        _dialog("chat.rename", lambda: _rename(desk))
    export("markdown", lambda: as_markdown(history.get(identity), history.path(identity)), f"{name}.md", key="markdown")
    export("json", lambda: as_json(history, identity), f"{name}.json", key="json")
    if st.button(say("chat.delete"), icon=":material/delete:", key="delete", type="tertiary"):
        _dialog("chat.delete_this", lambda: _delete(desk))


def as_json(history: History, identity: int) -> str:
    """A conversation's export for programs."""
    exported = document(history.get(identity), history.path(identity), history.nodes(identity))
    return json.dumps(exported, ensure_ascii=False, indent=2) + "\n"


def _dialog(title: str, body: object) -> None:
    st.dialog(say(title))(body)()


def _rename(desk: Desk) -> None:
    if desk.saved is None:
        return
    st.text_input(say("chat.title"), desk.saved.title, key="new_title")

    def rename(desk: Desk) -> None:
        title = st.session_state["new_title"].strip()
        if desk.saved is not None and title:
            desk.history.change(replace(desk.saved, title=title))

    if st.button(say("chat.rename"), type="primary", key="rename_sure", on_click=act, args=(rename,)):
        st.rerun()


def _delete(desk: Desk) -> None:
    saved = desk.saved
    if saved is None or saved.id is None:
        return
    identity = saved.id
    st.write(as_text(say("chat.delete_sure", title=saved.title)))
    with st.container(horizontal=True):
        sure = (lambda desk: desk.delete(identity),)
        if st.button(say("chat.delete"), type="primary", key="delete_sure", on_click=act, args=sure):
            st.rerun()
        if st.button(say("chat.cancel"), key="delete_not"):
            st.rerun()
