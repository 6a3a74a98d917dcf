"""JSON numbers within bounds, as EBNF.

A range of whole numbers is cut where the count of digits changes, and then digit by digit:

    17 … 342    "1" [7-9] | [2-9] [0-9] | [1-2] [0-9]{2} | "3" [0-3] [0-9] | "3" "4" [0-2]

Exponents are not written, and digits are limited: a model that falls into a loop must come to an end.
"""

from __future__ import annotations

import math

from arriero.engines.openvino.rules import Rules
from arriero.errors import UsageError

INTEGER_DIGITS = 18
LARGEST = 10**36  # bounds beyond it are written as none: that leaves INTEGER_DIGITS, which is narrower
FRACTION = '"." [0-9]{1,12}'
NONZERO_FRACTION = '"." [0-9]{0,11} [1-9]'
ZERO_FRACTION = '"." "0"{1,12}'


def bounds(low: float, high: float) -> tuple[float, float]:
    """Both bounds, or infinity for what is beyond LARGEST; UsageError where nothing is left between them."""
    if low > LARGEST or high < -LARGEST:
        raise UsageError(f"bounds of a number must leave one whose size is at most {LARGEST:.0e}")
    return (low if low >= -LARGEST else -math.inf), (high if high <= LARGEST else math.inf)


def integer(low: float, high: float, rules: Rules) -> str:
    """A whole number from `low` to `high`, either of which may be infinite; UsageError where there is none."""
    least = low if math.isinf(low) else math.ceil(low)  # infinite stays a float, which ceil would not take
    most = high if math.isinf(high) else math.floor(high)
    if least > most:
        raise UsageError(f"no whole number is at least {low} and at most {high}")
    alternatives = [f'"-" {each}' for each in _natural(max(1, -most), -least)] if least < 0 else []
    return rules.any([*alternatives, *(_natural(max(0, least), most) if most >= 0 else [])])


def number(low: float, high: float, rules: Rules, *, above: bool, below: bool) -> str:
    """A number from `low` to `high`; `above` and `below` exclude the bound itself.

    Raises UsageError where there is none, and for finite bounds that are not whole.
    """
    for bound in (low, high):
        if not math.isinf(bound) and bound != math.floor(bound):
            raise UsageError(f"bounds of a number must be whole here, got {bound}")
    if low > high or (low == high and (above or below)):
        raise UsageError(f"no number lies between {low} and {high}")
    alternatives = []
    if low < 0:
        alternatives += [f'"-" {each}' for each in _size(max(0, -high), -low, below and high <= 0, above)]
    if high > 0 or (high == 0 and not below):
        alternatives += _size(max(0, low), high, above and low >= 0, below)
    return rules.any(alternatives)


def _size(low: float, high: float, above: bool, below: bool) -> list[str]:
    """Alternatives for a number without a sign between two whole bounds, `low` at least 0."""
    # what lies strictly between two whole numbers n and n + 1 is "n" with a fraction: so up to high - 1, and high alone
    exactly = [] if math.isinf(high) or below or (above and low == high) else _natural(high, high)
    alternatives = [f"{each} ({ZERO_FRACTION})?" for each in exactly]
    if above and low < high:
        alternatives += [f"{each} {NONZERO_FRACTION}" for each in _natural(low, low)]
    return alternatives + [f"{each} ({FRACTION})?" for each in _natural(low + above, high - 1)]


def _natural(low: float, high: float) -> list[str]:
    """Alternatives for a whole number from `low`, at least 0, to `high`, which may be infinite."""
    alternatives: list[str] = []
    start = int(low)
    while start <= high:
        digits = len(str(start))  # from here to the largest number of as many digits, or to `high`
        if math.isinf(high) and start == 10 ** (digits - 1):
            return [*alternatives, f"[1-9] [0-9]{{{digits - 1},{max(digits, INTEGER_DIGITS) - 1}}}"]
        end = int(min(high, 10**digits - 1))
        alternatives += _between(str(start), str(end))
        start = end + 1
    return alternatives


def _between(low: str, high: str) -> list[str]:
    """Alternatives for digits from `low` to `high`, two texts of the same length."""
    rest = len(low) - 1
    first, last = low[:1], high[:1]
    if set(low[1:]) <= {"0"} and set(high[1:]) <= {"9"}:
        return [f"[{first}-{last}]" + (f" [0-9]{{{rest}}}" if rest else "")]
    if first == last:
        return [f'"{first}" {each}' for each in _between(low[1:], high[1:])]
    alternatives = [f'"{first}" {each}' for each in _between(low[1:], "9" * rest)]
    if int(last) - int(first) > 1:
        alternatives.append(f"[{int(first) + 1}-{int(last) - 1}] [0-9]{{{rest}}}")
    return alternatives + [f'"{last}" {each}' for each in _between("0" * rest, high[1:])]
