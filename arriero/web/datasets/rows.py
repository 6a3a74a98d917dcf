"""Draws the rows of an inspected file, a page at a time, as the tokens that training sees.

However long a row, a page sends the browser at most ROWS × FEW tokens, or MANY for one that is asked for in full.
"""

from __future__ import annotations

import json
from typing import Any

import streamlit as st

from arriero.data import DataOptions
from arriero.web.datasets import tokens
from arriero.web.datasets.editor import begin, edit_of, edit_row
from arriero.web.datasets.prepared import FLAGS, Prepared, Row
from arriero.web.words import say

ROWS = 10  # on a page
FEW = 400  # tokens, or characters of a record that is left out
MANY = 8000


def draw_rows(prepared: Prepared, options: DataOptions) -> None:
    """Filters, the page of rows, and the way to other pages."""
    indices, filters = _chosen(prepared)
    pages = max(1, -(-len(indices) // ROWS))
    key = f"data_page_{filters}_{pages}"  # other rows begin at their first page
    st.caption(say("data.found", rows=f"{len(indices):,}", all=f"{len(prepared.table):,}"))
    page = st.session_state.get(key, 1)
    st.html(tokens.STYLE)
    st.html(tokens.key(say("data.key_prompt"), say("data.key_loss"), say("data.key_special")))
    for index in indices[(page - 1) * ROWS : page * ROWS]:
        _draw(prepared, index)
    edit_row(prepared, options)
    if pages > 1:
        st.pagination(pages, key=key, max_visible_pages=5)


def _chosen(prepared: Prepared) -> tuple[list[int], str]:
    """Where the rows stand that the filters leave, and the filters."""
    faults = [kind for kind, _ in prepared.report["faults"]]
    kinds = ["", "kept", *(["dropped"] if faults else []), *FLAGS, *faults, "edited"]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = st.selectbox(say("data.show"), kinds, format_func=_kind_name, key="data_kind")
        text = st.text_input(say("data.search"), key="data_text")
        last = len(prepared.table) - 1
        jump = st.number_input(say("data.jump"), 0, last, None, 1, key="data_jump", placeholder=f"0–{last}")
    filters = f"{kind} {text} {jump} {prepared.folder.name}"
    if jump is not None:
        return [int(jump)], filters
    if kind != "edited":
        return prepared.matching(kind, text), filters
    return [index for index in prepared.matching("", text) if edit_of(prepared, prepared.row(index))], filters


def _kind_name(kind: str) -> str:
    named = ("kept", "dropped", *FLAGS, "edited")
    return say(f"data.kind_{kind}") if kind in named else kind or say("data.kind_all")


def _draw(prepared: Prepared, index: int) -> None:
    row = prepared.row(index)
    edit = edit_of(prepared, row)
    with st.container(border=True, gap="small"):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.caption(" · ".join(_about(prepared, row, edited=edit is not None)))
            icon, asked = ":material/edit:", (index,)
            st.button(
                say("data.edit"), key=f"data_edit_{index}", icon=icon, type="tertiary", on_click=begin, args=asked
            )
        if row.reason is not None:
            st.caption(f":material/block: {say('data.left_out')}")
            st.text(row.reason)
        full = st.session_state.get(f"data_full_{index}", False)
        if edit is not None:
            st.text(_short(edit.record, full))
        elif row.ids:
            _tokens(prepared, row, full)
        elif row.record is not None:
            st.text(_short(row.record, full))
        if len(row.ids) > FEW:
            st.toggle(say("data.full", tokens=f"{len(row.ids):,}"), key=f"data_full_{index}")


def _about(prepared: Prepared, row: Row, *, edited: bool) -> list[str]:
    files = prepared.report["files"]
    remarks = [say("data.row", row=f"{row.row:,}") + (f" ({files[row.file]})" if len(files) > 1 else "")]
    if row.ids:
        loss = sum(end - start for start, end in row.spans)
        remarks.append(say("data.counts", tokens=f"{len(row.ids):,}", loss=f"{loss:,}"))
    remarks += [say(f"data.flag_{flag}") for flag in row.flags]
    return [*remarks, f"**{say('data.edited')}**"] if edited else remarks


def _tokens(prepared: Prepared, row: Row, full: bool) -> None:
    limit = MANY if full else FEW
    coloured = tokens.pieces(
        row.ids[:limit], row.mask[:limit], prepared.decode, lambda token: token in prepared.specials
    )
    st.html(tokens.as_html(coloured))
    if len(row.ids) > limit:
        st.caption(say("data.more", tokens=f"{len(row.ids) - limit:,}"))


def _short(record: Any, full: bool) -> str:
    if record is None:
        return say("data.taken_out")
    text = json.dumps(record, ensure_ascii=False, indent=2)
    return text if full or len(text) <= FEW else f"{text[:FEW]} …"
