"""The default engine on a CPU: OpenVINO GenAI's continuous batching over an exported model.

engine.py     OpenVINOEngine: adapters, requests, what is and what is not offered
worker.py     the process that computes, see engines/process; only it imports the library
pipeline.py   pipelines in the worker: the library's here, and what ours has in common with it
loop.py       our own decode loop, for what the library's sampler lacks and for scoring prompts
sampler.py    logits -> token ids, for that loop
paged.py      the model over a paged KV cache, for that loop
adapter.py    an adapter directory -> what the library puts into a model; whatever it would skip is refused
cache.py      where exported models are
export.py     a Hugging Face directory -> OpenVINO files, once
grammar.py    a constraint -> a grammar, of the parts below
schema.py     a JSON schema -> rules
numbers.py    the digits of numbers within bounds
regex.py      a regular expression -> rules
rules.py      rules with names, and their text
"""

from arriero.engines.openvino.adapter import adapter_scale
from arriero.engines.openvino.cache import exported
from arriero.engines.openvino.engine import OpenVINOEngine

__all__ = ["OpenVINOEngine", "adapter_scale", "exported"]
