"""Rates, spreads, percentiles, and memory's slope over requests."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.lib.channel import Document

PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def rate(result: Document) -> float:
    """Tokens per second of all answers together."""
    return float(sum(result["tokens"]) / result["seconds"])


def over(values: Sequence[float], base: Sequence[float]) -> Iterator[float]:
    """Each over the other of its round."""
    return (value / other for value, other in zip(values, base, strict=True))


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them do not exceed."""
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1]


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """The percentiles that are shown; None of nothing."""
    return {name: quantile(values, share) for name, share in PERCENTILES.items()} if values else None


def slopes(counts: Sequence[int], sizes: Sequence[int]) -> dict[str, float]:
    """Of a line by least squares through sizes after `counts` requests, for every 1,000; of the last half, too."""
    half = len(counts) // 2

    def slope(start: int) -> float:
        return 1000 * statistics.linear_regression(counts[start:], sizes[start:]).slope

    return {"all": slope(0), "last_half": slope(half)}
