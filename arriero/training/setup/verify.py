"""Some examples computed twice: under the plan, and plainly, alone, with nothing but the model's own pieces.

What rounding explains is measured: the plain computation a second time, from states that differ by one rounding. A
difference larger than TIMES that, in any layer, forwards or backwards, or in any gradient, is a fault.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from arriero.prompt import Rendered
from arriero.training.kernels import Kernels
from arriero.training.planning.mode import Mode
from arriero.training.planning.plan import Plan
from arriero.training.setup.trace import Sample, Trace, direction, trace
from arriero.training.steps import Steps

TIMES = 3.0
FLOOR = 1e-4  # relative; below it nothing is a fault, and sums in float32 in another order stay below it
MOST = 512  # tokens of an example that goes through all layers
PLAIN = Mode("padded", "plain", own_attention=False)
Differences = dict[tuple[str, str], float]


@dataclass(frozen=True, slots=True)
class Verification:
    """How far the plan's computation is from the plain one.

    `loss_difference` and `gradient_difference` (of all gradients together) are relative, `tolerance` is what rounding
    explains of the latter, times TIMES. `worst` is the largest difference of a layer or parameter, in multiples of what
    rounding explains there, `where` names it. `leaked` is the largest gradient from one example to another.
    """

    loss_difference: float = 0.0
    gradient_difference: float = 0.0
    tolerance: float = 0.0
    worst: float = 0.0
    where: str = ""
    leaked: float = 0.0
    fell_back: bool = False

    @property
    def passed(self) -> bool:
        """Whether all differences are what rounding explains, and examples leave each other alone."""
        return self.worst <= TIMES and self.leaked == 0


@dataclass(frozen=True, slots=True)
class Reference:
    """The plain computation of every sample, and the same a second time, rounded otherwise."""

    traces: tuple[Trace, ...]
    rounded: tuple[Trace, ...]


def samples(examples: Sequence[Rendered], model: Any) -> tuple[Sample, Sample]:
    """The shortest example through all layers, between two others; the longest through the first layer of each kind.

    What depends on the length is positions and masks, and those are alike in all layers of a kind.
    """
    kinds = list(getattr(model.config.get_text_config(), "layer_types", None) or ["attention"])
    by_length = sorted(examples, key=lambda example: len(example.ids))
    others = [_bystander(example) for example in by_length[1:3]]
    shortest = (*others[:1], _cut(by_length[0]), *others[1:])
    longest = (_bystander(by_length[0]), by_length[-1])
    return Sample(shortest, len(others[:1])), Sample(longest, 1, 1 + max(map(kinds.index, kinds)))


def _bystander(example: Rendered) -> Rendered:
    """The example up to its first answer, with no loss."""
    start = min(example.spans[0][0], MOST)
    return Rendered(example.ids[: start + 1], ((start, start),))


def _cut(example: Rendered) -> Rendered:
    """Its first MOST tokens; some of them are learned."""
    return example if len(example.ids) <= MOST else Rendered(example.ids[:MOST], ((MOST // 2, MOST),))


def reference(model: Any, tried: Sequence[Sample]) -> Reference:
    """Compute `tried` plainly; LoRA matrices should not be zero."""
    layers = model.config.get_text_config().num_hidden_layers
    steps = Steps(model, Plan(PLAIN, 1, layers), Kernels(None))
    traces = tuple(trace(steps, sample.alone) for sample in tried)
    again = (trace(steps, one.alone, list(map(_rounded, own.given))) for one, own in zip(tried, traces, strict=True))
    return Reference(traces, tuple(again))


def _rounded(state: Tensor) -> Tensor:
    """Every number moved by up to one unit in its last place, at random."""
    noise = torch.rand(state.shape, generator=torch.Generator().manual_seed(3)).to(state.device) * 2 - 1
    return (state.float() * (1 + torch.finfo(state.dtype).eps * noise)).to(state.dtype)


def verify(plain: Reference, ours: Sequence[Trace]) -> Verification:
    """Compare computations of the same samples."""
    worst, where = 0.0, ""
    for own, rounded, mine, name in zip(plain.traces, plain.rounded, ours, ("shortest", "longest"), strict=True):
        times, place = _worst(_differences(mine, own), _differences(rounded, own), own)
        if times > worst:
            worst, where = times, f"{place} of the {name} example"
    first, mine = plain.traces[0], ours[0]
    return Verification(
        loss_difference=_relative(mine.loss, first.loss),
        gradient_difference=_together(mine, first),
        tolerance=max(TIMES * _together(plain.rounded[0], first), FLOOR),
        worst=worst,
        where=where,
        leaked=max(our.leaked for our in ours),
    )


def _worst(found: Differences, explained: Differences, own: Trace) -> tuple[float, str]:
    """The largest difference in multiples of what rounding explains there, or usually explains, and where it is.

    A loss is one number, which rounding may leave alone by chance: one unit in the last place is always explained.
    """
    usual = {
        group: statistics.median(value for (other, _), value in explained.items() if other == group)
        for group in {group for group, _ in explained}
    }
    eps = torch.finfo(own.given[0].dtype).eps if own.given else FLOOR
    worst, where = 0.0, ""
    for (group, name), value in found.items():
        rounding = max(explained[group, name], usual[group], eps if group == "loss" else 0.0, FLOOR / TIMES)
        times = math.inf if math.isnan(value) else value / rounding
        if times > worst:
            worst, where = times, f"{group} {name}"
    return worst, where


def failed(verification: Verification) -> Verification:
    """The same, once the run has fallen back to the plain computation."""
    return replace(verification, fell_back=True)


def _differences(ours: Trace, own: Trace) -> Differences:
    """All relative differences by group and name: per layer the largest of a token's, per parameter its whole."""
    found = {("loss", "at the end"): _relative(ours.loss, own.loss)} if own.loss is not None else {}
    for number, (mine, other) in enumerate(zip(_updates(ours), _updates(own), strict=True)):
        found["output of layer", str(number)] = _of_tokens(mine, other)
    for number, (mine, other) in enumerate(zip(_backward(ours), _backward(own), strict=True)):
        found["gradient at layer", str(number)] = _of_tokens(mine, other)
    for name, other in own.parameters.items():
        mine = ours.parameters.get(name, torch.zeros_like(other))
        found["gradient of", name] = float((mine - other).norm() / other.norm().clamp_min(1e-30))
    return found


