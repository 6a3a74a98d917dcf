"""The default engine on a CPU: OpenVINO GenAI's continuous batching over an exported model.

One engine serves the base model or the model with one adapter, fixed on load: keys and values of base and adapter
can then never be taken for each other's.

Two properties are set against the library's defaults, because on CPUs with bfloat16 its defaults (bfloat16
activations over an 8-bit KV cache) answer nonsense: activations in float32 and keys and values in float16. Measured
at the same speed.
"""

from __future__ import annotations

import hashlib
import logging
import math
import secrets
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import openvino
import openvino_genai as genai

from arriero import hub, settings
from arriero.constraint import Constraint
from arriero.engines.base import Feature, Generation, require
from arriero.errors import EngineError
from arriero.messages import Sampling

log = logging.getLogger(__name__)
EXPORT_FORMAT = 1  # raise it when what export() writes changes
PRECISION = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f16"}
LIMIT = genai.py_openvino_genai.GenerationFinishReason.LENGTH
ENDED = genai.py_openvino_genai.GenerationStatus
Running = dict[Generation, genai.py_openvino_genai.GenerationHandle]


class OpenVINOEngine:
    """Implements `engines.base.Engine`."""

    name = "openvino"
    features: frozenset[Feature] = frozenset()

    def __init__(
        self, model_dir: Path, stop_token_ids: Sequence[int], adapters: Mapping[str, Path], precision: str = "auto"
    ) -> None:
        self._adapters = dict(adapters)
        adapter_dir = next(iter(adapters.values()), None)
        self._stop_token_ids = set(stop_token_ids)
        self._pipeline = _pipeline(exported(model_dir), adapter_dir)
        self.description = "openvino, cpu, int8 weights"
        self._pending: list[tuple[Generation, openvino.Tensor, genai.GenerationConfig]] = []
        self._wake = threading.Condition()
        self._closed = False
        self._requests = 0
        self._thread = threading.Thread(target=self._work, name="openvino-engine", daemon=True)
        self._thread.start()

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
        """See `Engine.submit`."""
        require(self, sampling, constraint, logprobs)
        if adapter not in (self._adapters or [None]):
            raise EngineError("only the adapter that was loaded first can be used")
        generation = Generation(len(prompt_ids))
        ids = openvino.Tensor(np.array([prompt_ids], dtype=np.int64))
        with self._wake:
            if self._closed:
                raise EngineError("the engine is closed")
            self._pending.append((generation, ids, self._config(sampling, max_new_tokens)))
            self._wake.notify()
        return generation

    def add_adapter(self, name: str, directory: Path) -> None:
        """See `Engine.add_adapter`."""
        raise EngineError("adapters can be given on load only")

    def remove_adapter(self, name: str) -> None:
        """See `Engine.remove_adapter`."""
        raise EngineError("adapters can be given on load only")

    def close(self) -> None:
        """See `Engine.close`."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _work(self) -> None:
        """Step the pipeline while there is work; only this thread touches it."""
        running: Running = {}
        while True:
            with self._wake:
                while not (self._pending or running or self._closed or self._pipeline.has_non_finished_requests()):
                    self._wake.wait()
                pending, self._pending = self._pending, []
            if self._closed:
                for generation in [*running, *(job[0] for job in pending)]:
                    generation.finish("cancelled")
                for handle in running.values():
                    handle.cancel()
                if self._pipeline.has_non_finished_requests():
                    self._pipeline.step()  # frees what the cancelled ones held
                return
            for job in pending:
                self._begin(running, *job)
            try:
                self._pipeline.step()
                running = {g: handle for g, handle in running.items() if not _forward(g, handle)}
            except Exception as error:  # the thread must outlive any one batch
                for generation in running:
                    generation.fail(error)
                running = {}

    def _begin(
        self, running: Running, generation: Generation, ids: openvino.Tensor, config: genai.GenerationConfig
    ) -> None:
        """Hand one request to the pipeline; what it refuses fails that request only."""
        self._requests += 1
        try:
            running[generation] = self._pipeline.add_request(self._requests, ids, config)
        except Exception as error:
            generation.fail(error)

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
            config.top_k = sampling.top_k or 2**31
            config.rng_seed = sampling.seed if sampling.seed is not None else secrets.randbits(63)
        return config


def _forward(generation: Generation, handle: genai.py_openvino_genai.GenerationHandle) -> bool:
    """Hand new ids on, pass a cancellation down; returns whether the request has ended."""
    reason = None
    while handle.can_read():
        for output in handle.read().values():
            generation.push(output.generated_ids)
            reason = output.finish_reason
    status = handle.get_status()
    if status == ENDED.RUNNING and not generation.cancelled:
        return False
    if status == ENDED.IGNORED:
        generation.fail(EngineError("there is not enough memory for the keys and values of this request"))
    elif status == ENDED.FINISHED:
        generation.finish("length" if reason == LIMIT else "stop")
    else:
        handle.cancel()
        generation.finish("cancelled")
    return True


def exported(model_dir: Path) -> Path:
    """The model's exported directory in the cache, exported now if it is not there yet."""
    config = (model_dir / "config.json").read_bytes()
    parts = repr((hub.fingerprint(model_dir), config, EXPORT_FORMAT, openvino.__version__))
    name = f"{model_dir.name}-{hashlib.sha256(parts.encode()).hexdigest()[:12]}-int8"
    target = settings.cache_dir() / "openvino" / name
    if not (target / "openvino_model.xml").is_file():
        from arriero.engines.export import export

        export(model_dir, target)
    return target


def _pipeline(exported_dir: Path, adapter_dir: Path | None) -> genai.ContinuousBatchingPipeline:
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = 0  # grow as needed
    scheduler.enable_prefix_caching = False
    properties: dict[str, object] = dict(PRECISION)
    scale = adapter_scale(adapter_dir) if adapter_dir is not None else 1.0
    try:
        if adapter_dir is not None:
            adapter = genai.Adapter(adapter_dir / "adapter_model.safetensors")
            mode = genai.AdapterConfig.Mode.MODE_STATIC
            properties["adapters"] = genai.AdapterConfig(adapter, scale, mode=mode)
        return genai.ContinuousBatchingPipeline(exported_dir, scheduler, "CPU", properties)
    except RuntimeError as error:
        what = f"{exported_dir.name} with adapter {adapter_dir}" if adapter_dir is not None else exported_dir.name
        raise EngineError(f"OpenVINO cannot load {what}: {error}") from error


def adapter_scale(adapter_dir: Path) -> float:
    """The factor a LoRA adapter is applied with: lora_alpha / r, or lora_alpha / sqrt(r) for rsLoRA.

    OpenVINO does not read adapter_config.json, so what it would not do is refused here by name.
    """
    config = hub.read_json(adapter_dir / "adapter_config.json")
    lacking = [
        feature
        for feature in ("use_dora", "alpha_pattern", "rank_pattern", "modules_to_save", "lora_bias")
        if config.get(feature)
    ]
    if config.get("peft_type") != "LORA":
        lacking.append(f"peft_type {config.get('peft_type')}")
    if lacking:
        raise EngineError(
            f"the openvino engine does not do {', '.join(lacking)}, which {adapter_dir} needs",
            hint="use --engine transformers",
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not (isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float)):
        raise EngineError(f"{adapter_dir}/adapter_config.json has no usable r and lora_alpha", hint="train it again")
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
