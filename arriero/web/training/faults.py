"""Draws an error in its place."""

from __future__ import annotations

import re

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from arriero.errors import ArrieroError
from arriero.web.words import say


def draw_fault(error: ArrieroError, where: DeltaGenerator | None = None) -> None:
    """The error's message and what to try. Both may quote a file, so neither is Markdown."""
    text = plain(f"{error.message[:1].upper()}{error.message[1:]}")
    if error.hint:
        text += f"  \n{say('train.try', hint=plain(error.hint))}"
    (st if where is None else where).error(text, icon=":material/error:")


def plain(text: str) -> str:
    """A text as Markdown that shows it as it is."""
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|$~:])", r"\\\1", text).replace("\n", "  \n")
