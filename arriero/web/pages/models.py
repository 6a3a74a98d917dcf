"""The page of models: what is served, what is on disk, and what can be fetched."""

from __future__ import annotations

import streamlit as st

from arriero import settings
from arriero.errors import ArrieroError
from arriero.formatting import size
from arriero.hub.catalog import Source
from arriero.web.backend import Choice
from arriero.web.faults import administrators_only, draw_fault, plain
from arriero.web.language import redrawn
from arriero.web.shelf import shelf
from arriero.web.shelf.draw import draw_downloads, draw_model
from arriero.web.state import get_site
from arriero.web.words import say

SOURCES: tuple[Source, ...] = ("auto", "huggingface", "modelscope")


def main() -> None:
    """Draw the page."""
    administrators_only()
    st.title(say("common.page_models"), anchor=False)
    choices = served()
    st.subheader(say("models.on_disk"), anchor=False)
    present = shelf.on_disk()
    if not present:
        st.caption(say("models.none"))
    for model in present:
        draw_model(model, choices)
    st.subheader(say("models.get"), anchor=False)
    catalogue()
    every = shelf.downloads()
    checking = [job for model in present if (job := shelf.verification(model)) is not None and job.running]
    busy = [job.folder for job in (*every, *checking) if job.running]
    redrawn(following, 1.0 if busy else None)([str(folder) for folder in busy])


def following(busy: list[str]) -> None:
    """The downloads, drawn anew each second while any runs; the whole page, when one that ran has ended."""
    present = [job for model in shelf.on_disk() if (job := shelf.verification(model)) is not None]
    every = shelf.downloads()
    running = {str(job.folder) for job in (*every, *present) if job.running}
    if not running >= set(busy):
        st.rerun()
    draw_downloads(every)


def served() -> list[Choice]:
    """What answers now, the default first."""
    st.subheader(say("models.serving"), anchor=False)
    backend = get_site().backend
    try:
        choices = backend.choices()
    except ArrieroError as error:
        draw_fault(error)
        return []
    if backend.address is not None:
        st.caption(say("models.elsewhere", address=plain(backend.address)))
    for choice in choices:
        facts = [say("models.adapter_of", name=choice.parent)] if choice.parent is not None else []
        facts += [say("models.window", tokens=f"{choice.window:,}")] if choice.window is not None else []
        facts += [choice.engine] if choice.engine is not None else []
        st.markdown(f"**{plain(choice.name)}**" + (f"  \n:gray[{plain(' · '.join(facts))}]" if facts else ""))
    return choices


def catalogue() -> None:
    """Names that can be fetched, and a field for any other."""
    st.caption(say("models.where", path=plain(str(settings.models_dir()))))
    for origin in shelf.fetchable():
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            facts = [size(origin.bytes)] if origin.bytes is not None else []
            facts += [say("models.licence", name=origin.licence)] if origin.licence is not None else []
            facts.append(", ".join(say(f"models.from_{source}") for source in origin.sources()))
            st.markdown(f"**{plain(origin.name)}**  \n:gray[{plain(' · '.join(facts))}]", width="content")
            if st.button(say("models.download"), key=f"models_get_{origin.name}", icon=":material/download:"):
                begin(origin.name, "auto")
    with st.form("models_get", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.text_input(say("models.other"), placeholder="owner/name", key="models_name")
        source = st.selectbox(
            say("models.from"),
            SOURCES,
            format_func=lambda source: say(f"models.from_{source}"),
            key="models_source",
        )
        pressed = st.form_submit_button(say("models.download"), icon=":material/download:")
    if pressed and name.strip():
        begin(name, source)


def begin(name: str, source: Source) -> None:
    """Start a download, or say why not."""
    try:
        shelf.download(name, source)
    except ArrieroError as error:
        draw_fault(error)
    else:
        st.rerun()


if __name__ == "__main__":
    main()
