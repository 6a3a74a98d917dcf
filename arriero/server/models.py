"""The models that requests name: the base model and its adapters, each a Chat over one engine."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from arriero.chat import Chat
from arriero.errors import ArrieroError
from arriero.server.errors import RequestError

log = logging.getLogger(__name__)
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class Models:
    """Chats by name. From any number of threads; loading an adapter holds up nobody who looks one up."""

    def __init__(self, chat: Chat, *, system: str | None = None) -> None:
        """Serve `chat`, the default, and where it has an adapter the base model too; `system` is for all of them."""
        self.default = chat
        self._system = system
        self._chats: dict[str, Chat] = {}
        self._created: dict[str, int] = {}
        self._changing = threading.Lock()
        self._put(chat)
        if chat.adapter is not None:
            self._put(chat.with_adapter(None, system=system))

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._chats))

    def find(self, name: str) -> Chat:
        """The Chat of that name; RequestError 404 where there is none."""
        chat = self._chats.get(name)
        if chat is None:
            raise RequestError(
                f"the model {name!r} is not served here, but: {', '.join(self)}",
                param="model",
                code="model_not_found",
                status=404,
            )
        return chat

    def created(self, name: str) -> int:
        """When a model was put in, in seconds since 1970; RequestError 404 where there is none of that name."""
        return self._created[self.find(name).name]

    def add(self, name: str, directory: Path) -> bool:
        """Load an adapter, in place of one that has the name; returns whether there was one.

        Raises RequestError, which names no path of this machine, where it cannot be loaded.
        """
        try:
            found = directory.expanduser().resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise RequestError("the path is none of a directory here", param="path") from error
        try:
            return self.load(name, found)
        except RequestError:
            raise
        except ArrieroError as error:
            log.warning("the adapter %s was not loaded: %s", name, error)
            told = _without_paths(error.message.replace(str(found), name))
            raise RequestError(f"the adapter {name!r} was not loaded: {told}", param="path") from error

    def load(self, name: str, directory: Path) -> bool:
        """`add` for who runs the server: what fails says where."""
        if not re.fullmatch(NAME, name):
            raise RequestError(f"a name has 1 to 64 letters, digits or any of . _ -, got {name!r}", param="name")
        with self._changing:
            there = self._chats.get(name)
            if there is not None and there.adapter is None:
                raise RequestError(f"{name!r} is the base model", param="name", status=409)
            made = self.default.with_adapter(directory, name=name, system=self._system)
            self._put(made)
            if there is self.default:
                self.default = made
        return there is not None

    def remove(self, name: str) -> None:
        """Forget an adapter; answers under way go on. RequestError where there is none, or it is the default."""
        with self._changing:
            chat = self.find(name)
            if chat.adapter is None or chat is self.default:
                what = "the base model" if chat.adapter is None else "what POST / and the page answer with"
                raise RequestError(f"{name!r} is {what} and stays", param="name", status=409)
            del self._chats[name], self._created[name]
            chat.engine.remove_adapter(name)

    def _put(self, chat: Chat) -> None:
        self._created[chat.name] = int(time.time())
        self._chats[chat.name] = chat


def _without_paths(text: str) -> str:
    """The text without what looks like an absolute path."""
    return re.sub(r"(?<![\w.])(/[^\s:,;'\"]+|[A-Za-z]:\\[^\s:,;'\"]+)", "…", text)
