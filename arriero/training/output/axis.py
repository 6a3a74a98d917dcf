"""An axis of a drawing: where a value stands, in per cent, and the round numbers to write beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Series = npt.NDArray[np.float64]
LOG_RATIO = 10  # largest to smallest value, from which on an axis is logarithmic


@dataclass(frozen=True, slots=True)
class Axis:
    """Places values between `low` and `high`, which differ, on a linear or logarithmic axis."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def position(self, values: npt.ArrayLike) -> Series:
        """Per cent of the way from low to high."""
        scale = np.log if self.log else np.asarray
        low, high = scale(self.low), scale(self.high)
        return np.asarray(100 * (scale(values) - low) / (high - low), dtype=np.float64)

    @classmethod
    def of_values(cls, values: Series, *, parts: int, log: bool) -> Axis:
        """An axis from one round number to another in about `parts` parts.

        Where `log` allows it and no value is 0, values that differ much get a logarithmic axis.
        """
        low, high = float(values.min()), float(values.max())
        if log and low > 1e-12 and high / low >= LOG_RATIO:
            return cls._logarithmic(low, high, parts)
        if high - low <= 1e-9 * max(abs(low), abs(high)):  # constant, but for rounding
            low, high = low - (abs(low) or 1) / 10, high + (abs(high) or 1) / 10
        elif 0 < low < 0.2 * high:
            low = 0.0
        step = _round_step((high - low) / parts)
        ticks = [index * step for index in range(math.floor(low / step), math.ceil(high / step) + 1)]
        return cls(ticks[0], ticks[-1], tuple(ticks))

    @classmethod
    def _logarithmic(cls, low: float, high: float, parts: int) -> Axis:
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for digits in ((1, 2, 5), (1,)):
            round_ones = [float(f"{digit}e{exponent}") for exponent in exponents for digit in digits]
            first = max(index for index, tick in enumerate(round_ones) if tick <= low)
            last = min(index for index, tick in enumerate(round_ones) if tick >= high)
            ticks = round_ones[first : last + 1]
            if len(ticks) <= parts + 1:
                break
        return cls(ticks[0], ticks[-1], tuple(ticks[:: math.ceil(len(ticks) / (parts + 1))]), log=True)

    @classmethod
    def of_steps(cls, steps: Series) -> Axis:
        """An axis from the first step to the last, with round numbers between."""
        low, high = float(steps.min()), float(steps.max())
        if low == high:
            return cls(low - 1, high + 1, (low,))
        step = max(1.0, _round_step((high - low) / 5))
        ticks = np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step
        return cls(low, high, tuple(map(float, ticks)))


def _round_step(least: float) -> float:
    """The smallest of … 1, 2, 5, 10, 20, 50 … that is at least this."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= least * 0.999)
