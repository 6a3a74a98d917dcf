"""Draws an error where it happened: what happened, what was got, what to try. And who may see a page at all."""

from __future__ import annotations

import re

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from arriero.errors import ArrieroError
from arriero.web.jobs import Failure
from arriero.web.state import get_site
from arriero.web.words import say

ENDS = (".", "!", "?", "…", "。", "！", "？")


def draw_fault(error: ArrieroError | Failure, where: DeltaGenerator | None = None) -> None:
    """The error's message and its hint. Both may quote a file, so neither is Markdown."""
    text = plain(error.message)
    if error.hint:
        text += f"  \n{say('common.try', hint=plain(error.hint))}"
    (st if where is None else where).error(text, icon=":material/error:")


def sentences(error: ArrieroError) -> str:
    """The error's message and its hint as sentences, for where they stand in a conversation."""
    texts = [text if text.endswith(ENDS) else f"{text}." for text in (error.message, error.hint) if text]
    return " ".join(text[0].upper() + text[1:] for text in texts)


def plain(text: str) -> str:
    """A text as Markdown that shows it as it is."""
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|$~:])", r"\\\1", text).replace("\n", "  \n")


def administrators_only(word: str = "common.admins_only") -> None:
    """End the script run of a visitor who is no administrator, with this word.

    The frame hides the page; its address does not.
    """
    if not get_site().visitor(st.context.headers).admin:
        st.info(say(word), icon=":material/lock:")
        st.stop()
