"""What was said, and what can be done with it."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from arriero.history import AnswerInfo, Node
from arriero.markup import to_streamlit
from arriero.web.chatting.acting import act, show_error
from arriero.web.chatting.blocks import apart
from arriero.web.chatting.controls import sampling
from arriero.web.chatting.desk import Desk
from arriero.web.chatting.live import follow
from arriero.web.completion import LiveCompletion
from arriero.web.words import say

USER, MODEL = ":material/person:", str(Path(__file__).parents[1] / "llama.svg")


def turns(desk: Desk) -> None:
    """Draw the conversation, and follow the answer in flight to its end."""
    answer, path = desk.answer, desk.path
    ids = [node.id for node in path]
    live = answer if answer is not None and answer.request.parent in ids else None
    running = live is not None and not live.ended.is_set()  # asked once: it may end meanwhile
    if live is not None and not running and live.error is None and live.node not in (None, *ids):
        st.rerun()  # it was saved after the path had been read
    if live is not None and running:
        path = path[: ids.index(live.request.parent) + 1]
    for node in path:
        _turn(desk, node)
    if live is not None and running:
        with st.chat_message("assistant", avatar=MODEL):
            follow(live, st.container())
        st.rerun()
    elif path and path[-1].message.role == "user":
        _unanswered(path[-1], live)
    elif live is not None:
        show_error(live.error)


def _turn(desk: Desk, node: Node) -> None:
    user = node.message.role == "user"
    with st.chat_message("user" if user else "assistant", avatar=USER if user else MODEL):
        if user and st.session_state.get("editing") == node.id:
            _edit(node)
            return
        if not user:
            _answer(node)
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            if user:
                st.text(node.message.content, width="stretch")  # as it was typed: neither HTML nor Markdown
            _actions(desk, node)


def _answer(node: Node) -> None:
    thought, answer = apart(node.message.content, node.message.reasoning_content)
    if thought is not None:
        with st.expander(say("chat.reasoning"), icon=":material/psychology:"):
            st.markdown(to_streamlit(thought))
    st.markdown(to_streamlit(answer))


def _actions(desk: Desk, node: Node) -> None:
    if node.message.role == "user":
        _button(node, "edit", "edit", lambda _: st.session_state.update(editing=node.id))
    else:
        with st.popover("", icon=":material/content_copy:", help=say("chat.copy"), type="tertiary"):
            st.code(apart(node.message.content, node.message.reasoning_content)[1], language=None, wrap_lines=True)
        question = node.parent
        if question is not None:
            _button(node, "regenerate", "refresh", lambda desk: desk.regenerate(question, sampling()))
        cut = node.info is not None and node.info.finish_reason in ("length", "cancelled")
        if cut and node.id == desk.path[-1].id:
            _button(node, "continue", "play_arrow", lambda desk: desk.go_on(sampling()))
    if len(node.siblings) > 1:
        _branches(node)
    if node.info is not None and (remark := remarks(node.info)):
        st.caption(remark, width="content")


def _button(node: Node, name: str, icon: str, what: object) -> None:
    st.button(
        "",
        icon=f":material/{icon}:",
        key=f"{name}-{node.id}",
        help=say(f"chat.{name}"),
        type="tertiary",
        on_click=act,
        args=(what,),
    )


def _branches(node: Node) -> None:
    """The switch between versions of a message."""
    position = node.siblings.index(node.id)
    for name, icon, other in (("previous", "chevron_left", position - 1), ("next", "chevron_right", position + 1)):
        there = 0 <= other < len(node.siblings)
        target = node.siblings[other] if there else node.id
        st.button(
            "",
            icon=f":material/{icon}:",
            key=f"{name}-{node.id}",
            help=say(f"chat.{name}"),
            type="tertiary",
            disabled=not there,
            on_click=act,
            args=(lambda desk, target=target: desk.switch(target),),
        )
        if name == "previous":
            st.caption(say("chat.branch", number=position + 1, count=len(node.siblings)), width="content")


def _edit(node: Node) -> None:
    """A question in a field, to be worded anew."""
    st.text_area(say("chat.question"), node.message.content, key=f"words-{node.id}", label_visibility="collapsed")

    def send(desk: Desk) -> None:
        if (words := st.session_state[f"words-{node.id}"]).strip():
            desk.reword(node.id, words, sampling())

    def cancel(_: Desk) -> None:
        del st.session_state["editing"]

    with st.container(horizontal=True):
        st.button(say("chat.send"), key=f"send-{node.id}", type="primary", on_click=act, args=(send,))
        st.button(say("chat.cancel"), key=f"cancel-{node.id}", on_click=act, args=(cancel,))


def _unanswered(node: Node, answer: LiveCompletion | None) -> None:
    """A question whose answer failed, was blank, or was stopped before it began."""
    with st.chat_message("assistant", avatar=MODEL):
        if answer is not None and answer.text.strip():  # what could not be saved
            st.markdown(to_streamlit(answer.text))
        if answer is not None and answer.error is not None:
            show_error(answer.error)
        else:
            st.caption(say("chat.blank") if answer is not None else say("chat.stopped"))
        st.button(
            say("chat.try_again"),
            icon=":material/refresh:",
            key=f"try-{node.id}",
            on_click=act,
            args=(lambda desk: desk.regenerate(node.id, sampling()),),
        )


def remarks(info: AnswerInfo) -> str:
    """Who answered, how it ended and what it took."""
    facts = [info.model.replace("_", r"\_")]
    if info.finish_reason in ("length", "cancelled"):
        facts.append(say("chat.cut_off" if info.finish_reason == "length" else "chat.stopped"))
    if info.completion_tokens is not None:
        facts.append(say("chat.tokens", count=info.completion_tokens))
    if info.tokens_per_second is not None:
        facts.append(say("chat.speed", speed=f"{info.tokens_per_second:.1f}"))
    return " · ".join(facts)
