"""The reference engine: any causal language model of transformers, on a CPU or with CUDA, many answers at once.

    engine.py     TransformersEngine: loads, takes requests, and has the thread that does the work
    process.py    TransformersProcess: the same with a process of its own, which does the work
    worker.py     that process, see engines/process; there, as here, one thread owns the scheduler
    thread.py     the thread that drives the scheduler
    scheduler.py  chunked prefill and continuous batching: what is prefilled and decoded, step by step
    requests.py   what one request asks of the scheduler
    batches.py    PrefillBatch, DecodeBatch, and SingleSequence for what shares no batch
    cache.py      the KV cache of a batch
    forward.py    one call of the model, and what its kind of cache allows
    graphs.py     decode steps captured as CUDA graphs
    sampler.py    logits -> token ids and log-probabilities, for a whole batch
    processors.py  the logits processors: bias, penalties, grammar and filters, for a whole batch
    adapters.py   PEFT adapters, unmerged, one in force at a time

transformers' own continuous batching knows neither adapters, seeds, penalties nor grammars of a single request, and is
several times slower on a CPU.

The class is imported when it is first used: whoever has the engine in a process of its own imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arriero.engines.transformers.engine import TransformersEngine

__all__ = ["TransformersEngine"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from arriero.engines.transformers import engine

        return getattr(engine, name)
    raise AttributeError(f"module 'arriero.engines.transformers' has no attribute {name!r}")
