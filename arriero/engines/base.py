"""What every engine promises.

An engine owns one loaded model and a thread that drives it. `submit` returns at once with a Generation, which the
engine's thread fills and any number of readers, in threads or on an event loop, empty at their own pace. The ids wait
in a plain list bounded by the requested length, so a slow reader holds nobody up.

Adapters have no names here: `load_adapter` gives a handle, and whoever holds it computes with exactly those weights.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from arriero.constraint import Constraint, Reasoned
from arriero.engines.registry import Precision as Precision
from arriero.errors import ArrieroError, EngineError, UnsupportedError, UsageError
from arriero.messages import FinishReason, Sampling, TokenLogprob

Feature = Literal[
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "constraint",
    "constraint_after_reasoning",
    "prompt_logprobs",
]


class Adapter:
    """An adapter that an engine has loaded: a handle to give to `submit`, and nothing else can be done with it.

    The weights stay loaded for as long as anybody holds the handle, a Chat or a request in flight; the engine frees
    them when the last holder has let go. `directory` is where they came from.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory


class Generation:
    """A stream of token ids, the one that ends the turn included.

    Iterate it with `for` or `async for`. Once it is exhausted `finish_reason` is set; an engine's failure is raised
    from the iteration. `cancel()` may be called at any time from any thread and frees the engine's work.
    `logprobs` holds one entry for each id so far where they were asked for, else nothing. `prompt_logprobs` likewise
    holds one for each id of the prompt but the first, complete before the first id is generated.
    """

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.finish_reason: FinishReason | None = None
        self.cancelled = False
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: list[TokenLogprob] = []
        self._ids: list[int] = []
        self._error: ArrieroError | None = None
        self._changed = threading.Condition()
        self._wakers: list[Callable[[], None]] = []  # of readers on event loops
        self._when_done: list[Callable[[], None]] = []

    @property
    def completion_tokens(self) -> int:
        """Tokens generated so far."""
        return len(self._ids)

    @property
    def ahead(self) -> int | None:
        """How many others get their turn before this one; None where it does not wait for one."""
        return None

    def cancel(self) -> None:
        """Ask the engine to stop; the stream ends with finish reason "cancelled" unless it had ended already."""
        self.cancelled = True

    def when_done(self, call: Callable[[], None]) -> None:
        """Have `call` called once, from some thread, when the stream has ended in whatever way; it must be quick."""
        with self._changed:
            if not self._ended:
                self._when_done.append(call)
                return
        call()

    def __iter__(self) -> Iterator[int]:
        position = 0
        while True:
            with self._changed:
                while position == len(self._ids) and not self._ended:
                    self._changed.wait()
                ready = self._ids[position:]
            if not ready:
                break
            yield from ready
            position += len(ready)
        self._raise()

    async def __aiter__(self) -> AsyncIterator[int]:
        async with contextlib.aclosing(self.batches()) as batches:
            async for ready in batches:
                for token in ready:
                    yield token

    async def batches(self) -> AsyncGenerator[list[int]]:
        """The ids as they come, all that are there at once, for who hands them on."""
        event = asyncio.Event()
        wake = _Bell.here().rings(event)
        with self._changed:
            self._wakers.append(wake)
        position = 0
        try:
            while True:
                event.clear()
                ready = self._ids[position:]
                if ready:
                    yield ready
                    position += len(ready)
                elif self._ended:
                    break
                else:
                    await event.wait()
            self._raise()
        finally:
            with self._changed:
                self._wakers.remove(wake)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    # What follows is for engines only.

    def push(self, ids: Sequence[int], logprobs: Sequence[TokenLogprob] = ()) -> None:
        """Append generated ids, with their log-probabilities where they were asked for; nothing after the end."""
        with self._changed:
            if not self._ended:
                self.logprobs.extend(logprobs)
                self._ids.extend(ids)
                self._notify()

    def finish(self, reason: FinishReason) -> None:
        """End the stream; whatever is called after the first end changes nothing."""
        with self._changed:
            if not self._ended:
                self.finish_reason = reason
                self._end()

    def fail(self, error: Exception) -> None:
        """End the stream with an error that readers get; as `finish`, only the first end counts."""
        with self._changed:
            if not self._ended:
                known = isinstance(error, ArrieroError)
                self._error = error if known else EngineError(f"the engine failed: {error}")  # type: ignore[assignment]
                self._end()

    @property
    def _ended(self) -> bool:
        return self.finish_reason is not None or self._error is not None

    def _end(self) -> None:
        self._notify()
        while self._when_done:
            self._when_done.pop()()

    def _notify(self) -> None:
        self._changed.notify_all()
        for wake in self._wakers:
            wake()


