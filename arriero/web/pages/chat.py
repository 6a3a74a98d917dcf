"""The conversation page: a Streamlit script."""

from __future__ import annotations

import streamlit as st

from arriero.errors import ArrieroError
from arriero.web.chatting.acting import act, show_error
from arriero.web.chatting.controls import sampling
from arriero.web.chatting.desk import Desk
from arriero.web.chatting.header import header
from arriero.web.chatting.live import stop_button
from arriero.web.chatting.meter import context
from arriero.web.chatting.sidebar import sidebar
from arriero.web.chatting.turns import turns
from arriero.web.words import say


def main() -> None:
    """Draw the page, and follow the answer in flight."""
    with st.bottom:
        foot = st.container(horizontal=True, vertical_alignment="center")
        question = st.chat_input(say("chat.ask"), key="question")
    if question and question.strip():
        act(lambda desk: desk.ask(question, sampling()))
    desk = Desk.here()
    with st.sidebar:
        sidebar(desk)
    try:
        header(desk)
        with foot:
            context(desk)
    except ArrieroError as error:
        show_error(error)
    if desk.running:
        with foot:
            stop_button()
    show_error()
    if not desk.path:
        st.subheader(say("chat.greeting"), anchor=False)
    turns(desk)


main()
