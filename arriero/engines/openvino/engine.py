"""OpenVINO GenAI as an engine: the base model and adapters by name, each in a pipeline of its own.

The properties set against the library's defaults, because on CPUs with bfloat16 those (bfloat16 activations over an
8-bit KV cache) answer nonsense: activations in float32, keys and values in float16. Measured at the same speed.

With 8-bit and 4-bit weights the library also rounds activations to 8 bits, by another kernel for one request than for
several, so that a greedy answer may depend on what runs beside it. Without that rounding answers are the same, and at
16 requests half as fast. Whoever needs them the same takes the precision float32 or bfloat16.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import openvino
import openvino_genai as genai

from arriero.constraint import Constraint
from arriero.engines.adapters import check_fit
from arriero.engines.base import Feature, Generation, require
from arriero.engines.openvino.adapter import adapter_config
from arriero.engines.openvino.cache import VOCABULARY, exported
from arriero.engines.openvino.grammar import grammar
from arriero.engines.openvino.pipeline import Pipeline, Request
from arriero.errors import EngineError, MemoryLimitError, NotFoundError, UnsupportedError
from arriero.messages import Sampling

PROPERTIES = {
    "int8": {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f16"},
    "int4": {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f16"},
    "bfloat16": {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f16"},
    "float32": {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"},
}
# A step reads at most so much of the prompts: 94 % of the speed without a limit, and others wait a twelfth as long.
STEP_TOKENS = 128
# Its presence and frequency penalties raise the logits that are below 0, so they are not offered.
FEATURES: frozenset[Feature] = frozenset({"min_p", "logprobs", "constraint"})


class OpenVINOEngine:
    """Implements `engines.base.Engine`.

    Log-probabilities are those of the model itself, before temperature, penalties, filters and constraints.
    """

    name = "openvino"

    def __init__(
        self, model_dir: Path, stop_token_ids: Sequence[int], adapters: Mapping[str, Path], precision: str = "auto"
    ) -> None:
        precision = "int8" if precision == "auto" else precision
        if precision not in PROPERTIES:
            raise UnsupportedError(f"precision {precision}", self.name)
        self._model_dir = model_dir
        self._stop_token_ids = set(stop_token_ids)
        self._properties = PROPERTIES[precision]
        self._exported = exported(model_dir, precision)
        spells = (self._exported / VOCABULARY).is_file()
        self.features: frozenset[Feature] = FEATURES if spells else FEATURES - {"constraint"}
        # one for all pipelines, as it also holds the compiled grammars
        self._tokenizer = genai.Tokenizer(self._exported) if spells else None
        self.description = f"openvino, cpu, {precision} weights"
        self._lock = threading.Lock()
        self._closed = False
        self._pipelines: dict[str | None, Pipeline] = {}
        try:
            for name, directory in adapters.items():
                self.add_adapter(name, directory)
            self._pipelines[None] = Pipeline(lambda: self._build(None), now=not adapters)
        except BaseException:
            self.close()
            raise

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
        """See `Engine.submit`. Raises UsageError for a constraint that cannot be guaranteed."""
        require(self, sampling, constraint, logprobs)
        config = self._config(sampling, max_new_tokens)
        config.logprobs = 0 if logprobs is None else 1
        if constraint is not None:
            config.structured_output_config = genai.StructuredOutputConfig(grammar=grammar(constraint))
        generation = Generation(len(prompt_ids))
        request = Request(generation, openvino.Tensor(np.array([prompt_ids], dtype=np.int64)), config)
        with self._lock:
            if self._closed:
                raise EngineError("the engine is closed")
            self._find(adapter).put(request)
        return generation

    def add_adapter(self, name: str, directory: Path) -> None:
        """See `Engine.add_adapter`."""
        check_fit(directory, self._model_dir)
        made = Pipeline(lambda: self._build(directory), now=True)
        with self._lock:
            replaced = made if self._closed else self._pipelines.get(name)
            if not self._closed:
                self._pipelines[name] = made
        if replaced is not None:
            replaced.retire()

    def remove_adapter(self, name: str) -> None:
        """See `Engine.remove_adapter`."""
        with self._lock:
            self._find(name).retire()
            del self._pipelines[name]

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            self._closed = True
        for pipeline in self._pipelines.values():
            pipeline.close()

    def _find(self, adapter: str | None) -> Pipeline:
        if adapter not in self._pipelines:
            names = ", ".join(name for name in self._pipelines if name is not None)
            raise NotFoundError(f"no adapter is called {adapter!r}; there are: {names or 'none'}")
        return self._pipelines[adapter]

    def _build(self, adapter_dir: Path | None) -> genai.ContinuousBatchingPipeline:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 0  # grow as needed
        scheduler.enable_prefix_caching = False
        scheduler.max_num_batched_tokens = STEP_TOKENS
        properties: dict[str, object] = dict(self._properties)
        if adapter_dir is not None:
            properties["adapters"] = adapter_config(adapter_dir, self._exported)
        what = f"{self._exported.name} with adapter {adapter_dir}" if adapter_dir else self._exported.name
        try:
            if self._tokenizer is None:
                return genai.ContinuousBatchingPipeline(self._exported, scheduler, "CPU", properties)
            return genai.ContinuousBatchingPipeline(self._exported, self._tokenizer, scheduler, "CPU", **properties)
        except MemoryError as error:
            raise MemoryLimitError(f"{what} does not fit into memory", hint="a smaller model, or int4") from error
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot load {what}: {error}") from error

    def _config(self, sampling: Sampling, max_new_tokens: int) -> genai.GenerationConfig:
        config = genai.GenerationConfig()
        config.apply_chat_template = False  # the ids are final
        config.max_new_tokens = max_new_tokens
        config.stop_token_ids = self._stop_token_ids
        config.eos_token_id = min(self._stop_token_ids)
        config.repetition_penalty = sampling.repetition_penalty
        if sampling.temperature and sampling.top_p:  # of top_p 0 only the most probable token is left
            config.do_sample = True
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            config.min_p = sampling.min_p
            if sampling.top_k:
                config.top_k = sampling.top_k
            config.rng_seed = sampling.seed if sampling.seed is not None else secrets.randbits(63)
        return config
