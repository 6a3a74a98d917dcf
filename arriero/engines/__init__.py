"""Prompt ids -> a stream of token ids. Engines know nothing of text, roles or templates.

    base.py          Engine and Generation: what every engine promises
    transformers/    the reference, for any model, on a CPU or with CUDA
    openvino/        the default on a CPU
    vllm/            the default with CUDA, where it is installed
    adapters.py      what of an adapter an engine cannot do, before it is loaded
    grammar.py       a constraint -> the tokens that may follow (transformers, vllm)
    sampling.py      a model's own sampling defaults
    detokenizer.py   token ids -> whole characters
    stopping.py      text -> text up to a stop string
    choose.py        which engine "auto" means here, and why

An engine is chosen by `load_engine`, which says which and why.
"""

import sys

from arriero.engines.base import Engine, Generation
from arriero.engines.choose import Choice, choose, load_engine

# openvino and nncf report their use to a web service without asking; without this package they do not
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__all__ = ["Choice", "Engine", "Generation", "choose", "load_engine"]
