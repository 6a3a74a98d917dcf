"""OpenVINO GenAI as an engine: the base model and each adapter in a pipeline of its own.

The properties set against the library's defaults, because on CPUs with bfloat16 those (bfloat16 activations over an
8-bit KV cache) answer nonsense: activations in float32, keys and values in float16. Measured at the same speed.

With 8-bit and 4-bit weights the library also rounds activations to 8 bits, by another kernel for one request than for
several, so that a greedy answer may depend on what runs beside it. Without that rounding fewer answers do, but some
still do, for the kernels of 8-bit weights differ as well. So `deterministic` computes one request at a time: then every
step has the same shapes whatever else was asked.

Requests with controls that the library does not have, and those that want the log-probabilities of their prompt, are
computed by a loop of our own over the same files, see loop.py: at its speed, but with the weights in memory once more
from the first such request on.

All computing is done in a process of its own, see worker.py. Should that die, the answers in flight fail, and the next
request starts another one, with the pipelines of all adapters that are still held.
"""

from __future__ import annotations

import dataclasses
import itertools
import secrets
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from arriero.constraint import Constraint, Reasoned
from arriero.engines.adapters import check_fit
from arriero.engines.base import Adapter, Feature, Generation, check_own, require
from arriero.engines.grammar import check, lark
from arriero.engines.openvino.adapter import Weights, adapter_weights
from arriero.engines.openvino.cache import VOCABULARY, exported
from arriero.engines.openvino.grammar import grammar
from arriero.engines.openvino.process import Answer, Process
from arriero.engines.registry import DEFAULT_OPTIONS, EngineOptions
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
FEATURES: frozenset[Feature] = frozenset(get_args(Feature))

BASE = 0  # the key of the base model's pipeline


class LoadedAdapter(Adapter):
    """An adapter under the key that the worker knows its pipeline by."""

    def __init__(self, directory: Path, key: int, weights: Weights) -> None:
        super().__init__(directory)
        self.key = key
        self.weights = weights


class _Link:
    """The worker as it is now. What frees an adapter finds it here, without a lock and without the engine."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def retire(self, key: int) -> None:
        """Have a pipeline freed once it has finished what it began."""
        self.process.send("retire", key=key)


class OpenVINOEngine:
    """Implements `engines.base.Engine`.

    Log-probabilities are those of the model itself, before temperature, penalties, filters and constraints.
    """

    name = "openvino"

    def __init__(
        self, model_dir: Path, stop_token_ids: Sequence[int], options: EngineOptions = DEFAULT_OPTIONS
    ) -> None:
        precision = "int8" if options.precision == "auto" else options.precision
        if precision not in PROPERTIES:
            raise UnsupportedError(f"precision {precision}", self.name)
        self._model_dir = model_dir
        self._stops = sorted(stop_token_ids)
        self._lock = threading.Lock()  # over what follows
        self._closed = False
        self._keys = itertools.count(BASE + 1)
        self._adapters: weakref.WeakSet[LoadedAdapter] = weakref.WeakSet()
        self._link = _Link(self._start())  # before the files are looked for: it imports OpenVINO meanwhile
        try:
            self._exported = exported(model_dir, precision)
            self._model = described(model_dir, self._exported, precision, deterministic=options.deterministic)
            self.features: frozenset[Feature] = FEATURES if self._model["spells"] else FEATURES - {"constraint"}
            self.description = f"openvino, cpu, {precision} weights"
            self._link.process.send("load", **self._model)
            self._open_base(now=not options.room_for)
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """See `Engine.alive`: a process that died is started anew."""
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
        """See `Engine.submit`. Raises UsageError for a constraint that cannot be guaranteed."""
        require(self, sampling, constraint, logprobs, prompt_logprobs=prompt_logprobs)
        check_own(adapter, self._adapters)
        key = adapter.key if isinstance(adapter, LoadedAdapter) else BASE
        answer = Answer(len(prompt_ids), self)
        request: dict[str, Any] = {"key": key, "ids": list(prompt_ids)}
        if isinstance(constraint, Reasoned) or prompt_logprobs or _in_loop(sampling, logprobs):
            request |= {"kind": "loop", "grammar": None if constraint is None else _checked(constraint)}
            request["config"] = loop_config(sampling, max_new_tokens, logprobs, prompt_logprobs=prompt_logprobs)
        else:
            request |= {"kind": "library", "grammar": None if constraint is None else grammar(constraint)}
            request["config"] = self._config(sampling, max_new_tokens) | {"logprobs": int(logprobs is not None)}
        with self._lock:
            self._alive().put(answer, **request, stop_token_ids=self._stops)
        return answer

    def load_adapter(self, directory: Path) -> Adapter:
        """See `Engine.load_adapter`. Returns once the adapter's pipeline is built."""
        check_fit(directory, self._model_dir)
        adapter = LoadedAdapter(directory, next(self._keys), adapter_weights(directory, self._exported))
        weakref.finalize(adapter, self._link.retire, adapter.key).atexit = False
        with self._lock:
            opened = self._alive().open(adapter.key, adapter.weights)
            self._adapters.add(adapter)  # from here on a worker that is started anew gets it
        opened.result()
        return adapter

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            self._closed = True
            process = self._link.process
            self._end.detach()
        process.close()

    def _open_base(self, *, now: bool) -> None:
        """Add the base model's pipeline, and where it is needed `now` wait until it is built."""
        process = self._link.process
        if now:
            process.open(BASE, None).result()
        else:
            process.send("open", key=BASE, adapter=None, now=False)

    def _start(self) -> Process:
        """A worker that ends with this engine, at the latest."""
        process = Process()
        self._end = weakref.finalize(self, process.kill)
        return process

    def _alive(self) -> Process:
        """The worker; a new one with all pipelines, built when they are asked for, where it has died."""
        if self._closed:
            raise EngineError("the engine is closed")
        if self._link.process.dead:
            self._end.detach()
            held = list(self._adapters)  # none of these is retired before it is opened
            process = self._link.process = self._start()
            process.send("load", **self._model)
            self._open_base(now=False)
            for adapter in held:
                process.send("open", key=adapter.key, adapter=adapter.weights, now=False)
        return self._link.process

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


def described(model_dir: Path, exported_dir: Path, precision: str, *, deterministic: bool = False) -> dict[str, Any]:
    """The arguments of `pipeline.Model` for an exported model."""
    return {
        "directory": str(exported_dir),
        "source": str(model_dir),
        "spells": (exported_dir / VOCABULARY).is_file(),
        "properties": PROPERTIES[precision],
        "scheduler": SCHEDULER,
        "together": 1 if deterministic else None,
    }


def _in_loop(sampling: Sampling, logprobs: int | None) -> bool:
    """Whether a request needs what GenAI lacks or gets wrong: its penalties raise the logits that are below 0."""
    return bool(sampling.presence_penalty or sampling.frequency_penalty or sampling.logit_bias or logprobs)


def loop_config(
    sampling: Sampling, max_new_tokens: int, logprobs: int | None, *, prompt_logprobs: bool
) -> dict[str, Any]:
    """The arguments of `loop.Config`."""
    return {
        "sampling": dataclasses.asdict(sampling) | {"stop": ()},  # stop strings are not the engine's business
        "max_new_tokens": max_new_tokens,
        "logprobs": logprobs,
        "prompt_logprobs": prompt_logprobs,
    }


def _checked(constraint: Constraint) -> str:
    """A constraint as llguidance's Lark."""
    check(constraint)
    return lark(constraint)
