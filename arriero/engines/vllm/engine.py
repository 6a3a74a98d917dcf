"""VLLMEngine: vLLM's asynchronous client on an event loop in the engine's own thread.

vLLM computes in a process of its own, so that neither a busy server nor a slow reader holds the GPU up.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import multiprocessing
import secrets
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from vllm import SamplingParams
from vllm.exceptions import VLLMClientError
from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.v1.engine.exceptions import EngineDeadError

from arriero.constraint import Constraint
from arriero.engines.adapters import adapter_lacks, check_fit, lora_rank, unknown
from arriero.engines.base import Feature, Generation, Precision, require
from arriero.engines.vllm.requests import parameters, probabilities
from arriero.engines.vllm.start import interrupt, start
from arriero.errors import ContextLengthError, EngineError, UnsupportedError, UsageError
from arriero.messages import FinishReason, Sampling

ENDINGS: dict[str | None, FinishReason] = {"stop": "stop", "length": "length", "abort": "cancelled"}
T = TypeVar("T")


@dataclass
class _Adapter:
    """A loaded adapter, under a number and a name that vLLM gets to know once only.

    vLLM caches keys and values under that name, so they are never taken for those of another adapter that had our
    name before. `users` is how many answers need it still; `retired` says that no others will.
    """

    request: LoRARequest
    users: int = 0
    retired: bool = False


class _Answer(Generation):
    """A generation whose cancelling reaches the engine's loop at once, also while the prompt is read."""

    def __init__(self, prompt_tokens: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(prompt_tokens)
        self.task: asyncio.Task[None] | None = None
        self._loop = loop

    def cancel(self) -> None:
        super().cancel()
        if self.finish_reason is None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and this had failed before
                self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self.task is not None:
            self.task.cancel()


class VLLMEngine:
    """Implements `engines.base.Engine`."""

    name = "vllm"
    features: frozenset[Feature] = frozenset(get_args(Feature))

    def __init__(
        self,
        model_dir: Path,
        stop_token_ids: Sequence[int],
        adapters: Mapping[str, Path],
        *,
        precision: Precision = "auto",
    ) -> None:
        if precision not in ("auto", "float32", "bfloat16"):
            raise UnsupportedError(f"precision {precision}", self.name, hint="use --engine openvino")
        for directory in adapters.values():
            check_fit(directory, model_dir)  # starting takes a minute
        self._model_dir = model_dir
        self._stop_token_ids = list(stop_token_ids)
        self._adapters: dict[str, _Adapter] = {}
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()  # over the adapters and `_closed`
        self._closed = False
        self._llm: Any = None  # an AsyncLLM
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm-engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # vLLM complains where its process goes first
        others = set(multiprocessing.active_children())
        try:
            self._llm = self._call(start(model_dir, adapters, precision))
            for name, directory in adapters.items():
                self.add_adapter(name, directory)
        except BaseException:
            if self._llm is None:
                interrupt(others)
            self.close()
            raise
        config = self._llm.vllm_config
        self._window: int = config.model_config.max_model_len
        kind = str(config.model_config.dtype).removeprefix("torch.")
        self.description = f"vllm, {config.device_config.device_type}, {kind}"

    def submit(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        max_new_tokens: int,
        adapter: str | None = None,
        constraint: Constraint | None = None,
        logprobs: int | None = None,
    ) -> Generation:
        """See `Engine.submit`. Raises ContextLengthError where memory holds less than the model's own window."""
        require(self, sampling, constraint, logprobs)
        if len(prompt_ids) + max_new_tokens > self._window:
            raise ContextLengthError(len(prompt_ids), max_new_tokens, self._window)
        params = parameters(sampling, constraint, self._stop_token_ids, max_new_tokens, logprobs)
        generation = _Answer(len(prompt_ids), self._loop)
        with self._lock:
            self._alive()
            found = None if adapter is None else self._find(adapter)
            if found is not None:
                found.users += 1
            self._loop.call_soon_threadsafe(self._begin, generation, list(prompt_ids), params, found)
        return generation

    def add_adapter(self, name: str, directory: Path) -> None:
        """See `Engine.add_adapter`."""
        with self._lock:
            self._alive()
        self._check(directory)
        number = next(self._numbers)
        added = _Adapter(LoRARequest(f"{name} {number}", number, str(directory)))
        self._call(self._load(added.request))
        with self._lock:
            old = self._adapters.get(name)
            self._adapters[name] = added
        if old is not None:
            self._retire(old)

    def remove_adapter(self, name: str) -> None:
        """See `Engine.remove_adapter`."""
        with self._lock:
            old = self._find(name)
            del self._adapters[name]
        self._retire(old)

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            already, self._closed = self._closed, True
        if not already:
            atexit.unregister(self.close)
            self._call(self._shutdown())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _alive(self) -> None:
        if self._closed:
            raise EngineError("the engine is closed")
        if self._llm.errored:
            raise _dead()

    def _find(self, adapter: str) -> _Adapter:
        if adapter not in self._adapters:
            raise unknown(adapter, self._adapters)
        return self._adapters[adapter]

    def _check(self, directory: Path) -> None:
        """Raise for an adapter that vLLM would refuse, or apply in part."""
        check_fit(directory, self._model_dir)
        if (lacking := adapter_lacks(self.name, directory)) is not None:
            raise EngineError(f"the vllm engine does not do {lacking}", hint="use --engine transformers")
        room = self._llm.vllm_config.lora_config
        if room is None or lora_rank(directory) > room.max_lora_rank:
            limit = "no adapters" if room is None else f"adapters up to rank {room.max_lora_rank}"
            raise EngineError(
                f"the adapter {directory} has rank {lora_rank(directory)}, and vLLM was started for {limit}",
                hint="give it when starting: room is made for the largest rank there, at least 32 with CUDA",
            )

    def _retire(self, adapter: _Adapter) -> None:
        """Have vLLM forget an adapter, now or when the last answer with it ends."""
        with self._lock:
            adapter.retired = True
            if not (adapter.users or self._closed):
                self._loop.call_soon_threadsafe(self._run, self._llm.remove_lora(adapter.request.lora_int_id))

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    # What follows runs on the loop.

    def _run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _begin(
        self, generation: _Answer, prompt_ids: list[int], params: SamplingParams, adapter: _Adapter | None
    ) -> None:
        def end(task: asyncio.Task[None]) -> None:
            if task.cancelled():  # perhaps before it began
                generation.finish("cancelled")
            if adapter is not None:
                with self._lock:
                    adapter.users -= 1
                if adapter.retired:
                    self._retire(adapter)

        request = adapter.request if adapter is not None else None
        generation.task = self._run(self._answer(generation, prompt_ids, params, request))
        generation.task.add_done_callback(end)

    async def _answer(
        self, generation: Generation, prompt_ids: list[int], params: SamplingParams, adapter: LoRARequest | None
    ) -> None:
        stream = self._llm.generate(tokens_input(prompt_ids), params, secrets.token_hex(8), lora_request=adapter)
        try:
            async for output in stream:
                part = output.outputs[0]
                generation.push(part.token_ids, probabilities(part, params.logprobs or 0))
                if part.finish_reason is not None:
                    generation.finish(ENDINGS[part.finish_reason])
        except EngineDeadError:
            generation.fail(_dead())
        except VLLMClientError as error:
            generation.fail(UsageError(f"vLLM refuses this request: {error}"))
        except Exception as error:  # the loop must outlive any one request
            generation.fail(error)

    async def _load(self, request: LoRARequest) -> None:
        """Load an adapter; vLLM itself would wait for ever if its process died over it."""
        loading = asyncio.ensure_future(self._llm.add_lora(request))
        await asyncio.wait([loading, self._llm.output_handler], return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            loading.cancel()
            raise _dead()
        if (error := loading.exception()) is not None:
            raise EngineError(f"the adapter {request.lora_path} cannot be loaded: {error}", hint="train it again")

    async def _shutdown(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._llm is not None:
            self._llm.shutdown()
            self._llm = None  # at the interpreter's end it would fail to shut down once more


def _dead() -> EngineError:
    return EngineError("vLLM's process has died, and with it the answers under way", hint="what it wrote says why")