def _updates(seen: Trace) -> Iterator[Tensor]:
    """What each layer adds to its states."""
    return (after.float() - before.float() for before, after in zip(seen.given, seen.returned, strict=False))


def _backward(seen: Trace) -> Iterator[Tensor]:
    """What each layer adds to the direction sent back through it, and the last one's gradient of the loss."""
    for number, gradient in enumerate(seen.gradients):
        sent = direction(gradient) if number < len(seen.returned) else torch.zeros_like(gradient)
        yield gradient.float() - sent.float()


def _of_tokens(ours: Tensor, own: Tensor) -> float:
    """The largest relative difference of a token's, among those that have a thousandth of the usual size."""
    sizes = own.norm(dim=-1)
    return float(((ours - own).norm(dim=-1) / sizes.clamp_min(float(sizes.mean()) * 1e-3 + 1e-30)).max())


def _relative(ours: float | None, own: float | None) -> float:
    return 0.0 if ours is None or own is None else abs(ours - own) / max(abs(own), 1e-30)


def _together(ours: Trace, own: Trace) -> float:
    apart = sum(float((ours.parameters[name] - other).norm()) ** 2 for name, other in own.parameters.items())
    whole: float = sum(float(other.norm()) ** 2 for other in own.parameters.values())
    return float((apart / max(whole, 1e-30)) ** 0.5)
