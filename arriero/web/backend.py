"""What answers behind the page: the models of this process's server, or those of another server.

The page asks for the models at each turn, so that what is added, replaced or removed meanwhile is there or gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from arriero.chat import Chat
from arriero.errors import NotFoundError
from arriero.messages import Message, Piece, Sampling, Usage


@dataclass(frozen=True, slots=True)
class Choice:
    """A model or adapter that can be talked to. What another server does not tell is None.

    `parent` is the base model's name, for an adapter, and `directory` the adapter's; `system` the system prompt it was
    trained with; `window` in tokens; `sampling` the model's own defaults; `engine` a description for people. `switch`
    is the template's variable that turns thinking on and off, None where there is none that may be changed.
    """

    name: str
    parent: str | None = None
    system: str | None = None
    window: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    engine: str | None = None
    directory: str | None = None
    switch: str | None = None


class Pieces(Protocol):
    """An answer on its way, as `arriero.stream.Stream` is one."""

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> Piece: ...

    async def aclose(self) -> None:
        """Stop the work on this answer."""

    @property
    def ahead(self) -> int | None:
        """How many others get their turn before this answer; None where it does not wait, or nobody tells."""

    @property
    def usage(self) -> Usage | None:
        """The token counts so far, None where nobody tells."""


class Backend(Protocol):
    """Models by name. The methods may be called from any thread, and raise ArrieroError where they fail."""

    address: str | None  # of the other server; None for this process's own

    def choices(self) -> list[Choice]:
        """What can be talked to now, the default first."""

    def astream(
        self,
        name: str,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        continue_final_message: bool = False,
        thinking: bool | None = None,
    ) -> Pieces:
        """The answer, for the event loop that iterates; what is refused is raised by the first step or at once.

        `thinking` is for models with a `switch` only.
        """

    def count(self, name: str, messages: Sequence[Message]) -> int | None:
        """How many tokens the prompt has; None where that is not known."""


class Local:
    """The models of this process. `served` gives them by name, the default first, each ready to be asked."""

    address: str | None = None

    def __init__(self, served: Callable[[], Iterable[tuple[str, Chat]]]) -> None:
        self._served = served

    def choices(self) -> list[Choice]:
        """See `Backend.choices`."""
        return [
            Choice(
                name,
                chat.model if chat.adapter is not None else None,
                chat.renderer.system,
                chat.window,
                chat.defaults,
                chat.engine.description,
                str(chat.adapter.directory) if chat.adapter is not None else None,
                _switch(chat),
            )
            for name, chat in self._served()
        ]

    def astream(
        self,
        name: str,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        continue_final_message: bool = False,
        thinking: bool | None = None,
    ) -> Pieces:
        """See `Backend.astream`."""
        chat = self._chat(name)
        switch = None if thinking is None else _switch(chat)
        return chat.astream(
            messages,
            sampling,
            continue_final_message=continue_final_message,
            chat_template_kwargs=None if switch is None else {switch: thinking},
        )

    def count(self, name: str, messages: Sequence[Message]) -> int | None:
        """See `Backend.count`."""
        return len(self._chat(name).render(messages))

    def _chat(self, name: str) -> Chat:
        for served, chat in self._served():
            if served == name:
                return chat
        raise NotFoundError(f"the model {name!r} is not served any more", hint="choose another one")


def _switch(chat: Chat) -> str | None:
    tags, frozen = chat.renderer.tags, chat.renderer.frozen
    return tags.switch if tags is not None and tags.switch not in frozen else None
