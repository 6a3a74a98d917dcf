"""Some examples computed twice: under the plan, and plainly, alone, with nothing but the model's own pieces.

What rounding explains is measured: the plain computation a second time, from states that differ by one rounding. A
difference larger than TIMES that, in any layer, forwards or backwards, or in any gradient, is a fault, unless more such
measurements, in all layers, explain it: a single one was seen to come to a seventh of what another did.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from arriero.prompt import Rendered
from arriero.prompt.sharing import common_length
from arriero.training import workers
from arriero.training.kernels import Kernels
from arriero.training.planning.mode import Mode
from arriero.training.planning.plan import Plan
from arriero.training.setup.trace import Sample, Trace, trace
from arriero.training.steps import Steps

TIMES = 3.0
FLOOR = 1e-4  # relative; below it nothing is a fault, and sums in float32 in another order stay below it
BESIDE = 8  # tokens of the examples beside the one that is looked at
MOST = 512  # tokens of an example that goes through all layers
TINY = 1e-30
PART, LEAST = 5, 2  # what rounding explains is measured in the first fifth of the layers, in two at least
MORE = 3  # further measurements before a difference is called a fault
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
    """The plain computation of every sample, and the same once or more often, rounded otherwise."""

    traces: tuple[Trace, ...]
    rounded: tuple[tuple[Trace, ...], ...]


def samples(examples: Sequence[Rendered], model: Any) -> tuple[Sample, Sample]:
    """The shortest example through all layers, between two others; the longest through the first layer of each kind.

    What depends on the length is positions and masks, and those are alike in all layers of a kind.
    """
    kinds = list(getattr(model.config.get_text_config(), "layer_types", None) or ["attention"])
    by_length = sorted(examples, key=lambda example: len(example.ids))
    target, longest = _cut(by_length[0]), by_length[-1]
    near, far = _bystanders(by_length[1:], target)
    shortest = Sample((*near, target, *far), len(near))
    near, far = _bystanders(by_length[:-1] or by_length, longest)
    return shortest, Sample((*near, *far, longest), len(near + far), 1 + max(map(kinds.index, kinds)))


def _bystanders(others: Sequence[Rendered], target: Rendered) -> tuple[list[Rendered], list[Rendered]]:
    """Of the example that shares most with the target, and of that which shares least, each where there is one.

    Where the examples are a tree, it branches on the target's way, as it does in the run's rows.
    """
    if not others:
        return [], []
    ordered = sorted(others, key=lambda example: common_length(example.ids, target.ids))
    return [_bystander(ordered[-1], target)], [_bystander(ordered[0], target)] if len(ordered) > 1 else []


def _bystander(example: Rendered, target: Rendered) -> Rendered:
    """What the example shares with the target and a few tokens more, with no loss."""
    ids = example.ids[: common_length(example.ids, target.ids) + BESIDE]
    return Rendered(ids, ((len(ids) - 1, len(ids) - 1),))


def _cut(example: Rendered) -> Rendered:
    """Its first MOST tokens; some of them are learned."""
    return example if len(example.ids) <= MOST else Rendered(example.ids[:MOST], ((MOST // 2, MOST),))


def reference(model: Any, tried: Sequence[Sample]) -> Reference:
    """Compute `tried` plainly; LoRA matrices should not be zero."""
    steps = _plainly(model)
    traces = tuple(trace(steps, sample.alone) for sample in tried)
    layers = model.config.get_text_config().num_hidden_layers
    return Reference(traces, (_again(steps, tried, traces, max(LEAST, layers // PART), 0),))


def verify(model: Any, tried: Sequence[Sample], plain: Reference | None, ours: Sequence[Trace]) -> Verification | None:
    """Compare `ours` with the plain computation, twice where need be; None where one of the two is not there.

    All workers have to call it, and measure more if one of them has to.
    """
    seen = compare(plain, ours) if plain is not None and ours else None
    doubted = seen is not None and seen.worst > TIMES and seen.leaked == 0
    if not workers.anywhere(doubted) or plain is None or not ours:
        return seen
    steps = _plainly(model)
    more = (_again(steps, tried, plain.traces, None, number) for number in range(1, 1 + MORE))
    return compare(replace(plain, rounded=(*plain.rounded, *more)), ours)


def _plainly(model: Any) -> Steps:
    return Steps(model, Plan(PLAIN, 1, model.config.get_text_config().num_hidden_layers), Kernels(None))


def _again(
    steps: Steps, tried: Sequence[Sample], traces: Sequence[Trace], depth: int | None, number: int
) -> tuple[Trace, ...]:
    """The plain computation from rounded states, of the shortest example in `depth` layers."""
    depths = (depth, tried[1].depth)
    return tuple(
        trace(steps, replace(one.alone, depth=deep), [_rounded(state, number) for state in own.given])
        for one, own, deep in zip(tried, traces, depths, strict=True)
    )


def _rounded(state: Tensor, number: int) -> Tensor:
    """Every number moved by up to one unit in its last place, at random, otherwise for each `number`."""
    noise = torch.rand(state.shape, generator=torch.Generator().manual_seed(3 + number)).to(state.device) * 2 - 1
    return (state.float() * (1 + torch.finfo(state.dtype).eps * noise)).to(state.dtype)


def compare(plain: Reference, ours: Sequence[Trace]) -> Verification:
    """Compare computations of the same samples."""
    first, mine = plain.traces[0], ours[0]
    loss = _relative(mine.loss, first.loss)
    worst, where = loss / max(torch.finfo(mine.dtype).eps, FLOOR / TIMES), "loss of the shortest example"
    explained = zip(*plain.rounded, strict=True)
    for own, rounded, seen, name in zip(plain.traces, explained, ours, ("shortest", "longest"), strict=True):
        times, worst_of = _worst(_differences(seen, own), _explained(rounded, own))
        if times > worst:
            worst, where = times, f"{worst_of} of the {name} example"
    return Verification(
        loss_difference=loss,
        gradient_difference=_together(mine, first),
        tolerance=max(TIMES * max(_together(again[0], first) for again in plain.rounded), FLOOR),
        worst=worst,
        where=where,
        leaked=max(seen.leaked for seen in ours),
    )


def _explained(rounded: Sequence[Trace], own: Trace) -> Differences:
    """The most of each that rounding was seen to make."""
    most: Differences = {}
    for seen in rounded:
        for name, value in _differences(seen, own, some=True).items():
            most[name] = max(value, most.get(name, 0.0))
    return most


def _worst(differences: Differences, explained: Differences) -> tuple[float, str]:
    """The largest difference in multiples of what rounding explains there, and where it is.

    Where that was measured, it counts if it is more than usual; elsewhere, the most that it explains of its kind.
    """
    kinds: dict[tuple[str, str], list[float]] = {}
    for (group, name), value in explained.items():
        kinds.setdefault((group, _kind(name)), []).append(value)
    worst, where = 0.0, ""
    for (group, name), value in differences.items():
        measured = kinds.get((group, _kind(name)), [0.0])
        rounding = max(explained.get((group, name), max(measured)), statistics.median(measured), FLOOR / TIMES)
        times = math.inf if math.isnan(value) else value / rounding
        if times > worst:
            worst, where = times, f"{group} {name}"
    return worst, where


def _kind(name: str) -> str:
    """A parameter's name without the numbers of layers and experts."""
    return ".".join(word for word in name.split(".") if not word.isdigit())


