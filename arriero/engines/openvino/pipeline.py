"""One pipeline of OpenVINO GenAI's, and the thread that drives it.

A pipeline serves the base model or the model with one adapter, fixed when it is built: keys and values of one can then
never be taken for another's. Each has a thread of its own. Measured with two of them busy on two cores, that gives as
many tokens per second as one thread that steps all in turn, and building one holds up no other.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import openvino
import openvino_genai as genai

from arriero.engines.base import Generation
from arriero.errors import ArrieroError, EngineError, MemoryLimitError
from arriero.messages import TokenLogprob

log = logging.getLogger(__name__)
LIMIT = genai.py_openvino_genai.GenerationFinishReason.LENGTH
STATUS = genai.py_openvino_genai.GenerationStatus
Handle: TypeAlias = genai.py_openvino_genai.GenerationHandle
OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "not enough memory", "out of memory", "Cannot allocate")


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A generation to fill: `ids` (1, prompt) as int64, and how."""

    generation: Generation
    ids: openvino.Tensor
    config: genai.GenerationConfig


class Pipeline:
    """Generates for any number of requests at once, until it is retired or closed."""

    def __init__(self, build: Callable[[], genai.ContinuousBatchingPipeline], *, now: bool) -> None:
        """Build the library's pipeline `now`, raising what that raises, or when the first request comes."""
        self._build = build
        self._pipeline = build() if now else None
        self._pending: list[Request] = []
        self._wake = threading.Condition()
        self._retired = self._closed = False
        self._requests = 0
        self._thread = threading.Thread(target=self._work, name="openvino-pipeline", daemon=True)
        self._thread.start()

    def put(self, request: Request) -> None:
        """Add a request; the next step takes it up."""
        with self._wake:
            self._pending.append(request)
            self._wake.notify()

    def retire(self) -> None:
        """Finish what was put in, then free the model; returns at once."""
        with self._wake:
            self._retired = True
            self._wake.notify()

    def close(self) -> None:
        """Cancel everything and free the model."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _work(self) -> None:
        """Step while there is work; only this thread touches the library's pipeline."""
        running: dict[Request, Handle] = {}
        while True:
            with self._wake:
                while not (self._pending or running or self._retired or self._closed or self._unfreed()):
                    self._wake.wait()
                pending, self._pending = self._pending, []
            if self._closed:
                for request in [*running, *pending]:
                    request.generation.finish("cancelled")
            if self._closed or (self._retired and not (pending or running)):
                for handle in running.values():
                    handle.cancel()
                running.clear()
                with contextlib.suppress(RuntimeError):  # nobody is left who would want to know
                    self._step()
                self._pipeline = None
                return
            for request in pending:
                self._begin(running, request)
            try:
                self._step()
                running = {request: handle for request, handle in running.items() if not _forward(request, handle)}
            except Exception as error:  # the thread must outlive any one batch
                log.debug("the pipeline failed and is built again", exc_info=True)
                for request in running:
                    request.generation.fail(_typed(error))
                running, self._pipeline = {}, None

    def _unfreed(self) -> bool:
        """Whether the library still holds requests, cancelled ones perhaps, that the next step lets go of."""
        return self._pipeline is not None and bool(self._pipeline.has_non_finished_requests())

    def _step(self) -> None:
        if self._pipeline is not None:
            self._pipeline.step()

    def _begin(self, running: dict[Request, Handle], request: Request) -> None:
        """Hand one request to the library; what it refuses fails that request only."""
        if request.generation.cancelled:
            request.generation.finish("cancelled")
            return
        self._requests += 1
        try:
            self._pipeline = self._pipeline or self._build()
            running[request] = self._pipeline.add_request(self._requests, request.ids, request.config)
        except Exception as error:
            request.generation.fail(_typed(error))


def _forward(request: Request, handle: Handle) -> bool:
    """Hand new ids on, pass a cancellation down; returns whether the request has ended."""
    generation, reason = request.generation, None
    while handle.can_read():
        for output in handle.read().values():
            ids, logprobs = output.generated_ids, output.generated_log_probs if request.config.logprobs else ()
            generation.push(ids, [TokenLogprob(*pair) for pair in zip(ids, logprobs, strict=False)])
            reason = output.finish_reason
    status = handle.get_status()
    if status == STATUS.RUNNING and not generation.cancelled:
        return False
    if status == STATUS.IGNORED:
        generation.fail(MemoryLimitError("there is not enough memory for the keys and values of this request"))
    elif status == STATUS.FINISHED:
        generation.finish("length" if reason == LIMIT else "stop")
    else:
        handle.cancel()
        generation.finish("cancelled")
    return True


def _typed(error: Exception) -> Exception:
    """The library's error as one of ours."""
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY):
        return MemoryLimitError(f"OpenVINO has not enough memory: {error}", hint="a smaller model, or shorter prompts")
    return error if isinstance(error, ArrieroError) else EngineError(f"OpenVINO failed: {error}")
