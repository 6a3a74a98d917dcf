"""The page itself: a Streamlit script, which Streamlit runs from top to bottom at every visit and every click.

It draws; what is said is kept in a `Session`, one for each browser tab.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.scriptrunner import StopException, add_script_run_ctx, get_script_run_ctx

from arriero.chat import Chat
from arriero.messages import Sampling
from arriero.web.session import Session, Turn
from arriero.web.state import get_chat

REDRAW_SECONDS = 0.05  # every redraw sends the whole answer so far to the browser

CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]+`)", re.DOTALL)
MATHS = re.compile(r"\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
DOLLARS = re.compile(r"\$\$.+?\$\$|(?<!\\)\$(?![\s$])[^$\n]+?(?<![\s\\])\$(?!\d)|(?<!\\)\$", re.DOTALL)


def main() -> None:
    """Draw the page, and go on with the answer under way."""
    st.set_page_config(page_title="Arriero", page_icon="🦙")
    if "session" not in st.session_state:
        st.session_state.session = Session(get_chat())
    session: Session = st.session_state.session
    st.title("🦙 Arriero", anchor=False)
    question = st.chat_input("Ask something", submit_mode="stop", key="question")
    with st.sidebar:
        st.button("New conversation", icon=":material/edit_square:", on_click=session.reset, width="stretch")
        describe(session.chat)
        sampling = settings(session, locked=bool(session.turns or question))
    if question:
        session.use(get_chat())
        session.ask(question, sampling)
    elif not session.turns:
        st.caption(f"You are talking to {session.chat.adapter_name or session.chat.model}.")
    for turn in session.turns:
        draw(session, turn, resumed=not question)


def describe(chat: Chat) -> None:
    """Which model answers, and on what."""
    lines = {"Model": chat.model, "Adapter": chat.adapter_name, "Engine": chat.engine.description}
    with st.container(gap=None):
        for label, value in lines.items():
            if value is not None:
                st.caption(label)
                st.text(value)


def settings(session: Session, *, locked: bool) -> Sampling:
    """How to answer. `locked` once the conversation has begun: the system prompt is its beginning."""
    system = st.text_area(
        "System prompt",
        session.chat.renderer.system or "",
        disabled=locked,
        placeholder="none",
        help="What the model is told before the conversation. Begin a new conversation to change it.",
    )
    if not locked:
        session.system = system
    default = session.chat.defaults.temperature
    temperature = st.number_input(
        "Temperature",
        0.0,
        2.0,
        None,
        0.1,
        placeholder="model default" if default is None else f"model default ({default:g})",
        help="0 always takes the likeliest word; higher values are livelier.",
    )
    window = session.chat.window
    tokens = st.number_input(
        "Max new tokens",
        1,
        window,
        None,
        placeholder="until it ends",
        help=f"Where an answer is cut off. Conversation and answer together have room for {window} tokens.",
    )
    return Sampling(temperature=temperature, max_new_tokens=tokens)


def draw(session: Session, turn: Turn, *, resumed: bool) -> None:
    """One question and its answer; returns when the answer is complete.

    `resumed`: a click broke off the run that asked, and with it the input's stop button, so there has to be another.
    """
    with st.chat_message("user", avatar=":material/person:"):
        st.text(turn.question)  # as it was typed: neither HTML nor Markdown
    with st.chat_message("assistant", avatar="🦙"):
        answer, below = st.empty(), st.empty()
    if turn.running and resumed:
        below.button("Stop", icon=":material/stop:", on_click=session.stop)
    try:
        follow(session, turn, answer)
    except StopException:  # the stop button, or the tab is gone
        session.stop(turn)
        beside_the_run(lambda: finish(turn, answer, below))
        raise
    finish(turn, answer, below)


def follow(session: Session, turn: Turn, answer: DeltaGenerator) -> None:
    """Draw the answer while it grows. A stop or another click breaks this off by an exception."""
    shown = ""
    if turn.running:
        answer.caption("Thinking …")
    while turn.running:
        session.advance(REDRAW_SECONDS)
        if turn.answer != shown:
            shown = turn.answer
            answer.markdown(as_markdown(shown))
        st.session_state.get("session")  # where nothing is drawn, this is where Streamlit looks for a stop


def finish(turn: Turn, answer: DeltaGenerator, below: DeltaGenerator) -> None:
    """Draw a complete answer, what it took, and what went wrong."""
    answer.markdown(as_markdown(turn.answer))
    if turn.error is not None:
        said = [f"{part[:1].upper()}{part[1:]}." for part in (turn.error.message, turn.error.hint) if part]
        below.error(" ".join(said), icon=":material/error:")
    else:
        below.caption(" · ".join(remarks(turn)))


def remarks(turn: Turn) -> list[str]:
    """How an answer ended and what it took."""
    found = []
    if turn.finish_reason == "length":
        found.append("**Cut off**: at the limit of new tokens, or where the window ends")
    if turn.finish_reason == "cancelled":
        found.append("Stopped")
    if turn.usage is not None:
        found += [f"{turn.usage.completion_tokens} tokens", f"{turn.usage.prompt_tokens} in the prompt"]
    if (speed := turn.tokens_per_second) is not None:
        found.append(f"{speed:.1f} tokens/s")
    return found


def as_markdown(text: str) -> str:
    r"""A model's Markdown as Streamlit reads it: \( … \) is maths, and the dollars of "$5 or $6" are not.

    A pair of dollars is maths under Pandoc's rule (`tex_math_dollars`): no space inside it and no digit after it.
    """
    parts = CODE.split(text)
    for index in range(0, len(parts), 2):  # the odd ones are code
        plain = MATHS.sub(lambda found: f"${found[1].strip()}$" if found[1] else f"$${found[2]}$$", parts[index])
        parts[index] = DOLLARS.sub(lambda found: r"\$" if found[0] == "$" else found[0], plain)
    return "".join(parts)


def beside_the_run(work: Callable[[], None]) -> None:
    """Draw once more in a script run that has been stopped: there, only another thread still can."""
    thread = threading.Thread(target=work)
    add_script_run_ctx(thread, get_script_run_ctx())
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