class _Bell:
    """Sets events on one loop from other threads, all that come before the loop gets to it in one go.

    Waking a loop is a system call, and an engine's step brings ids for many readers. With 8 of them this was measured
    to save 10 of the 68 microseconds that an id takes from OpenVINO's pipe to the reader.
    """

    _all: ClassVar[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Bell]] = weakref.WeakKeyDictionary()

    def __init__(self) -> None:
        self._events: deque[asyncio.Event] = deque()
        self._rung = False

    @classmethod
    def here(cls) -> _Bell:
        """That of the running loop."""
        return cls._all.setdefault(asyncio.get_running_loop(), cls())

    def rings(self, event: asyncio.Event) -> Callable[[], None]:
        """What sets an event of the running loop, from any thread."""
        loop = asyncio.get_running_loop()

        def ring() -> None:
            self._events.append(event)
            if not self._rung:
                self._rung = True
                with contextlib.suppress(RuntimeError):  # the reader's loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(self._set)

        return ring

    def _set(self) -> None:
        self._rung = False  # first, so that what comes from now on is not lost
        while self._events:
            self._events.popleft().set()


class Engine(Protocol):
    """A loaded model, and any number of adapters.

    `name` is what --engine calls it, `description` adds device and precision for people, `features` are the optional
    ones it has.
    """

    name: str
    description: str
    features: frozenset[Feature]

    @property
    def alive(self) -> bool:
        """Whether it can answer, now or after what it starts again by itself; False for good."""
        ...

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
        """Start generating at most `max_new_tokens` ids after `prompt_ids`; returns at once.

        `sampling` is complete: no field but `seed` is None. Stop strings are not the engine's business. `adapter` is
        one that this engine has loaded, None for the base model. With a `constraint` the ids spell what it allows and
        the end of the turn. `logprobs` asks for log-probabilities, with that many alternatives for each token, and
        `prompt_logprobs` for those of the prompt's tokens too, with as many; only then may `max_new_tokens` be 0.
        Raises UnsupportedError for a feature that this engine lacks and UsageError for the adapter of another engine.
        Where what computes dies, the generation fails with EngineLostError.
        """
        ...

    def load_adapter(self, directory: Path) -> Adapter:
        """Load an adapter; requests in flight go on.

        Raises EngineError where the engine cannot do such an adapter, ArrieroError where it does not fit the model.
        """
        ...

    def close(self) -> None:
        """Cancel what runs, stop the thread and free the model."""
        ...


def check_own(adapter: Adapter | None, own: Container[Adapter]) -> None:
    """Raise UsageError for an adapter that is not among an engine's `own`: its weights belong to another model."""
    if adapter is not None and adapter not in own:
        raise UsageError(
            f"the adapter {adapter.directory} was loaded by another engine", hint="load it with this one's load_adapter"
        )


def check_ids(prompt_ids: Sequence[int], sampling: Sampling, vocabulary: int) -> None:
    """Raise UsageError for an empty prompt, and for token ids that a model of so many does not have.

    One id out of range would fail every request of its batch, and on a GPU the whole process.
    """
    for what, ids in (("logit_bias", [token for token, _ in sampling.logit_bias]), ("the prompt", prompt_ids)):
        for token in (min(ids, default=0), max(ids, default=0)):
            if not 0 <= token < vocabulary:
                last = vocabulary - 1
                raise UsageError(f"{what} has the token id {token}, but the model's ids go from 0 to {last}")
    if not prompt_ids:
        raise UsageError("the prompt has no tokens", hint="begin it with the token that begins every text")


def require(
    engine: Engine,
    sampling: Sampling,
    constraint: Constraint | None,
    logprobs: int | None,
    *,
    prompt_logprobs: bool = False,
) -> None:
    """Raise UnsupportedError for the first feature that a request needs and `engine` lacks."""
    needed: dict[Feature, bool] = {
        "min_p": bool(sampling.min_p),
        "presence_penalty": bool(sampling.presence_penalty),
        "frequency_penalty": bool(sampling.frequency_penalty),
        "logit_bias": bool(sampling.logit_bias),
        "logprobs": logprobs is not None,
        "top_logprobs": bool(logprobs),
        "constraint": constraint is not None and not isinstance(constraint, Reasoned),
        "constraint_after_reasoning": isinstance(constraint, Reasoned),
        "prompt_logprobs": prompt_logprobs,
    }
    for feature, wanted in needed.items():
        if wanted and feature not in engine.features:
            raise UnsupportedError(feature, engine.name)
