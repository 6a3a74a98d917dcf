"""transformers' own processors for one request's sampling parameters, which ours are compared with."""

from __future__ import annotations

from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


def warpers(temperature: float, top_k: int | None, top_p: float | None, min_p: float | None) -> LogitsProcessorList:
    """In the order of `generate`; what is off is left out."""
    made = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        made.append(TopKLogitsWarper(top_k))
    if top_p is not None and top_p < 1:
        made.append(TopPLogitsWarper(top_p))
    if min_p:
        made.append(MinPLogitsWarper(min_p))
    return made
