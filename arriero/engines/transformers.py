"""The reference engine: `transformers.generate` for any causal language model, adapters through PEFT, unmerged.

Requests are answered one after the other by the engine's thread.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from arriero import hub
from arriero.constraint import Constraint
from arriero.engines.base import Feature, Generation, require
from arriero.errors import EngineError, MemoryLimitError
from arriero.hardware import fast_bfloat16, gpus
from arriero.messages import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)
Job = tuple[Generation, list[int], Sampling, int]


class TransformersEngine:
    """Implements `engines.base.Engine`."""

    name = "transformers"
    features: frozenset[Feature] = frozenset()

    def __init__(
        self, model_dir: Path, stop_token_ids: Sequence[int], adapters: Mapping[str, Path], precision: str = "auto"
    ) -> None:
        self._adapters = dict(adapters)
        adapter_dir = next(iter(adapters.values()), None)
        self._model = _load(model_dir, adapter_dir)
        self._stop_token_ids = list(stop_token_ids)
        self.description = f"transformers, {self._model.device.type}, {str(self._model.dtype).removeprefix('torch.')}"
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._running: Generation | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="transformers-engine", daemon=True)
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
        if not self._thread.is_alive():
            raise EngineError("the engine is closed")
        generation = Generation(len(prompt_ids))
        self._jobs.put((generation, list(prompt_ids), sampling, max_new_tokens))
        return generation

    def add_adapter(self, name: str, directory: Path) -> None:
        """See `Engine.add_adapter`."""
        raise EngineError("adapters can be given on load only")

    def remove_adapter(self, name: str) -> None:
        """See `Engine.remove_adapter`."""
        raise EngineError("adapters can be given on load only")

    def close(self) -> None:
        """See `Engine.close`."""
        self._closing = True
        if self._running is not None:
            self._running.cancel()
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._running = job[0]
            if self._closing:
                job[0].cancel()
            try:
                self._generate(*job)
            except torch.OutOfMemoryError as error:
                job[0].fail(MemoryLimitError(f"out of memory while answering: {error}"))
            except Exception as error:  # the thread must outlive any one request
                job[0].fail(error)
        while not self._jobs.empty():
            if (left := self._jobs.get()) is not None:
                left[0].finish("cancelled")

    def _generate(self, generation: Generation, prompt_ids: list[int], sampling: Sampling, limit: int) -> None:
        if generation.cancelled:
            generation.finish("cancelled")
            return
        if sampling.seed is None:
            torch.seed()
        else:
            torch.manual_seed(sampling.seed)
        ids = torch.tensor([prompt_ids], device=self._model.device)
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=self._config(sampling, limit),
                stopping_criteria=StoppingCriteriaList([_Forward(generation)]),
            )
        if int(output[0, -1]) in self._stop_token_ids:
            generation.finish("stop")
        else:
            generation.finish("cancelled" if generation.cancelled else "length")

    def _config(self, sampling: Sampling, max_new_tokens: int) -> GenerationConfig:
        chosen: dict[str, Any] = {"do_sample": False}
        if sampling.temperature:
            chosen = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
            }
        return GenerationConfig(
            max_new_tokens=max_new_tokens,
            repetition_penalty=sampling.repetition_penalty,
            eos_token_id=self._stop_token_ids,
            pad_token_id=self._stop_token_ids[0],
            **chosen,
        )


class _Forward(StoppingCriteria):
    """Hands each new id to the generation, and stops the model when the reader has cancelled."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def __call__(self, input_ids: torch.Tensor, _: torch.Tensor, **__: Any) -> torch.Tensor:
        """`input_ids` is (1, prompt and completion so far)."""
        self._generation.push([int(input_ids[0, -1])])
        return torch.tensor([self._generation.cancelled], device=input_ids.device)


def _load(model_dir: Path, adapter_dir: Path | None) -> PreTrainedModel:
    model = hub.load_weights(
        model_dir,
        # the checkpoint's own type, or float32 on a CPU that computes bfloat16 in software
        dtype="auto" if fast_bfloat16() else torch.float32,
        device_map="auto" if gpus() else None,
    )
    if adapter_dir is not None:
        model = hub.load_adapter(model, adapter_dir)
    loaded: PreTrainedModel = model.eval()
    # the model's own sampling defaults reach generate() through `Sampling`, and only through it
    loaded.generation_config = GenerationConfig()
    return loaded
