"""RayEngine: the Engine interface over the handle of a Serve deployment.

    submit ─> a task on this engine's loop ─> handle.answer.remote(request) ─> chunks ─> Generation

Where a replica is lost, by its death, its node's or its engine's, the request goes to another one: as it was, if
nothing of its answer had come, else with the ids that had come as part of its prompt. The latter only where what
follows depends on nothing else, see `Request.resumable`; otherwise the answer fails with EngineLostError.

With temperature 0 the rest is what the lost replica would have written as far as the model's arithmetic does not depend
on what is computed beside it, as with any engine that batches.
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ray.exceptions import ObjectLostError, RayActorError, RayError, WorkerCrashedError

from arriero.cluster.connect import own_errors, unwrapped
from arriero.cluster.serving.protocol import AdapterFiles, Chunk, Description, Request
from arriero.constraint import Constraint
from arriero.engines.base import Adapter, Feature, check_own, require
from arriero.engines.event_loop import EventLoopThread, TaskGeneration
from arriero.engines.generation import Generation
from arriero.errors import EngineError, EngineLostError
from arriero.messages import Sampling

TRIES = 4  # the first one, and three elsewhere
CHUNK_SECONDS = 0.001  # of computing, about, that a chunk costs: with more of them this process would fall behind
LOST = (RayActorError, ObjectLostError, WorkerCrashedError, EngineLostError)
log = logging.getLogger(__name__)


class LoadedAdapter(Adapter):
    """An adapter as replicas find it."""

    def __init__(self, files: AdapterFiles) -> None:
        super().__init__(Path(files.directory))
        self.files = files


class RayEngine:
    """Implements `engines.base.Engine`."""

    def __init__(
        self,
        handle: Any,
        stop_token_ids: Sequence[int],
        *,
        check_adapter: Callable[[AdapterFiles], None] = lambda _: None,
        end: Callable[[], None] = lambda: None,
        interval: float = 0.0,
    ) -> None:
        """Over a running deployment's handle; `check_adapter` raises for files that not every node has,
        `end` is called once this is closed, to be rid of the replicas. Ids come `interval` seconds apart, or as seldom
        as all that were in flight when it began need.
        """
        self._handle = handle
        self._streams = handle.options(stream=True)
        self._stops = frozenset(stop_token_ids)
        self._check_adapter = check_adapter
        self._interval = interval
        self._in_flight = 0
        self._when_closed = [end]
        with own_errors():
            description: Description = handle.describe.remote().result()
        self.name = description.name
        self.features: frozenset[Feature] = description.features
        self.in_4bit: bool = description.in_4bit
        self.description = f"{description.description}, in replicas on Ray"
        self._adapters: weakref.WeakSet[Adapter] = weakref.WeakSet()
        self._lock = threading.Lock()  # over `_closed`
        self._closed = False
        self._thread = EventLoopThread("ray-engine")
        atexit.register(self.close)  # on a cluster of others, replicas outlive the process that had them started

    @property
    def alive(self) -> bool:
        """See `Engine.alive`: Serve replaces replicas."""
        return not self._closed

    def submit(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        max_new_tokens: int,
        adapter: Adapter | None = None,
        constraint: Constraint | None = None,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
    ) -> Generation:
        """See `Engine.submit`. What only a replica's engine can tell is raised from the iteration."""
        require(self, sampling, constraint, logprobs, prompt_logprobs=prompt_logprobs)
        check_own(adapter, self._adapters)
        request = Request(
            prompt_ids=list(prompt_ids),
            sampling=sampling,
            max_new_tokens=max_new_tokens,
            adapter=adapter.files if isinstance(adapter, LoadedAdapter) else None,
            constraint=constraint,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )
        generation = TaskGeneration(len(prompt_ids), self._thread.loop)
        with self._lock:
            self._check_open()
            self._thread.spawn(partial(self._generate, generation, request), generation)
        return generation

    def load_adapter(self, directory: Path) -> Adapter:
        """See `Engine.load_adapter`. One replica loads it now, the others when they are first asked for it."""
        self._check_open()
        files = AdapterFiles.of(directory)
        self._check_adapter(files)
        with own_errors():
            self._handle.load_adapter.remote(files).result()
        adapter = LoadedAdapter(files)
        self._adapters.add(adapter)
        return adapter

    def when_closed(self, call: Callable[[], None]) -> None:
        """Have `call` called at the end of `close`."""
        self._when_closed.append(call)

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            already, self._closed = self._closed, True
        if not already:
            atexit.unregister(self.close)
            self._thread.close()
            for handle in (self._handle, self._streams):
                handle.shutdown()  # else its router goes on telling Serve how many requests there are, for ever
            for end in self._when_closed:
                end()

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("the engine is closed")

    # What follows runs on the loop.

    async def _generate(self, generation: TaskGeneration, request: Request) -> None:
        self._in_flight += 1
        request = replace(request, interval=max(self._interval, CHUNK_SECONDS * self._in_flight))
        try:
            for _ in range(TRIES):
                try:
                    await self._stream_from_one(generation, request.continued(generation.ids))
                except LOST as error:
                    log.warning("a replica was lost with an answer in flight: %s", str(error).split("\n")[0])
                if self._complete(generation, request):
                    return
            raise EngineLostError(f"{TRIES} replicas were lost over this answer", hint="the replicas' logs say why")
        except Exception as error:  # the loop must outlive any one request
            generation.fail(unwrapped(error) if isinstance(error, RayError) else error)
        finally:
            self._in_flight -= 1

    async def _stream_from_one(self, generation: TaskGeneration, request: Request) -> None:
        """Have one replica answer, as far as it gets."""
        chunks = self._streams.answer.remote(request)
        try:
            async for chunk in chunks:
                _push(generation, chunk)
        except RayError as error:
            raise unwrapped(error) if isinstance(unwrapped(error), EngineLostError) else error from error
        finally:
            chunks.cancel()  # does nothing where it has ended

    def _complete(self, generation: TaskGeneration, request: Request) -> bool:
        """Whether the answer is complete; raises EngineLostError where it is not, and no other replica can continue it.

        A replica may be lost between an answer's last id and the word that it was the last.
        """
        if generation.finish_reason is not None:
            return True
        if generation.ids and generation.ids[-1] in self._stops:
            generation.finish("stop")
        elif len(generation.ids) >= request.max_new_tokens > 0:
            generation.finish("length")
        elif generation.ids and not request.resumable:
            raise EngineLostError(
                "the replica that wrote this answer was lost, and another one cannot go on with a seed, a penalty on "
                "the answer or a grammar",
                hint="ask again",
            )
        return generation.finish_reason is not None


def _push(generation: Generation, chunk: Chunk) -> None:
    generation.prompt_logprobs += chunk.prompt_logprobs
    if chunk.ids:
        generation.push(chunk.ids, chunk.logprobs)
    if chunk.finish_reason is not None:
        generation.finish(chunk.finish_reason)
