"""What merging changed: next-token distributions of the adapter unmerged against those of the merged model.

Both are computed in the type the model is stored in. Rounding the merged weights to it is what makes a difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from arriero.errors import ArrieroError
from arriero.prompt import Rendered
from arriero.training.adapter.measure import predict
from arriero.training.evaluation import evaluating

POSITIONS = 256  # of each row at most: 128,256 logits at each are 64 MiB in bfloat16
AT_ONCE = 32  # positions compared in float64


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Before against after, at `positions` loss positions of `rows` examples (the first 256 of each).

    Logit differences are absolute, over the whole vocabulary; `kl` is the Kullback-Leibler divergence of after from
    before, in nats, over next-token distributions; `same_choice` the share of positions with the same most likely
    token.
    """

    rows: int
    positions: int
    max_logit_difference: float
    mean_logit_difference: float
    max_kl: float
    mean_kl: float
    same_choice: float


def logits_of(model: torch.nn.Module, examples: Sequence[Rendered]) -> list[Tensor]:
    """For each example the logits (positions, vocabulary) at its loss positions, on the CPU, in the model's type."""
    logits = []
    with evaluating(model):
        for example in examples:
            predictions = predict(model, [example])
            kept = predictions.position[:POSITIONS]
            logits.append(predictions.logits[0, kept].cpu())
    return logits


def difference(before: Sequence[Tensor], after: Sequence[Tensor]) -> Difference:
    """Compare what `logits_of` gave for the same examples."""
    largest, total, elements, same, divergences = 0.0, 0.0, 0, 0, []
    for one, other in _pieces(before, after):
        gap = (one.double() - other.double()).abs()
        largest, total, elements = max(largest, float(gap.max())), total + float(gap.sum()), elements + gap.numel()
        same += int((one.argmax(-1) == other.argmax(-1)).sum())
        divergences.append(_divergence(one, other))
    kl = torch.cat(divergences)
    if not math.isfinite(total):
        raise ArrieroError("the merged model computes values that are not numbers", hint="train the adapter again")
    return Difference(
        rows=len(before),
        positions=len(kl),
        max_logit_difference=largest,
        mean_logit_difference=total / elements,
        max_kl=float(kl.max()),
        mean_kl=float(kl.mean()),
        same_choice=same / len(kl),
    )


def _pieces(before: Sequence[Tensor], after: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    for one, other in zip(before, after, strict=True):
        yield from zip(one.split(AT_ONCE), other.split(AT_ONCE), strict=True)


def _divergence(before: Tensor, after: Tensor) -> Tensor:
    """KL(before || after) in nats at each position; float64, for it is a small difference of large sums."""
    p, q = before.double().log_softmax(-1), after.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).clamp(min=0)
