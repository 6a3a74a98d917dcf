"""ArrieroEmbeddings: LangChain's embeddings over an embedding model of this process, or of a server."""

from __future__ import annotations

import asyncio
import itertools
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from langchain_core.embeddings import Embeddings
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, model_validator

from arriero import hub, settings
from arriero.embeddings import Embedder
from arriero.embeddings.recipe import Kind
from arriero.errors import UsageError

if TYPE_CHECKING:
    from arriero.langchain.remote import RemoteEmbedder

MOST = 2048  # texts in a request, as OpenAI's
_embedders: weakref.WeakValueDictionary[Path, Embedder] = weakref.WeakValueDictionary()
_lock = threading.Lock()


class ArrieroEmbeddings(BaseModel, Embeddings):
    """Vectors of texts, queries and documents each with the model's own prompt for them.

        store = InMemoryVectorStore(ArrieroEmbeddings())

    `model` is a catalogue name, a repository id or a directory; None is the embedded embedding model. `dimensions`
    cuts the vectors of a model that was made for it. A text that is too long raises TooLongError. Objects of one model
    share it in a process; it goes with the last. With `base_url` a server computes, as with ChatArriero; a text that
    it refuses raises UsageError.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    model: str | Path | None = None
    dimensions: int | None = None
    base_url: str | None = None
    api_key: SecretStr | None = None
    timeout: float | None = None
    max_retries: int = Field(default=2, ge=0)
    embedder: Embedder = Field(default=cast("Any", None), exclude=True, repr=False)
    _remote: RemoteEmbedder | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _load(self) -> Self:
        if self.base_url is not None:
            from arriero.langchain.remote import RemoteEmbedder, connect

            model = None if self.model is None else str(self.model)
            server = connect(self.base_url, self.api_key, self.timeout)
            self._remote = RemoteEmbedder(server, model, self.dimensions, self.max_retries)
            return self
        if given := sorted({"api_key", "timeout", "max_retries"} & self.model_fields_set):
            raise UsageError(f"{', '.join(given)} is for a server", hint="give its address too: base_url=…")
        if self.model_fields_set.isdisjoint({"embedder"}):
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
        if self._remote is not None:
            batches = [texts[start : start + MOST] for start in range(0, len(texts), MOST)]
            return list(itertools.chain.from_iterable(self._remote.embed(batch, kind) for batch in batches))
        vectors: list[list[float]] = self.embedder.embed(texts, kind=kind, dimensions=self.dimensions).tolist()
        return vectors
