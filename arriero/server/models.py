"""The models that requests name: the base model and its adapters, each a Chat over one engine; perhaps an embedder."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arriero.chat import Chat
from arriero.embeddings import Embedder
from arriero.errors import ArrieroError, UsageError
from arriero.prompt import PromptSettings
from arriero.server.errors import RequestError

log = logging.getLogger(__name__)
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A Chat, and the name that requests call it by; `created` is when it was loaded, in seconds since 1970."""

    name: str
    chat: Chat
    created: int

    @property
    def parent(self) -> str | None:
        """The base model's name, for an adapter."""
        return self.chat.model if self.chat.adapter is not None else None


class Models:
    """The one place where models and adapters have names. From any number of threads; loading holds up nobody."""

    def __init__(
        self,
        chat: Chat,
        *,
        name: str | None = None,
        prompting: PromptSettings | None = None,
        embedder: Embedder | None = None,
    ) -> None:
        """Serve `chat`, the default, and where it has an adapter the base model too; `prompting` is for all of them.

        `name` is that of the default's adapter, otherwise it goes by the last part of its directory. An `embedder` goes
        by its own name, which must be no other's.
        """
        self._base = chat.model
        self.embedder = embedder
        self.created = int(time.time())
        if embedder is not None and embedder.name == self._base:
            raise UsageError(f"{self._base!r} is to answer, so it cannot be the embedding model as well")
        self._prompting: PromptSettings = prompting or {}
        self._served: dict[str, ServedModel] = {}
        self._changing = threading.Lock()
        self._default = chat.model
        if chat.adapter is not None:
            self._default = self._checked(name or chat.adapter_name or "")
            self._put(self._default, chat)
            self._put_base(chat)
        else:
            self._put(self._base, chat)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._served))

    def served(self) -> list[ServedModel]:
        """All that can answer now, the default first."""
        return sorted(self._served.copy().values(), key=lambda served: served.name != self._default)

    @property
    def default(self) -> ServedModel:
        """What POST /, the page and requests that name no model are answered with."""
        return self._served[self._default]

    def find(self, name: str | None) -> ServedModel:
        """The model of that name, the default one for None; RequestError 404 where there is none."""
        served = self._served.get(self._default if name is None else name)
        if served is None:
            if self.embedder is not None and name == self.embedder.name:
                raise RequestError(
                    f"{name!r} is for embeddings and answers nothing; answers: {', '.join(self)}", param="model"
                )
            raise _not_found(f"the model {name!r} is not served here, but: {', '.join(self)}")
        return served

    def embedding(self, name: str | None) -> Embedder:
        """The embedding model, if that is its name; None: whatever it is called. RequestError 404 otherwise."""
        if self.embedder is None:
            raise _not_found("no embedding model is served here; the server was started without --embedding")
        if name not in (None, self.embedder.name):
            raise _not_found(f"the embedding model {name!r} is not served here, but: {self.embedder.name}")
        return self.embedder

    def close(self) -> None:
        """Free the engine that all of them share, and the embedder."""
        self.default.chat.close()
        if self.embedder is not None:
            self.embedder.close()

    def add(self, name: str, directory: Path) -> bool:
        """Load an adapter, in place of one that has the name; returns whether there was one.

        Raises RequestError, which names no path of this machine, where it cannot be loaded.
        """
        try:
            resolved = directory.expanduser().resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise RequestError("the path is none of a directory here", param="path") from error
        try:
            return self.load(name, resolved)
        except RequestError:
            raise
        except ArrieroError as error:
            log.warning("the adapter %s was not loaded: %s", name, error)
            message = _without_paths(error.message.replace(str(resolved), name))
            raise RequestError(f"the adapter {name!r} was not loaded: {message}", param="path") from error

    def load(self, name: str, directory: Path) -> bool:
        """`add` for who runs the server: what fails says where."""
        self._checked(name)
        with self._changing:
            replaced = name in self._served
            self._put(name, self.default.chat.with_adapter(directory, **self._prompting))
        return replaced

    def remove(self, name: str) -> None:
        """Forget an adapter; answers in flight go on. RequestError where there is none, or it is the default."""
        with self._changing:
            self.find(name)
            if name in (self._base, self._default):
                what = "the base model" if name == self._base else "what POST / and the page answer with"
                raise RequestError(f"{name!r} is {what} and stays", param="name", status=409)
            del self._served[name]

    def _checked(self, name: str) -> str:
        """A name that an adapter may have; RequestError for others, the base model's among them."""
        if not re.fullmatch(NAME, name):
            raise RequestError(f"a name has 1 to 64 letters, digits or any of . _ -, got {name!r}", param="name")
        if name == self._base or (self.embedder is not None and name == self.embedder.name):
            which = "base" if name == self._base else "embedding"
            raise RequestError(
                f"{name!r} is the {which} model, so no adapter can be called that; give it another name",
                param="name",
                status=409,
            )
        return name

    def _put_base(self, tuned: Chat) -> None:
        """Serve an adapter's base model too, unless it lacks embeddings that the adapter has."""
        try:
            self._put(self._base, tuned.with_adapter(None, **self._prompting))
        except ArrieroError as error:
            log.warning("the base model is not served: %s", error.message)

    def _put(self, name: str, chat: Chat) -> None:
        self._served[name] = ServedModel(name, chat, int(time.time()))


def _not_found(message: str) -> RequestError:
    return RequestError(message, param="model", code="model_not_found", status=404)


def _without_paths(text: str) -> str:
    """The text without what looks like an absolute path."""
    return re.sub(r"(?<![\w.])(/[^\s:,;'\"]+|[A-Za-z]:\\[^\s:,;'\"]+)", "…", text)
