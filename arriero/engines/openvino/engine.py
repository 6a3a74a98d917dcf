"""OpenVINO GenAI as an engine: the base model and each adapter in a pipeline of its own.

The properties set against the library's defaults, because on CPUs with bfloat16 those (bfloat16 activations over an
8-bit KV cache) answer nonsense: activations in float32, the KV cache in float16. Measured at the same speed.

With 8-bit and 4-bit weights the library also rounds activations to 8 bits, by another kernel for one request than for
several, so that a greedy answer may depend on what runs beside it. Without that rounding fewer answers do, but some
still do, for the kernels of 8-bit weights differ as well. So `deterministic` computes one request at a time: then every
step has the same shapes whatever else was asked.

Requests with controls that the library does not have, and those that want the log-probabilities of their prompt, are
computed by a loop of our own over the same files, see loop.py: at its speed, but with the weights in memory once more
from the first such request on.

All computing is done in a process of its own, see worker.py.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from arriero.constraint import Constraint, Reasoned
from arriero.engines.base import Adapter, Feature, check_features, check_own, require
from arriero.engines.generation import Generation
from arriero.engines.llguidance import check
from arriero.engines.openvino.adapter import adapter_weights
from arriero.engines.openvino.cache import VOCABULARY, exported
from arriero.engines.openvino.grammar import grammar
from arriero.engines.process.crossing import fields_of
from arriero.engines.process.engine import ProcessEngine
from arriero.engines.registry import DEFAULT_OPTIONS, EngineOptions
from arriero.errors import UnsupportedError
from arriero.hub import check_fit
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
    # chunked prefill: 94 % of the speed without a limit, and answers in flight wait a twelfth as long
    "max_num_batched_tokens": 128,
}
FEATURES: frozenset[Feature] = frozenset(get_args(Feature))


class OpenVINOEngine(ProcessEngine):
    """Implements `engines.base.Engine`.

    Log-probabilities are those of the model itself, before temperature, penalties, filters and constraints.
    """

    name = "openvino"
    worker = "arriero.engines.openvino.worker"
    called = "OpenVINO's process"
    in_4bit = False  # its int4 is another quantisation

    def __init__(
        self, model_dir: Path, stop_token_ids: Sequence[int], options: EngineOptions = DEFAULT_OPTIONS
    ) -> None:
        precision = "int8" if options.precision == "auto" else options.precision
        if precision not in PROPERTIES:
            raise UnsupportedError(f"precision {precision}", self.name)
        self._model_dir = model_dir
        self._stops = sorted(stop_token_ids)
        super().__init__()  # before the files are looked for: it imports OpenVINO meanwhile
        try:
            self._exported = exported(model_dir, precision)
            self._model = described(model_dir, self._exported, precision, deterministic=options.deterministic)
            self.features: frozenset[Feature] = FEATURES if self._model["spells"] else FEATURES - {"constraint"}
            self.description = f"openvino, cpu, {precision} weights"
            check_features(self, options.needs)
            self._load(now=not options.room_for)
        except BaseException:
            self.close()
            raise

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
        request: dict[str, Any] = {"ids": list(prompt_ids), "stop_token_ids": self._stops}
        request["grammar"] = compiled(constraint, sampling, logprobs, prompt_logprobs=prompt_logprobs)
        if isinstance(constraint, Reasoned) or _in_loop(sampling, logprobs, prompt_logprobs=prompt_logprobs):
            request["kind"] = "loop"
            request["config"] = loop_config(sampling, max_new_tokens, logprobs, prompt_logprobs=prompt_logprobs)
        else:
            request["kind"] = "library"
            request["config"] = self._config(sampling, max_new_tokens) | {"logprobs": int(logprobs is not None)}
        return self._put(adapter, **request)

    def load_adapter(self, directory: Path) -> Adapter:
        """See `Engine.load_adapter`. Returns once the adapter's pipeline is built."""
        check_fit(directory, self._model_dir)
        adapter, _ = self._open(directory, adapter_weights(directory, self._exported))
        return adapter

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


def _in_loop(sampling: Sampling, logprobs: int | None, *, prompt_logprobs: bool) -> bool:
    """Whether a request needs what GenAI lacks or gets wrong: its penalties raise the logits that are below 0."""
    penalties = sampling.presence_penalty or sampling.frequency_penalty
    return bool(prompt_logprobs or penalties or sampling.logit_bias or logprobs)


def compiled(
    constraint: Constraint | None, sampling: Sampling, logprobs: int | None, *, prompt_logprobs: bool = False
) -> str | None:
    """A constraint as what computes the request takes it: Lark for our loop, EBNF for the library.

    Raises UsageError for one that cannot be guaranteed.
    """
    if constraint is None:
        return None
    if isinstance(constraint, Reasoned) or _in_loop(sampling, logprobs, prompt_logprobs=prompt_logprobs):
        return check(constraint)
    return grammar(constraint)


def loop_config(
    sampling: Sampling, max_new_tokens: int, logprobs: int | None, *, prompt_logprobs: bool
) -> dict[str, Any]:
    """The arguments of `loop.Config`."""
    return {
        "sampling": fields_of(sampling),
        "max_new_tokens": max_new_tokens,
        "logprobs": logprobs,
        "prompt_logprobs": prompt_logprobs,
    }
