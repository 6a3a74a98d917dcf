"""OpenVINO GenAI as an engine: the base model and adapters by name, each in a pipeline of its own.

The properties set against the library's defaults, because on CPUs with bfloat16 those (bfloat16 activations over an
8-bit KV cache) answer nonsense: activations in float32, keys and values in float16. Measured at the same speed.

With 8-bit and 4-bit weights the library also rounds activations to 8 bits, by another kernel for one request than for
several, so that a greedy answer may depend on what runs beside it. Without that rounding answers are the same, and at
16 requests half as fast. Whoever needs them the same takes the precision float32 or bfloat16.

All computing is done in a process of its own, see worker.py. Should that die, the answers under way fail, and the next
request starts another one.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arriero.constraint import Constraint
from arriero.engines.adapters import check_fit, unknown
from arriero.engines.base import Feature, Generation, require
from arriero.engines.openvino.adapter import adapter_weights
from arriero.engines.openvino.cache import VOCABULARY, exported
from arriero.engines.openvino.grammar import grammar
from arriero.engines.openvino.process import Answer, Process
from arriero.errors import EngineError, UnsupportedError
from arriero.messages import Sampling

PROPERTIES = {
    "int8": {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f16"},
    "int4": {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f16"},
    "bfloat16": {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f16"},
    "float32": {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"},
}
SCHEDULER = {
    "cache_size": 0,  # grow as needed
    "enable_prefix_caching": False,
    # a step reads at most so much of the prompts: 94 % of the speed without a limit, and others wait a twelfth as long
    "max_num_batched_tokens": 128,
}
# Its presence and frequency penalties raise the logits that are below 0, so they are not offered.
FEATURES: frozenset[Feature] = frozenset({"min_p", "logprobs", "constraint"})


@dataclass(frozen=True, slots=True)
class _Pipeline:
    """What the worker knows under `key`: the base model, or an adapter's weights and their scale."""

    key: int
    adapter: tuple[str, float] | None


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
        self._stops = sorted(stop_token_ids)
        self._lock = threading.Lock()  # over what follows
        self._closed = False
        self._keys = itertools.count()
        self._pipelines: dict[str | None, _Pipeline] = {}
        self._process = self._start()  # before the files are looked for: it imports OpenVINO meanwhile
        try:
            self._exported = exported(model_dir, precision)
            self._model = described(self._exported, precision)
            self.features: frozenset[Feature] = FEATURES if self._model["spells"] else FEATURES - {"constraint"}
            self.description = f"openvino, cpu, {precision} weights"
            self._process.send("load", **self._model)
            for name, directory in adapters.items():
                self.add_adapter(name, directory)
            self._add(None, None, now=not adapters)
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
        config["logprobs"] = int(logprobs is not None)
        rules = None if constraint is None else grammar(constraint)
        answer = Answer(len(prompt_ids), self)
        with self._lock:
            process, key = self._alive(), self._find(adapter).key
            process.put(answer, key=key, ids=list(prompt_ids), grammar=rules, config=config, stop_token_ids=self._stops)
        return answer

    def add_adapter(self, name: str, directory: Path) -> None:
        """See `Engine.add_adapter`."""
        check_fit(directory, self._model_dir)
        self._add(name, adapter_weights(directory, self._exported), now=True)

    def remove_adapter(self, name: str) -> None:
        """See `Engine.remove_adapter`."""
        with self._lock:
            self._retire(self._find(name))
            del self._pipelines[name]

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            self._closed = True
            self._end()

    def _add(self, name: str | None, adapter: tuple[str, float] | None, *, now: bool) -> None:
        """Add a pipeline, in place of one that has its name, once it is built; or, if not `now`, before it is."""
        added = _Pipeline(next(self._keys), adapter)
        with self._lock:
            process = self._alive()
            if now:
                opened = process.open(added.key, adapter)
            else:
                process.send("open", key=added.key, adapter=adapter, now=False)
        if now:
            opened.result()
        with self._lock:
            if self._alive() is not process:  # it died since
                self._process.send("open", key=added.key, adapter=adapter, now=False)
            old = self._pipelines.get(name)
            self._pipelines[name] = added
            if old is not None:
                self._retire(old)

    def _find(self, adapter: str | None) -> _Pipeline:
        if adapter not in self._pipelines:
            raise unknown(adapter, filter(None, self._pipelines))
        return self._pipelines[adapter]

    def _retire(self, pipeline: _Pipeline) -> None:
        self._alive().send("retire", key=pipeline.key)

    def _start(self) -> Process:
        """A worker that ends with this engine, at the latest."""
        process = Process()
        self._end = weakref.finalize(self, process.close)
        return process

    def _alive(self) -> Process:
        """The worker; a new one with all pipelines, built when they are asked for, where it has died."""
        if self._closed:
            raise EngineError("the engine is closed")
        if self._process.dead:
            self._end.detach()
            self._process = self._start()
            self._process.send("load", **self._model)
            for pipeline in self._pipelines.values():
                self._process.send("open", key=pipeline.key, adapter=pipeline.adapter, now=False)
        return self._process

    def _config(self, sampling: Sampling, max_new_tokens: int) -> dict[str, Any]:
        """What is set of a GenerationConfig."""
        config: dict[str, Any] = {
            "apply_chat_template": False,  # the ids are final
            "max_new_tokens": max_new_tokens,
            "eos_token_id": self._stops[0],
            "repetition_penalty": sampling.repetition_penalty,
        }
        if sampling.temperature and sampling.top_p:  # of top_p 0 only the most probable token is left
            config |= {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "min_p": sampling.min_p,
                "rng_seed": sampling.seed if sampling.seed is not None else secrets.randbits(63),
            }
            if sampling.top_k:
                config["top_k"] = sampling.top_k
        return config


def described(exported_dir: Path, precision: str) -> dict[str, Any]:
    """The arguments of `pipeline.Model` for an exported model."""
    return {
        "directory": str(exported_dir),
        "spells": (exported_dir / VOCABULARY).is_file(),
        "properties": PROPERTIES[precision],
        "scheduler": SCHEDULER,
    }
