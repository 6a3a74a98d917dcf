"""A Chat for the threads of the server's own process, above all the web page's: its answers take slots as all do."""

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
class SlotSource:
    """Where answers get their slots, the event loop on which that happens, and all generations that asked for one."""

    admission: Admission
    loop: asyncio.AbstractEventLoop
    generations: WeakSet[Generation]


class AdmittedChat(Chat):
    """Asking returns at once, so that whoever asks can change his mind while the answer waits for its slot.

    What the admission or the engine refuses is raised by the stream. `with_adapter` gives another AdmittedChat.
    """

    def __init__(self, chat: Chat, source: SlotSource) -> None:
        super().__init__(
            chat.engine,
            chat.renderer,
            model=chat.model,
            adapter=chat.adapter,
            window=chat.window,
            defaults=chat.defaults,
        )
        self._source = source

    def _submit(self, prompt_tokens: int, request: Callable[[], Generation]) -> Generation:
        return _QueuedGeneration(prompt_tokens, self._source, request)


class _QueuedGeneration(Generation):
    """A generation that waits for its slot, and then passes on what the engine's own brings.

    It belongs to two threads: who asks reads and cancels, the event loop pushes. Cancelling takes no lock, for it may
    come from a destructor, which can run in the middle of whatever holds one.
    """

    def __init__(self, prompt_tokens: int, source: SlotSource, request: Callable[[], Generation]) -> None:
        super().__init__(prompt_tokens)
        self._source = source
        self._task: asyncio.Task[None] | None = None
        source.loop.call_soon_threadsafe(self._begin, request)

    @property
    def ahead(self) -> int | None:
        """See `Generation.ahead`."""
        return self._source.admission.ahead(self)

    def cancel(self) -> None:
        """See `Generation.cancel`."""
        if not self.cancelled:
            super().cancel()
            with contextlib.suppress(RuntimeError):  # the server's loop is closed, and this has ended with it
                self._source.loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _begin(self, request: Callable[[], Generation]) -> None:
        def end(task: asyncio.Task[None]) -> None:
            if task.cancelled():  # perhaps before it began
                self.finish("cancelled")

        self._source.generations.add(self)
        self._task = self._source.loop.create_task(self._run(request))
        self._task.add_done_callback(end)
        if self.cancelled:
            self._stop()

    async def _run(self, request: Callable[[], Generation]) -> None:
        try:
            permit = await self._source.admission.enter(CALLER, tag=self)
            # The slot is held until the engine is done, which is later than the end of a cancelled answer.
            try:
                generation = request()
            except BaseException:
                permit.release()
                raise
            generation.when_done(lambda: self._release(permit.release))
            try:
                await self._forward(generation)
            finally:
                generation.cancel()
        except Exception as error:
            self.fail(error)

    def _release(self, release: Callable[[], None]) -> None:
        """Release the slot, from the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the server has ended
            self._source.loop.call_soon_threadsafe(release)

    async def _forward(self, generation: Generation) -> None:
        self.prompt_logprobs = generation.prompt_logprobs
        count = 0
        async for token in generation:
            self.push([token], generation.logprobs[count : count + 1])
            count += 1
        self.finish(generation.finish_reason or "cancelled")
