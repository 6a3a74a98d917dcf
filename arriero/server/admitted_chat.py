"""A Chat for the threads of the server's own process, the web page's above all: its answers queue with all others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakSet

from arriero.chat import Chat
from arriero.engines import Generation
from arriero.server.admission import Admission

CALLER = "the web page"


@dataclass(frozen=True, slots=True)
class Door:
    """Where answers get their slots, the loop on which that happens, and the generations that came through here."""

    admission: Admission
    loop: asyncio.AbstractEventLoop
    generations: WeakSet[Generation]


class AdmittedChat(Chat):
    """Asking returns at once, so that whoever asks can change his mind while the answer waits for its slot.

    What the admission or the engine refuses is raised by the stream. Adapters are put on as with any Chat, and answers
    with them queue as well.
    """

    def __init__(self, chat: Chat, door: Door) -> None:
        super().__init__(
            chat.engine,
            chat.renderer,
            model=chat.model,
            adapter=chat.adapter,
            window=chat.window,
            defaults=chat.defaults,
        )
        self._door = door

    def _submit(self, prompt_tokens: int, request: Callable[[], Generation]) -> Generation:
        return _Queued(prompt_tokens, self._door, request)


class _Queued(Generation):
    """A generation that waits for its slot, and then passes on what the engine's own brings.

    Cancelling takes no lock, for it may come from a destructor.
    """

    def __init__(self, prompt_tokens: int, door: Door, request: Callable[[], Generation]) -> None:
        super().__init__(prompt_tokens)
        self._door = door
        self._task: asyncio.Task[None] | None = None
        door.loop.call_soon_threadsafe(self._begin, request)

    @property
    def ahead(self) -> int | None:
        """See `Generation.ahead`."""
        return self._door.admission.ahead(self)

    def cancel(self) -> None:
        """See `Generation.cancel`."""
        if not self.cancelled:
            super().cancel()
            with contextlib.suppress(RuntimeError):  # the server's loop is closed, and this has ended with it
                self._door.loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _begin(self, request: Callable[[], Generation]) -> None:
        def end(task: asyncio.Task[None]) -> None:
            if task.cancelled():  # perhaps before it began
                self.finish("cancelled")

        self._door.generations.add(self)
        self._task = self._door.loop.create_task(self._run(request))
        self._task.add_done_callback(end)
        if self.cancelled:
            self._stop()

    async def _run(self, request: Callable[[], Generation]) -> None:
        try:
            ticket = await self._door.admission.enter(CALLER, tag=self)
            try:
                generation = request()
            except BaseException:
                ticket.leave()
                raise
            generation.when_done(lambda: self._leave(ticket.leave))
            try:
                await self._pass_on(generation)
            finally:
                generation.cancel()
        except Exception as error:
            self.fail(error)

    def _leave(self, leave: Callable[[], None]) -> None:
        """Give the slot back, from the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the server has ended
            self._door.loop.call_soon_threadsafe(leave)

    async def _pass_on(self, generation: Generation) -> None:
        self.prompt_logprobs = generation.prompt_logprobs
        count = 0
        async for token in generation:
            self.push([token], generation.logprobs[count : count + 1])
            count += 1
        self.finish(generation.finish_reason or "cancelled")
