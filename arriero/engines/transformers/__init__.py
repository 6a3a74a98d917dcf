"""The reference engine: any causal language model of transformers, on a CPU or with CUDA, many answers at once.

    engine.py     TransformersEngine: loads, takes requests, and has the thread that does the work
    scheduler.py  which prompts are read and which answers go on, step by step
    lanes.py      prompts being prefilled, answers that share a batch, answers on their own
    cache.py      the KV cache of a batch
    forward.py    one call of the model, and what its kind of cache allows
    graphs.py     decode steps captured as CUDA graphs
    sampler.py    logits -> token ids and log-probabilities, for a whole batch
    processors.py bias, penalties, grammar and filters, for a whole batch
    adapters.py   PEFT adapters, unmerged, one in force at a time

transformers' own continuous batching knows neither adapters, seeds, penalties nor grammars of a single request, and is
several times slower on a CPU.
"""

from arriero.engines.transformers.engine import TransformersEngine

__all__ = ["TransformersEngine"]
