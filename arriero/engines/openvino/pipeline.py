"""Pipelines, as the worker process has them: OpenVINO GenAI's here, our own in loop.py.

A pipeline serves the base model or the model with one adapter, fixed when it is built: the KV cache of one can then
never be taken for that of another.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import openvino
import openvino_genai as genai

from arriero.engines.adapters import stamp
from arriero.engines.openvino.adapter import Weights
from arriero.engines.openvino.cache import MODEL
from arriero.engines.openvino.paged import PagedModel
from arriero.engines.process.crossing import described
from arriero.engines.process.worker import Event
from arriero.errors import ArrieroError, EngineError, MemoryLimitError

LIMIT = genai.py_openvino_genai.GenerationFinishReason.LENGTH
STATUS = genai.py_openvino_genai.GenerationStatus
Handle: TypeAlias = genai.py_openvino_genai.GenerationHandle
OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "not enough memory", "out of memory", "Cannot allocate")


class Model:
    """Exported files and how they are run; builds what pipelines compute with.

    `scheduler` is what is set of a SchedulerConfig, `properties` is for the plugin. With `spells`, the files say what
    each id spells, as grammars need it. `together` is how many requests a pipeline computes at once at most, None
    without a limit. `source` is the directory that was exported, which has the tokenizer.
    """

    def __init__(
        self,
        directory: str,
        source: str,
        spells: bool,
        properties: Mapping[str, str],
        scheduler: Mapping[str, int],
        together: int | None = None,
    ) -> None:
        self.together = together
        self.source = Path(source)
        self.step_tokens = scheduler["max_num_batched_tokens"]
        self._directory = Path(directory)
        self._properties = properties
        self._scheduler = _set(genai.SchedulerConfig(), scheduler)
        # one for all pipelines, as it also holds the compiled grammars
        self._tokenizer = genai.Tokenizer(self._directory) if spells else None

    def build(self, adapter: Weights | None = None) -> genai.ContinuousBatchingPipeline:
        """The library's pipeline, with an adapter or without; other threads can run meanwhile."""
        properties: dict[str, object] = dict(self._properties)
        with self._loading(adapter):
            if adapter is not None:
                weights = genai.Adapter(Path(adapter.file))
                fixed = genai.AdapterConfig.Mode.MODE_STATIC
                properties["adapters"] = genai.AdapterConfig(weights, adapter.scale, mode=fixed)
            if self._tokenizer is None:
                return genai.ContinuousBatchingPipeline(self._directory, self._scheduler, "CPU", properties)
            return genai.ContinuousBatchingPipeline(
                self._directory, self._tokenizer, self._scheduler, "CPU", **properties
            )

    def paged(self, adapter: Weights | None = None) -> PagedModel:
        """The same model with its logits, see paged.py. Its weights are in memory once more."""
        with self._loading(adapter):
            return PagedModel(self._directory / MODEL, self._properties, adapter)

    @contextlib.contextmanager
    def _loading(self, adapter: Weights | None) -> Iterator[None]:
        """Errors as ours.

        A pipeline may be built anew long after its adapter was loaded: EngineError where the file is another by then.
        """
        what = self._directory.name if adapter is None else f"{self._directory.name} with adapter {adapter.file}"
        try:
            if adapter is not None and stamp(Path(adapter.file)) != adapter.stamp:
                raise EngineError(f"{adapter.file} has changed since it was loaded", hint="load the adapter again")
            yield
        except ArrieroError:
            raise
        except Exception as error:
            if _is_memory(error):
                raise MemoryLimitError(f"{what} does not fit into memory", hint="a smaller model, or int4") from error
            raise EngineError(f"OpenVINO cannot load {what}: {error}") from error


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt under a number that is never used again, what ends its answer, and how that is made.

    `config` is what is set of a GenerationConfig, and `grammar` EBNF; in loop.py a `loop.Config` and Lark.
    """

    number: int
    ids: Sequence[int]
    stop_token_ids: Sequence[int]
    config: Mapping[str, Any]
    grammar: str | None = None


class Pipeline(ABC):
    """Generates for any number of requests at once. It is built when the first one comes, unless it was before.

    What becomes of the requests goes to `say`, as tuples:

        "ids", number, ids[, their log-probabilities[, the alternatives' of each]]
        "prompt", number, ids, their log-probabilities, the alternatives' of each
        "end", number, finish reason
        "fail", number, error's class, its fields

    The building is not done here: while `needs_building`, the owner does it, and gives the outcome to `built`.
    """

    def __init__(self, adapter: Weights | None, say: Callable[[Event], None], together: int | None = None) -> None:
        self.adapter = adapter
        self._together = together
        self.retired = False  # no more requests will come
        self.building = False
        self._say = say
        self._pipeline: Any = None  # what `build` made
        # a request is in one of these two from `put` on until its "end" or "fail" is said
        self._waiting: dict[int, Request] = {}
        self._running: dict[int, Any] = {}  # what `_begin` made

    @abstractmethod
    def build(self, model: Model) -> Any:
        """What it computes with; on a thread of its own."""

    @property
    def needs_building(self) -> bool:
        """Whether requests wait and nobody builds."""
        return bool(self._waiting) and self._pipeline is None and not self.building

    @property
    def busy(self) -> bool:
        """Whether to step."""
        return self._pipeline is not None and bool(self._waiting or self._running)

    @property
    def done(self) -> bool:
        """Whether nothing is left of a retired one."""
        return self.retired and not (self._waiting or self._running or self.building)

    def built(self, pipeline: Any, error: Exception | None) -> None:
        """Take what was built; an error is that of the requests that wait for it."""
        self.building = False
        self._pipeline = pipeline
        if error is not None:
            for number in self._waiting:
                self._fail(number, error)
            self._waiting.clear()

    def put(self, request: Request) -> None:
        """Add a request; the next step takes it up."""
        self._waiting[request.number] = request

    def cancel(self, number: int) -> None:
        """End a request, if it is here and has not ended."""
        if self._waiting.pop(number, None) is None:
            if number not in self._running:
                return
            self._drop(self._running.pop(number))
        self._say(("end", number, "cancelled"))

    def step(self) -> None:
        """Begin what waits and compute once; after a failure the state is undefined, so it is thrown away."""
        for number in list(self._waiting):
            if self._together is not None and len(self._running) >= self._together:
                break
            request = self._waiting.pop(number)
            try:
                self._running[number] = self._begin(request)
            except Exception as error:
                self._fail(number, error)
        try:
            if self._pipeline is not None:
                self._compute()
        except Exception as error:
            # a batch fails together: nothing says whose step it was, or what is in the KV cache
            for number in self._running:
                self._fail(number, error)
            self._running.clear()
            self._pipeline = None  # the next request has another one built

    @abstractmethod
    def _begin(self, request: Request) -> Any:
        """Take up a request; what is raised fails this one only."""

    @abstractmethod
    def _compute(self) -> None:
        """One step of all that runs."""

    @abstractmethod
    def _drop(self, running: Any) -> None:
        """Let go of what `_begin` made."""

    def _fail(self, number: int, error: Exception) -> None:
        self._say(("fail", number, *described(typed(error))))


class Library(Pipeline):
    """GenAI's continuous batching; what runs is a handle, and whether log-probabilities were asked for."""

    def build(self, model: Model) -> genai.ContinuousBatchingPipeline:
        """See `Pipeline.build`."""
        return model.build(self.adapter)

    @property
    def busy(self) -> bool:
        """Whether to step: for requests, or for cancelled ones that the library lets go of in a step."""
        return self._pipeline is not None and bool(self._waiting or self._pipeline.has_non_finished_requests())

    def _begin(self, request: Request) -> tuple[Handle, bool]:
        config = _set(genai.GenerationConfig(), request.config)
        config.stop_token_ids = set(request.stop_token_ids)  # a set is what its binding takes, and JSON has none
        if request.grammar is not None:
            config.structured_output_config = genai.StructuredOutputConfig(grammar=request.grammar)
        ids = openvino.Tensor(np.array([request.ids], dtype=np.int64))
        return self._pipeline.add_request(request.number, ids, config), bool(config.logprobs)

    def _compute(self) -> None:
        self._pipeline.step()
        for number, (handle, probable) in list(self._running.items()):
            self._forward(number, handle, probable)

    def _drop(self, running: tuple[Handle, bool]) -> None:
        running[0].cancel()

    def _forward(self, number: int, handle: Handle, probable: bool) -> None:
        """Say what a request's step brought."""
        # before the status is asked: the last ids come with the step that ends the request
        reason = None
        while handle.can_read():
            for output in handle.read().values():
                logprobs = (output.generated_log_probs,) if probable else ()
                self._say(("ids", number, output.generated_ids, *logprobs))
                reason = output.finish_reason
        status = handle.get_status()
        if status == STATUS.RUNNING:
            return
        del self._running[number]
        if status == STATUS.FINISHED:
            self._say(("end", number, "length" if reason == LIMIT else "stop"))
        else:
            message = "there is not enough memory for the KV cache of this request"
            self._fail(number, MemoryLimitError(message, hint="fewer requests at once, or shorter ones"))


def typed(error: Exception) -> ArrieroError:
    """An error as one of ours."""
    if isinstance(error, ArrieroError):
        return error
    if _is_memory(error):
        return MemoryLimitError(f"OpenVINO has not enough memory: {error}", hint="a smaller model, or shorter prompts")
    return EngineError(f"OpenVINO failed: {error}")


def _is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY)


def _set(config: Any, values: Mapping[str, Any]) -> Any:
    for name, value in values.items():
        setattr(config, name, value)
    return config
