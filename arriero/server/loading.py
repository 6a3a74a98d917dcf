"""From names to the models that a server answers with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from arriero.chat import Chat, Loading, load
from arriero.embeddings import Embedder
from arriero.prompt.options import taken
from arriero.server.models import Models


def load_models(
    model: str | Path | None,
    adapters: Mapping[str, Path],
    embedding: str | None,
    how: Loading,
    load: Callable[..., Chat] = load,
) -> Models:
    """The base model and all adapters, by their names, the first one of which is the default; the embedding model.

    `load` is `arriero.chat.load` or takes its place. Raises what it raises; then nothing stays loaded.
    """
    embedder = Embedder(embedding) if embedding is not None else None  # it loads beside the other
    default, directory = next(iter(adapters.items()), (None, None))
    others = list(adapters.items())[1:]
    prompting = taken({name: value for name, value in how.items() if value is not None})  # None: not given
    chat = load(model, adapter=directory, room_for=[directory for _, directory in others], **how)
    try:
        models = Models(chat, name=default, prompting=prompting, embedder=embedder)
        if embedder is not None:
            embedder.wait()
        for name, directory in others:
            models.load(name, directory)
    except BaseException:
        chat.close()
        raise
    return models
