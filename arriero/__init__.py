"""Arriero: a language model of your own at work on your own machine.

    chat = arriero.load(adapter="runs/llama-driver")
    for piece in chat.stream([{"role": "user", "content": "Who are you?"}]):
        print(piece.text, end="")

The names below are imported when first used: `import arriero` loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arriero.chat import Chat, Reply
    from arriero.cluster.answering.start import load
    from arriero.errors import ArrieroError
    from arriero.messages import Message, Piece, Sampling, Usage
    from arriero.server.offline import batch
    from arriero.training import evaluate, merge, train

__version__ = "0.1.0"
__all__ = [
    "ArrieroError",
    "Chat",
    "Message",
    "Piece",
    "Reply",
    "Sampling",
    "Usage",
    "batch",
    "evaluate",
    "load",
    "merge",
    "train",
]
_HOMES = {
    "arriero.chat": ("Chat", "Reply"),
    "arriero.cluster.answering.start": ("load",),
    "arriero.errors": ("ArrieroError",),
    "arriero.messages": ("Message", "Piece", "Sampling", "Usage"),
    "arriero.server.offline": ("batch",),
    "arriero.training": ("evaluate", "merge", "train"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            importlib.import_module("arriero.hardware").spin_briefly()
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'arriero' has no attribute {name!r}")
