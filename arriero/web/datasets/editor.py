"""Draws the form in which a row is edited, and the one that saves. Edits are kept in the browser's session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from arriero.data import DataOptions
from arriero.errors import ArrieroError, UsageError
from arriero.web.datasets import edits
from arriero.web.datasets.prepared import Prepared, Row
from arriero.web.faults import draw_fault
from arriero.web.words import say


def edits_of(prepared: Prepared) -> dict[tuple[int, int], edits.Edit]:
    """What was edited of a file in this session, by file and row."""
    every: dict[str, dict[tuple[int, int], edits.Edit]] = st.session_state.setdefault("data_edits", {})
    return every.setdefault(repr(prepared.report["paths"]), {})


def edit_of(prepared: Prepared, row: Row) -> edits.Edit | None:
    """A row's edit, if it is still the row that was edited: the file may have changed."""
    edit = edits_of(prepared).get(row.row_id)
    return edit if edit is not None and edits.same(edit.original, row.record) else None


def begin(index: int) -> None:
    """Have the form of the row that stands there opened."""
    st.session_state["data_editing"] = index


def _end() -> None:
    st.session_state.pop("data_editing", None)


def edit_row(prepared: Prepared, options: DataOptions) -> None:
    """The form of the row that is being edited, over the page, if there is one."""
    index = st.session_state.get("data_editing")
    if index is not None and index < len(prepared.table):
        row = prepared.row(index)
        title = say("data.edit_row", row=f"{row.row:,}")
        st.dialog(title, width="medium", on_dismiss=_end)(_form)(prepared, row, options)


def _form(prepared: Prepared, row: Row, options: DataOptions) -> None:
    made = edits_of(prepared)
    name = prepared.report["format"]
    edit = edit_of(prepared, row)
    record = edits.begun((edit and edit.record) or row.record, name)
    if row.record is None:
        st.caption(say("data.unreadable"))
    values = {}
    for text in edits.texts(record, name):
        key = f"data_text_{row.row_id}_{text.path}"
        values[text.path] = st.text_area(text.label, text.value, key=key, height="content")
    with st.container(horizontal=True):
        kept = st.button(say("data.keep"), type="primary", key="data_keep")
        out = st.button(say("data.take_out"), key="data_take_out")
        undone = row.row_id in made and st.button(say("data.undo"), key="data_undo")
    if kept:
        _keep(made, row, edits.changed(record, values), name, options)
    if out:
        made[row.row_id] = edits.Edit(row.record, None)
    if undone:
        del made[row.row_id]
    if kept or out or undone:
        _end()
        st.rerun()


def _keep(made: dict[tuple[int, int], edits.Edit], row: Row, record: Any, name: Any, options: DataOptions) -> None:
    try:
        edits.check(record, name, options)
    except UsageError as error:
        draw_fault(error)
        st.stop()  # the form stays open
    if record == row.record:
        made.pop(row.row_id, None)
    else:
        made[row.row_id] = edits.Edit(row.record, record)


def draw_saving(prepared: Prepared) -> str | None:
    """The form that saves, where something was edited; the new file's path once it is written."""
    made = edits_of(prepared)
    if not made:
        return None
    files = [Path(path) for path in prepared.report["paths"]]
    with st.container(border=True):
        st.markdown(f"**{say('data.unsaved', rows=len(made))}**")
        suffix = files[0].suffix if files[0].suffix in (".json", ".jsonl") else ".json"
        proposed = files[0].with_name(f"{files[0].stem}-edited{suffix}")
        typed = st.text_input(say("data.save_as"), str(proposed), key=f"data_target_{files[0]}")
        target = Path(typed).expanduser().absolute()
        replace = target.exists() and st.checkbox(say("data.replace", name=target.name), key="data_replace")
        with st.container(horizontal=True):
            pressed = st.button(say("data.save"), type="primary", key="data_save")
            st.button(say("data.discard"), key="data_discard", on_click=made.clear)
        return _save(files, made, target, replace) if pressed else None


def _save(files: list[Path], made: dict[tuple[int, int], edits.Edit], target: Path, replace: bool) -> str | None:
    try:
        with st.spinner(say("data.saving")):
            saved = edits.save(files, made, target, replace=replace)
    except ArrieroError as error:
        draw_fault(error)
        return None
    made.clear()
    message = say("data.saved_as", path=saved.path, rows=f"{saved.rows:,}")
    if saved.unreadable:
        message += " " + say("data.saved_without", rows=f"{saved.unreadable:,}")
    st.session_state["data_message"] = message
    return str(saved.path)
