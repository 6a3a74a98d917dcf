"""The reference engine: any causal language model of transformers, on a CPU or with CUDA, many answers at once.

    engine.py     TransformersEngine: loads, takes requests, and has the thread that does the work
    process.py    TransformersProcess: the same with a process of its own, which does the work
    worker.py     that process, see engines/process; there, as here, one thread owns the scheduler
    scheduler.py  which prompts are read and which answers go on, step by step
    lanes.py      keys and values of prompts being read, of answers that share a batch, of answers on their own
    forward.py    one call of the model, and what its kind of cache allows
    sampler.py    logits -> token ids and log-probabilities, for a whole batch
    processors.py bias, penalties, grammar and filters, for a whole batch
    adapters.py   PEFT adapters, unmerged, one in force at a time

transformers' own continuous batching knows neither adapters, seeds, penalties nor grammars of a single request, and is
several times slower on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arriero.engines.registry import EngineOptions

if TYPE_CHECKING:
    from arriero.engines.base import Engine
    from arriero.engines.transformers.engine import TransformersEngine

__all__ = ["TransformersEngine", "load"]


def load(model_dir: Path, stop_token_ids: Sequence[int], options: EngineOptions) -> Engine:
    """The engine, in this process or in one of its own; in the latter case torch is imported there only."""
    if options.process:
        from arriero.engines.transformers.process import TransformersProcess

        return TransformersProcess(model_dir, stop_token_ids, options)
    from arriero.engines.transformers.engine import TransformersEngine

    return TransformersEngine(model_dir, stop_token_ids, options)


def __getattr__(name: str) -> Any:
    if name == "TransformersEngine":
        from arriero.engines.transformers.engine import TransformersEngine

        return TransformersEngine
    raise AttributeError(f"module 'arriero.engines.transformers' has no attribute {name!r}")
