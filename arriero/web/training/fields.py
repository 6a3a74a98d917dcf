"""A widget for each training option, made from the fields of TrainOptions: what is declared there is on the page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from arriero.errors import UsageError
from arriero.training import TrainOptions
from arriero.web.faults import draw_fault
from arriero.web.words import say

MAIN = ("epochs", "batch_size", "learning_rate", "rank", "max_length", "eval_fraction", "precision", "seed")
DEFAULTS = TrainOptions()
TYPES = get_type_hints(TrainOptions)


def draw_options() -> TrainOptions | None:
    """All of them; None where one is wrong, which is then said below it, in the command line's words."""
    values: dict[str, Any] = {}
    slots: dict[str, DeltaGenerator] = {}
    _draw(MAIN, values, slots)
    with st.expander(say("train.more_options"), icon=":material/tune:"):
        _draw([each.name for each in fields(TrainOptions) if each.name not in MAIN], values, slots)
    try:
        return TrainOptions.of(values)
    except UsageError as error:  # its first word is the option's name
        draw_fault(error, slots.get(error.message.partition(" ")[0]))
        return None


def _draw(names: Iterable[str], values: dict[str, Any], slots: dict[str, DeltaGenerator]) -> None:
    """Widgets in four columns, which stand below each other on a narrow screen."""
    names = list(names)
    for start in range(0, len(names), 4):
        for name, column in zip(names[start : start + 4], st.columns(4), strict=False):
            with column:
                values[name] = _widget(name)
                slots[name] = st.empty()


def _widget(name: str) -> Any:
    kind, default = TYPES[name], getattr(DEFAULTS, name)
    about: dict[str, Any] = {"key": f"train_{name}", "help": say(f"train.{name}_help")}
    label = say(f"train.{name}_label")
    if get_origin(kind) is Literal:
        choices = list(get_args(kind))
        return st.selectbox(label, choices, index=choices.index(default), **about)
    if kind is bool:
        return st.toggle(label, default, **about)
    if get_origin(kind) is tuple:
        return tuple(st.multiselect(label, list(default), list(default), accept_new_options=True, **about))
    if str in (kind, *get_args(kind)):
        return st.text_input(label, default, **about)
    if int in (kind, *get_args(kind)):
        return st.number_input(label, value=default, step=1, format="%d", placeholder=say("train.automatic"), **about)
    step = 10.0 ** math.floor(math.log10(default)) if default else 0.01
    return st.number_input(label, value=float(default), step=step, format="%g", **about)
