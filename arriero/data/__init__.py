"""Instruction files -> conversations, with every fault reported by file and row.

alpaca.py   load(): instruction/input/output JSON -> examples and dropped rows
split.py    a held-out part that shares no prompt with the training part
"""

from arriero.data.alpaca import Dropped, Example, Loaded, load
from arriero.data.split import split

__all__ = ["Dropped", "Example", "Loaded", "load", "split"]
