"""The page's frame, which `script` draws from top to bottom at every visit and every click.

It knows who looks, in which language, and which pages there are; each page is a script in `pages`.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from arriero.web import FIRST
from arriero.web.language import language, language_switch
from arriero.web.state import get_site
from arriero.web.words import say

PAGES = Path(__file__).with_name("pages")
LLAMA = Path(__file__).with_name("llama.svg")
ICONS = {
    "chat": "forum",
    "compare": "compare",
    "data": "table_rows",
    "train": "model_training",
    "models": "deployed_code",
}
FOR_ADMIN = ("data", "train", "models")


def main() -> None:
    """Draw the frame and the page in it."""
    st.set_page_config(page_title="Arriero", page_icon=str(LLAMA))
    st.logo(str(LLAMA), size="large")
    language()
    visitor = get_site().visitor(st.context.headers)
    pages = [
        st.Page(
            PAGES / f"{name}.py", title=say(f"common.page_{name}"), icon=f":material/{icon}:", default=name == FIRST
        )
        for name, icon in ICONS.items()
        if visitor.admin or name not in FOR_ADMIN
    ]
    chosen = st.navigation(pages)
    with st.sidebar:
        language_switch()
    chosen.run()
