"""Hold a part out for evaluation so that no prompt stands on both sides.

Each prompt (everything before the last answer) gets a number in [0, 1) from a hash of its text and the seed; prompts
below `fraction` are held out, with all their rows. So the split depends on neither row order nor file length, and a
question that is asked fifty times is on one side fifty times.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def split(prompt_keys: npt.NDArray[np.int64], fraction: float, seed: int) -> tuple[Indices, Indices]:
    """(training part, held-out part) as ascending indices. `fraction` in [0, 1) is of prompts, on average.

    `prompt_keys` are 64-bit hashes of the prompts. They are mixed with the seed by the finaliser of SplitMix64
    (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
    """
    with np.errstate(over="ignore"):
        mixed = prompt_keys.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15) * np.uint64(seed + 1)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    held_out = mixed < np.uint64(int(fraction * 2**64))
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
