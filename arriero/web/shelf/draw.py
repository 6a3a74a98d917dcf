"""Draws a model on disk, a download, and the question before a removal."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import streamlit as st

from arriero.errors import ArrieroError
from arriero.formatting import size
from arriero.templates import count
from arriero.web import jobs
from arriero.web.backend import Choice
from arriero.web.faults import draw_fault, plain
from arriero.web.shelf import shelf
from arriero.web.words import say


def draw_model(model: shelf.OnDisk, choices: list[Choice]) -> None:
    """One model: what it is, and what can be done with it."""
    served = shelf.is_served(model, choices)
    with st.container(border=True, gap="small"):
        name = f"**{plain(model.called)}**"
        st.markdown(f"{name} :green-badge[{say('models.served')}]" if served else name)
        st.caption(plain(" · ".join(_facts(model))))
        _verification(model)
        with st.container(horizontal=True):
            checking = (job := shelf.verification(model)) is not None and job.running
            icon = ":material/verified:"
            if st.button(say("models.verify"), key=f"models_verify_{model.name}", icon=icon, disabled=checking):
                shelf.verify(model)
                st.rerun()
            st.button(
                say("models.remove"),
                key=f"models_remove_{model.name}",
                icon=":material/delete:",
                disabled=served,
                help=say("models.served_help") if served else None,
                on_click=_ask,
                args=(model.name,),
            )
    if st.session_state.get("models_removing") == model.name:
        st.dialog(say("models.remove_title"), on_dismiss=_ask)(_confirm)(model, choices)


def _ask(name: str | None = None) -> None:
    """Have the removal's question asked of this model; of none."""
    st.session_state["models_removing"] = name


def _facts(model: shelf.OnDisk) -> list[str]:
    """What is known of it, the licence even where it is not."""
    facts = [size(model.size)]
    if model.window is not None:
        facts.append(say("models.window", tokens=count(model.window)))
    facts.append(say("models.licence", name=model.licence) if model.licence else say("models.no_licence"))
    facts.append(say("models.source", name=model.source, revision=model.revision[:12]))
    return [*facts, datetime.fromtimestamp(model.when).strftime("%Y-%m-%d")]


def _verification(model: shelf.OnDisk) -> None:
    job = shelf.verification(model)
    if job is None:
        return
    if job.running:
        st.caption(f":material/hourglass_top: {say('models.verifying')}")
    elif job.failure is not None:
        draw_fault(job.failure)
    elif faults := (job.result or {}).get("faults"):
        draw_fault(ArrieroError("; ".join(faults), hint=say("models.damaged_hint")))
    else:
        st.caption(f":material/check: {say('models.intact')}")


def _confirm(model: shelf.OnDisk, choices: list[Choice]) -> None:
    st.text(say("models.remove_question", name=model.called, size=size(model.size)))
    if st.button(say("models.remove_yes"), key="models_remove_yes", type="primary"):
        try:
            shelf.remove(model, choices)
        except ArrieroError as error:
            draw_fault(error)
            return
        _ask()
        st.rerun()


def draw_downloads(jobs_shown: Iterable[jobs.Job]) -> None:
    """The downloads, whoever began them."""
    for job in jobs_shown:
        with st.container(border=True, gap="small"):
            name = job.about["name"]
            st.markdown(f"**{plain(name)}**")
            if job.running:
                _progress(job)
                if st.button(say("models.cancel"), key=f"models_cancel_{job.folder.name}"):
                    jobs.cancel(job.folder)
                    st.rerun()
            else:
                _ended(job)


def _progress(job: jobs.Job) -> None:
    total, there = job.progress.get("bytes"), shelf.fetched(job)
    if not total:
        st.caption(say("models.looking"))
    elif not there:
        st.caption(say("models.fetching", total=size(total), source=job.progress["source"]))
    else:
        st.progress(min(there / total, 1.0), say("models.progress", there=size(min(there, total)), total=size(total)))


def _ended(job: jobs.Job) -> None:
    """What came of a download, and the way to put the notice away."""
    failure = job.failure
    if failure is None:
        st.caption(f":material/check: {say('models.fetched')}")
    elif failure.kind == "cancelled":
        st.caption(say("models.cancelled"))
    else:
        draw_fault(failure)
    with st.container(horizontal=True):
        if failure is not None and st.button(say("models.again"), key=f"models_again_{job.folder.name}"):
            shelf.download(job.about["name"], job.about["source"])
            st.rerun()
        if st.button(say("models.dismiss"), key=f"models_dismiss_{job.folder.name}"):
            jobs.forget(job.folder)
            st.rerun()
