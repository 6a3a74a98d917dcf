"""Prompt ids -> a stream of token ids. Engines know nothing of text, roles or templates.

    base.py          Engine and Adapter: what every engine promises
    generation.py    a stream of token ids, from an engine to its readers
    event_loop.py    a generation that a coroutine fills (vllm, replicas)
    registry.py      the engines there are: what each needs, lacks, and how it loads
    unloaded.py      an engine that is not loaded yet: what it will refuse
    select.py        which engine "auto" means here, and why; load_engine
    process/         what engines that compute in a process of their own have in common
    transformers/    the reference, for any model, on a CPU or with CUDA
    openvino/        the default on a CPU
    vllm/            the default with CUDA, where it is installed
    adapters.py      what an adapter asks of an engine and of the model, before it is loaded
    llguidance.py    a constraint -> the tokens that may follow (transformers, vllm)
    sampling.py      a model's own sampling defaults
    detokenizer.py   token ids -> whole characters
    stopping.py      text -> text up to a stop string
    compat.py        private names of other libraries, with the versions they were seen with

An engine is added by a folder here with a class that implements `Engine`, and an `Entry` in registry.py that says what
it needs, what it lacks and how it loads.

Names are imported when first used, so that `arriero --help` can list the engines quickly.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

# openvino and nncf report their use to a web service without asking; without this package they do not
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

if TYPE_CHECKING:
    from arriero.engines.base import Adapter, Engine
    from arriero.engines.generation import Generation
    from arriero.engines.registry import EngineOptions
    from arriero.engines.select import Selection, announce_difference, load_engine, select_engine

__all__ = [
    "Adapter",
    "Engine",
    "EngineOptions",
    "Generation",
    "Selection",
    "announce_difference",
    "load_engine",
    "select_engine",
]
_HOMES = {
    "Adapter": "base",
    "Engine": "base",
    "EngineOptions": "registry",
    "Generation": "generation",
    "Selection": "select",
    "announce_difference": "select",
    "load_engine": "select",
    "select_engine": "select",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"arriero.engines.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'arriero.engines' has no attribute {name!r}")