def failed(verification: Verification) -> Verification:
    """The same, once the run has fallen back to the plain computation."""
    return replace(verification, fell_back=True)


def _differences(seen: Trace, own: Trace, *, some: bool = False) -> Differences:
    """All relative differences by group and name: per layer the largest of a token's, per parameter its whole.

    With `some`, only of what `seen` has; else a parameter without a gradient differs by all that it should have had.
    """
    differences: Differences = {}
    for number, (mine, other) in enumerate(zip(seen.updates, own.updates, strict=not some)):
        differences["output of layer", str(number)] = _of_tokens(mine, other)
    for number, (mine, other) in enumerate(zip(seen.gradients, own.gradients, strict=not some)):
        differences["gradient at layer", str(number)] = _of_tokens(mine, other)
    for name, gradient in own.parameters.items():
        if name in seen.parameters:
            differences["gradient of", name] = float(
                (seen.parameters[name] - gradient).norm() / (gradient.norm() + TINY)
            )
        elif not some:
            differences["gradient of", name] = 1.0
    return differences


def _of_tokens(seen: Tensor, own: Tensor) -> float:
    """The largest relative difference of a token's, among those that have a thousandth of the usual size."""
    sizes = own.norm(dim=-1)
    return float(((seen - own).norm(dim=-1) / (sizes.clamp_min(float(sizes.mean()) * 1e-3) + TINY)).max())


def _relative(seen: float | None, own: float | None) -> float:
    return 0.0 if seen is None or own is None else abs(seen - own) / (abs(own) + TINY)


def _together(seen: Trace, own: Trace) -> float:
    """Relative difference of all gradients that were seen."""
    pairs = [(gradient, own.parameters[name]) for name, gradient in seen.parameters.items() if name in own.parameters]
    apart = sum(float((mine - other).norm()) ** 2 for mine, other in pairs)
    whole = sum(float(other.norm()) ** 2 for _, other in pairs)
    return math.sqrt(apart / (whole + TINY))
