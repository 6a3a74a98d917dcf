"""VLLMEngine: vLLM's asynchronous client on an event loop in the engine's own thread.

vLLM computes in a process of its own, so that neither a busy server nor a slow reader holds the GPU up.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import logging
import multiprocessing
import secrets
import threading
import weakref
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

from vllm import SamplingParams
from vllm.exceptions import VLLMClientError, VLLMServerError
from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.v1.engine.exceptions import EngineDeadError

from arriero import hub
from arriero.constraint import Constraint
from arriero.engines.adapters import lora_rank
from arriero.engines.base import Adapter, Feature, check_own, require
from arriero.engines.event_loop import EventLoopThread, TaskGeneration
from arriero.engines.generation import Generation
from arriero.engines.registry import DEFAULT_OPTIONS, EngineOptions, find
from arriero.engines.vllm.requests import parameters, probabilities
from arriero.engines.vllm.room import described
from arriero.engines.vllm.start import interrupt, start
from arriero.errors import ContextLengthError, EngineError, EngineLostError, UnsupportedError, UsageError
from arriero.messages import FinishReason, Sampling

ENDINGS: dict[str | None, FinishReason] = {"stop": "stop", "length": "length", "abort": "cancelled"}
log = logging.getLogger(__name__)


class LoadedAdapter(Adapter):
    """An adapter under a number and a name that vLLM gets to know once only.

    vLLM keeps its KV cache under that name, so entries of one adapter are never taken for those of another.
    """

    def __init__(self, directory: Path, number: int) -> None:
        super().__init__(directory)
        self.request = LoRARequest(f"{directory.name} {number}", number, str(directory))


class VLLMEngine:
    """Implements `engines.base.Engine`."""

    name = "vllm"
    features: frozenset[Feature] = frozenset(get_args(Feature)) - set(find("vllm").undone)

    def __init__(
        self, model_dir: Path, stop_token_ids: Sequence[int], options: EngineOptions = DEFAULT_OPTIONS
    ) -> None:
        if options.precision not in ("auto", *find(self.name).precisions):
            raise UnsupportedError(f"precision {options.precision}", self.name, hint="use --engine openvino")
        if options.deterministic:
            raise UnsupportedError("deterministic answers", self.name, hint="use --engine transformers")
        for directory in options.room_for:
            hub.check_fit(directory, model_dir)  # starting takes a minute
        self.in_4bit = options.precision == "int4" and hub.quantisation(model_dir) is None
        self._model_dir = model_dir
        self._stop_token_ids = list(stop_token_ids)
        self._adapters: weakref.WeakSet[Adapter] = weakref.WeakSet()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # over `_closed`
        self._closed = False
        self._llm: Any = None  # an AsyncLLM
        self._thread = EventLoopThread("vllm-engine")
        atexit.register(self.close)  # vLLM complains where its process goes first
        others = set(multiprocessing.active_children())
        try:
            self._llm = self._thread.call(start(model_dir, options.room_for, options.precision))
        except BaseException:
            if self._llm is None:
                interrupt(others)
            self.close()
            raise
        config = self._llm.vllm_config
        self._window: int = config.model_config.max_model_len
        stored = config.model_config.quantization or str(config.model_config.dtype).removeprefix("torch.")
        kind = "int4" if options.precision == "int4" else stored
        self.description = f"vllm, {config.device_config.device_type}, {kind}"
        log.info("vLLM: %s", described(hub.window(model_dir), config))

    @property
    def alive(self) -> bool:
        """See `Engine.alive`: what vLLM computes with does not come back."""
        return not self._closed and not self._llm.errored

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
        """See `Engine.submit`. Raises ContextLengthError where memory holds less than the model's own window."""
        require(self, sampling, constraint, logprobs, prompt_logprobs=prompt_logprobs)
        check_own(adapter, self._adapters)
        if len(prompt_ids) + max(max_new_tokens, 1) > self._window:
            raise ContextLengthError(len(prompt_ids), max_new_tokens, self._window)
        params = parameters(
            sampling, constraint, self._stop_token_ids, max_new_tokens, logprobs, prompt_logprobs=prompt_logprobs
        )
        generation = TaskGeneration(len(prompt_ids), self._thread.loop)
        scores_only = not max_new_tokens
        fill = partial(self._generate, generation, list(prompt_ids), params, adapter, scores_only=scores_only)
        with self._lock:
            self._alive()
            self._thread.spawn(fill, generation)
        return generation

    def load_adapter(self, directory: Path) -> Adapter:
        """See `Engine.load_adapter`."""
        with self._lock:
            self._alive()
        self._check(directory)
        adapter = LoadedAdapter(directory, next(self._numbers))
        self._thread.call(self._load(adapter.request))
        weakref.finalize(adapter, self._free, adapter.request.lora_int_id).atexit = False
        self._adapters.add(adapter)
        return adapter

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            already, self._closed = self._closed, True
        if not already:
            atexit.unregister(self.close)
            self._thread.close(self._shutdown)

    def _alive(self) -> None:
        if self._closed:
            raise EngineError("the engine is closed")
        if self._llm.errored:
            raise _dead()

    def _check(self, directory: Path) -> None:
        """Raise for an adapter that vLLM would refuse, or apply in part."""
        hub.check_fit(directory, self._model_dir)
        find(self.name).check_adapter(directory)
        room = self._llm.vllm_config.lora_config
        if room is None or lora_rank(directory) > room.max_lora_rank:
            limit = "no adapters" if room is None else f"adapters up to rank {room.max_lora_rank}"
            raise EngineError(
                f"the adapter {directory} has rank {lora_rank(directory)}, and vLLM was started for {limit}",
                hint="give it when starting: room is made for the largest rank there, at least 32 with CUDA",
            )

    def _free(self, number: int) -> None:
        """Have vLLM forget an adapter that nobody holds any more. Called by a finalizer: takes no lock."""
        if not self._closed:
            with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                self._thread.spawn(lambda: self._llm.remove_lora(number))

    # What follows runs on the loop.

    async def _generate(
        self,
        generation: TaskGeneration,
        prompt_ids: list[int],
        params: SamplingParams,
        adapter: Adapter | None,
        *,
        scores_only: bool,
    ) -> None:
        """Fill a generation; the task holds the adapter, so that vLLM keeps it until then."""
        lora = adapter.request if isinstance(adapter, LoadedAdapter) else None
        stream = self._llm.generate(tokens_input(prompt_ids), params, secrets.token_hex(8), lora_request=lora)
        try:
            async for output in stream:
                new = output.outputs[0]
                if output.prompt_logprobs is not None and not generation.prompt_logprobs:
                    top = params.prompt_logprobs or 0
                    generation.prompt_logprobs += probabilities(prompt_ids, output.prompt_logprobs, top)
                if scores_only:
                    generation.finish("length")
                    break
                generation.push(new.token_ids, probabilities(new.token_ids, new.logprobs, params.logprobs or 0))
                if new.finish_reason is not None:
                    generation.finish(ENDINGS[new.finish_reason])
        except EngineDeadError:
            generation.fail(_dead())
        except VLLMClientError as error:
            generation.fail(UsageError(f"vLLM refuses this request: {error}"))
        except VLLMServerError as error:  # often without a text of its own
            generation.fail(EngineError(f"vLLM failed over this request: {error.__cause__ or error}"))
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

    def _shutdown(self) -> None:
        if self._llm is not None:
            self._llm.shutdown()
            self._llm = None  # at the interpreter's end it would fail to shut down once more


def _dead() -> EngineLostError:
    return EngineLostError("vLLM's process has died, and with it the answers in flight", hint="what it wrote says why")
