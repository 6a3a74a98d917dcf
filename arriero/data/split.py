"""Hold a part out for evaluation so that no prompt stands on both sides.

Each prompt (everything before the answer) gets a number in [0, 1) from a hash of its text and the seed; prompts below
`fraction` are held out, with all their rows. So the split depends on neither row order nor file length, and a question
that is asked fifty times is on one side fifty times.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from arriero.data.alpaca import Example


def split(examples: Sequence[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """(training part, held-out part), each in file order. `fraction` in [0, 1) is of prompts, on average."""
    train: list[Example] = []
    held_out: list[Example] = []
    for example in examples:
        (held_out if _position(example, seed) < fraction else train).append(example)
    return train, held_out


def _position(example: Example, seed: int) -> float:
    prompt = [(message.role, message.content) for message in example.conversation.messages[:-1]]
    digest = hashlib.sha256(f"{seed}\n{prompt!r}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
