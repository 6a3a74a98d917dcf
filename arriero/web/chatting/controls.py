"""The system prompt and the sampling controls. What is set holds for the visit, whatever page is shown."""

from __future__ import annotations

from typing import Any

import streamlit as st

from arriero.messages import Sampling
from arriero.web.backend import Choice
from arriero.web.chatting.desk import Desk
from arriero.web.words import say

# name: lowest, highest, step
MAIN: dict[str, tuple[float, float | None, float]] = {
    "temperature": (0.0, 2.0, 0.1),
    "top_p": (0.0, 1.0, 0.05),
    "max_new_tokens": (1, None, 1),
    "seed": (0, None, 1),
}
FURTHER: dict[str, tuple[float, float | None, float]] = {
    "top_k": (0, None, 1),
    "min_p": (0.0, 1.0, 0.01),
    "repetition_penalty": (0.01, 2.0, 0.05),
    "presence_penalty": (-2.0, 2.0, 0.1),
    "frequency_penalty": (-2.0, 2.0, 0.1),
    "max_reasoning_tokens": (0, None, 1),
}
PLACEHOLDERS = {
    "max_new_tokens": "chat.until_it_ends",
    "max_reasoning_tokens": "chat.until_it_ends",
    "seed": "chat.random",
}


def sampling() -> Sampling:
    """What is set; None where the model's own default holds."""
    values: dict[str, Any] = {name: st.session_state.get(f"set_{name}") for name in (*MAIN, *FURTHER)}
    stop = tuple(line for line in st.session_state.get("set_stop", "").splitlines() if line)
    return Sampling(**values, stop=stop)


def controls(desk: Desk, choice: Choice) -> None:
    """Draw them all."""
    _system(desk, choice)
    _numbers(choice, MAIN)
    if choice.switch is not None:
        words = {True: say("chat.on"), False: say("chat.off")}
        st.segmented_control(
            say("chat.thinking"), [True, False], format_func=words.get, key="set_thinking", persist_state="session"
        )
    with st.expander(say("chat.further")):
        _numbers(choice, FURTHER)
        st.text_area(say("chat.stop_texts"), key="set_stop", height=68, persist_state="session")


def _system(desk: Desk, choice: Choice) -> None:
    """The system prompt: the model's own until it is changed, and again when it is changed back."""
    own = choice.system or ""
    shown = st.text_area(
        say("chat.system"),
        desk.system if desk.system is not None else own,
        key=f"system-{desk.identity}-{choice.name}",
        placeholder=say("chat.none"),
        help=say("chat.system_help"),
    )
    system = None if shown == own else shown
    if system != desk.system:
        desk.use_system(system)


def _numbers(choice: Choice, limits: dict[str, tuple[float, float | None, float]]) -> None:
    for pair in zip(*[iter(limits)] * 2, strict=False):
        for column, name in zip(st.columns(2), pair, strict=True):
            _number(column, choice, name, limits[name])
    if len(limits) % 2:
        _number(st, choice, list(limits)[-1], limits[list(limits)[-1]])


def _number(column: Any, choice: Choice, name: str, limits: tuple[float, float | None, float]) -> None:
    low, high, step = limits
    default = getattr(choice.sampling, name)
    own = say("chat.default") if default is None else say("chat.default_is", value=f"{default:g}")
    column.number_input(
        say(f"chat.{name}"),
        low,
        high,
        None,
        step,
        key=f"set_{name}",
        placeholder=say(PLACEHOLDERS[name]) if name in PLACEHOLDERS else own,
        help=say(f"chat.{name}_help"),
        persist_state="session",
    )
