"""One engine as a Serve deployment: it takes requests as they come and sends back ids as they are there.

A replica whose engine is dead for good ends itself: it would fail requests faster than others answer them, and so be
sent most of them. Serve starts another one; the requests it had go on elsewhere, see engine.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable

from arriero.cluster.serving.protocol import AdapterFiles, Chunk, Description, Request
from arriero.engines import Adapter, Engine, Generation
from arriero.errors import EngineLostError

MAX_ADAPTERS = 32  # a replica keeps this many at most; those in use stay until their answers end
log = logging.getLogger(__name__)


class Adapters:
    """The adapters that an engine has loaded, by their files; the least recently used one makes room."""

    def __init__(self, engine: Engine, capacity: int = MAX_ADAPTERS) -> None:
        self._engine = engine
        self._capacity = capacity
        self._loaded: OrderedDict[AdapterFiles, Adapter] = OrderedDict()
        self._loading = asyncio.Lock()  # two requests that come at once load it once

    async def get(self, files: AdapterFiles) -> Adapter:
        """The handle, loaded now if need be. Raises what `AdapterFiles.find` and the engine raise."""
        if files not in self._loaded:
            async with self._loading:
                if files not in self._loaded:
                    self._loaded[files] = await asyncio.to_thread(lambda: self._engine.load_adapter(files.find()))
        self._loaded.move_to_end(files)
        adapter = self._loaded[files]
        if len(self._loaded) > self._capacity:
            self._loaded.popitem(last=False)
        return adapter


class Replica:
    """The deployment's class; `load` makes its engine, on the node where it runs."""

    def __init__(self, load: Callable[[], Engine], config_hash: str) -> None:
        self._config_hash = config_hash
        self._engine = load()
        self._adapters = Adapters(self._engine)

    def describe(self) -> Description:
        """What the engine says of itself."""
        engine = self._engine
        return Description(self._config_hash, engine.name, engine.description, engine.features, engine.in_4bit)

    def check_health(self) -> None:
        """Serve's question every few seconds; EngineLostError has the replica replaced."""
        if not self._engine.alive:
            raise EngineLostError("the engine of this replica is dead")

    async def load_adapter(self, files: AdapterFiles) -> None:
        """Have an adapter ready; what keeps it from being loaded is raised."""
        await self._adapters.get(files)

    async def answer(self, request: Request) -> AsyncGenerator[Chunk]:
        """Answer; who breaks off the iteration frees the engine's work."""
        adapter = await self._adapters.get(request.adapter) if request.adapter is not None else None
        generation: Generation | None = None
        try:
            generation = self._engine.submit(
                request.prompt_ids,
                request.sampling,
                max_new_tokens=request.max_new_tokens,
                adapter=adapter,
                constraint=request.constraint,
                logprobs=request.logprobs,
                prompt_logprobs=request.prompt_logprobs,
            )
            async for chunk in chunks(generation, request.interval):
                yield chunk
        except EngineLostError:
            if not self._engine.alive:
                log.exception("this replica ends")
                os._exit(1)
            raise
        finally:
            if generation is not None:
                generation.cancel()


async def chunks(generation: Generation, interval: float = 0.0) -> AsyncGenerator[Chunk]:
    """A generation in pieces that come `interval` seconds apart, or when it ends; the last one says why it ended."""
    sent = 0
    reason = None
    ended = _ended(generation)
    async for ids in generation.batches():
        first, sent = sent, sent + len(ids)
        reason = generation.finish_reason  # before the count, which does not grow any more once it is there
        reason = reason if generation.completion_tokens == sent else None
        prompt = generation.prompt_logprobs if first == 0 else ()
        yield Chunk(ids, generation.logprobs[first:sent], prompt, reason)
        if interval and reason is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), interval)
    if reason is None:
        yield Chunk((), (), generation.prompt_logprobs if sent == 0 else (), generation.finish_reason)


def _ended(generation: Generation) -> asyncio.Event:
    """What is set on the running loop when the generation has ended."""
    event, loop = asyncio.Event(), asyncio.get_running_loop()

    def ring() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(event.set)

    generation.when_done(ring)
    return event
