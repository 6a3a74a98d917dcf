"""The process in which a `TransformersProcess` computes: the scheduler's steps, and commands between them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from transformers.utils import logging as library

from arriero.engines.adapters import stamps
from arriero.engines.generation import Generation
from arriero.engines.process import worker as process
from arriero.engines.process.crossing import described, sampling_of, spread
from arriero.engines.process.engine import BASE
from arriero.engines.process.worker import Event, Inbox
from arriero.engines.registry import EngineOptions
from arriero.engines.transformers.engine import Loaded, load
from arriero.engines.transformers.requests import Request
from arriero.errors import ArrieroError, EngineError
from arriero.messages import TokenLogprob

log = logging.getLogger(__name__)
Stamps = Mapping[str, Sequence[int]]


class WorkerGeneration(Generation):
    """A generation whose readers are in the parent: what it receives, it says."""

    def __init__(self, number: int, prompt_tokens: int, say: Callable[[Event], None]) -> None:
        super().__init__(prompt_tokens)
        self._number = number
        self._say = say

    def push(self, ids: Sequence[int], logprobs: Sequence[TokenLogprob] = ()) -> None:
        """See `Generation.push`."""
        self._say_prompt()
        self._say(("ids", self._number, ids, *spread(logprobs)))

    def _end(self) -> None:
        super()._end()
        if self._error is not None:
            self._say(("fail", self._number, *described(self._error)))
        else:
            self._say_prompt()
            self._say(("end", self._number, self.finish_reason))

    def _say_prompt(self) -> None:
        """Log-probabilities of the prompt, which are complete before anything follows it."""
        if self.prompt_logprobs:
            ids = [entry.token_id for entry in self.prompt_logprobs]
            self._say(("prompt", self._number, ids, *spread(self.prompt_logprobs)))
            self.prompt_logprobs.clear()


@dataclass(slots=True)
class Kept:
    """An adapter that is held in the parent; `name` is what PEFT knows it by, None while it is not loaded."""

    directory: Path
    stamp: Stamps
    name: str | None = None


class Worker(process.Worker):
    """A model with its adapters. After a restart each is loaded when a request first wants it."""

    def __init__(self, inbox: Inbox, send: Callable[[list[Event]], None]) -> None:
        super().__init__(inbox, send)
        self._load: Callable[[], Loaded]
        self._loaded: Loaded | None = None
        self._adapters: dict[int, Kept] = {}
        self._retired: list[str] = []
        self._generations: WeakValueDictionary[int, WorkerGeneration] = WeakValueDictionary()
        library.disable_default_handler()  # what it logs goes to the parent, as all else
        library.enable_propagation()

    @property
    def busy(self) -> bool:
        """See `process.Worker.busy`."""
        return self._loaded is not None and bool(self._loaded.scheduler.requests)

    def step(self) -> None:
        """See `process.Worker.step`."""
        if self._loaded is None:
            return
        self._loaded.scheduler.step()
        if self._retired:
            self._free(self._loaded)

    def load(self, model_dir: str, stamp: Stamps, stop_token_ids: Sequence[int], options: Mapping[str, Any]) -> None:
        """Say which model it is; comes first. `options` are those of `EngineOptions`."""
        self._load = functools.partial(load_same, Path(model_dir), stamp, stop_token_ids, EngineOptions(**options))

    def open(self, key: int, adapter: Sequence[Any] | None, now: bool) -> None:
        """Take up the base model or an adapter; `now` loads it and says when that is done."""
        if adapter is not None:
            self._adapters[key] = Kept(Path(adapter[0]), adapter[1])
        if not now:
            return
        try:
            loaded, _ = self._ready(key)
        except Exception as error:
            self._adapters.pop(key, None)
            self._events.append(("lost", key, *described(_typed(error))))
        else:
            about = {
                "description": loaded.description,
                "vocabulary": loaded.adapters.vocabulary,
                "in_4bit": loaded.in_4bit,
            }
            self._events.append(("open", key, about))

    def retire(self, key: int) -> None:
        """Free an adapter once what began with it has ended; one that could not be loaded is gone already."""
        kept = self._adapters.pop(key, None)
        if kept is not None and kept.name is not None:
            self._retired.append(kept.name)

    def put(self, number: int, key: int, ids: list[int], sampling: Mapping[str, Any], limit: int, **rest: Any) -> None:
        """Begin a request; `rest` are other fields of `Request`."""
        generation = WorkerGeneration(number, len(ids), self._events.append)
        try:
            loaded, adapter = self._ready(key)
        except Exception as error:
            generation.fail(error)
            return
        self._generations[number] = generation
        loaded.scheduler.add(Request(generation, ids, sampling_of(sampling), limit, adapter=adapter, **rest))

    def cancel(self, number: int) -> None:
        """End a request, if it has not ended."""
        generation = self._generations.get(number)
        if generation is not None and self._loaded is not None:
            generation.cancel()
            self._loaded.scheduler.end_cancelled()

    def _ready(self, key: int) -> tuple[Loaded, str | None]:
        """The model, and the name of a key's adapter, both loaded now if they are not yet."""
        if self._loaded is None:
            self._loaded = self._load()
        if key == BASE:
            return self._loaded, None
        kept = self._adapters[key]
        if kept.name is None:
            _check_same(kept.directory, kept.stamp)
            kept.name = self._loaded.adapters.load(kept.directory)
        return self._loaded, kept.name

    def _free(self, loaded: Loaded) -> None:
        """Free retired adapters that no request computes with any more."""
        used = {request.adapter for request in loaded.scheduler.requests}
        for name in [name for name in self._retired if name not in used]:
            self._retired.remove(name)
            try:
                loaded.adapters.delete(name)
            except Exception:  # it stays in memory; nobody waits for it
                log.exception("an adapter could not be removed")


def load_same(model_dir: Path, stamp: Stamps, stop_token_ids: Sequence[int], options: EngineOptions) -> Loaded:
    """The model, if its files are still what they were."""
    _check_same(model_dir, stamp)
    return load(model_dir, stop_token_ids, options)


def _check_same(directory: Path, stamp: Stamps) -> None:
    """A worker may be started long after weights were loaded: EngineError where the files are others by then."""
    if {name: list(now) for name, now in stamps(directory).items()} != stamp:
        raise EngineError(f"{directory} has changed since it was loaded", hint="load it again")


def _typed(error: Exception) -> ArrieroError:
    return error if isinstance(error, ArrieroError) else EngineError(f"the engine failed: {error}")
