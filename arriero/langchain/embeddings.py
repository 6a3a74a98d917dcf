"""ArrieroEmbeddings: LangChain's embeddings over an embedding model of this process."""

from __future__ import annotations

import asyncio
import threading
import weakref
from pathlib import Path
from typing import Any, cast

from langchain_core.embeddings import Embeddings
from pydantic import BaseModel, ConfigDict, Field, model_validator

from arriero import hub, settings
from arriero.embeddings import Embedder
from arriero.embeddings.embedder import Kind

_embedders: weakref.WeakValueDictionary[Path, Embedder] = weakref.WeakValueDictionary()
_lock = threading.Lock()


class ArrieroEmbeddings(BaseModel, Embeddings):
    """Vectors of texts, queries and documents each with the model's own prompt for them.

        store = InMemoryVectorStore(ArrieroEmbeddings())

    `model` is a catalogue name, a repository id or a directory; None is the embedded embedding model. `dimensions`
    cuts the vectors of a model that was made for it. A text that is too long raises TooLongError. Objects of one model
    share it in a process; it goes with the last.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    model: str | Path | None = None
    dimensions: int | None = None
    embedder: Embedder = Field(default=cast("Any", None), exclude=True, repr=False)

    @model_validator(mode="after")
    def _load(self) -> ArrieroEmbeddings:
        if self.embedder is None:
            directory = hub.resolve(settings.EMBEDDING_MODEL if self.model is None else self.model)
            with _lock:
                self.embedder = _embedders.get(directory) or _embedders.setdefault(directory, Embedder(directory))
        self.embedder.check_dimensions(self.dimensions)
        return self

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors of texts that are searched."""
        return self._embed(texts, "document")

    def embed_query(self, text: str) -> list[float]:
        """The vector of a text to search with."""
        return self._embed([text], "query")[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """`embed_documents`, with the event loop free meanwhile."""
        return await asyncio.to_thread(self._embed, texts, "document")

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query`, with the event loop free meanwhile."""
        return (await asyncio.to_thread(self._embed, [text], "query"))[0]

    def _embed(self, texts: list[str], kind: Kind) -> list[list[float]]:
        vectors: list[list[float]] = self.embedder.embed(texts, kind=kind, dimensions=self.dimensions).tolist()
        return vectors
