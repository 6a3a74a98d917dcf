"""An answer in flight: drawn as it grows, and the button that stops it."""

from __future__ import annotations

import time

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from arriero.markup import to_streamlit
from arriero.web.chatting.acting import act
from arriero.web.chatting.blocks import apart, finished, worth_drawing
from arriero.web.completion import LiveCompletion
from arriero.web.words import say

REDRAW_SECONDS = 0.05
STATUS_SECONDS = 1.0


class Growing:
    """A growing text in a container: each finished block is an element of its own, the rest one that is redrawn."""

    def __init__(self, container: DeltaGenerator) -> None:
        self._container = container
        self._open = container.empty()
        self._done = 0  # characters in finished blocks
        self._shown = ""

    def draw(self, text: str, *, whole: bool = False) -> None:
        """Draw `text`, which begins with what was drawn before; little news may be left for later unless `whole`."""
        for block in finished(text[self._done :]):
            self._open.markdown(to_streamlit(block))
            self._open, self._shown = self._container.empty(), ""
            self._done += len(block)
        unfinished = text[self._done :]
        if worth_drawing(self._shown, unfinished) or (whole and unfinished != self._shown):
            self._open.markdown(to_streamlit(unfinished))
            self._shown = unfinished


class Live:
    """An answer in a container of its own: its reasoning folded away, and what it says."""

    def __init__(self, container: DeltaGenerator) -> None:
        self._slot = container.empty()
        self._container = self._slot.container()
        self._thought: Growing | None = None
        self._answer: Growing | None = None

    def draw(self, text: str, thought: str | None = None) -> None:
        """Draw an answer that has grown, and the reasoning that came apart from it."""
        thought, answer = apart(text, thought)
        if thought is not None and self._thought is None:
            self._container, self._answer = self._slot.container(), None  # what was drawn as the answer was reasoning
            self._thought = Growing(self._container.expander(say("chat.reasoning"), icon=":material/psychology:"))
        if thought is not None and self._thought is not None:
            self._thought.draw(thought, whole=bool(answer))
        if answer:
            self._answer = self._answer or Growing(self._container.container())
            self._answer.draw(answer)


def follow(answer: LiveCompletion, container: DeltaGenerator) -> None:
    """Draw an answer until it ends. A click breaks this off by an exception, and so does a closed tab."""
    live = Live(container.container())
    status, shown, due = container.empty(), "", 0.0
    while not answer.ended.wait(REDRAW_SECONDS):
        live.draw(answer.text, answer.thought)
        if answer.first is None or time.monotonic() >= due:
            due = time.monotonic() + STATUS_SECONDS
            if (text := status_of(answer)) != shown:
                status.caption(shown := text)
        st.session_state.get("conversation")  # where nothing is drawn, this is where Streamlit looks for a click


def status_of(answer: LiveCompletion) -> str:
    """What an answer in flight is about."""
    if (ahead := answer.ahead) is not None:
        return say("chat.queued", ahead=ahead) if ahead else say("chat.next_in_turn")
    if answer.first is None:
        return say("chat.prefill")
    info, remarks = answer.info, []
    if info.completion_tokens:
        remarks.append(say("chat.tokens", count=info.completion_tokens))
    if info.tokens_per_second is not None:
        remarks.append(say("chat.speed", speed=f"{info.tokens_per_second:.1f}"))
    return " · ".join(remarks)


def stop_button() -> None:
    """The button that stops the answer in flight."""
    st.button(
        say("chat.stop"), icon=":material/stop_circle:", key="stop", on_click=act, args=(lambda desk: desk.stop(),)
    )
